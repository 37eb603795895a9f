"""Keeps keys, signed queries and passwords out of logs, messages and files.

The query string of an output's URL opens the file to anyone, so it is as secret as the key. Nothing here
relies on others to have been careful: `redact` is the last thing that happens to a text on its way out.
Where a text can be read two ways it hides too much rather than too little. Every pattern is linear.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Set as AbstractSet
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

MASK: Final = "***"
BUCKET_VARIABLES: Final = ("AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_")
"""How the names of variables begin that may hold a bucket's credentials."""

_CUT: Final = "…"
_SHORTEST = 4  # a shorter "secret" would shred every text that it occurs in, and hide nothing
_DEEPEST = 8

# Whatever follows `://` up to what no URL contains; the scheme does not matter.
_URL = re.compile(r'://[^\s"<>]*')
_AUTHORITY = re.compile(r"(?:\[[0-9a-fA-F:.%]*\]|[^:@\[\]]*)(?::[0-9]*)?")
# A request target (`/path?query`), as proxies and HTTP libraries log it: only where a `name=value` follows.
_TARGET = re.compile(r'(?<=[\w/.~%-])\?([^\s"<>]+)')
_TAIL = re.compile(r"[')\]},.;:]*\Z")
_PARAMETER = re.compile(
    r"(?i)\b((?:x-(?:goog|amz)-(?:signature|credential|security-token)|signature|sig|policy|googleaccessid"
    r"|awsaccesskeyid|key-pair-id|ik-s|api[_-]?key|access[_-]?token|refresh[_-]?token|token|secret|password)=)"
    r"[^\s&\"'<>]+"
)
_KEY = re.compile(
    r"(?<![a-z])(?:sk_(?:live|test)|whsec)_[\w+/=-]+|(?:sk_(?:live|test)|whsec)_[A-Za-z0-9]{8,}"
)
_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|flora-signature|x-api-key)"
    r"(?:(\\?['\"]?\s*[:=]\s*b?\\?['\"]|\\?['\"]\s*,\s*b?\\?['\"])[^\r\n'\"\\]+|(\s*[:=]\s*)[^\r\n'\"][^\r\n]*)"
)
_SCHEME = re.compile(r"(?i)\b(bearer\s+)[^\s'\",;<>]{4,}")
_BASIC = re.compile(r"(?i:\b(basic\s+))(?=[a-z]*[A-Z0-9+/=])[A-Za-z0-9+/]{6,}={0,2}")
_SECRET_NAME = re.compile(
    r"(?i)(?:authorization|cookie|password|passwd|api[_-]?key|token|(?:client|webhook)[_-]?secret|signature)"
)
# DEL and C1 controls, marks that turn the direction of writing, end lines or are seen by nobody. What joins
# letters or emojis (U+200C, U+200D) is left: words are written with it.
_STEERING = re.compile(
    "[\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_CONTROL = re.compile(r"[\x00-\x1f]")
_known: list[str] = []  # the longest first: a secret may contain another one


class Secret:
    """A text that never shows by accident: `str`, `repr` and f-strings give `***`. It cannot be pickled."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself, for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a secret is not to be written anywhere")


def remember(secret: Secret) -> None:
    """Have `redact` hide this secret from now on, percent-encoded too, unless it has under 4 characters."""
    text = secret.reveal()
    if len(text) >= _SHORTEST:
        # Replaced in one step, as other threads may be logging.
        _known[:] = sorted({*_known, text, quote(text, safe="")}, key=len, reverse=True)


def redact(text: str) -> str:
    """Return `text` without any secret.

    Gone are remembered secrets, FLORA keys, `Authorization` and `Cookie` values, bearer tokens, passwords in
    URLs, and the query and fragment of any URL (`https://x/y?sig=1` becomes `https://x/y?…`). Doing it twice
    changes nothing more.
    """
    text = hide_keys(text)
    if "://" in text:
        text = _URL.sub(_without_query, text)
    if "?" in text:
        text = _TARGET.sub(_without_target_query, text)
    if "=" in text and (masked := _PARAMETER.sub(rf"\g<1>{MASK}", text)) != text:
        # What is masked now may have hidden where a URL's user ends: `://TOKEN=/@`.
        text = _URL.sub(_without_query, masked) if "://" in masked else masked
    # Most texts have none of these words, and to look for a word is cheap. Other scripts have letters that a
    # pattern takes for some of ours.
    lower = text.lower() if text.isascii() else None
    if (
        lower is None
        or "authorization" in lower
        or "cookie" in lower
        or "flora-signature" in lower
        or "x-api-key" in lower
    ):
        text = _HEADER.sub(lambda match: f"{match[1]}{match[2] or match[3]}{MASK}", text)
    if lower is None or "bearer" in lower:
        text = _SCHEME.sub(rf"\g<1>{MASK}", text)
    if lower is None or "basic" in lower:
        text = _BASIC.sub(rf"\g<1>{MASK}", text)
    return text


def are_harmless(texts: Iterable[str]) -> bool:
    """Whether `redact` leaves all of `texts` as they are: one look at many is cheaper than one at each.

    Of texts that are harmless one by one it may be False, never the other way round.
    """
    text = "\n".join(texts)  # as the end of a text, a line's end ends all that is looked for
    return redact(text) == text


def hide_keys(text: str) -> str:
    """Return `text` without remembered secrets and FLORA keys; all else, URLs too, stays as it came."""
    for secret in tuple(_known):
        text = text.replace(secret, MASK)
    return _KEY.sub(MASK, text) if "sk_" in text or "whsec_" in text else text


def hide_signatures(text: str) -> str:
    """Return what people wrote without keys and, where it has a signature, without any URL's query.

    The query of another URL is a part of what they name with it.
    """
    return redact(text) if "=" in text and _PARAMETER.search(text) else hide_keys(text)


def _without_query(match: re.Match[str]) -> str:
    url = match[0][len("://") :]
    end = min((at for at in (url.find(mark) for mark in "/?#\\") if at >= 0), default=len(url))
    authority, rest, tail = url[:end], url[end:], ""
    if rest:
        rest, tail = _cut_query(rest)
    else:
        tail = _tail(authority)
        authority = authority.removesuffix(tail)
    if not _AUTHORITY.fullmatch(authority):
        # user:password@host; where no proper host follows, anything in it may be the password.
        host = authority.rpartition("@")[2]
        authority = f"{MASK}@{host}" if "@" in authority and _AUTHORITY.fullmatch(host) else MASK
    return f"://{authority}{rest}{tail}"


def _cut_query(rest: str) -> tuple[str, str]:
    """Split what follows a URL's host into the part to keep and the punctuation behind the URL."""
    ends = [at for at in (rest.find("?"), rest.find("#")) if at >= 0]
    encoded = rest.lower().find("%3f")
    if encoded >= 0 and "%3d" in rest[encoded:].lower():
        ends.append(encoded)  # a URL within the path, as image proxies have it
    if not ends:
        return rest, ""
    end = min(ends)
    mark = rest[end] if rest[end] != "%" else "?"
    return rest[:end] + mark + _CUT, _tail(rest[end + 1 :])


def _without_target_query(match: re.Match[str]) -> str:
    query = match[1]
    return f"?{_CUT}{_tail(query)}" if "=" in query else match[0]


def _tail(text: str) -> str:
    # The closing punctuation is the sentence's rather than the URL's.
    found = _TAIL.search(text[-8:])
    return found[0] if found else ""


def redact_value(value: Any, depth: int = 0) -> Any:
    """Return `value` redacted, as something JSON can hold: nothing in it is left to a `repr` elsewhere.

    Mappings and sequences are followed 8 deep; bytes and other objects become redacted text; a value under
    a name like `authorization` is hidden whole.
    """
    match value:
        case None | bool() | int():
            safe: Any = value
        case str():  # most are, and to be told from the rest costs more than the work
            safe = redact(value) if value.isascii() else _encodable(redact(value))
        case float():
            safe = value if math.isfinite(value) else str(value)
        case bytes() | bytearray() | memoryview():
            safe = redact(bytes(value).decode("utf-8", "backslashreplace"))
        case Mapping() if depth < _DEEPEST:
            safe = {redact(_text(key)): _member(key, item, depth + 1) for key, item in value.items()}
        case list() | tuple() | AbstractSet() if depth < _DEEPEST:
            safe = [redact_value(item, depth + 1) for item in value]
        case _:
            safe = _encodable(redact(_text(value)))
    return safe


def _encodable(text: str) -> str:
    """Escape halves of characters, which JSON cannot hold: of a file's name that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _member(name: object, value: Any, depth: int) -> Any:
    if value is not None and _is_secret(_text(name)):
        return MASK
    return redact_value(value, depth)


@lru_cache(256)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name) is not None


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # a broken __str__ must not cost the log line
        return f"<unprintable {type(value).__name__}>"


def cut(text: str, most: int = 2000) -> str:
    """Return `text`, or of a longer one its first `most` characters and a mark that there was more."""
    return text if len(text) <= most else text[:most] + _CUT


def printable(text: str) -> str:
    """Return `text` with every character escaped that is none to look at: line ends, controls, bidi marks."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def harmless(text: str) -> str:
    """Return `text` with every control character escaped, and every mark that steers a terminal."""
    return _CONTROL.sub(_escaped, _STEERING.sub(_escaped, text))


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def shown_json(text: bytes) -> bytes:
    """Return JSON with characters escaped that steer a terminal: in strings alone, so that values stay."""
    if text.isascii() and b"\x7f" not in text:  # as most is: there is nothing to look for
        return text
    found = text.decode()
    if not _STEERING.search(found):
        return text
    return _STEERING.sub(lambda match: json.dumps(match[0])[1:-1], found).encode()
