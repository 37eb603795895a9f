#!/usr/bin/env bash
# One would expect: IMREAD_UNCHANGED gives a picture's numbers as the file has them. What happens: of a TIFF whose alpha is
#   straight (ExtraSamples 2, what Pillow and ImageMagick write) OpenCV returns the colours multiplied by alpha, of the
#   same picture as PNG or WebP it does not. Saved as PNG, where alpha is always straight, a half transparent 200 is then
#   100. A TIFF that OpenCV writes does not say at all what its fourth channel is.
# Version: PyPI opencv-python-headless 5.0.0.93, pillow 13.0.0.
# Why it matters: the same code darkens the soft edges of cut-out pictures in one format alone.
# Instead: read TIFF with alpha by Pillow or tifffile, or convert to PNG first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PY'
import cv2
import PIL
from PIL import Image

print(f"OpenCV {cv2.__version__}, Pillow {PIL.__version__}")
grey = Image.new("RGBA", (32, 32), (200, 200, 200, 128))
seen = {}
for ending in ("png", "webp", "tif"):
    grey.save(f"in.{ending}", **({"lossless": True, "exact": True} if ending == "webp" else {}))
    with Image.open(f"in.{ending}") as copy:
        assert copy.getpixel((0, 0)) == (200, 200, 200, 128)
        assert ending != "tif" or copy.tag_v2[338] == (2,)  # straight alpha
    cv2.imwrite(f"from-{ending}.png", cv2.imread(f"in.{ending}", cv2.IMREAD_UNCHANGED))
    with Image.open(f"from-{ending}.png") as copy:
        seen[ending] = copy.getpixel((0, 0))
    print(f"200 with alpha 128 in {ending}, written as PNG by OpenCV, is {seen[ending]} for Pillow")
right, dark = (200, 200, 200, 128), (100, 100, 100, 128)
assert seen == {"png": right, "webp": right, "tif": dark}
cv2.imwrite("out.tif", cv2.imread("in.png", cv2.IMREAD_UNCHANGED))
with Image.open("out.tif") as copy:
    print(f"the PNG, written as TIFF by OpenCV, says of its alpha: ExtraSamples {copy.tag_v2.get(338)}")
    assert 338 not in copy.tag_v2
PY
echo "As stated: in TIFF alone the colours are multiplied by alpha, without a word."
