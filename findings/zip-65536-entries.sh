#!/usr/bin/env bash
# One would expect: a ZIP writer writes ZIP64 from the 65,536th entry on, as the old end record counts to 65,535, or refuses.
# What happens with 65,600 small files: JSZip and fflate let the count wrap to 64, and client-zip states 65,535, which is
#   ZIP64's sign without a ZIP64 record. Of JSZip's archive yauzl, unzipper, adm-zip and fflate itself list 64 files and
#   end without an error; JSZip, Python and Info-ZIP list all. Of client-zip's the readers list 65,535 or refuse.
#   adm-zip as a writer adds the ZIP64 record.
# Versions: npm jszip 3.10.2, fflate 0.8.3, client-zip 2.5.1, adm-zip 0.6.1, yauzl 3.4.0, unzipper 0.12.5.
# Why it matters: "download all" in a page writes such archives; what is unpacked is a thousandth, with exit status 0.
# Instead: split below 65,535 files, or write by adm-zip, yazl or a server.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v unzip >/dev/null || { echo "this needs unzip" >&2; exit 2; }
npm install --prefix "$work" jszip@3.10.2 fflate@0.8.3 client-zip@2.5.1 adm-zip@0.6.1 yauzl@3.4.0 unzipper@0.12.5 \
    --no-audit --no-fund --silent
cd "$work"
cat >show.mjs <<'JS'
import assert from "node:assert";
import { writeFileSync } from "node:fs";
import AdmZip from "adm-zip";
import { downloadZip } from "client-zip";
import { unzipSync, zipSync } from "fflate";
import JSZip from "jszip";
import unzipper from "unzipper";
import yauzl from "yauzl";

const COUNT = 65600, names = Array.from({ length: COUNT }, (_, n) => `${n}.txt`), one = new Uint8Array([120]);
const writers = {
  async jszip() {
    const zip = new JSZip();
    for (const name of names) zip.file(name, one);
    return zip.generateAsync({ type: "nodebuffer" });
  },
  fflate: () => Buffer.from(zipSync(Object.fromEntries(names.map((name) => [name, one])), { level: 0 })),
  clientZip: async () => Buffer.from(await downloadZip(names.map((name) => ({ name, input: one }))).arrayBuffer()),
  admZip() {
    const zip = new AdmZip();
    for (const name of names) zip.addFile(name, Buffer.from(one));
    return zip.toBuffer();
  },
};
const readers = {
  jszip: async (data) => Object.keys((await JSZip.loadAsync(data)).files).length,
  fflate: (data) => Object.keys(unzipSync(data)).length,
  admZip: (data) => new AdmZip(data).getEntries().length,
  unzipper: async (data) => (await unzipper.Open.buffer(data)).files.length,
  yauzl: (data) => new Promise((done, fail) => yauzl.fromBuffer(data, (error, zip) => {
    if (error) return fail(error);
    let seen = 0;
    zip.on("entry", () => seen++).on("end", () => done(seen)).on("error", fail);
  })),
};
const all = { jszip: COUNT, fflate: COUNT, admZip: COUNT, unzipper: COUNT, yauzl: COUNT };
const wrapped = { ...all, fflate: 64, admZip: 64, unzipper: 64, yauzl: 64 };
const capped = { jszip: "error", fflate: 65535, admZip: 65535, unzipper: "error", yauzl: 65535 };
const expected = { jszip: wrapped, fflate: wrapped, clientZip: capped, admZip: all };
for (const [writer, write] of Object.entries(writers)) {
  const data = await write(), listed = {};
  writeFileSync(`${writer}.zip`, data);
  for (const [reader, read] of Object.entries(readers)) {
    try { listed[reader] = await read(data); } catch { listed[reader] = "error"; }
  }
  console.log(`${COUNT} files written by ${writer}, listed by`, JSON.stringify(listed));
  assert.deepStrictEqual(listed, expected[writer]);
}
JS
node show.mjs
for name in jszip fflate; do
    python=$(python3 -c 'import sys, zipfile; print(len(zipfile.ZipFile(sys.argv[1]).namelist()))' "$name.zip")
    unzip=$(unzip -Z1 "$name.zip" | wc -l)
    echo "$name.zip: $python for Python, $unzip for Info-ZIP"
    [ "$python" = 65600 ] && [ "$unzip" = 65600 ]
done
echo "As stated: the count wraps, and many readers believe it."
