#!/usr/bin/env bash
# One would expect: Exif's orientation turns a picture in whatever format holds it, as it does with JPEG. PNG has a chunk
#   for it (`eXIf`), WebP too. What happens: Pillow, OpenCV, libvips and sharp turn all three. ffmpeg 5.1 and ImageMagick's
#   `-auto-orient` turn the JPEG alone, without a word. image-size and probe-image-size tell the orientation of the JPEG,
#   image-size not that of the others, probe-image-size that of the WebP, too; exifr reads the PNG and not the WebP.
# Versions: PyPI pillow 13.0.0, opencv-python-headless 5.0.0.93, pyvips-binary 8.18.7; npm sharp 0.35.5,
#   probe-image-size 7.5.0, image-size 2.1.0, exifr 7.1.3; Debian ffmpeg 5.1.9, imagemagick 6.9.11.60.
# Why it matters: a photo that becomes a PNG without loss stands in one program and lies in the next, and what lays out a
#   page by a stated size leaves it a place of the wrong shape.
# Instead: turn the pixels where the file is written (`ImageOps.exif_transpose`, sharp's `rotate()`), and leave Exif out.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for tool in ffmpeg convert; do
    command -v "$tool" >/dev/null || { echo "this needs Debian's ffmpeg and imagemagick" >&2; exit 2; }
done
ffmpeg -version | sed -n 1p
convert -version | sed -n 1p
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0 opencv-python-headless==5.0.0.93 \
    numpy==2.4.6 pyvips==3.2.0 pyvips-binary==8.18.7
npm install --prefix "$work" sharp@0.35.5 probe-image-size@7.5.0 image-size@2.1.0 exifr@7.1.3 --no-audit --no-fund --silent
cd "$work"
cat >node.mjs <<'JS'
import { readFileSync } from "node:fs";
import exifr from "exifr";
import { imageSize } from "image-size";
import probe from "probe-image-size";
import sharp from "sharp";

const data = readFileSync(process.argv[2]);
const { info } = await sharp(data).rotate().toBuffer({ resolveWithObject: true });
console.log(JSON.stringify({
  sharp: info.width < info.height,
  "image-size": imageSize(data).orientation ?? null,
  probe: probe.sync(data).orientation ?? null,
  exifr: await exifr.orientation(data).catch((error) => error.message),
}));
JS
cat >show.py <<'PY'
import json
import subprocess

import cv2
import PIL
import pyvips
from PIL import Image, ImageOps

print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}, libvips {pyvips.version(0)}.{pyvips.version(1)}")
exif = Image.Exif()
exif[0x0112] = 6  # to be turned by 90 degrees to the right
seen = {}
for form in ("jpg", "png", "webp"):
    name = f"photo.{form}"
    Image.new("RGB", (300, 200), "red").save(name, exif=exif)
    with Image.open(name) as picture:
        sizes = {"Pillow": ImageOps.exif_transpose(picture).size}
    sizes["OpenCV"] = cv2.imread(name).shape[1::-1]
    vips = pyvips.Image.new_from_file(name).autorot()
    sizes["libvips"] = vips.width, vips.height
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", name, "-frames:v", "1", "out.bmp"], check=True)
    with Image.open("out.bmp") as picture:
        sizes["ffmpeg"] = picture.size
    subprocess.run(["convert", name, "-auto-orient", "out.bmp"], check=True)
    with Image.open("out.bmp") as picture:
        sizes["ImageMagick"] = picture.size
    told = json.loads(subprocess.run(["node", "node.mjs", name], capture_output=True, check=True).stdout)
    seen[form] = {program: width < height for program, (width, height) in sizes.items()} | told
    print(f"{form:5}", seen[form])
turned = dict.fromkeys(("Pillow", "OpenCV", "libvips", "ffmpeg", "ImageMagick", "sharp"), True)
assert seen["jpg"] == turned | {"image-size": 6, "probe": 6, "exifr": 6}
some = turned | {"ffmpeg": False, "ImageMagick": False, "image-size": None}
assert seen["png"] == some | {"probe": None, "exifr": 6}
assert seen["webp"] == some | {"probe": 6, "exifr": "Unknown file format"}
PY
venv/bin/python show.py
echo "As stated: of the tools that turn a JPEG some leave PNG and WebP as they lie."
