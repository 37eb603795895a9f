#!/usr/bin/env bash
# One would expect: a static file's ETag and Last-Modified depend on the file, not on its name.
# What happens: for a file whose extension has no entry in mimetype.assign, lighttpd sends
#   neither of the two, though it goes on saying Accept-Ranges: bytes and answers with 206.
# Version: lighttpd 1.4.69 (Debian 12).
# Why it matters: two files of one folder, .mp3 and .flac, differ in whether a resumed
#   download can be made safe: without a validator, If-Range has nothing to send.
# Instead: a client takes the missing validators per file, not per server, and then starts
#   again or checks an overlap. A server's owner assigns "" => "application/octet-stream".
set -euo pipefail
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

lighttpd=$(command -v lighttpd || echo /usr/sbin/lighttpd)
if [ ! -x "$lighttpd" ]; then
    echo "this needs Debian's lighttpd" >&2
    exit 2
fi
"$lighttpd" -v
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir "$work/www"
echo "0123456789" >"$work/www/song.mp3"
echo "0123456789" >"$work/www/song.flac"
cat >"$work/conf" <<CONF
server.document-root = "$work/www"
server.bind = "127.0.0.1"
server.port = $port
mimetype.assign = ( ".mp3" => "audio/mpeg" )
CONF
"$lighttpd" -D -f "$work/conf" 2>"$work/log" &
server=$!

ask() { curl -sS --retry 20 --retry-connrefused --retry-delay 1 -o "$work/body" -D - -r 2-4 "http://127.0.0.1:$port/$1" | tr -d '\r'; }
for name in song.mp3 song.flac; do
    echo "--- $name, bytes 2-4"
    ask "$name" | tee "$work/$name.head" | grep -iE '^(HTTP|Content-|ETag|Last-Modified|Accept-Ranges)'
done

grep -qi '^ETag:' "$work/song.mp3.head"
grep -qi '^Last-Modified:' "$work/song.mp3.head"
grep -q ' 206 ' "$work/song.flac.head"
if grep -qiE '^(ETag|Last-Modified):' "$work/song.flac.head"; then
    echo "no longer as stated: song.flac has a validator" >&2
    exit 1
fi
echo "As stated: the .flac, with no MIME type assigned, is served in ranges but has no validator."
