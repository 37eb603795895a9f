"""The standard streams: closed, full, or read by nobody any more. None of that may harm the work.

A descriptor below 3 that is free would be given to the next file that is opened, and whatever writes to
"stderr" would write there.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from enum import Enum
from typing import TextIO, TypeGuard

import click

from floradl.commands.exits import Exit
from floradl.redaction import printable, redact


class Show(Enum):
    """What to write of each run that ends."""

    NOTHING = "nothing"
    JSON = "json"
    PATHS = "paths"


def occupy() -> None:
    """Open /dev/null for each standard stream that is closed. Call this before anything else is opened."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free, which is this one
        if getattr(sys, name) is None:
            stream = open(fd, "w" if fd else "r", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def tell(message: str) -> None:
    """Write a message to stderr, made safe for a terminal; no error where stderr is full or has no reader."""
    with suppress(OSError, ValueError):
        click.echo("\n".join(map(printable, message.split("\n"))), err=True)


def finish(code: Exit) -> Exit:
    """Flush both streams, and return the exit code: 5, with a message, where stdout refused something.

    A pipe whose reader has gone is no error. (Python itself would end with 120 where a stream fails.)
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _lead_nowhere(1)
    except (OSError, ValueError) as error:
        _lead_nowhere(1)
        tell(f"floradl: standard output cannot be written: {getattr(error, 'strerror', None) or error}")
        code = code or Exit.GAVE_UP
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _lead_nowhere(2)
    return code


def is_of_stdout(error: BaseException) -> TypeGuard[OSError]:
    """Whether `error` is of a stdout that takes nothing; then what is buffered is dropped."""
    if not isinstance(error, OSError) or error.filename is not None or isinstance(error, BrokenPipeError):
        return False
    try:
        sys.stdout.flush()
        os.write(1, b"\n")
    except OSError as again:
        if again.errno == error.errno:
            _lead_nowhere(1)
            return True
    return False


def _lead_nowhere(fd: int) -> None:
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, fd)
        os.close(nowhere)


def say(stream: TextIO, line: str) -> None:
    """Write a line: without a secret, a control character, or what the stream's encoding cannot show."""
    safe = printable(redact(line))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(safe.encode(encoding, "replace").decode(encoding) + "\n")


def write_bytes(stream: TextIO, data: bytes) -> None:
    """Write bytes unchanged to a stream of bytes, and decoded to one that takes only text."""
    binary = getattr(stream, "buffer", None)
    if binary is None:
        stream.write(data.decode("utf-8", "replace"))
    else:
        binary.write(data)
    stream.flush()
