#!/usr/bin/env bash
# One would expect: a WebM with a transparent background is decoded with it, or a warning is given. What happens: FFmpeg's own
#   vp8 and vp9 decoders, which it takes by itself, leave the alpha away, and ffprobe says yuv420p; only the tag
#   `alpha_mode=1` is a sign. With `-c:v libvpx-vp9` before `-i` the alpha is there. PyAV decodes by the same library and
#   loses it too unless the decoder is named. ProRes 4444 keeps its alpha without that. OpenCV has alpha for no video.
# Versions: Debian ffmpeg 5.1.9; PyPI av 18.1.0, opencv-python-headless 5.0.0.93.
# Why it matters: every conversion and thumbnail of an overlay gets hard black edges or a full rectangle, with status 0.
# Instead: look for the stream's tag `alpha_mode`, and name the decoder where it is 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v ffmpeg >/dev/null || { echo "this needs Debian's ffmpeg" >&2; exit 2; }
ffmpeg -version | sed -n 1p
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check av==18.1.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
half="color=red@0.5:s=64x64:d=0.4:r=10"
ffmpeg -v error -f lavfi -i "$half,format=yuva420p" -c:v libvpx-vp9 -auto-alt-ref 0 vp9.webm
ffmpeg -v error -f lavfi -i "$half,format=yuva420p" -c:v libvpx -auto-alt-ref 0 vp8.webm
ffmpeg -v error -f lavfi -i "$half,format=yuva444p10le" -c:v prores_ks -pix_fmt yuva444p10le prores.mov
cat >show.py <<'PY'
import subprocess

import av
import cv2

print(f"av {av.__version__}, opencv {cv2.__version__}; the alpha is 127 of 255")


def alpha(name, *decoder):
    command = ["ffmpeg", "-v", "error", *decoder, "-i", name, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgba", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert not done.stderr
    return done.stdout[3]


def by_av(name):
    with av.open(name) as file:
        return int(next(file.decode(video=0)).to_ndarray(format="rgba")[0, 0, 3])


def by_av_named(name, decoder):
    with av.open(name) as file:
        context = av.CodecContext.create(decoder, "r")
        frames = [frame for packet in file.demux(video=0) for frame in context.decode(packet)]
        return int(frames[0].to_ndarray(format="rgba")[0, 0, 3])


for name, decoder in (("vp9.webm", "libvpx-vp9"), ("vp8.webm", "libvpx"), ("prores.mov", None)):
    entries = ["-show_entries", "stream=pix_fmt:stream_tags=alpha_mode", "-of", "csv=p=0"]
    stated = subprocess.run(["ffprobe", "-v", "error", *entries, name], capture_output=True, text=True).stdout.strip()
    channels = cv2.VideoCapture(name).read()[1].shape[2]
    seen = [alpha(name), by_av(name)] + ([alpha(name, "-c:v", decoder), by_av_named(name, decoder)] if decoder else [])
    print(f"{name}: ffprobe says {stated}; alpha by ffmpeg and PyAV: {seen[:2]}, with the decoder named: {seen[2:]};", end=" ")
    print(f"OpenCV has {channels} channels")
    if decoder:
        assert stated == "yuv420p,1" and seen == [255, 255, 127, 127]
    else:
        assert seen == [127, 127]
    assert channels == 3
PY
venv/bin/python show.py
echo "As stated: without naming the decoder the alpha of VP8 and VP9 is gone."
