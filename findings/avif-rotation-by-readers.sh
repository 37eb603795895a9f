#!/usr/bin/env bash
# One would expect: a photo that is to be turned (Exif orientation 6) is shown the same way after it became an AVIF. AVIF
#   has a rotation of its own, `irot`, and by the standard (MIAF) only that counts. What happens: Pillow, avifenc and sharp
#   write it. As readers Pillow and sharp follow it (sharp states the turned width and height). OpenCV follows Exif alone,
#   and only in avifenc's file; image-size and ffmpeg 5.1 follow neither. probe-image-size says orientation 8, a quarter
#   to the left, where 6 is right, but for sharp's file.
# Versions: PyPI pillow 13.0.0, opencv-python-headless 5.0.0.93; npm sharp 0.35.5, probe-image-size 7.5.0, image-size 2.1.0;
#   Debian ffmpeg 5.1.9, libavif-bin 0.11.1.
# Why it matters: whether a photo stands depends on the pair of writer and reader; with JPEG all of them agree.
# Instead: turn the pixels before the AVIF is written (`ImageOps.exif_transpose`, sharp's `rotate()`).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for tool in ffmpeg avifenc; do
    command -v "$tool" >/dev/null || { echo "this needs Debian's ffmpeg and libavif-bin" >&2; exit 2; }
done
ffmpeg -version | sed -n 1p
dpkg-query -W -f '${Package} ${Version}\n' libavif-bin
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
npm install --prefix "$work" sharp@0.35.5 probe-image-size@7.5.0 image-size@2.1.0 --no-audit --no-fund --silent
cd "$work"
venv/bin/python - <<'PY'
from PIL import Image

exif = Image.Exif()
exif[0x0112] = 6  # to be turned by 90 degrees to the right
photo = Image.new("RGB", (300, 200), "red")
photo.save("photo.jpg", exif=exif)
photo.save("pillow.avif", exif=exif)
PY
avifenc -s 10 photo.jpg avifenc.avif >/dev/null
node -e "require('sharp')('photo.jpg').keepMetadata().avif().toFile('sharp.avif')"
cat >node.mjs <<'JS'
import { readFileSync } from "node:fs";
import { imageSize } from "image-size";
import probe from "probe-image-size";
import sharp from "sharp";

const data = readFileSync(process.argv[2]), stated = probe.sync(data), size = imageSize(data), whole = await sharp(data).rotate().toBuffer();
const { width, height } = await sharp(whole).metadata();
const shown = ({ width, height, orientation }) => (orientation >= 5 ? [height, width] : [width, height]);
console.log(JSON.stringify({ probe: stated.orientation ?? null, "image-size": shown(size), sharp: [width, height] }));
JS
cat >show.py <<'PY'
import json
import subprocess

import cv2
import PIL
from PIL import Image, ImageOps

print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}; the photo is 300x200 and to be shown 200x300")
seen = {}
for name in ("photo.jpg", "avifenc.avif", "pillow.avif", "sharp.avif"):
    with Image.open(name) as picture:
        pillow = list(ImageOps.exif_transpose(picture).size)
    png = subprocess.run(["ffmpeg", "-v", "fatal", "-y", "-i", name, "-frames:v", "1", "out.png"])
    with Image.open("out.png") as picture:
        ffmpeg = list(picture.size) if png.returncode == 0 else None
    asked = subprocess.run(["node", "node.mjs", name], capture_output=True, check=True).stdout
    seen[name] = {"Pillow": pillow, "OpenCV": list(cv2.imread(name).shape[1::-1]), "ffmpeg": ffmpeg, **json.loads(asked)}
    print(f"{name:12}", seen[name])
up, flat = [200, 300], [300, 200]
right = {"Pillow": up, "OpenCV": up, "ffmpeg": up, "probe": 6, "image-size": up, "sharp": up}
assert seen["photo.jpg"] == right
assert seen["avifenc.avif"] == {**right, "ffmpeg": flat, "image-size": flat, "probe": 8}
assert seen["pillow.avif"] == {**seen["avifenc.avif"], "OpenCV": flat}
assert seen["sharp.avif"] == {**seen["pillow.avif"], "ffmpeg": None, "probe": 6}
PY
venv/bin/python show.py
echo "As stated: Pillow and sharp follow the rotation, the others Exif, nothing, or turn the other way."
