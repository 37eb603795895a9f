#!/usr/bin/env bash
# One would expect: a lossless PNG optimiser leaves what is shown as it was. What happens with an animated PNG:
#   zopflipng and pngcrush write its first frame alone, a still picture, with exit status 0, and boast of the bytes
#   that they saved. optipng and oxipng keep the animation. Of the converters ImageMagick, GraphicsMagick and sharp
#   (with `animated: true`, which keeps all frames of a GIF or WebP) write the first frame, too, and no warning.
# Versions: zopflipng 1.0.3, pngcrush 1.8.13, optipng 0.7.7, ImageMagick 6.9.11-60, GraphicsMagick 1.4 (Debian 12);
#   pyoxipng 9.1.1 (PyPI), sharp 0.35.5 (npm).
# Why it matters: the ending is .png either way, and nothing but a look at `acTL` tells that frames are gone.
# Instead: look for `acTL` before IDAT and leave such files alone, or take oxipng.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

convert=$(command -v convert-im6.q16 || command -v convert-im6 || echo /usr/bin/convert-im6.q16)
for tool in zopflipng pngcrush optipng gm "$convert"; do
    command -v "$tool" >/dev/null || { echo "this needs Debian's zopfli, pngcrush, optipng, graphicsmagick and imagemagick" >&2; exit 2; }
done
dpkg-query -W -f '${Package} ${Version}\n' zopfli pngcrush optipng graphicsmagick imagemagick-6.q16
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0 pyoxipng==9.1.1
npm install --prefix "$work" sharp@0.35.5 --no-audit --no-fund --silent
cd "$work"
venv/bin/python - <<'PY'
from PIL import Image

frames = [Image.new("RGB", (64, 64), (60 * n, 0, 0)) for n in range(4)]
frames[0].save("in.png", save_all=True, append_images=frames[1:], duration=100)
PY
zopflipng -y in.png zopflipng.png >/dev/null
pngcrush -q in.png pngcrush.png 2>/dev/null >&2
optipng -quiet -force -out optipng.png in.png
cp in.png oxipng.png
venv/bin/python -c "import oxipng; oxipng.optimize('oxipng.png')"
"$convert" in.png imagemagick.png
gm convert in.png graphicsmagick.png
node -e "require('sharp')('in.png', { animated: true }).png().toFile('sharp.png')"
for tool in in optipng oxipng zopflipng pngcrush imagemagick graphicsmagick sharp; do
    frames=$({ grep -ao fcTL $tool.png || true; } | wc -l)
    echo "$tool.png: $frames frames' headers, $(stat -c %s $tool.png) bytes"
    case $tool in
    in | optipng | oxipng) [ "$frames" -eq 4 ] && grep -aq acTL $tool.png ;;
    *) [ "$frames" -eq 0 ] && ! grep -aq acTL $tool.png ;;
    esac
done
echo "As stated: five tools leave one frame, without a word."
