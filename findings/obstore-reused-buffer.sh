#!/usr/bin/env bash
# One would expect: a writer takes over the bytes that it is given, as `io` writers do, so that a loop may read into
#   one buffer again and again (`readinto`). What happens: obstore keeps a reference to a `bytearray` or `memoryview`
#   and reads it later. Each piece then holds what the buffer held last, and the object is stored without an error:
#   its size is right, its bytes are not. So it is for `put` of an iterator and for `open_writer`, in memory, in a
#   folder and in a bucket.
# Version: PyPI obstore 0.12.1.
# Why it matters: the usual copying loop with one buffer stores garbage. No checksum shows it, since the store's own
#   is made of the wrong bytes, too.
# Instead: give it `bytes`, or compare the stored object with a hash that was taken while reading.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check obstore==0.12.1

"$work/venv/bin/python" - "$work" <<'PY'
import importlib.metadata
import io
import sys
from pathlib import Path

import obstore
from obstore.store import LocalStore, MemoryStore

SOURCE = b"AAAAABBBBBCCCCCDDDDD"


def pieces():
    """Yield the source five bytes at a time, all through one buffer."""
    buffer = bytearray(5)
    source = io.BytesIO(SOURCE)
    while source.readinto(buffer):
        yield buffer


folder = Path(sys.argv[1], "objects")
folder.mkdir()
print(f"obstore {importlib.metadata.version('obstore')}, source {SOURCE!r}")
for store in (MemoryStore(), LocalStore(folder)):
    obstore.put(store, "by-iterator", pieces())
    with obstore.open_writer(store, "by-writer") as writer:
        for piece in pieces():
            writer.write(piece)
    obstore.put(store, "as-bytes", (bytes(piece) for piece in pieces()))
    stored = {name: bytes(obstore.get(store, name).bytes()) for name in ("by-iterator", "by-writer", "as-bytes")}
    print(type(store).__name__, stored)
    assert stored["as-bytes"] == SOURCE
    assert stored["by-iterator"] == stored["by-writer"] == b"D" * 20, "it copies the buffer now"

with io.BytesIO() as usual:
    for piece in pieces():
        usual.write(piece)
    assert usual.getvalue() == SOURCE
PY
echo "As stated: one buffer, used again, is stored as its last content, and nothing raises."
