#!/usr/bin/env bash
# One would expect: a program that keeps a PNG's texts keeps all three kinds of them. Image models leave prompt and settings
#   there: plain as tEXt, compressed as zTXt, and as iTXt what Latin-1 does not have. What happens: ImageMagick and
#   GraphicsMagick keep tEXt and zTXt and drop every iTXt. sharp's `keepMetadata()` writes an iTXt's UTF-8 bytes
#   into a zTXt, which is Latin-1, so "café" reads "cafÃ©". optipng and pyoxipng keep all as they are.
# Versions: Debian ImageMagick 6.9.11-60, GraphicsMagick 1.4, optipng 0.7.7; PyPI pillow 13.0.0, pyoxipng 9.1.1; npm sharp 0.35.5.
# Why it matters: tests with English prompts pass; the prompts of everybody else are lost or spoilt, and no error says so.
# Instead: copy the iTXt chunks yourself, or by `exiftool -tagsFromFile`; with Pillow give `pnginfo`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

convert=$(command -v convert-im6.q16 || command -v convert-im6 || echo /usr/bin/convert-im6.q16)
for tool in "$convert" gm optipng; do
    command -v "$tool" >/dev/null || { echo "this needs Debian's imagemagick, graphicsmagick and optipng" >&2; exit 2; }
done
"$convert" -version | sed -n 1p
dpkg-query -W -f '${Package} ${Version}\n' graphicsmagick optipng
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0 pyoxipng==9.1.1
npm install --prefix "$work" sharp@0.35.5 --no-audit --no-fund --silent
cd "$work"
cat >make.py <<'PY'
import oxipng
from PIL import Image
from PIL.PngImagePlugin import PngInfo

texts = PngInfo()
texts.add_text("settings", "steps 20")
texts.add_text("workflow", '{"nodes": []}', zip=True)
texts.add_itxt("note", "a cat")
texts.add_itxt("prompt", "café 猫")
Image.effect_noise((64, 64), 50).save("in.png", pnginfo=texts)
oxipng.optimize("in.png", "oxipng.png")
PY
venv/bin/python make.py
"$convert" in.png imagemagick.png
gm convert in.png graphicsmagick.png
optipng -quiet in.png -out optipng.png
node -e "require('sharp')('in.png').keepMetadata().toFile('sharp.png')"
cat >show.py <<'PY'
from pathlib import Path

import PIL
from PIL import Image

print("Pillow", PIL.__version__)
seen = {}
for name in ("in", "optipng", "oxipng", "imagemagick", "graphicsmagick", "sharp"):
    with Image.open(f"{name}.png") as picture:
        picture.load()
        seen[name] = {key: str(text) for key, text in picture.text.items() if not key.startswith("date:")}
    kinds = [kind for kind in (b"tEXt", b"zTXt", b"iTXt") if kind in Path(f"{name}.png").read_bytes()]
    print(f"{name:14}", b" ".join(kinds).decode(), seen[name])
    assert name != "sharp" or b"iTXt" not in kinds
whole = {"settings": "steps 20", "workflow": '{"nodes": []}', "note": "a cat", "prompt": "café 猫"}
assert seen["in"] == seen["optipng"] == seen["oxipng"] == whole
assert seen["imagemagick"] == seen["graphicsmagick"] == {key: whole[key] for key in ("settings", "workflow")}
assert seen["sharp"] == {**whole, "prompt": whole["prompt"].encode().decode("latin-1")}
PY
venv/bin/python show.py
echo "As stated: two drop what is in iTXt, one spoils it, and all keep the rest."
