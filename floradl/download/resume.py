"""Whether a part file may be continued, and what is noted where that did not work.

What a version is called by proves little: of 22 file servers tried, ten give another content of the same size
and time the same strong ETag (nginx 1.22, Apache 2.4, Caddy 2.6, aiohttp 3.14 …). So the last bytes that are
held are asked for again and compared. Where there is no strong ETag but a time and a size, the first ones are
compared as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import msgspec

from floradl.download.checksums import ChecksumSet
from floradl.download.offer import offer_of
from floradl.errors import ErrorCode, FloradlError, PermanentError, TransientError
from floradl.library.base import DownloadTarget, Sink
from floradl.net.bodies import pieces

OVERLAP: Final = 64 << 10
"""Bytes that are asked for again, and compared."""

_RANGED_TRIES: Final = 2  # in a row that gained nothing, before the whole is asked for
# The host was reached, and said nothing, or broke off.
_NO_ANSWER: Final = (httpx.ReadError, httpx.ReadTimeout, httpx.WriteError, httpx.RemoteProtocolError)


class StartOverError(Exception):
    """What is held cannot be continued; it may still be the beginning of the whole."""


class BytesDifferError(StartOverError):
    """What is held is of another version."""


class RangeRefusedError(Exception):
    """The host answered a request for a range with `status`, which means `error` for a whole one."""

    def __init__(self, status: int, error: FloradlError) -> None:
        super().__init__(status)
        self.status = status
        self.error = error


def takes_ranges(target: DownloadTarget) -> bool:
    """Whether to ask for a range: not where the last ones gained nothing, this once."""
    notes = target.notes
    if notes.ranges_refused < _RANGED_TRIES:
        return True
    target.note(msgspec.structs.replace(notes, ranges_refused=0))
    return False


@contextmanager
def in_hand(sink: Sink, target: DownloadTarget) -> Iterator[None]:
    """Try to continue `sink`; where that fails it is closed, and noted if the range may be why.

    Raises `StartOverError` where the whole is to be asked for at once, else what was raised within; a refusal
    is passing trouble.
    """
    size = sink.size
    try:
        yield
    except BaseException as error:
        if isinstance(error, BytesDifferError):
            sink.truncate(0)
        gained = sink.size > size
        sink.__exit__()
        if gained and target.notes.ranges_refused:
            target.note(msgspec.structs.replace(target.notes, ranges_refused=0))
        if isinstance(error, RangeRefusedError):
            if error.status == 416:  # it is shorter now, or there are no ranges here
                raise StartOverError from None
            _note_refusal(target)
            raise _passing(error.error) from None
        if isinstance(error, TransientError) and isinstance(error.__cause__, _NO_ANSWER) and not gained:
            _note_refusal(target)
        raise


def compare_head(response: httpx.Response, validator: str, sink: Sink) -> None:
    """Hold the first bytes that `response` offers against those of `sink`, which is called by `validator`.

    Raises `StartOverError` where they cannot be compared, `BytesDifferError` where they differ.
    """
    offer = offer_of(response)
    if offer.first != 0 or offer.last != OVERLAP - 1 or not offer.continues(validator):
        raise StartOverError
    came = bytearray()
    for piece in pieces(response):
        came += piece
        if len(came) >= OVERLAP:
            break
    if came != sink.read(OVERLAP, 0):
        raise BytesDifferError


def rehash(sink: Sink, digests: ChecksumSet, size: int) -> None:
    """Have `digests` take in the first `size` bytes. Raises `TransientError` where there are fewer."""
    offset = 0
    while offset < size:
        chunk = sink.read(min(1 << 20, size - offset), offset)
        if not chunk:
            raise TransientError("the part file is shorter than it was", ErrorCode.DAMAGED)
        digests.update(chunk)
        offset += len(chunk)


def append(sink: Sink, at: int, chunk: bytes | memoryview, *, may_differ: bool) -> None:
    """Put `chunk` at `at`: what is held there already is compared, and what follows appended.

    Where it differs, all from `at` on is replaced if it `may_differ`; `BytesDifferError` otherwise.
    """
    wanted = min(len(chunk), sink.size - at)
    if wanted > 0:
        held = sink.read(wanted, at)
        if len(held) == wanted and chunk[:wanted] == held:
            chunk = chunk[wanted:]
        elif may_differ:
            sink.truncate(at)
        else:
            raise BytesDifferError
    if len(chunk):
        sink.write(chunk)


def _note_refusal(target: DownloadTarget) -> None:
    notes = target.notes
    target.note(msgspec.structs.replace(notes, ranges_refused=notes.ranges_refused + 1))


def _passing(error: FloradlError) -> FloradlError:
    if isinstance(error, PermanentError):
        return TransientError(f"{error} when it was asked for a part of it")
    return error
