"""What may be told of a URL, and whether a text is one.

The query of an output's URL is a secret (it carries the signature), and so is a user's part. Nothing here
raises: what is looked at came from elsewhere.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_USER = re.compile(r"^([a-z][a-z0-9+.-]*:[/\\]+)[^/\\]*@", re.IGNORECASE)
_DATA = re.compile(r"\s*data:[^,?#]*,", re.IGNORECASE)
_ONLY_URL = re.compile(r"https?://[^\s<>\"\x00-\x1f\x7f]+", re.IGNORECASE)
# From the colon on: the scheme does not matter, and looking for it would not be linear. Quotes may be part of
# a URL: rather a closing one lost than half a signature kept.
_URL_IN_TEXT = re.compile(r":[/\\]{2}[^\s\"<>]+")


def strip_query(url: str) -> str:
    """Return `url` without user, query and fragment, and a `data:` URL without its data.

    The rest stands as it came.
    """
    if data := _DATA.match(url):
        return data[0]
    end = min((at for at in (url.find("?"), url.find("#")) if at >= 0), default=len(url))
    return _USER.sub(r"\1", url[:end])


def strip_queries(text: str) -> str:
    """Return `text` with every URL in it as `strip_query` leaves it."""
    return _URL_IN_TEXT.sub(lambda found: strip_query(f"x{found[0]}")[1:], text)


def is_only_url(text: str) -> bool:
    """Whether `text` is one http(s) URL with a host and nothing else but white space around it."""
    return bool(_ONLY_URL.fullmatch(text.strip())) and host_of(text) is not None


def is_data_url(text: str) -> bool:
    """Whether `text` is a `data:` URL (RFC 2397): it holds its bytes itself."""
    return text.lstrip()[:5].lower() == "data:"


def host_of(url: str) -> str | None:
    """Return the host in lower case, without port, brackets and final dot; `None` where there is none."""
    try:
        host = urlsplit(url.strip()).hostname
    except ValueError:
        return None
    return (host or "").rstrip(".").lower() or None
