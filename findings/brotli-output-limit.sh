#!/usr/bin/env bash
# One would expect: brotli's Decompressor.can_accept_more_data() is False as long as it holds
#   output back, and output_buffer_limit is a limit. What happens: it turns True while more
#   than a megabyte is held back, and one call returns nearly twice the limit.
# Version: PyPI brotli 1.2.1.
# Why it matters: a downloader that unpacks with bounded memory, "while not
#   can_accept_more_data()", keeps a file that is cut short, and no exception says so.
# Instead: call process(b"", output_buffer_limit=N) until it returns nothing, then ask
#   is_finished(); plan for twice the limit.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check brotli==1.2.1

"$work/venv/bin/python" - <<'PY'
import brotli

RAW, LIMIT = 10_000_000, 262_144
packed = brotli.compress(bytes(RAW))
unpack = brotli.Decompressor()
print(f"brotli {brotli.__version__}: {RAW} zeros, packed into {len(packed)} bytes, limit {LIMIT}")

piece = unpack.process(packed, output_buffer_limit=LIMIT)
got, largest = len(piece), len(piece)
while not unpack.can_accept_more_data():
    piece = unpack.process(b"", output_buffer_limit=LIMIT)
    got, largest = got + len(piece), max(largest, len(piece))
print(f"can_accept_more_data() is True after {got} bytes; is_finished() is {unpack.is_finished()}")
print(f"the largest piece has {largest} bytes")
early, finished_early = got, unpack.is_finished()

while piece := unpack.process(b"", output_buffer_limit=LIMIT):
    got += len(piece)
print(f"process(b'') until it returns nothing: {got} bytes; is_finished() is {unpack.is_finished()}")

assert early < RAW and not finished_early, "the loop now gets everything"
assert largest > LIMIT, "the limit is a hard one now"
assert got == RAW and unpack.is_finished(), "the second loop no longer gets everything"
PY
echo "As stated: it says it can accept more while it holds output back, and the limit is soft."
