#!/usr/bin/env bash
# One would expect: `save(save_all=True)` with five frames of 16 ms writes five frames of about 16 ms.
# What happens: (1) Pillow joins frames that are alike: of five, four of them the same, two are left in GIF, WebP and
#   APNG (five in AVIF); four that are all the same make a still picture, in WebP and APNG without any duration.
#   (2) GIF counts hundredths of a second, and Pillow rounds down: 39 ms become 30, 16 (60 pictures a second) become
#   10 and 9 become 0; and what is 10 or less, ffmpeg shows for 100: six times as slow as it was made.
# Versions: Pillow 13.0.0 (PyPI); ffprobe 5.1.9 (Debian 12).
# Why it matters: a frame's number no longer tells its time, "is it animated?" depends on what it shows, and a GIF that
#   was made for 30 pictures a second runs 11 % too fast.
# Instead: count durations, not frames; give GIF multiples of 10 ms, from 20 on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v ffprobe >/dev/null || { echo "this needs Debian's ffmpeg" >&2; exit 2; }
ffprobe -version | sed -n 1p
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check pillow==13.0.0

"$work/venv/bin/python" - "$work" <<'PY'
import subprocess
import sys

from PIL import Image, __version__

work = sys.argv[1]
print(f"Pillow {__version__}")


def save(colors, ending, duration):
    frames = [Image.new("RGB", (64, 64), color) for color in colors]
    frames[0].save(f"{work}/a.{ending}", save_all=True, append_images=frames[1:], duration=duration, loop=0)
    times = []
    with Image.open(f"{work}/a.{ending}") as saved:
        for n in range(getattr(saved, "n_frames", 1)):
            saved.seek(n)
            saved.load()
            times.append(saved.info.get("duration"))
    return times


for ending in ("gif", "webp", "png", "avif"):
    mixed = save(["red"] * 4 + ["blue"], ending, 100)
    same = save(["red"] * 4, ending, 100)
    print(f"{ending:4} four red frames and a blue one: {mixed}; four red frames: {same}")
    assert mixed == ([100] * 5 if ending == "avif" else [400, 100])
    assert len(same) == (4 if ending == "avif" else 1)
    assert ending not in {"webp", "png"} or not same[0]

colors = [(60 * n, 0, 0) for n in range(4)]
for asked, kept, shown in ((9, 0, "0.100000"), (16, 10, "0.100000"), (33, 30, "0.030000"), (39, 30, "0.030000")):
    times = save(colors, "gif", asked)
    command = ["ffprobe", "-v", "error", "-show_entries", "packet=duration_time", "-of", "csv=p=0", f"{work}/a.gif"]
    probed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    print(f"gif  asked for {asked} ms, has {times[-1]}; ffprobe shows {float(probed) * 1000:.0f}")
    assert (times[-1], probed) == (kept, shown)
PY
echo "As stated: alike frames are joined, and GIF durations are rounded down."
