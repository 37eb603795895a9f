#!/usr/bin/env bash
# One would expect: a download tool that keeps a half file and resumes it asks by If-Range, or compares the ETag,
#   whether the file is still the same. What happens: the file was replaced meanwhile, the server heeds If-Range and
#   sends another ETag and another Last-Modified, and each of these tools asks for the rest by Range alone. The
#   result has the right length and is half old, half new, with exit status 0.
# Versions: yt-dlp 2026.10.26, gallery-dl 1.32.18 (PyPI); aria2 1.36.0, curl 7.88.1 (Debian 12).
# Why it matters: aria2's control file and the `.part` of the other two look as if they knew what they belong to.
# Instead: keep ETag or Last-Modified beside the half file and send it as If-Range; or delete halves first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for tool in aria2c curl; do
    command -v "$tool" >/dev/null || { echo "this needs Debian's $tool" >&2; exit 2; }
    "$tool" --version | sed -n 1p
done
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check yt-dlp==2026.10.26 gallery-dl==1.32.18

"$work/venv/bin/python" - "$work" <<'PY'
import http.server
import subprocess
import sys
import threading
from pathlib import Path

work, size = Path(sys.argv[1]), 400_000
letter, asked = b"A", []


class Site(http.server.BaseHTTPRequestHandler):
    """Sends half of the first file and hangs up; the whole, or a part, of the second."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        etag, date = f'"{letter.decode()}"', f"Mon, 0{letter[0] - 64} Jan 2024 00:00:00 GMT"
        wanted, only_if = self.headers.get("Range"), self.headers.get("If-Range")
        asked.append((wanted, only_if))
        start = 0
        if wanted and only_if in {None, etag, date}:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        for name, value in (("ETag", etag), ("Last-Modified", date), ("Accept-Ranges", "bytes"),
                            ("Content-Type", "video/mp4"), ("Content-Length", str(size - start))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(letter * (size // 2 if letter == b"A" else size - start))
        self.close_connection = True

    def log_message(self, *_):
        pass


site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
threading.Thread(target=site.serve_forever, daemon=True).start()
url, tools = f"http://127.0.0.1:{site.server_port}/clip.mp4", f"{work}/venv/bin"
commands = {
    "aria2": ["aria2c", "-q", "-c", "--max-tries=1", "-d", "FOLDER", "-o", "clip.mp4", url],
    "yt-dlp": [f"{tools}/yt-dlp", "-q", "--no-warnings", "--retries", "0", "--fixup", "never", "-o", "FOLDER/clip.mp4", url],
    "gallery-dl": [f"{tools}/gallery-dl", "-q", "-R", "0", "-D", "FOLDER", "-f", "clip.mp4", url],
    "curl": ["curl", "-s", "-C", "-", "-o", "FOLDER/clip.mp4", url],
}
for name, command in commands.items():
    folder = work / name
    folder.mkdir()
    command = [word.replace("FOLDER", str(folder)) for word in command]
    letter = b"A"
    first = subprocess.run(command, capture_output=True, check=False, timeout=120).returncode
    letter = b"B"
    asked.clear()
    second = subprocess.run(command, capture_output=True, check=False, timeout=120).returncode
    data = (folder / "clip.mp4").read_bytes()
    print(f"{name:10} exit {first}, then {second}; the last request had Range, If-Range {asked[-1]}; "
          f"{data.count(b'A')} old bytes, {data.count(b'B')} new ones")
    assert first and not second
    assert asked[-1][0] and asked[-1][1] is None, "it asks by If-Range now"
    assert len(data) == size and 0 < data.count(b"A") < size, "the file is not mixed any more"
PY
echo "As stated: resumed without If-Range; half old, half new, and exit status 0."
