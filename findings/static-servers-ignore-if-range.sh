#!/usr/bin/env bash
# One would expect: a server that sends a validator and takes ranges also heeds If-Range,
#   so a resumed file is never mixed. What happens: the file was replaced, and these answer 206
#   with the new one's bytes. aiohttp heeds a date in If-Range, yet not the ETag it sends itself.
# Versions: aiohttp 3.14.5, tornado 6.6.1, twisted 26.10.0, cherrypy 18.10.0 (PyPI), sirv 3.0.2,
#   serve-handler 6.1.8 (npm); npm send 1.2.1, for contrast, does it right.
# Why: a resumed download becomes half old, half new, with the right length. Instead:
#   compare the 206's ETag and Last-Modified, both, with the kept ones (tornado remembers an
#   ETag as long as it runs, and sends the old one with the new bytes).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check \
    aiohttp==3.14.5 tornado==6.6.1 twisted==26.10.0 cherrypy==18.10.0
npm install --prefix "$work" sirv@3.0.2 serve-handler@6.1.8 send@1.2.1 \
    --no-audit --no-fund --ignore-scripts --silent

cat >"$work/serve.py" <<'PY'
import sys

name, port, root = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if name == "aiohttp":
    from aiohttp import web

    app = web.Application()
    app.router.add_static("/", root)
    web.run_app(app, host="127.0.0.1", port=port, print=None)
elif name == "tornado":
    import asyncio

    import tornado.web

    async def main():
        handler = (r"/(.*)", tornado.web.StaticFileHandler, {"path": root})
        tornado.web.Application([handler]).listen(port, "127.0.0.1")
        await asyncio.Event().wait()

    asyncio.run(main())
elif name == "twisted":
    from twisted.internet import reactor
    from twisted.web import server, static

    reactor.listenTCP(port, server.Site(static.File(root)), interface="127.0.0.1")
    reactor.run()
elif name == "cherrypy":
    import cherrypy

    cherrypy.config.update(
        {"server.socket_host": "127.0.0.1", "server.socket_port": port, "log.screen": False}
    )
    cherrypy.tree.mount(
        None, "/", {"/": {"tools.staticdir.on": True, "tools.staticdir.dir": root}}
    )
    cherrypy.engine.start()
    cherrypy.engine.block()
PY
cat >"$work/serve.js" <<'JS'
const [name, port, root] = process.argv.slice(2);
const kinds = {
  // dev: look at the disk for each request, as a folder that changes needs it
  sirv: () => require('sirv')(root, { etag: true, dev: true }),
  'serve-handler': () => (a, b) => require('serve-handler')(a, b, { public: root, etag: true }),
  send: () => (a, b) => require('send')(a, a.url, { root }).pipe(b),
};
require('http').createServer(kinds[name]()).listen(Number(port), '127.0.0.1');
JS
cat >"$work/resume.py" <<'PY'
import http.client
import os
import socket
import subprocess
import sys
import time

work = sys.argv[1]
root = os.path.join(work, "www")
file = os.path.join(root, "song.mp3")
os.mkdir(root)


def write(letter, stamp):
    with open(file + ".new", "wb") as out:
        out.write(letter * 1000)
    os.utime(file + ".new", (stamp, stamp))
    os.replace(file + ".new", file)


def ask(port, **headers):
    for _ in range(150):
        try:
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            line.request("GET", "/song.mp3", headers=headers)
        except ConnectionRefusedError:
            time.sleep(0.1)
            continue
        answer = line.getresponse()
        body = answer.read()
        line.close()
        return answer, body
    raise SystemExit("the server did not start")


def status(port, validator, old):
    answer, body = ask(port, **{"Range": "bytes=500-", "If-Range": validator})
    if answer.status == 206:
        assert body == b"B" * 500, "not the new file's bytes"
        mark = answer.getheader("ETag"), answer.getheader("Last-Modified")
        assert mark != old, "the 206 does not give itself away"
        if mark[0] and mark[0] == old[0]:
            print("(the next one keeps the ETag of the old bytes; only Last-Modified is new)")
    return answer.status


def try_one(command, name):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write(b"A", 1_600_000_000)
    server = subprocess.Popen([*command, name, str(port), root])
    try:
        answer, _ = ask(port)
        etag, date = answer.getheader("ETag"), answer.getheader("Last-Modified")
        write(b"B", 1_700_000_000)
        seen = tuple(status(port, v, (etag, date)) if v else None for v in (etag, date))
    finally:
        server.terminate()
        server.wait(20)
    print(f"{name:14} If-Range with the old ETag: {seen[0] or 'sends none':10}  with the old date: {seen[1] or 'sends none'}")
    return seen


python, node = [sys.executable, f"{work}/serve.py"], ["node", f"{work}/serve.js"]
print("200 is right (the whole new file); 206 is not (the second half of the new file):")
expected = [
    (python, "aiohttp", (206, 200)),
    (python, "tornado", (206, 206)),
    (python, "twisted", (None, 206)),
    (python, "cherrypy", (None, 206)),
    (node, "sirv", (206, 206)),
    (node, "serve-handler", (206, None)),
    (node, "send", (200, 200)),
]
wrong = [name for command, name, seen in expected if try_one(command, name) != seen]
if wrong:
    raise SystemExit(f"no longer as stated: {', '.join(wrong)}")
PY
"$work/venv/bin/python" "$work/resume.py" "$work"
echo "As stated: only send heeds If-Range both ways; each 206 shows another ETag or Last-Modified."
