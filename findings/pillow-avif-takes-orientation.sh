#!/usr/bin/env bash
# One would expect: `save(…, exif=exif)` reads what it is given. What happens: saving as AVIF takes the orientation out of
#   the caller's own Exif object (it writes it as AVIF's rotation). `getexif()` gives the same object each time, so every
#   file that is saved from that picture after the AVIF has no orientation and lies on its side; those before it stand.
# Version: PyPI pillow 13.0.0.
# Why it matters: "the AVIF, and a WebP and a JPEG for old browsers" is the usual loop, and the order decides.
# Instead: `exif=picture.getexif().tobytes()`, or `ImageOps.exif_transpose` once before the loop.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0
cd "$work"
venv/bin/python - <<'PY'
from PIL import Image, ImageOps, __version__

exif = Image.Exif()
exif[0x0112] = 6  # to be turned by 90 degrees
Image.new("RGB", (300, 200), "red").save("photo.jpg", exif=exif)
print(f"Pillow {__version__}; the photo is 300x200 and to be shown 200x300")


def shown(endings, form):
    """Return the size at which each copy is shown, all of them saved from one opened photo."""
    sizes = {}
    with Image.open("photo.jpg") as photo:
        for ending in endings:
            photo.save(f"copy.{ending}", exif=form(photo.getexif()))
    for ending in endings:
        with Image.open(f"copy.{ending}") as copy:
            sizes[ending] = ImageOps.exif_transpose(copy).size
    return sizes


up, side = (200, 300), (300, 200)
last, first = shown(("jpg", "webp", "png", "avif"), lambda exif: exif), shown(("avif", "webp", "png", "jpg"), lambda exif: exif)
as_bytes = shown(("avif", "webp", "png", "jpg"), lambda exif: exif.tobytes())
print("AVIF last:           ", last)
print("AVIF first:          ", first)
print("AVIF first, as bytes:", as_bytes)
assert set(last.values()) == set(as_bytes.values()) == {up}
assert first == {"avif": up, "webp": side, "png": side, "jpg": side}
PY
echo "As stated: what is saved after the AVIF has lost its orientation."
