#!/usr/bin/env bash
# One would expect: a PDF page has one size. What happens: MediaBox, CropBox, Rotate and UserUnit decide it, and each
#   tool heeds some of them. For one page of 400x300 points, cropped to 200x100, turned by 90 degrees and with a unit
#   of 2, the answers are six. Poppler disagrees with itself: pdfinfo says 200x100, pdftoppm draws 300x400.
# Versions: poppler-utils 22.12.0, ghostscript 10.0.0 (Debian 12); pypdf 7.1.1, pymupdf 2.0, pypdfium2 5.15.2 (PyPI);
#   pdf-lib 1.17.1 (npm).
# Why it matters: a layout reserved by one and drawn by another is cropped, lies on its side, or is half the size.
# Instead: take the size from what draws the page; or compute it: CropBox, times UserUnit, swapped for 90 and 270.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for tool in pdfinfo pdftoppm gs; do
    command -v "$tool" >/dev/null || { echo "this needs Debian's poppler-utils and ghostscript" >&2; exit 2; }
done
dpkg-query -W -f '${Package} ${Version}\n' poppler-utils ghostscript
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pypdf==7.1.1 pymupdf==2.0 pypdfium2==5.15.2 2>/dev/null
npm install --prefix "$work" pdf-lib@1.17.1 --no-audit --no-fund --silent
cd "$work"
cat >show.py <<'PY'
import struct
import subprocess

import pymupdf
import pypdf
import pypdfium2
from pypdf.generic import FloatObject, NameObject, RectangleObject

writer = pypdf.PdfWriter()
page = writer.add_blank_page(400, 300)
page.cropbox = RectangleObject((0, 0, 200, 100))
page[NameObject("/UserUnit")] = FloatObject(2)
page.rotate(90)
writer.write("in.pdf")


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def drawn(*command):
    subprocess.run(command, check=True)
    with open("out.png", "rb") as file:
        return struct.unpack(">II", file.read(24)[16:])


script = """require('pdf-lib').PDFDocument.load(require('fs').readFileSync('in.pdf'))
  .then((d) => console.log(d.getPage(0).getWidth(), d.getPage(0).getHeight()))"""
info = next(line for line in said("pdfinfo", "in.pdf").splitlines() if line.startswith("Page size"))
box = pypdf.PdfReader("in.pdf").pages[0].mediabox
rect = pymupdf.open("in.pdf")[0].rect
poppler = ["pdftoppm", "-r", "72", "-png", "-singlefile"]
seen = {
    "pypdf's mediabox": (box.width, box.height),
    "pdf-lib": said("node", "-e", script).split(),
    "pdfinfo": (info.split()[2], info.split()[4]),
    "pdfium": pypdfium2.PdfDocument("in.pdf")[0].get_size(),
    "MuPDF": (rect.width, rect.height),
    "pdftoppm": drawn(*poppler, "in.pdf", "out"),
    "pdftoppm -cropbox": drawn(*poppler, "-cropbox", "in.pdf", "out"),
    "ghostscript": drawn("gs", "-q", "-sDEVICE=png16m", "-r72", "-o", "out.png", "in.pdf"),
}
seen = {name: tuple(int(float(side)) for side in size) for name, size in seen.items()}
for name, size in seen.items():
    print(f"{name:18} {size[0]}x{size[1]}")
assert seen == {
    "pypdf's mediabox": (400, 300),
    "pdf-lib": (400, 300),
    "pdfinfo": (200, 100),
    "pdfium": (100, 200),
    "MuPDF": (200, 400),
    "pdftoppm": (300, 400),
    "pdftoppm -cropbox": (100, 200),
    "ghostscript": (600, 800),
}
print(f"{len(set(seen.values()))} sizes of one page")
PY
venv/bin/python show.py
echo "As stated: each heeds other boxes."
