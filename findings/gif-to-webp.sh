#!/usr/bin/env bash
# One would expect: a GIF that is turned into an animated WebP keeps its frames' durations and its number of plays.
# What happens with frames of 100, 200, 300 and 400 ms that are shown three times in all: gif2webp keeps both.
#   ImageMagick shifts the durations by a frame (200, 300, 400, 300) and plays it for ever. ffmpeg makes the last
#   frame 200 ms and plays it once, also where the GIF is endless. Pillow gives all frames the first one's 100 ms
#   and plays it for ever. sharp keeps both.
# Versions: ImageMagick 6.9.11-60, ffmpeg 5.1.9, gif2webp 1.2.4 (Debian 12); Pillow 13.0.0 (PyPI), sharp 0.35.5 (npm).
# Why it matters: the pictures are right and the exit status is 0, so only a viewer with patience notices.
# Instead: gif2webp or sharp; with ffmpeg name `-loop 0`, and mind the last frame.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

convert=$(command -v convert-im6.q16 || command -v convert-im6 || echo /usr/bin/convert-im6.q16)
for tool in "$convert" ffmpeg gif2webp; do
    command -v "$tool" >/dev/null || { echo "this needs Debian's imagemagick, ffmpeg and webp" >&2; exit 2; }
done
"$convert" -version | sed -n 1p
ffmpeg -version | sed -n 1p
echo "gif2webp $(gif2webp -version 2>&1 | sed -n 1p)"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0
npm install --prefix "$work" sharp@0.35.5 --no-audit --no-fund --silent
cd "$work"
cat >make.py <<'PY'
from PIL import Image

frames = [Image.new("RGB", (64, 64), (60 * n, 9, 0)) for n in range(4)]
frames[0].save("in.gif", save_all=True, append_images=frames[1:], duration=[100, 200, 300, 400], loop=2)
Image.open("in.gif").save("pillow.webp", save_all=True)
PY
venv/bin/python make.py
"$convert" in.gif imagemagick.webp
ffmpeg -v error -i in.gif ffmpeg.webp
gif2webp -quiet in.gif -o gif2webp.webp
node -e "require('sharp')('in.gif', { animated: true }).webp().toFile('sharp.webp')"

venv/bin/python - <<'PY'
import struct
from pathlib import Path


def read(name):
    """Return the plays (0: for ever) and each frame's milliseconds, as the file has them."""
    data, at, plays, times = Path(name).read_bytes(), 12, None, []
    while at < len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        if kind == b"ANIM":
            (plays,) = struct.unpack_from("<H", data, at + 12)
        elif kind == b"ANMF":
            times.append(int.from_bytes(data[at + 20 : at + 23], "little"))
        at += 8 + size + size % 2
    return plays, times


expected = {
    "gif2webp": (3, [100, 200, 300, 400]),
    "sharp": (3, [100, 200, 300, 400]),
    "pillow": (0, [100, 100, 100, 100]),
    "imagemagick": (0, [200, 300, 400, 300]),
    "ffmpeg": (1, [100, 200, 300, 200]),
}
seen = {name: read(f"{name}.webp") for name in expected}
for name, (plays, times) in seen.items():
    print(f"{name:12} plays {plays or 'for ever'}: {times}, {sum(times)} ms")
assert seen == expected
PY
echo "As stated: two keep all, three change plays and durations."
