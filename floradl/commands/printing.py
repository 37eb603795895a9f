"""How lines for people reach a stream."""

from __future__ import annotations

from typing import TextIO

from floradl.redaction import printable, redact


def say(stream: TextIO, line: str) -> None:
    """Write a line: without a secret, a control character, or what the stream's encoding cannot show."""
    safe = printable(redact(line))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(safe.encode(encoding, "replace").decode(encoding) + "\n")
