#!/usr/bin/env bash
# One would expect: what checks or opens a picture notices that its second half is missing. What happens: Pillow's
#   `verify()`, made for the question, notices it in PNG, WebP and AVIF alone; half a JPEG, GIF, TIFF, JPEG 2000,
#   BMP or HEIC passes. OpenCV returns half a JPEG as an array of full size, the rest grey, and ffmpeg converts half a JPEG
#   or GIF with exit status 0, also with `-xerror`. Pillow's `load()` and sharp refuse all they read.
# Versions: PyPI pillow 13.0.0, pillow-heif 1.8.1, opencv-python-headless 5.0.0.93; npm sharp 0.35.5; Debian ffmpeg 5.1.9.
# Why it matters: half downloads have the right first bytes, size and type; the grey part is found by a person, later.
# Instead: decode once by Pillow's `load()` or sharp, where the length is not known from elsewhere.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v ffmpeg >/dev/null || { echo "this needs Debian's ffmpeg" >&2; exit 2; }
ffmpeg -version | sed -n 1p
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0 pillow-heif==1.8.1 \
    opencv-python-headless==5.0.0.93 numpy==2.4.6
npm install --prefix "$work" sharp@0.35.5 --no-audit --no-fund --silent
cd "$work"
cat >show.py <<'PY'
import random
import subprocess
from pathlib import Path

import cv2
import PIL
from PIL import Image
from pillow_heif import register_heif_opener

register_heif_opener()
print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}")
SHARP = "require('sharp')(process.argv[1]).raw().toBuffer().then(() => 0, () => process.exit(1))"
ENDINGS = ("png", "webp", "avif", "jpg", "gif", "tif", "jp2", "bmp", "heic")
picture = Image.frombytes("RGB", (160, 120), random.Random(1).randbytes(160 * 120 * 3))


def verify(name):
    with Image.open(name) as half:
        half.verify()


def load(name):
    with Image.open(name) as half:
        half.load()


def run(*command):
    subprocess.run(command, capture_output=True, check=True)


def opencv(name):
    if cv2.imread(name) is None:
        raise OSError


checks = {
    "Pillow verify": verify,
    "Pillow load": load,
    "OpenCV": opencv,
    "ffmpeg": lambda name: run("ffmpeg", "-v", "error", "-y", "-i", name, "-frames:v", "1", "out.bmp"),
    "ffmpeg -xerror": lambda name: run("ffmpeg", "-v", "error", "-xerror", "-y", "-i", name, "-frames:v", "1", "out.bmp"),
    "sharp": lambda name: run("node", "-e", SHARP, name),
}
passed = {check: [] for check in checks}
for ending in ENDINGS:
    picture.save(f"whole.{ending}")
    whole = Path(f"whole.{ending}").read_bytes()
    Path(f"half.{ending}").write_bytes(whole[: len(whole) // 2])
    for check, function in checks.items():
        try:
            function(f"half.{ending}")
            passed[check].append(ending)
        except Exception:
            pass
for check, endings in passed.items():
    print(f"{check:15} takes half a", " ".join(endings) or "none of them")
lower = cv2.imread("half.jpg")[100:]
print("the lower end of OpenCV's picture has the values", set(lower.flatten().tolist()), "in", lower.shape)
assert set(lower.flatten().tolist()) == {128}
assert passed == {
    "Pillow verify": ["jpg", "gif", "tif", "jp2", "bmp", "heic"],
    "Pillow load": [],
    "OpenCV": ["jpg"],
    "ffmpeg": ["jpg", "gif"],
    "ffmpeg -xerror": ["jpg", "gif"],
    "sharp": [],
}
PY
OPENCV_LOG_LEVEL=OFF venv/bin/python show.py
echo "As stated: verify() takes half a picture in most formats, OpenCV and ffmpeg in JPEG."
