#!/usr/bin/env bash
# One would expect: the header that wav's Writer sends does not depend on the number of writes.
# What happens: in the end it corrects the lengths inside the Buffer it gave out as the header.
#   If that was not sent yet (one write), the header is right; else (several writes) it states
#   4294967195 bytes of samples, and not FFFFFFFF or 0 for "unknown". Version: npm wav 1.0.2.
# Why it matters: one server sends both kinds, and a check of RIFF's length against the file's
#   size calls the recordings made in several writes cut.
# Instead: take any RIFF length close to 4 GiB as "not known"; when writing, use FileWriter.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

npm install --prefix "$work" wav@1.0.2 --no-audit --no-fund --ignore-scripts --silent
cat >"$work/show.js" <<'JS'
const http = require('http');
const wav = require('wav');
console.log(`wav ${require('wav/package.json').version}, node ${process.version}, over HTTP:`);

async function fetchOf(pieces) {
  const server = http.createServer(async (request, response) => {
    const writer = new wav.Writer({ sampleRate: 8000, channels: 1, bitDepth: 16 });
    writer.pipe(response);
    for (let i = 0; i < pieces; i += 1) {
      if (i > 0) await new Promise((done) => setTimeout(done, 20));
      writer.write(Buffer.alloc(16000 / pieces));
    }
    writer.end();
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const file = await new Promise((done) => {
    http.get({ host: '127.0.0.1', port: server.address().port, agent: false }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => done(Buffer.concat(parts)));
    });
  });
  server.close();
  const riff = file.readUInt32LE(4);
  const data = file.readUInt32LE(40);
  console.log(`${pieces} write(s): ${file.length} bytes; RIFF ${riff.toString(16)}, data ${data.toString(16)} (${data})`);
  return { file, riff, data };
}

(async () => {
  const one = await fetchOf(1);
  const ten = await fetchOf(10);
  const same = one.file.subarray(44).equals(ten.file.subarray(44));
  if (one.data !== 16000 || one.riff !== 16036) throw new Error('one write: not right any more');
  if (ten.data !== 0xffffff9b || ten.riff !== 0xffffffbf) throw new Error('several writes: another header');
  if (!same) throw new Error('the samples differ');
})().catch((error) => { console.error(error.message); process.exit(1); });
JS
node "$work/show.js"
echo "As stated: the same samples, a right header after one write, FFFFFF9B after several."
