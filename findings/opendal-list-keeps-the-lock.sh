#!/usr/bin/env bash
# One would expect: a blocking call of a native extension that waits for the network lets other Python threads
#   run; opendal's `read` and `stat` do. What happens: while the blocking `Operator.list` waits for its pages the
#   interpreter's lock is kept, and no other thread of the process runs until the store has answered. The
#   `AsyncOperator` lets them run.
# Version: PyPI opendal 0.47.12.
# Why it matters: in a daemon one listing of a slow or distant bucket stops all downloads, heartbeats and signals
#   for as long as the store takes, page after page.
# Instead: list with `AsyncOperator` in an event loop of the thread's own, and take the entries from there.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check opendal==0.47.12

cat >"$work/store.py" <<'PY'
"""An S3 of one object that takes a second for each answer."""
import http.server
import time

PAGE = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult><Name>media</Name><Prefix></Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys>
<IsTruncated>false</IsTruncated><Contents><Key>one.txt</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>
<ETag>"900150983cd24fb0d6963f7d28e17f72"</ETag><Size>3</Size><StorageClass>STANDARD</StorageClass></Contents>
</ListBucketResult>"""


class Store(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        time.sleep(1)
        body = PAGE if "list-type" in self.path else b"abc"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
print(server.server_port, flush=True)
server.serve_forever()
PY
python3 "$work/store.py" >"$work/port" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done

"$work/venv/bin/python" - "$(cat "$work/port")" <<'PY'
import asyncio
import importlib.metadata
import sys
import threading
import time

import opendal

OPTIONS = {
    "bucket": "media", "endpoint": f"http://127.0.0.1:{sys.argv[1]}", "region": "auto",
    "access_key_id": "key", "secret_access_key": "secret",
    "disable_config_load": "true", "disable_ec2_metadata": "true",
}


def turns_beside(call) -> int:
    """Return how often another thread, which sleeps 10 ms at a time, has its turn while `call` waits."""
    turns = 0
    over = threading.Event()

    def count() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            time.sleep(0.01)

    thread = threading.Thread(target=count)
    thread.start()
    call()
    over.set()
    thread.join()
    return turns


async def listed() -> list[str]:
    return [entry.path async for entry in await opendal.AsyncOperator("s3", **OPTIONS).list("/")]


operator = opendal.Operator("s3", **OPTIONS)
found = {
    "read": turns_beside(lambda: operator.read("one.txt")),
    "list": turns_beside(lambda: [entry.path for entry in operator.list("/")]),
    "asynchronous list": turns_beside(lambda: asyncio.run(listed())),
}
print(f"opendal {importlib.metadata.version('opendal')}, a store that takes a second for each answer")
for name, turns in found.items():
    print(f"{name}: another thread had {turns} turns meanwhile")
assert found["read"] > 50 and found["asynchronous list"] > 50, "these let others run no more"
assert found["list"] < 10, "the blocking list lets others run now"
PY
echo "As stated: while the blocking list waits, no other thread runs."
