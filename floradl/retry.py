"""When a failed request is tried again, and when it is given up: pure, a table to read and to test."""

from __future__ import annotations

import random

from floradl.errors import ErrorCode, TransientError

MAX_BACKOFF = 30.0
# A run just created may not be visible yet, a media host may lag behind, an error page may stand where
# an image will be: worth a few tries over about a minute, but not a day.
_SHORT_TRIES = (2.0, 5.0, 10.0, 20.0, 25.0)
_SHORT_LIVED = {
    **dict.fromkeys(
        (
            *(ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN, ErrorCode.NOT_MEDIA),
            *(ErrorCode.EXPIRED, ErrorCode.NO_OUTPUTS),
        ),
        _SHORT_TRIES,
    ),
    ErrorCode.BAD_REQUEST: _SHORT_TRIES[:2],  # 409 to a question that changes nothing: it will hardly end
    ErrorCode.BAD_URL: _SHORT_TRIES[:3],  # FLORA itself lists it malformed, and will hardly mend it
}
_DAMAGED_TRIES = 8


def is_given_up(code: ErrorCode) -> bool:
    """Whether trouble of this kind is given up after a few tries; any other is a matter of patience."""
    return code in _SHORT_LIVED or code is ErrorCode.DAMAGED


def after_trouble(error: TransientError, tries: int) -> float | None:
    """Return the seconds until the next try after the `tries`-th failure in a row, or None to give up.

    What the other side asked for (`retry_after`) is honoured.
    """
    if error.code in _SHORT_LIVED:
        delays = _SHORT_LIVED[error.code]
        delay = delays[tries - 1] if tries <= len(delays) else None
    elif error.code is ErrorCode.DAMAGED and tries > _DAMAGED_TRIES:
        delay = None
    else:
        delay = backoff(tries, MAX_BACKOFF)
    if delay is None or error.retry_after is None:
        return delay
    return max(delay, error.retry_after)


def backoff(tries: int, cap: float) -> float:
    """Return the seconds to wait after the `tries`-th failure in a row: doubling, capped, jittered.

    The jitter keeps many that failed together from coming back together.
    """
    return min(cap, 2.0 ** min(tries - 1, 10)) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
