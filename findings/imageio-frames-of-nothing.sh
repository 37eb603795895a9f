#!/usr/bin/env bash
# One would expect: `imageio.v3.imread` of a video returns the frames that `imiter` of the same file gives one by one.
# What happens: with the pyav plugin it makes the array as long as the container counts, and fills what decodes. Of a
#   clip that was cut with `-c copy` an MP4 counts all frames up to the keyframe before, and an edit list hides these:
#   25 frames come, the array has 40, and the last 15 are no frames of the clip. Where the container has no
#   count (WebM, a fragmented MP4), `improps` says 0 frames. OpenCV's frame count is 40 as well, though it reads 25;
#   for a WebM from a pipe it is a negative number of 17 digits.
# Versions: PyPI imageio 2.38.1, av 18.1.0, opencv-python-headless 5.0.0.93; Debian ffmpeg 5.1.9.
# Why it matters: the false frames are valid arrays; averages, thumbnails of "the last frame" and training data take
#   them. Nothing warns.
# Instead: `imiter`, or count what decodes; never size anything by the container's count.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v ffmpeg >/dev/null || { echo "this needs Debian's ffmpeg" >&2; exit 2; }
ffmpeg -version | sed -n 1p
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check imageio==2.38.1 av==18.1.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
source="testsrc=d=4:s=160x120:r=10"
ffmpeg -v error -f lavfi -i "$source" -g 20 -pix_fmt yuv420p whole.mp4
ffmpeg -v error -ss 1.5 -i whole.mp4 -c copy cut.mp4
ffmpeg -v error -f lavfi -i "$source" -movflags frag_keyframe+empty_moov -pix_fmt yuv420p fragmented.mp4
ffmpeg -v error -f lavfi -i "$source" -f webm - | cat >piped.webm

venv/bin/python - <<'PY'
import av
import cv2
import imageio
import imageio.v3 as iio
import numpy as np

print(f"imageio {imageio.__version__}, av {av.__version__}, opencv {cv2.__version__}")
given = iio.imread("cut.mp4", plugin="pyav").astype(int)  # the first read of this program
real = np.stack(list(iio.imiter("cut.mp4", plugin="pyav"))).astype(int)
assert (given[:25] == real).all()
off = [min(np.abs(frame - each).mean() for each in real) for frame in given[25:]]
print(f"cut.mp4: each of the last {len(off)} is off from every real frame by {min(off):.0f} or more of 255 on average")
assert len(off) == 15 and min(off) > 20
seen = {}
for name in ("whole.mp4", "cut.mp4", "fragmented.mp4", "piped.webm"):
    come = len(list(iio.imiter(name, plugin="pyav")))
    stated = iio.improps(name, plugin="pyav").shape[0]
    returned = iio.imread(name, plugin="pyav").shape[0]
    counted = cv2.VideoCapture(name).get(cv2.CAP_PROP_FRAME_COUNT)
    print(f"{name}: {come} frames come, improps states {stated}, imread returns {returned}, OpenCV counts {counted:.0f}")
    seen[name] = come, stated, returned, counted
assert seen["whole.mp4"] == (40, 40, 40, 40)
assert seen["cut.mp4"] == (25, 40, 40, 40)
assert seen["fragmented.mp4"] == (40, 0, 40, 40)
assert seen["piped.webm"][:3] == (40, 0, 40) and seen["piped.webm"][3] < -(10**16)
PY
echo "As stated: 25 frames come, 40 are returned, 15 of them are no pictures."
