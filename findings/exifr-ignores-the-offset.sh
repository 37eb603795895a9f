#!/usr/bin/env bash
# One would expect: a photo that states when it was taken and in which zone has one instant. What happens: exifr makes a
#   Date of DateTimeOriginal as if it were the zone of the machine, and leaves OffsetTimeOriginal (+09:00) beside it: on
#   a server in UTC the photo is nine hours off, on one in New York fourteen, and neither says so.
# Versions: exifr 7.1.3 (npm); exiftool 12.57 (Debian 12), which has the offset in SubSecDateTimeOriginal.
# Why it matters: a Date looks final; the order of two cameras' photos depends on where the service runs.
# Instead: `reviveValues: false`, and put text and offset together.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v exiftool >/dev/null || { echo "this needs Debian's exiftool" >&2; exit 2; }
echo "exiftool $(exiftool -ver)"
npm install --prefix "$work" exifr@7.1.3 --no-audit --no-fund --ignore-scripts --silent
cd "$work"
# the smallest JPEG that will do: one grey pixel
base64 -d >in.jpg <<'B64'
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgICAgMCAgIDAwMDBAYEBAQEBAgGBgUGCQgKCgkICQkKDA8MCgsOCwkJDRENDg8QEBEQCgwS
ExIQEw8QEBD/wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAACf/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AVN//2Q==
B64
exiftool -q -overwrite_original -DateTimeOriginal='2024:01:02 03:04:05' -OffsetTimeOriginal=+09:00 in.jpg
echo "exiftool: $(exiftool -s3 -SubSecDateTimeOriginal in.jpg), which is 2024-01-01T18:04:05.000Z"
[ "$(exiftool -s3 -SubSecDateTimeOriginal in.jpg)" = '2024:01:02 03:04:05+09:00' ]
script="require('exifr').parse('in.jpg', true).then((s) => console.log(s.DateTimeOriginal.toISOString(), s.OffsetTimeOriginal))"
for zone in UTC America/New_York; do
    seen=$(TZ=$zone node -e "$script")
    echo "exifr in $zone: $seen"
    case $zone in
    UTC) [ "$seen" = '2024-01-02T03:04:05.000Z +09:00' ] ;;
    *) [ "$seen" = '2024-01-02T08:04:05.000Z +09:00' ] ;;
    esac
done
raw=$(node -e "require('exifr').parse('in.jpg', { reviveValues: false }).then((s) => console.log(s.DateTimeOriginal, s.OffsetTimeOriginal))")
echo "exifr, not revived: $raw"
[ "$raw" = '2024:01:02 03:04:05 +09:00' ]
echo "As stated: the instant depends on the machine."
