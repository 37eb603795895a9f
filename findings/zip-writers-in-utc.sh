#!/usr/bin/env bash
# One would expect: a file's time in a ZIP is local time, as the format has it and as unzip and Python read it.
# What happens: JSZip and archiver write UTC there, and no extended time stamp that would tell. Unzipped in Tokyo, the
#   file is nine hours too old. fflate and yazl write local time, yazl the UTC one beside it.
# Versions: jszip 3.10.2, archiver 8.0.0, fflate 0.8.3, yazl 3.3.1 (npm); unzip 6.0 (Debian 12).
# Why it matters: "Download all" buttons are made with these two, and what sorts by time or syncs by it goes wrong.
# Instead: archiver's `forceLocalTime: true`; with JSZip, dates that are shifted by the zone's offset.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v unzip >/dev/null || { echo "this needs Debian's unzip" >&2; exit 2; }
unzip -v | sed -n 1p
npm install --prefix "$work" jszip@3.10.2 archiver@8.0.0 fflate@0.8.3 yazl@3.3.1 --no-audit --no-fund --silent
cd "$work"
cat >make.mjs <<'JS'
import fs from 'node:fs';
import { once } from 'node:events';
import { ZipArchive } from 'archiver';
import { zipSync } from 'fflate';
import JSZip from 'jszip';
import { ZipFile } from 'yazl';

const date = new Date('2024-07-01T12:00:00Z');
const saved = (stream, name) => once(stream.pipe(fs.createWriteStream(name)), 'close');

const jszip = new JSZip();
jszip.file('a.txt', 'x', { date });
fs.writeFileSync('jszip.zip', await jszip.generateAsync({ type: 'nodebuffer' }));
fs.writeFileSync('fflate.zip', zipSync({ 'a.txt': [new Uint8Array([120]), { mtime: date }] }));
const yazl = new ZipFile();
yazl.addBuffer(Buffer.from('x'), 'a.txt', { mtime: date });
yazl.end();
await saved(yazl.outputStream, 'yazl.zip');
for (const [name, options] of [['archiver', {}], ['archiver-local', { forceLocalTime: true }]]) {
  const archive = new ZipArchive(options);
  archive.append('x', { name: 'a.txt', date });
  await Promise.all([saved(archive, `${name}.zip`), archive.finalize()]);
}
JS
export TZ=Asia/Tokyo
node make.mjs
echo "The file is from 2024-07-01T12:00:00 UTC; zipped and unzipped in $TZ it is, in UTC, from"
for name in jszip archiver archiver-local fflate yazl; do
    unzip -q "$name.zip" -d "$name"
    seen=$(date -u -r "$name/a.txt" +%Y-%m-%dT%H:%M:%S)
    inside=$(python3 -c "import sys, zipfile; print('%02d:%02d' % zipfile.ZipFile(sys.argv[1]).infolist()[0].date_time[3:5])" "$name.zip")
    echo "$name: $seen (the ZIP says $inside)"
    case $name in
    jszip | archiver) [ "$seen" = 2024-07-01T03:00:00 ] && [ "$inside" = 12:00 ] ;;
    *) [ "$seen" = 2024-07-01T12:00:00 ] && [ "$inside" = 21:00 ] ;;
    esac
done
echo "As stated: JSZip and archiver write UTC as if it were local."
