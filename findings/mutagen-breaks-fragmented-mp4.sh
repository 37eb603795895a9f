#!/usr/bin/env bash
# One would expect: a tagger that cannot move what an MP4 points to refuses, as exiftool does for this file.
# What happens: mutagen writes the tag into the `moov` of a fragmented MP4, all behind it moves, and the fragments'
#   offsets point beside the samples: the film is garbage from then on, without an error. Only fragments whose
#   offsets count from their own `moof` (`default_base_moof`, CMAF) survive; ffmpeg's plain fragments are not such.
#   In both, `mfra`, which players seek by, keeps the old places.
# Versions: PyPI mutagen 1.48.1; files by Debian's ffmpeg 5.1.9, exiftool 12.57.
# Why it matters: one letter of a title destroys a recording, and the size, the duration and the tags look right.
# Instead: remux first (`ffmpeg -c copy`), then tag; and decode afterwards.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v ffmpeg >/dev/null && command -v exiftool >/dev/null || { echo "this needs Debian's ffmpeg and exiftool" >&2; exit 2; }
ffmpeg -version | sed -n 1p
echo "exiftool $(exiftool -ver)"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check mutagen==1.48.1
cd "$work"
film=(-v error -f lavfi -i testsrc=d=2:r=30:s=160x90 -c:v libx264 -g 30 -pix_fmt yuv420p)
ffmpeg "${film[@]}" -movflags frag_keyframe+empty_moov plain.mp4
ffmpeg "${film[@]}" -movflags frag_keyframe+empty_moov+default_base_moof moof.mp4
cp plain.mp4 exif.mp4

frames() { ffmpeg -v quiet -i "$1" -f framemd5 - | grep -v '^#' | md5sum | cut -c1-12; }
tag() {
    venv/bin/python - "$1" <<'PY'
import struct
import sys

from mutagen.mp4 import MP4


def seeks_to(data):
    """Return what stands where the index at the end says that a fragment begins."""
    at = data.index(b"tfra") + 4
    place = struct.unpack_from(">Q", data, at + 24)[0] if data[at] else struct.unpack_from(">I", data, at + 20)[0]
    return data[place + 4 : place + 8]


before = seeks_to(open(sys.argv[1], "rb").read())
film = MP4(sys.argv[1])
film["\xa9nam"] = "A"
film.save()
after = seeks_to(open(sys.argv[1], "rb").read())
print(f"{sys.argv[1]}: the title is in; the index led to {before}, now to {after}")
assert before == b"moof" != after, "the index is right now"
PY
}
for file in plain moof; do
    before=$(frames $file.mp4)
    tag $file.mp4
    errors=$(ffmpeg -v error -i $file.mp4 -f null - 2>&1 | wc -l)
    echo "$file.mp4: the frames' hash was $before and is $(frames $file.mp4); decoding says $errors lines of errors"
    if [ $file = plain ]; then
        [ "$errors" -gt 0 ] && [ "$before" != "$(frames $file.mp4)" ]
    else
        [ "$errors" -eq 0 ] && [ "$before" = "$(frames $file.mp4)" ]
    fi
done
if exiftool -q -overwrite_original -Title=A exif.mp4 2>said; then exit 1; fi
cat said
echo "As stated: mutagen destroys what exiftool refuses, without an error."
