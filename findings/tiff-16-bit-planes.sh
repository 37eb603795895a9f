#!/usr/bin/env bash
# One would expect: a 16-bit RGB TIFF whose colours lie in three planes (PlanarConfiguration 2, plain baseline TIFF) is
#   read as the same picture in interleaved form is, or is refused. What happens: where they are not compressed, Pillow
#   takes each number's low byte, so 40000, 20000, 1000 becomes 64, 32, 232 where it is 156, 78, 3: noise in any photo.
#   OpenCV's IMREAD_UNCHANGED gives the first plane in all three channels: a grey picture; its default of 8 bits is right.
#   Both read 8-bit planes and 16-bit interleaved right. tifffile, ImageMagick, ffmpeg and sharp read all of them.
# Versions: PyPI pillow 13.0.0, opencv-python-headless 5.0.0.93, tifffile 2026.3.3; npm sharp 0.35.5; Debian ImageMagick
#   6.9.11-60, ffmpeg 5.1.9.
# Why it matters: scanners, microscopes and film tools write such files; size, mode and type are right, and no error comes.
# Instead: read 16-bit TIFF with tifffile, and ask `page.planarconfig` where another library must do it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

convert=$(command -v convert-im6.q16 || command -v convert-im6 || echo /usr/bin/convert-im6.q16)
command -v "$convert" >/dev/null && command -v ffmpeg >/dev/null || { echo "this needs Debian's imagemagick and ffmpeg" >&2; exit 2; }
"$convert" -version | sed -n 1p
ffmpeg -version | sed -n 1p
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0 opencv-python-headless==5.0.0.93 \
    tifffile==2026.3.3 numpy==2.4.6
npm install --prefix "$work" sharp@0.35.5 --no-audit --no-fund --silent
cd "$work"
cat >show.py <<'PY'
import subprocess
import sys

import cv2
import numpy as np
import PIL
import tifffile
from PIL import Image

print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}, tifffile {tifffile.__version__}")
deep = np.zeros((20, 30, 3), np.uint16) + np.array([40000, 20000, 1000], np.uint16)
flat = {"photometric": "rgb"}
planes = {**flat, "planarconfig": "separate"}
tifffile.imwrite("interleaved 16.tif", deep, **flat)
tifffile.imwrite("planes 8.tif", np.moveaxis(deep >> 8, 2, 0).astype(np.uint8), **planes)
tifffile.imwrite("planes 16.tif", np.moveaxis(deep, 2, 0), **planes)
tifffile.imwrite("planes 16 deflate.tif", np.moveaxis(deep, 2, 0), compression="deflate", **planes)
SHARP = "require('sharp')(process.argv[1]).raw().toBuffer().then(all => console.log(...all.subarray(0, 3)))"


def run(*command):
    return subprocess.run(command, capture_output=True, check=True).stdout


def eight(colour):
    """Return a colour in 8 bits, whichever depth it has."""
    return tuple(int(part) >> 8 if max(colour) > 255 else int(part) for part in colour)


def readers(name):
    with Image.open(name) as picture:
        yield "Pillow", picture.getpixel((0, 0))
    yield "OpenCV, unchanged", eight(cv2.imread(name, cv2.IMREAD_UNCHANGED)[0, 0][::-1])
    yield "OpenCV, default", eight(cv2.imread(name)[0, 0][::-1])
    both = tifffile.imread(name)
    yield "tifffile", eight(both[:, 0, 0] if both.shape[0] == 3 else both[0, 0])
    yield "ImageMagick", tuple(run(sys.argv[1], name, "-depth", "8", "rgb:-")[:3])
    yield "ffmpeg", tuple(run("ffmpeg", "-v", "error", "-i", name, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")[:3])
    yield "sharp", tuple(map(int, run("node", "-e", SHARP, name).split()))


for name in ("interleaved 16.tif", "planes 8.tif", "planes 16.tif", "planes 16 deflate.tif"):
    seen = dict(readers(name))
    wrong = {reader: colour for reader, colour in seen.items() if max(np.abs(np.subtract(colour, (156, 78, 3)))) > 1}
    print(f"{name}: {len(seen) - len(wrong)} of {len(seen)} right; wrong: {wrong or 'none'}")
    if name.startswith("planes 16"):
        assert wrong.pop("OpenCV, unchanged") == (156, 156, 156)
        assert wrong.pop("Pillow", None) == (None if "deflate" in name else (64, 32, 232))
    assert not wrong
PY
venv/bin/python show.py "$convert"
echo "As stated: Pillow reads low bytes, OpenCV one plane three times, neither says so."
