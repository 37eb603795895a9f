#!/usr/bin/env bash
# One would expect: `soundfile.read` returns all of an MP3. What happens: where a VBR file has no Xing header (written
#   to a pipe, or by `lame -t`), libsndfile reckons the number of frames from the size and the first frame's bit rate,
#   and returns so many and no more: here 0.2 s of 1 s, without an error. `librosa.load` reads by the same call.
#   With the header all is there. Version: PyPI soundfile 0.14.0 (libsndfile in the wheel); lame 3.100 (Debian 12).
# Why it matters: the rest of a song is not heard, not indexed and not checked; its decoder saw no fault at all.
# Instead: decode such files by ffmpeg. Reading in blocks does not help: the bound is inside.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v lame >/dev/null && command -v ffmpeg >/dev/null || { echo "this needs Debian's lame and ffmpeg" >&2; exit 2; }
lame --version | sed -n 1p
ffmpeg -version | sed -n 1p
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6

"$work/venv/bin/python" - "$work" <<'PY'
import subprocess
import sys

import numpy
import soundfile

work, rate = sys.argv[1], 44100
soundfile.write(f"{work}/in.wav", 0.5 * numpy.sin(numpy.arange(rate) * 0.0627), rate)
print(f"soundfile {soundfile.__version__}, {soundfile.__libsndfile_version__}")
seen = {}
for name, options in (("with a Xing header", []), ("without", ["-t"])):
    file = f"{work}/{len(options)}.mp3"
    subprocess.run(["lame", "--quiet", "-V2", *options, f"{work}/in.wav", file], check=True)
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", file, "-f", "s16le", "-"], capture_output=True, check=True)
    samples, _ = soundfile.read(file)
    blocks = sum(len(block) for block in soundfile.blocks(file, 1024))
    seen[name] = len(samples)
    print(f"{name:18}: ffmpeg decodes {len(raw.stdout) // 2} samples; soundfile states {soundfile.info(file).frames}, "
          f"reads {len(samples)}, in blocks {blocks}")
    assert len(raw.stdout) // 2 >= rate
    assert blocks == len(samples)
assert seen["with a Xing header"] == rate
assert seen["without"] < rate / 2, "all is read now"
PY
echo "As stated: most of the sound is missing, and no error."
