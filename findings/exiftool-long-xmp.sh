#!/usr/bin/env bash
# One would expect: what exiftool writes as XMP into a JPEG, other libraries of metadata read. What happens: a text of
#   more than 64 KiB (a prompt, a workflow) does not fit one segment, and exiftool writes it as the standard's
#   "extended XMP". Pillow, exiv2, pyexiv2 and sharp read the first segment alone: the title is there, the
#   description is not, and no error says so. sharp's keepMetadata() writes the picture without it, and leaves the
#   note that there is more. exifr and exiftool read all.
# Versions: Pillow 13.0.0, pyexiv2 2.16.0 (PyPI); sharp 0.35.5, exifr 7.1.3 (npm); exiftool 12.57, exiv2 0.27.6 (Debian).
# Why it matters: a library's index misses the longest prompts, and a thumbnailer that "keeps metadata" drops them.
# Instead: look for `xmpNote:HasExtendedXMP` and read on by exiftool; or keep long texts in a sidecar.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v exiftool >/dev/null && command -v exiv2 >/dev/null || { echo "this needs Debian's exiftool and exiv2" >&2; exit 2; }
echo "exiftool $(exiftool -ver), $(exiv2 --version | sed -n 1p)"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0 pyexiv2==2.16.0
npm install --prefix "$work" sharp@0.35.5 exifr@7.1.3 --no-audit --no-fund --silent
cd "$work"
venv/bin/python -c "from PIL import Image; Image.new('RGB', (64, 64)).save('in.jpg')"
printf 'word %.0s' {1..20000} >prompt.txt
exiftool -q -overwrite_original '-XMP-dc:Description<=prompt.txt' -XMP-dc:Title=short in.jpg

cat >show.js <<'JS'
(async () => {
  const { xmp } = await require('sharp')('in.jpg').metadata();
  await require('sharp')('in.jpg').keepMetadata().toFile('sharp.jpg');
  const seen = await require('exifr').parse('in.jpg', { xmp: true });
  console.log(JSON.stringify({ sharp: xmp.toString().includes('word word'), exifr: JSON.stringify(seen).includes('word word') }));
})();
JS
cat >show.py <<'PY'
import json
import subprocess

import pyexiv2
from PIL import Image


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


picture = pyexiv2.Image("in.jpg")
texts = {
    "Pillow": Image.open("in.jpg").info["xmp"].decode(),
    "pyexiv2": str(picture.read_xmp()),
    "exiv2": said("exiv2", "-px", "in.jpg"),
    "exiftool": said("exiftool", "-Title", "-Description", "in.jpg"),
}
assert all("short" in text for text in texts.values()), "the title is missing"
found = {name: "word word" in text for name, text in texts.items()} | json.loads(said("node", "show.js"))
print("the long description is found by", found)
assert found == {"Pillow": False, "pyexiv2": False, "exiv2": False, "sharp": False, "exiftool": True, "exifr": True}
left = said("exiftool", "-s", "-Title", "-Description", "-HasExtendedXMP", "sharp.jpg")
print("after sharp's keepMetadata():", left.split("\n")[:-1])
assert "short" in left and "HasExtendedXMP" in left and "word" not in left
PY
venv/bin/python show.py
echo "As stated: the title is read, the long description is not, and sharp drops it."
