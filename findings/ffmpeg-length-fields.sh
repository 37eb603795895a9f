#!/usr/bin/env bash
# One would expect: where ffmpeg cannot go back to fill in a length, the field is 0 or all
#   ones; where it can, the field is right. What happens: SWF on a pipe states exactly 100 MiB,
#   a value like any other. RealMedia's DATA chunk states 10 bytes more than the file has,
#   also when written to a file. Version: ffmpeg 5.1 (Debian 12).
# Why it matters: the check "the file is shorter than its header says, so the download was cut"
#   is wrong for every one of these files.
# Instead: trust the length that the server states; take a format's own length as a hint, and
#   never throw a file away on it alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! command -v ffmpeg >"$work/which"; then
    echo "this needs Debian's ffmpeg" >&2
    exit 2
fi
ffmpeg -version | sed -n 1p
picture=(-f lavfi -i "testsrc=d=1:s=64x64:r=10")
ffmpeg -v error "${picture[@]}" -f swf "$work/file.swf"
ffmpeg -v error "${picture[@]}" -f swf - | cat >"$work/pipe.swf"
ffmpeg -v error "${picture[@]}" -c:v rv20 "$work/video.rm"
ffmpeg -v error -f lavfi -i sine=d=1 -c:a ac3 "$work/audio.rm"

python3 - "$work" <<'PY'
import sys
from pathlib import Path

work = Path(sys.argv[1])
stated = {}
for name in ("file.swf", "pipe.swf"):
    data = (work / name).read_bytes()
    stated[name] = int.from_bytes(data[4:8], "little")
    print(f"{name}: {len(data)} bytes, states {stated[name]}")
assert stated["pipe.swf"] == 100 * 1024 * 1024, "another length on a pipe"
assert stated["file.swf"] == (work / "file.swf").stat().st_size, "wrong in a file, too"
for name in ("video.rm", "audio.rm"):
    data = (work / name).read_bytes()
    at = data.find(b"DATA")
    size, left = int.from_bytes(data[at + 4 : at + 8], "big"), len(data) - at
    print(f"{name}: DATA states {size} bytes, the file has {left} from there on")
    assert size == left + 10, "another difference"
PY
echo "As stated: SWF on a pipe states 100 MiB, and RealMedia's DATA 10 bytes too many."
