#!/usr/bin/env bash
# One would expect: the readers of a sound file either know how long it is or say that they do not. What happens with ten
#   seconds that ffmpeg wrote: mutagen and tinytag say 0 s for an MP4 in fragments and for a FLAC from a pipe, and
#   13 h 31 min for a WAV from a pipe, as SoX does; libsndfile says 209146758205323.72 s for that FLAC; tinytag says
#   0.4 s for an AAC (ADTS), and MediaInfo 0.7 s for a CAF. PyAV and music-metadata state
#   nothing where they do not know.
# Versions: PyPI mutagen 1.48.1, tinytag 2.3.2, soundfile 0.14.0 (libsndfile 1.2.2), av 18.1.0; npm music-metadata 11.16.1;
#   Debian ffmpeg 5.1.9, SoX 14.4.2, mediainfo 23.04.
# Why it matters: all files are whole and play; what sorts, bills or rejects by duration takes these numbers for facts.
# Instead: take a duration of 0, or one that does not fit size and bit rate, for unknown, and decode.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for tool in ffmpeg soxi mediainfo; do
    command -v "$tool" >/dev/null || { echo "this needs Debian's ffmpeg, sox and mediainfo" >&2; exit 2; }
done
ffmpeg -version | sed -n 1p
dpkg-query -W -f '${Package} ${Version}\n' sox mediainfo
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check mutagen==1.48.1 tinytag==2.3.2 soundfile==0.14.0 av==18.1.0 numpy==2.4.6
npm install --prefix "$work" music-metadata@11.16.1 --no-audit --no-fund --silent
cd "$work"
make() { ffmpeg -v error -f lavfi -i sine=d=10 "$@"; }
make -c:a aac -movflags frag_keyframe+empty_moov fragmented.m4a
make -f wav - | cat >piped.wav
make -f flac - | cat >piped.flac
make -c:a aac plain.aac
make plain.caf
cat >node.mjs <<'JS'
import { parseFile } from "music-metadata";
try { console.log((await parseFile(process.argv[2])).format.duration ?? ""); } catch { console.log("not supported"); }
JS
cat >show.py <<'PY'
import subprocess

import av
import mutagen
import soundfile
import tinytag

READERS = {
    "mutagen": lambda name: mutagen.File(name).info.length,
    "tinytag": lambda name: tinytag.TinyTag.get(name).duration,
    "libsndfile": lambda name: soundfile.info(name).duration,
    "PyAV": lambda name: av.open(name).duration / 1_000_000,
    "SoX": lambda name: float(run("soxi", "-D", name)),
    "MediaInfo": lambda name: int(run("mediainfo", "--Inform=General;%Duration%", name)) / 1000,
    "music-metadata": lambda name: float(run("node", "node.mjs", name)),
}


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def ask(reader, name):
    """Return the seconds that a reader states, or None where it states none."""
    try:
        return round(READERS[reader](name), 2)
    except Exception:
        return None


expected = {
    "fragmented.m4a": {"mutagen": 0.0, "tinytag": 0.0},
    "piped.wav": {"mutagen": 48695.77, "tinytag": 48695.77, "SoX": 48695.77},
    "piped.flac": {"mutagen": 0.0, "tinytag": 0.0, "libsndfile": 209146758205323.72, "SoX": 0.0},
    "plain.aac": {"tinytag": 0.42},
    "plain.caf": {"MediaInfo": 0.74},
}
for name, false in expected.items():
    seconds = {reader: ask(reader, name) for reader in READERS}
    print(f"{name:14}", ", ".join(f"{reader} {value}" for reader, value in seconds.items() if value is not None))
    wrong = {reader: value for reader, value in seconds.items() if value is not None and abs(value - 10) > 0.2}
    assert wrong == false, wrong
PY
venv/bin/python show.py
echo "As stated: each file lasts ten seconds, and each has a reader that states something else."
