"""What of a URL may be shown, whether a text is one, and what a `data:` URL holds.

The query of an output's URL is a secret (it carries the signature), and so is a user's part.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct

from floradl.errors import ErrorCode, PermanentError

_HEAD = re.compile(r"\s*data:(?P<type>[^,]{0,1000}?)(?P<base64>;\s*base64\s*)?,", re.IGNORECASE)
_DEFAULT_TYPE = "text/plain;charset=US-ASCII"  # RFC 2397, section 2
_WHITE = re.compile(rb"[\t\n\f\r ]+")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")  # RFC 4648, section 5: some writers use it here, too
_USER = re.compile(r"^([a-z][a-z0-9+.-]*:[/\\]+)[^/\\]*@", re.IGNORECASE)
_DATA = re.compile(r"\s*data:[^,?#]*,", re.IGNORECASE)
# Up to the path, where it is as it is in most URLs: many outputs share one.
_PLAIN_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?=/)")
_ONLY_URL = re.compile(r"https?://[^\s<>\"\x00-\x1f\x7f]+", re.IGNORECASE)
# From the colon on: the scheme does not matter, and looking for it would not be linear. Quotes may be part of
# a URL: rather a closing one lost than half a signature kept.
_URL_IN_TEXT = re.compile(r":[/\\]{2}[^\s\"<>]+")


_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:/|(?:s3|gs|az):", re.IGNORECASE)
_BUCKET = re.compile(r"(?P<scheme>s3|gs|az)://(?P<bucket>[a-z0-9][a-z0-9._-]{1,221}[a-z0-9])(?P<prefix>/.*)?")


class BucketUrl(Struct, frozen=True):
    """A place in an object store: `s3://BUCKET/PREFIX`, `gs://…` or `az://CONTAINER/…`; no `/` at the ends.

    `scheme` is `s3`, `gs` or `az`; `prefix` may be empty.
    """

    scheme: str
    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @classmethod
    def parse(cls, text: str) -> BucketUrl:
        """Read one. Raises `ValueError`, whose message may be shown."""
        if (found := _BUCKET.fullmatch(text)) is None:
            raise ValueError("write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")
        prefix = (found["prefix"] or "").strip("/")
        if prefix and (not all(parts := prefix.split("/")) or {".", ".."} & {*parts}):
            raise ValueError("the prefix has an empty part, or one that is '.' or '..'")
        if any(char in prefix for char in "?#\\") or not prefix.isprintable():
            raise ValueError("the prefix has a character that not every store takes")
        return cls(found["scheme"], found["bucket"], prefix)


def has_scheme(text: str) -> bool:
    """Whether `text` begins as a URL does, and not as a path; `s3:media` is a mistyped one."""
    return _SCHEME.match(text) is not None


class Inline(Struct, frozen=True):
    """What a `data:` URL holds: its media type, parameters and all, and its bytes."""

    content_type: str
    data: bytes


def decode(url: str) -> Inline:
    """Read a `data:` URL. Raises `PermanentError` (`bad_url`), whose message does not repeat it."""
    if (head := _HEAD.match(url)) is None:
        raise PermanentError("the output's data: URL has no data", ErrorCode.BAD_URL)
    data = unquote_to_bytes(url[head.end() :].partition("#")[0])
    if head["base64"]:
        data = _WHITE.sub(b"", data).translate(_URL_SAFE).rstrip(b"=")
        try:
            data = base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
        except binascii.Error:
            raise PermanentError("the output's data: URL is no base64", ErrorCode.BAD_URL) from None
    declared = head["type"].strip()
    if declared.startswith(";"):
        declared = f"text/plain{declared}"
    return Inline(declared if "/" in declared else _DEFAULT_TYPE, data)


def strip_query(url: str) -> str:
    """Return `url` without user, query and fragment, and a `data:` URL without its data."""
    if data := _DATA.match(url):
        return data[0]
    end = min((at for at in (url.find("?"), url.find("#")) if at >= 0), default=len(url))
    return _USER.sub(r"\1", url[:end]) if "@" in url else url[:end]


def strip_queries(text: str) -> str:
    """Return `text` with every URL in it as `strip_query` leaves it."""
    if ":" not in text:  # as most texts
        return text
    return _URL_IN_TEXT.sub(lambda found: strip_query(f"x{found[0]}")[1:], text)


def is_only_url(text: str) -> bool:
    """Whether `text` is one http(s) URL with a host and nothing else but white space around it."""
    return bool(_ONLY_URL.fullmatch(text.strip())) and host_of(text) is not None


def is_data_url(text: str) -> bool:
    """Whether `text` is a `data:` URL (RFC 2397): it holds its bytes itself."""
    return text.lstrip()[:5].lower() == "data:"


def host_of(url: str) -> str | None:
    """Return the host in lower case, without port, brackets and final dot; `None` where there is none."""
    plain = _PLAIN_ORIGIN.match(url)
    return _host_of(url.strip()) if plain is None else _host_of_origin(plain[0])


def _host_of(url: str) -> str | None:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return (host or "").rstrip(".").lower() or None


_host_of_origin = lru_cache(256)(_host_of)
