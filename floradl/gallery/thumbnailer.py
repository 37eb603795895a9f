"""The process that makes thumbnails: it gets an open file, and gives back a small picture.

Pictures and films come from strangers, and their decoders are large. So this process has no key, no name of
any file, little memory and no right to write files; whoever started it ends it where it takes too long.
"""

from __future__ import annotations

import io
import os
import resource
import shutil
import socket
import subprocess
import sys
import warnings
from contextlib import suppress
from typing import Any, BinaryIO, Final

WIDEST: Final = 960  # pixels
HIGHEST: Final = 400
_MOST_PIXELS: Final = 120_000_000  # of a picture; more is taken for a bomb
_MEMORY: Final = 1536 << 20  # bytes of addresses
_PROCESSOR_TIME: Final = 20  # seconds for a file; the clock's say little where others have the processor
_FRAME_TIME: Final = 45.0  # seconds
_FORMATS: Final = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO", "JPEG2000", "HEIF")
_LARGEST_PROFILE: Final = 4096  # bytes
# The container is told, so that a list of other files (HLS, concat) is never read as one.
_DEMUXERS: Final = (
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
)


def main() -> None:
    """Answer until the other end is closed: for each byte and its file a length and a picture."""
    _give_way()
    with socket.socket(fileno=int(sys.argv[1])) as channel, suppress(ConnectionError):
        while True:
            word, fds, _, _ = socket.recv_fds(channel, 1, 1)
            if not word or not fds:
                return
            _bound_time()
            with os.fdopen(fds[0], "rb") as file:
                made = thumbnail(file)
            channel.sendall(len(made).to_bytes(4, "big") + made)


def _give_way() -> None:
    """Work when nobody else does, with bounds on what a file can have it do."""
    with suppress(OSError):  # a sandbox may forbid even that
        os.nice(19)
    if sys.platform == "linux":  # whoever wakes up with work to do goes first, at once
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    bounds = {resource.RLIMIT_AS: _MEMORY, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    for what, most in bounds.items():
        with suppress(OSError, ValueError):  # a system that knows no such bound
            resource.setrlimit(what, (most, most))


def _bound_time() -> None:
    """Have the system end this process, or what it starts, where the next file takes too much work."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + 1 + _PROCESSOR_TIME
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def thumbnail(file: BinaryIO) -> bytes:
    """Return a WebP of at most `WIDEST` by `HIGHEST` pixels; nothing for what is no picture or film."""
    head = file.read(32)
    file.seek(0)
    try:
        demuxer = next((name for at, mark, name in _DEMUXERS if head[at : at + len(mark)] == mark), None)
        if demuxer is None or head[8:12] in {b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"}:
            return _reduced(file)
        frame = _frame(file.fileno(), demuxer)
        return _reduced(io.BytesIO(frame)) if frame else b""
    except MemoryError:
        return b""
    except Exception:  # noqa: BLE001 - decoders raise anything at all for files that are not well
        return b""


def _reduced(file: BinaryIO) -> bytes:
    from PIL import Image, ImageOps  # noqa: PLC0415 - an extra

    warnings.simplefilter("ignore")  # of what a file holds besides
    with suppress(ImportError):
        from pillow_heif import register_heif_opener  # noqa: PLC0415 - as above

        register_heif_opener()
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # it is looked at here, once for all formats
    with Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN]) as opened:
        if opened.width * opened.height > _MOST_PIXELS:
            return b""
        profile: bytes = opened.info.get("icc_profile") or b""
        picture: Any = opened
        # Chromium 156 shows a WebP as it lies, whatever its Exif says, and all else upright.
        follows_exif = opened.format != "WEBP"
        turned = follows_exif and picture.getexif().get(0x0112, 1) in {5, 6, 7, 8}
        box = (HIGHEST, WIDEST) if turned else (WIDEST, HIGHEST)
        scale = min(1.0, box[0] / picture.width, box[1] / picture.height)
        # A JPEG is decoded at the fraction of its size that is just above.
        picture.draft(None, (max(int(picture.width * scale), 1), max(int(picture.height * scale), 1)))
        if picture.mode.startswith("I;16"):  # Pillow cuts greys above 255 off, where it should scale them
            picture = picture.convert("I").point(lambda grey: grey / 256).convert("L")
        if picture.mode not in {"RGB", "RGBA", "L"}:
            has_alpha = picture.mode in {"LA", "PA", "La"} or "transparency" in picture.info
            profile = profile if picture.mode in {"P", "PA"} else b""
            picture = picture.convert("RGBA" if has_alpha else "RGB")
        picture.thumbnail(box, Image.Resampling.BICUBIC, reducing_gap=2.0)
        if follows_exif:
            picture = ImageOps.exif_transpose(picture)
    made = io.BytesIO()
    extra = {"icc_profile": profile} if len(profile) <= _LARGEST_PROFILE else {}
    picture.save(made, "WEBP", quality=76, method=1, **extra)
    return made.getvalue()


def _frame(fd: int, demuxer: str) -> bytes:
    """Return a frame of a film as BMP, a second after its beginning where it is so long."""
    program = shutil.which("ffmpeg")
    if program is None:
        return b""
    for skip in (["-ss", "1"], []):
        os.lseek(fd, 0, os.SEEK_SET)
        bounds = ["-v", "quiet", "-nostdin", "-threads", "1", "-protocol_whitelist", "file", "-f", demuxer]
        scale = f"scale='min({2 * WIDEST},iw)':-2"
        made = ["-map", "0:v:0", "-frames:v", "1", "-vf", scale, "-f", "image2pipe", "-c:v", "bmp", "pipe:1"]
        with suppress(subprocess.SubprocessError):
            done = subprocess.run(  # noqa: S603 - found on the path of whoever runs floradl
                [program, *bounds, *skip, "-i", f"/dev/fd/{fd}", *made],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=[fd],
                timeout=_FRAME_TIME,
                check=False,
            )
            if done.stdout:
                return done.stdout
    return b""


if __name__ == "__main__":
    main()
