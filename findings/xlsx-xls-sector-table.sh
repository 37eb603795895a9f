#!/usr/bin/env bash
# One would expect: in an OLE file (.xls) the entries of the sector table for sectors that do not
#   exist are FREESECT (FFFFFFFF), as the format wants it.
# What happens: SheetJS marks all of them ENDOFCHAIN (FFFFFFFE), so they look taken.
# Version: npm xlsx 0.18.5 (SheetJS).
# Why it matters: "the last sector in use lies behind the end of the file" is an obvious sign
#   of a cut download; by it every .xls that SheetJS made is cut.
# Instead: follow the chains from the directory, and see whether a sector on one is missing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

npm install --prefix "$work" xlsx@0.18.5 --no-audit --no-fund --ignore-scripts --silent
cat >"$work/show.js" <<'JS'
const assert = require('assert');
const xlsx = require('xlsx');
const book = xlsx.utils.book_new();
xlsx.utils.book_append_sheet(book, xlsx.utils.aoa_to_sheet([[1, 2], ['a', 'b']]), 'S');
const file = xlsx.write(book, { type: 'buffer', bookType: 'biff8' });
assert.strictEqual(file.subarray(0, 8).toString('hex'), 'd0cf11e0a1b11ae1', 'no OLE file');

const size = 1 << file.readUInt16LE(30);
const there = (file.length - 512) / size;
const counts = {};
let beyond = 0;
for (let table = 0; table < file.readUInt32LE(44); table += 1) {
  const start = 512 + size * file.readUInt32LE(76 + 4 * table);
  for (let entry = 0; entry < size / 4; entry += 1) {
    if ((table * size) / 4 + entry < there) continue;
    const mark = file.readUInt32LE(start + 4 * entry).toString(16);
    counts[mark] = (counts[mark] || 0) + 1;
    beyond += 1;
  }
}
console.log(`xlsx ${xlsx.version}: an .xls of ${file.length} bytes, ${there} sectors of ${size}`);
console.log(`entries for sectors that do not exist: ${beyond}; marked:`, counts);
assert(beyond > 0 && counts.fffffffe === beyond, 'not as stated any more');
JS
node "$work/show.js"
echo "As stated: the rest of the table says end of chain instead of free."
