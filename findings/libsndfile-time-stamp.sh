#!/usr/bin/env bash
# One would expect: the same samples, written by the same call, give the same bytes, as for PCM they do.
# What happens: for float samples libsndfile adds a PEAK chunk to WAV and AIFF, and that holds the second in which the
#   file was written. A second later the same sound has another SHA-256. CAF's PEAK has no time; RF64 and W64 have none.
# Version: PyPI soundfile 0.14.0 with libsndfile 1.2.2 (librosa, torchaudio's and many other tools' way to write).
# Why it matters: float is what models give out; duplicates are not found, caches miss, and a repeated run looks new.
# Instead: hash the samples; or write PCM_24, RF64 or FLAC.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6

"$work/venv/bin/python" - "$work" <<'PY'
import sys
import time
from pathlib import Path

import numpy
import soundfile

print(f"soundfile {soundfile.__version__}, {soundfile.__libsndfile_version__}")
sound = numpy.sin(numpy.arange(1000) / 10)
kinds = [(ending, subtype) for ending in ("wav", "aiff", "caf", "w64", "rf64") for subtype in ("PCM_16", "FLOAT")]


def write(round_):
    files = {}
    for ending, subtype in kinds:
        file = Path(sys.argv[1], f"{round_}.{ending}")
        soundfile.write(file, sound, 8000, subtype=subtype)
        files[ending, subtype] = file.read_bytes()
    return files


first = write(1)
time.sleep(1.2)  # the stamp counts seconds
second = write(2)
differ = {kind for kind in kinds if first[kind] != second[kind]}
for kind in kinds:
    apart = [n for n, pair in enumerate(zip(first[kind], second[kind])) if pair[0] != pair[1]]
    peak = first[kind].find(b"PEAK")
    print(*kind, f"differs in byte {apart}, PEAK is at {peak}" if apart else "is the same")
    assert not apart or all(peak + 12 <= at < peak + 16 for at in apart)  # the time stamp's place
assert differ == {("wav", "FLOAT"), ("aiff", "FLOAT")}, differ
PY
echo "As stated: float WAV and AIFF hold the time, and so differ."
