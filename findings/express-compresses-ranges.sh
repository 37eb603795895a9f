#!/usr/bin/env bash
# One would expect: a range of a file that the server sends compressed is a range of what it sends. What happens: with
#   Express's `compression` the whole file comes as gzip, and each range as a gzip of its own, of that part of the
#   *uncompressed* file, under the same ETag; Content-Range counts uncompressed bytes, and the body's length is another.
# Versions: express 5.3.0, compression 1.8.2 (npm).
# Why it matters: a client that keeps the coded bytes and resumes them (curl without --compressed but with the header,
#   a proxy, a cache) joins a gzip with a part that does not continue it; one that checks the 206 against Content-Range
#   finds it short. It concerns text, JSON and SVG, not pictures and films, so that tests with those pass.
# Instead: ask for `Accept-Encoding: identity` whenever a Range may follow.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

npm install --prefix "$work" express@5.3.0 compression@1.8.2 --no-audit --no-fund --ignore-scripts --silent
mkdir "$work/www"
seq -f 'line %06g' 3000 >"$work/www/a.txt"
cp "$work/www/a.txt" "$work/www/a.mp4"
cat >"$work/show.js" <<'JS'
const assert = require('assert');
const express = require('express');
const fs = require('fs');
const http = require('http');
const zlib = require('zlib');
console.log(`express ${require('express/package.json').version}, compression ${require('compression/package.json').version}`);

const app = express();
app.use(require('compression')());
app.use(express.static(`${__dirname}/www`));
const whole = fs.readFileSync(`${__dirname}/www/a.txt`);

(async () => {
  const server = app.listen(0, '127.0.0.1');
  await new Promise((done) => server.once('listening', done));
  const get = (path, headers) => new Promise((done) => {
    http.get({ host: '127.0.0.1', port: server.address().port, path, headers, agent: false }, (answer) => {
      const parts = [];
      answer.on('data', (part) => parts.push(part));
      answer.on('end', () => done({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(parts) }));
    });
  });
  const show = (name, { status, headers, body }) => console.log(
    `${name}: ${status}, ${headers['content-encoding'] || 'identity'}, ${headers['content-range'] || 'no range'}, ${body.length} bytes`);
  const gzip = { 'Accept-Encoding': 'gzip' };
  const all = await get('/a.txt', gzip);
  const part = await get('/a.txt', { ...gzip, Range: 'bytes=3000-', 'If-Range': all.headers['last-modified'] });
  const film = await get('/a.mp4', { ...gzip, Range: 'bytes=3000-' });
  show('all of a.txt', all);
  show('a.txt from byte 3000 on', part);
  show('a.mp4 from byte 3000 on', film);
  assert.strictEqual(all.headers['content-encoding'], 'gzip');
  assert.ok(all.body.length > 3000);
  assert.strictEqual(part.status, 206);
  assert.strictEqual(part.headers['content-encoding'], 'gzip');
  assert.strictEqual(part.headers.etag, all.headers.etag);
  assert.strictEqual(part.headers['content-range'], `bytes 3000-${whole.length - 1}/${whole.length}`);
  assert.ok(zlib.gunzipSync(part.body).equals(whole.subarray(3000)));
  assert.strictEqual(film.headers['content-encoding'], undefined);
  assert.ok(film.body.equals(whole.subarray(3000)));
  assert.throws(() => zlib.gunzipSync(Buffer.concat([all.body.subarray(0, 3000), part.body])));
  console.log('the first 3000 bytes of the gzip and this part do not make a gzip');
  server.close();
})().catch((error) => { console.error(error.message); process.exit(1); });
JS
node "$work/show.js"
echo "As stated: each range is a gzip of its own, of uncompressed bytes."
