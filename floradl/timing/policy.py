"""When to ask again, and when to give up: pure, so that it can be read and tested as a table."""

from __future__ import annotations

import random

from floradl.errors import ErrorCode, PassingError
from floradl.models import RemoteRun
from floradl.timing.hazard import COST, LogNormal, gap

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
_USUAL_INTERVAL = 2.0


def next_question(age: float, interval: float, expected: LogNormal, cost: float = COST) -> float:
    """Return the seconds until a run that is `age` seconds old and not finished is asked about again.

    That is when it is worth it by what its technique takes: from `interval` (FLORA's own advice is 2 to 5 s)
    to 30 s. `cost` is for an interval of 2 s, in seconds of delay; who shortens the interval wants to hear
    sooner, and pays in proportion.
    """
    most = max(interval, MAX_BACKOFF)
    return gap(age, expected, (interval, most), cost * interval / _USUAL_INTERVAL)


def detection_delay(answer: RemoteRun, queued_at: float, now: float) -> float | None:
    """Return how long a run was over before it was noticed, in seconds; None where FLORA names no end.

    `queued_at` and `now` are unix seconds: before it was queued nobody could notice. The server's own clock
    counts where it told its time (to the second), as ours may be another.
    """
    if answer.completed_at is None:
        return None
    if answer.age is not None and answer.created_at is not None:
        since = answer.age - (answer.completed_at - answer.created_at)
    else:
        since = now - answer.completed_at
    return max(min(since, now - queued_at), 0.0)


def is_given_up(code: ErrorCode) -> bool:
    """Whether trouble of this kind is given up after a few tries; any other is a matter of patience."""
    return code in _SHORT_LIVED or code is ErrorCode.DAMAGED


def after_trouble(error: PassingError, tries: int) -> float | None:
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
