#!/usr/bin/env bash
# One would expect: one way to carry a photo's orientation into another format. Pillow's is `exif=picture.getexif()`:
#   JPEG, WebP, PNG and AVIF lose the orientation without it and keep it with it.
# What happens: pillow-heif turns it round. Without `exif=` it writes HEIC's own rotation, and the photo stands; with
#   `exif=` it writes no rotation and leaves the orientation in Exif, which HEIC's readers do not follow (the standard
#   has them use the rotation alone): for Pillow and libheif the photo lies on its side.
# Versions: pillow-heif 1.8.1, Pillow 13.0.0 (PyPI); heif-info 1.15.1, exiftool 12.57 (Debian 12).
# Why it matters: a loop that converts to any of five formats turns the pictures of one, whichever way it is written.
# Instead: `ImageOps.exif_transpose` first, and save without an orientation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v heif-info >/dev/null && command -v exiftool >/dev/null || { echo "this needs Debian's libheif-examples and exiftool" >&2; exit 2; }
dpkg-query -W -f '${Package} ${Version}\n' libheif-examples
echo "exiftool $(exiftool -ver)"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0 pillow-heif==1.8.1
cd "$work"
cat >show.py <<'PY'
import subprocess

from PIL import Image, ImageOps, __version__
from pillow_heif import __version__ as heif_version
from pillow_heif import register_heif_opener

register_heif_opener()
print(f"Pillow {__version__}, pillow-heif {heif_version}; the photo is 300x200 and to be shown 200x300")
exif = Image.Exif()
exif[0x0112] = 6  # to be turned by 90 degrees
Image.new("RGB", (300, 200), "red").save("photo.jpg", exif=exif)


def shown(name):
    with Image.open(name) as picture:
        return ImageOps.exif_transpose(picture).size


for ending in ("jpg", "webp", "png", "avif", "heic"):
    with Image.open("photo.jpg") as photo:
        photo.save(f"plain.{ending}")
        photo.save(f"exif.{ending}", exif=photo.getexif())
    plain, kept = shown(f"plain.{ending}"), shown(f"exif.{ending}")
    print(f"{ending}: saved without exif= it is shown {plain}, with it {kept}")
    assert (plain, kept) == (((200, 300), (300, 200)) if ending == "heic" else ((300, 200), (200, 300)))
for name, size in (("plain.heic", "200x300"), ("exif.heic", "300x200")):
    info = subprocess.run(["heif-info", name], capture_output=True, text=True, check=True).stdout
    tags = subprocess.run(["exiftool", "-s", "-Rotation", "-Orientation", name], capture_output=True, text=True, check=True)
    print(name, "is", size, "for heif-info;", " ".join(tags.stdout.split()))
    assert f"image: {size}" in info
PY
venv/bin/python show.py
echo "As stated: exif= keeps the orientation in four formats, and loses it in HEIC."
