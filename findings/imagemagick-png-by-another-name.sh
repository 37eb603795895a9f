#!/usr/bin/env bash
# One would expect: "convert in.png out.jxl" fails where ImageMagick cannot write JPEG XL.
# What happens: it writes a PNG under the name out.jxl, with exit status 0 and no warning: for
#   an ending it has no coder for, it keeps the format of the input. OpenEXR: the same.
# Version: ImageMagick 6.9.11-60 (Debian 12), which has no coder for the two.
# Why it matters: sites serve such files, so a name and its content disagree although nothing
#   went wrong on the way; and a program that converts keeps what it did not ask for.
# Instead: look at the first bytes, also of what was converted.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Debian's program itself, whatever else on this machine is called convert
convert=$(command -v convert-im6.q16 || true)
if [ -z "$convert" ]; then
    echo "this needs Debian's imagemagick" >&2
    exit 2
fi
"$convert" -version | sed -n 1p
"$convert" -size 8x8 xc:red "$work/in.png"
for kind in jxl exr; do
    "$convert" "$work/in.png" "$work/out.$kind" 2>"$work/said"
    head=$(od -An -tx1 -N8 "$work/out.$kind" | tr -d ' ')
    echo "out.$kind: exit status 0, said '$(cat "$work/said")', begins with $head"
    [ "$head" = 89504e470d0a1a0a ] # PNG's mark
    [ ! -s "$work/said" ]
done
echo "As stated: a PNG named .jxl or .exr, and no error."
