#!/usr/bin/env bash
# One would expect: subtitles that ffmpeg turned from SRT into WebVTT have the same words, and turn back into them.
# What happens: SRT needs no escapes, WebVTT does; ffmpeg writes `I < 3` and `Q & A` into WebVTT as they are, and its
#   own reader takes `< 3 …` for a tag that never ends: the rest of the cue is gone, also its next line. The other way
#   round `&amp;` is decoded rightly. The position `{\an8}` is lost, too.
# Version: ffmpeg 5.1.9 (Debian 12).
# Why it matters: captions of code, prices and formulas lose words at a step that says nothing and exits with 0.
# Instead: escape `&` and `<` in the SRT's text first; ffmpeg hands them through.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v ffmpeg >/dev/null || { echo "this needs Debian's ffmpeg" >&2; exit 2; }
ffmpeg -version | sed -n 1p
cd "$work"
cat >in.srt <<'SRT'
1
00:00:01,000 --> 00:00:02,000
{\an8}where I < 3 holds,
we are done

2
00:00:02,500 --> 00:00:04,000
Q & A, then <i>the end</i>
SRT
ffmpeg -v error -i in.srt out.vtt
ffmpeg -v error -i out.vtt back.srt
echo "WebVTT:"; cat out.vtt
echo "and back:"; cat back.srt
grep -qxF 'where I < 3 holds,' out.vtt
grep -qxF 'Q & A, then <i>the end</i>' out.vtt
if grep -q 'line:' out.vtt; then exit 1; fi
grep -q '^where I' back.srt
if grep -q 'holds\|we are done' back.srt; then exit 1; fi
grep -qF 'the end' back.srt

sed -e 's/I < 3/I \&lt; 3/; s/Q & A/Q \&amp; A/' in.srt >escaped.srt
ffmpeg -v error -i escaped.srt escaped.vtt
ffmpeg -v error -i escaped.vtt escaped-back.srt
grep -q 'where I < 3 holds,' escaped-back.srt
grep -q 'Q & A' escaped-back.srt
grep -q 'we are done' escaped-back.srt
echo "As stated: unescaped into WebVTT, and read back with words missing."
