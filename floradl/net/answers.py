"""An API's answer, read raw and in bounds: what it inflates to is bounded as well as what is sent.

httpx would inflate what it reads as a whole: 19 kB of gzip became 20 MB before anything could be counted.
"""

from __future__ import annotations

from collections.abc import Iterable

import httpx

from floradl.errors import ErrorCode, FloradlError, ForeignAnswerError, PassingError, PermanentError
from floradl.net.inflate import inflate

IDENTITY = {"Accept-Encoding": "identity"}
"""What to send, so that nothing has to be inflated; somebody on the way may do so all the same."""

_MOST_CODINGS = 2


async def read_bounded(response: httpx.Response, most: int) -> bytes:
    """Read the body of a streamed `response`, and undo its content codings (RFC 9110, 8.4).

    Raises `PassingError` for more than `most` bytes of either kind, `ForeignAnswerError` for a coding that is
    not known, and `httpx.RequestError`.
    """
    raw = bytearray()
    async for piece in response.aiter_raw():
        raw += piece
        if len(raw) > most:
            raise _too_much(most)
    codings = [
        coding
        for told in response.headers.get("content-encoding", "").split(",")
        if (coding := told.strip().lower()) not in {"", "identity"}
    ]
    if not codings or not raw:
        return bytes(raw)
    if len(codings) > _MOST_CODINGS:
        raise ForeignAnswerError(f"the API's answer is coded {len(codings)} times over, and was not read")
    pieces: Iterable[bytes] = [bytes(raw)]
    for coding in reversed(codings):
        pieces = inflate(pieces, coding)
    return _gathered(pieces, most)


def _gathered(pieces: Iterable[bytes], most: int) -> bytes:
    body = bytearray()
    try:
        for piece in pieces:
            body += piece
            if len(body) > most:
                raise _too_much(most)
    except FloradlError as error:
        if isinstance(error, PermanentError) and error.code is not ErrorCode.TOO_LARGE:
            raise ForeignAnswerError(f"the API's answer cannot be read: {error}") from None
        if isinstance(error, PassingError) and error.code is ErrorCode.DAMAGED:
            raise httpx.DecodingError(str(error)) from None
        raise _too_much(most) from None
    return bytes(body)


def _too_much(most: int) -> PassingError:
    return PassingError(f"the API's answer is over {most >> 20} MiB and was not read", ErrorCode.BAD_ANSWER)
