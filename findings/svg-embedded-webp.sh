#!/usr/bin/env bash
# One would expect: a picture inside an SVG (a data: URL) is drawn, or it is an error. What happens: librsvg, sharp and
#   resvg leave a WebP or an AVIF out, and sharp a GIF as well: the place is transparent, the exit status 0. cairosvg,
#   by way of Pillow, draws them. PNG and JPEG are drawn by all.
# Versions: rsvg-convert 2.54.7 (Debian 12); sharp 0.35.5, @resvg/resvg-js 2.6.2 (npm); cairosvg 2.9.1, Pillow 13.0.0 (PyPI).
# Why it matters: browsers show all five, so such files look right to whoever makes them, and their thumbnails are empty.
# Instead: look for `data:image/webp` and the like, and replace what it holds by PNG first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v rsvg-convert >/dev/null || { echo "this needs Debian's librsvg2-bin" >&2; exit 2; }
rsvg-convert --version
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0 cairosvg==2.9.1
npm install --prefix "$work" sharp@0.35.5 @resvg/resvg-js@2.6.2 --no-audit --no-fund --silent
cd "$work"
cat >resvg.js <<'JS'
const fs = require('fs');
const { Resvg } = require('@resvg/resvg-js');
fs.writeFileSync('out.png', new Resvg(fs.readFileSync('in.svg')).render().asPng());
JS
cat >show.py <<'PY'
import base64
import io
import subprocess
from pathlib import Path

from PIL import Image

tools = {
    "librsvg": ["rsvg-convert", "in.svg", "-o", "out.png"],
    "sharp": ["node", "-e", "require('sharp')('in.svg').png().toFile('out.png')"],
    "resvg": ["node", "resvg.js"],
    "cairosvg": ["venv/bin/cairosvg", "in.svg", "-o", "out.png"],
}
empty = set()
for form in ("png", "jpeg", "gif", "webp", "avif"):
    data = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(data, form)
    link = f"data:image/{form};base64,{base64.b64encode(data.getvalue()).decode()}"
    Path("in.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="20" height="20">'
        f'<image width="20" height="20" xlink:href="{link}"/></svg>'
    )
    for name, command in tools.items():
        Path("out.png").unlink(missing_ok=True)
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        pixel = Image.open("out.png").convert("RGBA").getpixel((9, 9))
        assert said == "", said
        if pixel[3] == 0:
            empty.add((form, name))
    print(f"{form:4} is left out by", ", ".join(name for name in tools if (form, name) in empty) or "none")
three = ("librsvg", "sharp", "resvg")
assert empty == {(form, name) for form in ("webp", "avif") for name in three} | {("gif", "sharp")}, empty
PY
venv/bin/python show.py
echo "As stated: transparent, and no error."
