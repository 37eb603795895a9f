#!/usr/bin/env bash
# One would expect: encode() returns whole MP3 frames, and flush() adds those still missing.
# What happens: what encode() returned may end inside a frame; flush() brings that one's rest.
#   A program that forgets flush() makes a playable file with a part of a frame at its end.
# Version: PyPI lameenc 1.9.0 (LAME inside).
# Why it matters: a part of a frame at the end of an MP3 looks like a broken download, but the
#   file may have been made so, and be complete as it stands on the server.
# Instead: judge completeness by the length the server states, not by the last MP3 frame;
#   when encoding, always append flush().
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check lameenc==1.9.0

"$work/venv/bin/python" - <<'PY'
import math
import struct
from importlib.metadata import version

import lameenc

KBIT = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]
RATE = [44100, 48000, 32000]


def frames(data):
    """The whole MPEG-1 layer III frames, the bytes behind them, and what the next frame needs."""
    at = count = 0
    while at + 4 <= len(data):
        head = int.from_bytes(data[at : at + 4], "big")
        assert head >> 21 == 0x7FF, "no frame where one must start"
        size = 144000 * KBIT[head >> 12 & 15] // RATE[head >> 10 & 3] + (head >> 9 & 1)
        if at + size > len(data):
            return count, len(data) - at, size
        at, count = at + size, count + 1
    return count, len(data) - at, 0


pcm = b"".join(struct.pack("<h", int(8000 * math.sin(i * 0.06))) for i in range(44100))
encoder = lameenc.Encoder()
encoder.set_bit_rate(128)
encoder.set_in_sample_rate(44100)
encoder.set_channels(1)
before = bytes(encoder.encode(pcm))
after = bytes(encoder.flush())

print(f"lameenc {version('lameenc')}: one second of a tone, 128 kbit/s")
whole, rest, need = frames(before)
print(f"encode(): {len(before)} bytes, {whole} whole frames, then {rest} bytes of a frame of {need}")
whole2, rest2, _ = frames(before + after)
print(f"encode() + flush(): {len(before + after)} bytes, {whole2} whole frames, then {rest2} bytes")
assert 0 < rest < need, "encode() now ends with a whole frame"
assert rest2 == 0 and whole2 > whole, "with flush() the stream no longer ends with a whole frame"
PY
echo "As stated: without flush() the bytes end inside a frame; with it they end with a whole one."
