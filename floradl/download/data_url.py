"""`data:` URLs (RFC 2397): the bytes of an output stand in FLORA's answer itself.

They are read as browsers do (WHATWG, Infra: forgiving base64): white space falls away, the padding may be
missing, a fragment is no part of them. An answer is bounded, and so is what stands in it.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from floradl.errors import ErrorCode, PermanentError

_HEAD = re.compile(r"\s*data:(?P<type>[^,]{0,1000}?)(?P<base64>;\s*base64\s*)?,", re.IGNORECASE)
_DEFAULT_TYPE = "text/plain;charset=US-ASCII"  # RFC 2397, section 2
_WHITE = re.compile(rb"[\t\n\f\r ]+")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")  # RFC 4648, section 5: some writers use it here, too


class Inline(Struct, frozen=True):
    """What a `data:` URL holds: its media type, parameters and all, and its bytes."""

    content_type: str
    data: bytes


def decode(url: str) -> Inline:
    """Read a `data:` URL. Raises `PermanentError` (`bad_url`), whose message does not repeat it."""
    head = _HEAD.match(url)
    if head is None:
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
