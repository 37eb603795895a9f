"""What the tests of truncation share: samples, and a judgement of bytes."""

from __future__ import annotations

import struct
from pathlib import Path

from floradl.download.truncation import is_whole

SAMPLES = Path(__file__).parent / "samples"
WRITERS = sorted((SAMPLES / "writers").iterdir())


def judge(data: bytes, extension: str) -> bool | None:
    """Say of a file with this content whether it is whole."""
    return is_whole(lambda size, offset: data[offset : offset + size], len(data), extension)


def sample(name: str) -> tuple[bytes, str]:
    """Return content and extension of a sample."""
    path = SAMPLES / name
    return path.read_bytes(), path.suffix


def box(kind: bytes, content: bytes = b"") -> bytes:
    """Return a box of MP4."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    """Return a chunk of RIFF; `length` is what it states, where that is not what it has."""
    return struct.pack("<4sI", kind, len(content) if length is None else length) + content


def wave(riff: int, data: int, sound: bytes, after: bytes = b"") -> bytes:
    """Return a WAV that states these two lengths."""
    body = (
        chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)) + chunk(b"data", sound, data) + after
    )
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + body
