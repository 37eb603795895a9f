#!/usr/bin/env bash
# One would expect: a FLAC frame whose CRC-16 holds is there to its last byte.
# What happens: a frame with a CRC that ends in 00 also holds without that byte: after the
#   first CRC byte the register is 0 already, and a 00 leaves it at 0. One frame in 256 is so.
# Version: flac 1.4.2 (Debian 12); it follows from the format.
# Why it matters: a program that looks for the end of the last frame by "the CRC is 0 here"
#   calls a FLAC file whole that lacks its last byte, once in 256 files.
# Instead: compare with the length the server states; or decode the frame to know its end.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! command -v flac >"$work/which"; then
    echo "this needs Debian's flac" >&2
    exit 2
fi
flac --version
python3 - "$work/noise.wav" <<'PY'
import random
import sys
import wave

with wave.open(sys.argv[1], "wb") as out:
    out.setparams((1, 2, 8000, 0, "NONE", ""))
    out.writeframes(random.Random(1).randbytes(2 * 192 * 2500))
PY
flac --silent --blocksize=192 -o "$work/noise.flac" "$work/noise.wav"

python3 - "$work/noise.flac" <<'PY'
import sys

TABLE = []
for value in range(256):
    value <<= 8
    for _ in range(8):
        value = (value << 1 ^ 0x8005 if value & 0x8000 else value << 1) & 0xFFFF
    TABLE.append(value)


def step(crc, byte):
    return (crc << 8 & 0xFFFF) ^ TABLE[crc >> 8 ^ byte]


def crc16(data):
    crc = 0
    for byte in data:
        crc = step(crc, byte)
    return crc


data = open(sys.argv[1], "rb").read()
at, last = 4, False
while not last:  # the metadata blocks
    last = bool(data[at] & 0x80)
    at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")

sync, count, zeros = data[at : at + 2], 0, []
while at < len(data):  # a frame ends where its CRC is 0 and the next one, or nothing, follows
    end, crc = at, 0
    while True:
        crc, end = step(crc, data[end]), end + 1
        if crc == 0 and end > at + 10 and (end == len(data) or data[end : end + 2] == sync):
            break
    count += 1
    if data[end - 1] == 0:
        zeros.append(data[at:end])
    at = end

print(f"{count} frames, {len(zeros)} with a CRC that ends in 00")
assert count == 2500 and zeros
for frame in zeros:
    assert crc16(frame) == 0 and crc16(frame[:-1]) == 0 and crc16(frame[:-2]) != 0
frame = zeros[0]
print(f"one of {len(frame)} bytes, CRC {frame[-2:].hex()}: the remainder is {crc16(frame)} over all of it,")
print(f"{crc16(frame[:-1])} without its last byte, {crc16(frame[:-2]):#06x} without its last two")
PY
echo "As stated: where the CRC ends in 00, it holds without the last byte, too."
