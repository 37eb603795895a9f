#!/usr/bin/env bash
# One would expect: `ffmpeg -ss 1.5 -i in.mp4 -c copy cut.mp4` takes the first 1.5 s out. What happens: it has to keep
#   all from the key frame before, here half a second, and hides that by an edit list. Players show 15 frames; the file
#   has 30, which nb_frames, OpenCV and mutagen count. The next `-c copy` into Matroska or MPEG-TS, and mkvmerge, drop
#   the list: the hidden frames are shown, and the duration doubles.
# Versions: ffmpeg 5.1.9, mkvmerge 74.0.0 (Debian 12); opencv-python-headless 5.0.0.93, mutagen 1.48.1 (PyPI).
# Why it matters: what was cut away is delivered all the same, and comes back later; lengths of one file disagree.
# Instead: encode anew where it matters what is left; count frames by decoding.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v ffmpeg >/dev/null && command -v mkvmerge >/dev/null || { echo "this needs Debian's ffmpeg and mkvtoolnix" >&2; exit 2; }
ffmpeg -version | sed -n 1p
mkvmerge --version
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check opencv-python-headless==5.0.0.93 mutagen==1.48.1 2>/dev/null
cd "$work"
ffmpeg -v error -f lavfi -i testsrc=d=2:r=30:s=160x90 -f lavfi -i sine=d=2 -c:v libx264 -g 30 -bf 0 -pix_fmt yuv420p in.mp4
ffmpeg -v error -ss 1.5 -i in.mp4 -c copy cut.mp4
ffmpeg -v error -i cut.mp4 -c copy remux.mp4
ffmpeg -v error -i cut.mp4 -c copy remux.mkv
ffmpeg -v error -i cut.mp4 -c copy remux.ts
mkvmerge -q -o merged.mkv cut.mp4

probe() { ffprobe -v error -select_streams v -count_frames -show_entries "$1" -of csv=p=0 "$2" | tr ',\n' '  '; }
for file in cut.mp4 remux.mp4 remux.mkv remux.ts merged.mkv; do
    # a transport stream names its program's streams, too
    shown=$(probe stream=nb_read_frames "$file" | awk '{print $1}')
    echo "$file: $shown frames are shown, $(probe format=duration "$file")s"
    case $file in
    *.mp4) [ "$shown" -eq 15 ] ;;
    *) [ "$shown" -eq 30 ] ;;
    esac
done
venv/bin/python - <<'PY'
import subprocess

import cv2
import mutagen

film = cv2.VideoCapture("cut.mp4")
stated, read = int(film.get(cv2.CAP_PROP_FRAME_COUNT)), 0
while film.read()[0]:
    read += 1
command = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "stream=nb_frames", "-of", "csv=p=0", "cut.mp4"]
counted = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
length = mutagen.File("cut.mp4").info.length
print(f"cut.mp4: nb_frames {counted}; OpenCV states {stated} and reads {read}; mutagen says {length:.2f} s")
assert (counted, stated, read) == (30, 30, 15)
assert length > 0.9
PY
echo "As stated: 15 frames shown, 30 kept, and a remux shows them."
