#!/usr/bin/env bash
# One would expect: `convert("RGB")` of a CMYK photo uses the photo's colour profile, or at least lets go of it.
# What happens: Pillow converts by its own formula and keeps the CMYK profile for the RGB picture. Saved as PNG, TIFF, AVIF
#   or HEIC, three channels carry a profile of four (JPEG and WebP carry none, as these are written without unless asked).
#   The pure red of its formula is 237, 39, 45 by the profile, which is what sharp makes of the photo. Pillow's own
#   `profileToProfile` refuses such a picture.
# Versions: PyPI pillow 13.0.0, pillow-heif 1.8.1; npm sharp 0.35.5; the profile is Debian's libgs-common 10.0.0.
# Why it matters: printers' photos get other colours, and copies of some formats fail in the next step, not in this one.
# Instead: `ImageCms.profileToProfile(photo, its profile, sRGB, outputMode="RGB")`, or drop `info["icc_profile"]`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

profile=/usr/share/color/icc/ghostscript/default_cmyk.icc
[ -e "$profile" ] || { echo "this needs Debian's libgs-common" >&2; exit 2; }
dpkg-query -W -f '${Package} ${Version}\n' libgs-common
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0 pillow-heif==1.8.1
npm install --prefix "$work" sharp@0.35.5 --no-audit --no-fund --silent
cd "$work"
cat >show.py <<'PY'
import io
import subprocess
import sys
from pathlib import Path

import PIL
from PIL import Image, ImageCms
from pillow_heif import register_heif_opener

register_heif_opener()
print("Pillow", PIL.__version__)
Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save("photo.jpg", quality=95, icc_profile=Path(sys.argv[1]).read_bytes())
kept = []
with Image.open("photo.jpg") as photo:
    own = photo.info["icc_profile"]
    plain = photo.convert("RGB")
    srgb = ImageCms.createProfile("sRGB")
    right = ImageCms.profileToProfile(photo, io.BytesIO(own), srgb, outputMode="RGB")
for ending in ("png", "tif", "avif", "heic", "jpg", "webp"):
    plain.save(f"copy.{ending}")
    with Image.open(f"copy.{ending}") as copy:
        space = copy.info.get("icc_profile", b"")[16:20].decode()
        print(f"{ending}: mode {copy.mode}, profile for {space or 'nothing'}, colour {copy.getpixel((5, 5))}")
        if space == "CMYK" and copy.mode == "RGB":
            kept.append(ending)
assert kept == ["png", "tif", "avif", "heic"]
try:
    with Image.open("copy.png") as copy:
        ImageCms.profileToProfile(copy, io.BytesIO(copy.info["icc_profile"]), srgb)
    raise SystemExit("the copy can be converted")
except ImageCms.PyCMSError as error:
    print("profileToProfile of copy.png:", error)
script = "require('sharp')('photo.jpg').raw().toBuffer().then(all => console.log(...all.subarray(0, 3)))"
sharp = tuple(map(int, subprocess.run(["node", "-e", script], capture_output=True, check=True).stdout.split()))
print("the photo by its profile: Pillow's ImageCms", right.getpixel((5, 5)), "and sharp", sharp)
assert max(plain.getpixel((5, 5))[1:]) < 5
assert all(abs(a - b) < 6 for pair in (sharp, right.getpixel((5, 5))) for a, b in zip(pair, (237, 39, 45)))
PY
venv/bin/python show.py "$profile"
echo "As stated: an RGB picture with a CMYK profile, and another red."
