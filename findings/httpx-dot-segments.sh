#!/usr/bin/env bash
# One would expect: an HTTP client sends a given URL's path as it stands; a signed one must be.
# What happens: httpx takes "." and ".." out of the path before it sends it, and so does curl;
#   Python's urllib does not. "%2e%2e" stays as it is with all of them.
# Version: PyPI httpx 0.28.1 (curl as installed, with and without --path-as-is).
# Why it matters: object stores allow keys such as "a/../b". The signature was made over that
#   path, so the server sees another one and answers 403 or 404 to a link that is good.
# Instead: give httpx the raw target: client.get(url, extensions={"target": b"/a/../b?sig=1"}).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check httpx==0.28.1 httpcore==1.0.9

curl --version | cut -d' ' -f1-2 | sed -n 1p
"$work/venv/bin/python" - <<'PY'
import http.server
import subprocess
import threading
import urllib.request

import httpx


class Keep(http.server.BaseHTTPRequestHandler):
    seen = ""

    def do_GET(self):
        Keep.seen = self.requestline.split()[1]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keep)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_address[1]}"
client = httpx.Client(trust_env=False)
plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def curl(url, *more):
    subprocess.run(["curl", "-sS", "--noproxy", "*", *more, url], check=True)


ways = {
    "httpx": lambda path: client.get(base + path),
    "httpx, raw target": lambda path: client.get(base + path, extensions={"target": path.encode()}),
    "urllib": lambda path: plain.open(base + path).close(),
    "curl": lambda path: curl(base + path),
    "curl --path-as-is": lambda path: curl(base + path, "--path-as-is"),
}
print(f"httpx {httpx.__version__}; what the server was asked for:")
for path, short in (("/a/../b?sig=1", "/b?sig=1"), ("/./x?sig=1", "/x?sig=1"), ("/a/%2e%2e/b?sig=1", None)):
    for name, ask in ways.items():
        ask(path)
        print(f"  {path:20} {name:18} {Keep.seen}")
        expected = short if short and name in ("httpx", "curl") else path
        assert Keep.seen == expected, f"{name}: not as stated any more"
PY
echo "As stated: httpx and curl shorten the path, urllib and the raw target do not."
