#!/usr/bin/env bash
# One would expect: a video that a phone took upright (160x120 pixels, and the note "turn by 90 degrees") opens as
#   120x160. What happens: moviepy finds the note by reading ffmpeg's printed text for the word `displaymatrix`. The
#   ffmpeg that its own requirement imageio-ffmpeg brings (9.0) prints `Display Matrix`, so moviepy keeps 160x120;
#   ffmpeg turns the picture all the same, and scales it to the size it was asked for. A square in the picture comes out
#   as 54x30, and so does a clip that is written from it. With Debian's ffmpeg 5.1 the same moviepy is right.
# Versions: PyPI moviepy 2.2.1, imageio-ffmpeg 0.8.1 (ffmpeg 9.0.2); Debian ffmpeg 5.1.9.
# Why it matters: moviepy takes any imageio-ffmpeg, so a fresh installation squeezes what an older one showed right.
# Instead: compare `clip.size` with the turned size that ffprobe gives, or set IMAGEIO_FFMPEG_EXE to an older ffmpeg.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v ffmpeg >/dev/null || { echo "this needs Debian's ffmpeg" >&2; exit 2; }
ffmpeg -version | sed -n 1p
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check moviepy==2.2.1 imageio-ffmpeg==0.8.1 imageio==2.38.1 numpy==2.4.6
cd "$work"
# A white square of 40x40 on black: turned or not, it must stay a square.
ffmpeg -v error -f lavfi -i "color=black:s=160x120:d=1:r=10" -vf "drawbox=x=60:y=40:w=40:h=40:color=white:t=fill" \
    -pix_fmt yuv420p flat.mp4
ffmpeg -v error -i flat.mp4 -c copy -metadata:s:v rotate=90 upright.mp4
cat >show.py <<'PY'
import sys
from importlib.metadata import version

import imageio_ffmpeg
from moviepy import VideoFileClip

with VideoFileClip("upright.mp4") as clip:
    frame = clip.get_frame(0)[:, :, 0] > 128
    rows, columns = int(frame.any(axis=1).sum()), int(frame.any(axis=0).sum())
    ffmpeg = imageio_ffmpeg.get_ffmpeg_version()
    print(f"moviepy {version('moviepy')} with ffmpeg {ffmpeg}: size {clip.size}, the square is {columns}x{rows}")
    if sys.argv[1] == "right":
        assert list(clip.size) == [120, 160] and abs(columns - rows) <= 3
    else:
        assert ffmpeg.lstrip("n").startswith("9.") and list(clip.size) == [160, 120]
        assert abs(columns - 40 * 160 / 120) <= 3 and abs(rows - 40 * 120 / 160) <= 3
PY
IMAGEIO_FFMPEG_EXE=$(command -v ffmpeg) venv/bin/python show.py right
venv/bin/python show.py squeezed
echo "As stated: with the ffmpeg that comes with it, moviepy squeezes an upright video."
