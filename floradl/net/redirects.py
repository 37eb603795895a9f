"""Where a redirect leads. Nothing is followed here."""

from __future__ import annotations

import httpx

from floradl.errors import ErrorCode, PermanentError
from floradl.net import exact_url


def redirect_target(response: httpx.Response) -> httpx.URL | None:
    """Return where `response` sends its reader, `None` if it is no redirect (RFC 9110 section 15.4).

    A relative `Location` is resolved against the URL that was asked (section 10.2.2), and a fragment
    dropped; the dot segments of a whole path stay. The target is not checked: `Guard.check` it, which
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
        target = exact_url.join(response.url, locations[0])
        _ = target.host  # read now, because httpx will: only then does it say that a name is none
        return target
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise PermanentError(f"{host} redirects to what is no URL", ErrorCode.BAD_URL) from None
