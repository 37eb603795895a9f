"""URLs whose path reaches the host as it was written.

httpx drops the segments `.` and `..` of each path (RFC 3986, 5.2.4). A signature is over the path as it was
written, and an object's name in a store may hold such segments: without them the host refuses the signature,
or sends another object.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin

import httpx

from floradl.errors import ErrorCode, PermanentError

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


def redirect_target(response: httpx.Response) -> httpx.URL | None:
    """Return where `response` sends its reader, `None` if it is no redirect (RFC 9110 section 15.4).

    A relative `Location` is resolved against the URL that was asked (section 10.2.2), and a fragment
    dropped; the dot segments of a whole path stay. The target is not checked: `UrlPolicy.check` it, which
    also refuses a step down to http.
    Raises `PermanentError`: `HTTP_ERROR` where it names no target or several, `BAD_URL` for no URL.
    """
    if response.status_code not in {301, 302, 303, 307, 308}:
        return None
    locations = response.headers.get_list("location")
    host = response.url.host
    if len(set(locations)) != 1:
        found = "without saying where to" if not locations else "to several places"
        raise PermanentError(f"{host} redirects (HTTP {response.status_code}) {found}", ErrorCode.HTTP_ERROR)
    try:
        target = join(response.url, locations[0])
        _ = target.host  # read now, because httpx will: only then does it say that a name is none
        return target
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise PermanentError(f"{host} redirects to what is no URL", ErrorCode.BAD_URL) from None
