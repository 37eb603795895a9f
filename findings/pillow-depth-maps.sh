#!/usr/bin/env bash
# One would expect: `convert("L")` of a 16-bit grey picture divides by 256, as Pillow itself does with 16-bit colours.
# What happens: all above 255 becomes 255: a depth map is white, but for its darkest 0.4 %. `convert("RGB")`, saving as
#   WebP and as GIF do the same without a word; only JPEG refuses. ffmpeg, ImageMagick and sharp scale.
# Versions: Pillow 13.0.0 (PyPI); ffmpeg 5.1.9, ImageMagick 6.9.11-60 (Debian 12); sharp 0.35.5 (npm).
# Why it matters: depth and height maps are 16-bit grey PNGs, and their thumbnails are white rectangles.
# Instead: `picture.point(lambda grey: grey / 256).convert("L")` where the mode begins with "I;16".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

convert=$(command -v convert-im6.q16 || command -v convert-im6 || echo /usr/bin/convert-im6.q16)
for tool in "$convert" ffmpeg; do
    command -v "$tool" >/dev/null || { echo "this needs Debian's imagemagick and ffmpeg" >&2; exit 2; }
done
"$convert" -version | sed -n 1p
ffmpeg -version | sed -n 1p
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0
npm install --prefix "$work" sharp@0.35.5 --no-audit --no-fund --silent
cd "$work"
cat >make.py <<'PY'
import struct

from PIL import Image

greys = [256 * n for n in range(256)]  # one of each 256 greys
Image.frombytes("I;16", (16, 16), struct.pack("<256H", *greys)).save("in.png")
picture = Image.open("in.png")
print("Pillow opens it as", picture.mode)
picture.save("pillow.webp", lossless=True)
picture.save("pillow.gif")
picture.convert("L").save("pillow-l.png")
picture.convert("RGB").save("pillow-rgb.png")
picture.point(lambda grey: grey / 256).convert("L").save("pillow-point.png")
try:
    picture.save("pillow.jpg")
except OSError as error:
    print("Pillow as JPEG:", error)
else:
    raise SystemExit("JPEG is no longer refused")
PY
venv/bin/python make.py
"$convert" in.png -depth 8 imagemagick.png
ffmpeg -v error -i in.png -pix_fmt gray ffmpeg.png
node -e "require('sharp')('in.png').png().toColourspace('b-w').toFile('sharp.png')"

venv/bin/python - <<'PY'
from PIL import Image

few = {"pillow-l.png", "pillow-rgb.png", "pillow.webp", "pillow.gif"}
for name in sorted(few | {"pillow-point.png", "imagemagick.png", "ffmpeg.png", "sharp.png"}):
    greys = Image.open(name).convert("L").histogram()
    print(f"{name:16} has {sum(map(bool, greys)):3} greys of 256; {greys[255]} of 256 pixels are white")
    assert (greys[255] >= 255) == (name in few)
PY
echo "As stated: Pillow makes it white, the others scale."
