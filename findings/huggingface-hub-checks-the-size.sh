#!/usr/bin/env bash
# One would expect: huggingface_hub compares what it downloads with the SHA-256 that the hub states for each large file;
#   it even names the file in its cache by that hash. What happens: it compares the number of bytes alone. Other bytes
#   of the same number are kept under the name of a hash that they do not have, as `hf_hub_download`'s answer, and each
#   later call takes them from there without asking for the file again.
# Version: PyPI huggingface_hub 2.4.0 (plain HTTP; the server stands for a mirror or a proxy with a bad disk).
# Why it matters: the cache looks as if it were addressed by content, so people copy it between machines by its names.
# Instead: after a download hash the blob and compare with its name, where that has 64 digits (those of 40 are Git's).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check huggingface_hub==2.4.0

HF_HOME="$work/cache" HF_HUB_DISABLE_TELEMETRY=1 "$work/venv/bin/python" - <<'PY'
import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

right, wrong = bytes(100_000), b"x" * 100_000
stated = hashlib.sha256(right).hexdigest()
asked = []


class Hub(BaseHTTPRequestHandler):
    """A hub with one file; it states the hash of one content and sends another."""

    def do_HEAD(self):
        if "/resolve/" not in self.path:
            return self.send_error(404)
        asked.append(self.command)
        self.send_response(200)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("X-Linked-Etag", f'"{stated}"')
        self.send_header("X-Linked-Size", str(len(right)))
        self.send_header("ETag", f'"{stated}"')
        self.send_header("Content-Length", str(len(right)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(wrong)

    do_GET = do_HEAD

    def log_message(self, *parts):
        pass


hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=hub.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"
import huggingface_hub  # noqa: E402 - it reads the address when it is imported

print("huggingface_hub", huggingface_hub.__version__)
file = Path(huggingface_hub.hf_hub_download("some/model", "model.safetensors"))
again = Path(huggingface_hub.hf_hub_download("some/model", "model.safetensors"))
has = hashlib.sha256(file.read_bytes()).hexdigest()
print("the blob is named ", file.resolve().name)
print("its content hashes", has)
print("asked of the hub:", asked)
assert file.resolve().name == stated != has
assert again.read_bytes() == wrong and asked.count("GET") == 1
PY
echo "As stated: other bytes of the same number are kept under the right hash's name."
