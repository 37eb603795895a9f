"""URLs whose path reaches the host as it was written.

httpx drops the segments `.` and `..` of each path (RFC 3986, 5.2.4). A signature is over the path as it was
written, and an object's name in a store may hold such segments: without them the host refuses the signature,
or sends another object.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin

import httpx

_PARTS = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?(?://[^/?#]*)?([^#]*)", re.IGNORECASE | re.DOTALL)
_DOTS = re.compile(r"/\.{1,2}(?:/|\Z)")


class ExactURL(httpx.URL):
    """An httpx URL that keeps the dot segments of its path; what `copy_with` makes of it does not."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        found = _PARTS.match(url)
        target = found[1] if found else ""
        # Relative to nothing a path stays as it is; the letter keeps a leading `//` from being a host.
        self._target = httpx.URL(f"x{target}").raw_path[1:] if target.startswith("/") else super().raw_path

    @property
    def raw_path(self) -> bytes:
        """Path and query as they are sent."""
        return self._target


def parse(url: str) -> httpx.URL:
    """Return `url` with its path as it stands, but for what must be percent-encoded, without a fragment.

    Raises `httpx.InvalidURL`, `UnicodeError`.
    """
    path = url.partition("#")[0].partition("?")[0]
    return ExactURL(url) if _DOTS.search(path) else httpx.URL(url)


def join(base: httpx.URL, location: str) -> httpx.URL:
    """Return where `location`, a reference in an answer from `base`, leads (RFC 9110, 10.2.2).

    Its fragment is dropped; dot segments are resolved only where it is relative to the path of `base`.
    Raises `httpx.InvalidURL`, `UnicodeError`, `ValueError`.
    """
    httpx.URL(location)  # `urljoin` would pass over line ends and the like
    location = location.partition("#")[0]
    target = base.raw_path.decode("ascii")
    if location.startswith("/") and not location.startswith("//"):
        target = location
    elif location.startswith("?"):
        target = target.partition("?")[0] + location
    elif location:
        return parse(urljoin(str(base), location))
    return parse(f"{base.scheme}://{base.netloc.decode('ascii')}{target}")
