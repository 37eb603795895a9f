"""Whether a webhook comes from FLORA: the header `Flora-Signature` against the raw body.

    t=<unix seconds>,v1=<hex>[,v1=<hex>…]      v1 = HMAC-SHA256("<t>.<raw body>") under the secret as it is

Several `v1`, and several secrets, occur while a secret is changed. Source: FLORA's reference of webhooks, and
`webhooks.verify` of its TypeScript library.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable

from floradl.redaction import Secret

AHEAD = 300.0
"""How many seconds a signature's time may lie ahead of ours."""

OLDEST = 900.0
"""How many seconds a signature may be old.

FLORA's own library takes 300. Its developer site says that all four attempts have the same signature, and the
last comes some 370 s after it. Whoever lets it be older must know again what came already.
"""

_TIME = re.compile("[0-9]{1,12}")


class ForgedError(Exception):
    """The signature is missing, wrong or out of time; the message says which, without any of it."""


def verify(header: str | None, body: bytes, secrets: Iterable[Secret], now: float) -> None:
    """Check the signature of the raw `body`; `now` is unix seconds. Raises `ForgedError`."""
    if not header:
        raise ForgedError("it has no Flora-Signature")
    times, signatures = _parts(header)
    if not times or not _TIME.fullmatch(times[-1]) or not signatures:
        raise ForgedError("its Flora-Signature has no t, or no v1")
    signed = f"{times[-1]}.".encode() + body
    good = False
    for secret in secrets:
        expected = hmac.digest(secret.reveal().encode(), signed, "sha256").hex().encode()
        for signature in signatures:  # all of them: how long it takes must not tell which one is near
            good |= hmac.compare_digest(expected, signature.encode())
    if not good:
        raise ForgedError("its signature does not match: is the secret the one that FLORA shows?")
    off = now - int(times[-1])
    if not -AHEAD <= off <= OLDEST:
        raise ForgedError(
            f"its signature is of {abs(off):.0f} s {'ago' if off > 0 else 'ahead'}: is this machine's clock "
            "right?"
        )


def _parts(header: str) -> tuple[list[str], list[str]]:
    times, signatures = [], []
    for part in header.split(","):
        name, _, value = part.partition("=")
        if name.strip() == "t":
            times.append(value.strip())
        elif name.strip() == "v1" and value.strip():
            signatures.append(value.strip())
    return times, signatures
