#!/usr/bin/env bash
# One would expect: SoX writes the same to a pipe as to a file, leaves a length open, or refuses.
# What happens: for CAF and W64 the first header has the lengths of an empty file, and the
#   header is written again, twice: before the samples and behind them, as if it had gone back
#   to the start. There is no warning. Version: SoX 14.4.2 (Debian 12).
# Why it matters: sites that convert on the fly send such files; by its header all samples of
#   the CAF are surplus, yet nothing was cut or added on the way.
# Instead: do not call a file broken because its length field and its size differ; when
#   converting, let SoX write a real file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! command -v sox >"$work/which"; then
    echo "this needs Debian's sox" >&2
    exit 2
fi
sox --version
tone() { sox -n -r 8000 -c 1 -b 16 -t "$1" "$2" synth 1 sine 440; }
for kind in caf w64; do
    tone "$kind" "$work/file.$kind"
    tone "$kind" - 2>"$work/$kind.err" | cat >"$work/pipe.$kind"
done

python3 - "$work" <<'PY'
import sys
from pathlib import Path

work = Path(sys.argv[1])


def places(data, mark):
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


for kind, mark in (("caf", b"caff\x00\x01"), ("w64", b"riff\x2e\x91\xcf\x11")):
    seen = {}
    for way in ("file", "pipe"):
        data = (work / f"{way}.{kind}").read_bytes()
        seen[way] = places(data, mark)
        print(f"{kind} to a {way}: {len(data)} bytes, a header at {seen[way]}", end="")
        if kind == "caf":
            at = data.find(b"data")
            size = int.from_bytes(data[at + 4 : at + 12], "big", signed=True)
            print(f", first data chunk: size {size}", end="")
            assert size == (16004 if way == "file" else 4), "another size"
        print()
    assert seen["file"] == [0], "a file has more than one header"
    assert len(seen["pipe"]) > 1, "a pipe no longer gets a second header"
    warning = (work / f"{kind}.err").read_text()
    assert "WARN" not in warning and "FAIL" not in warning, warning
PY
echo "As stated: on a pipe the header comes more than once, and the first states no samples."
