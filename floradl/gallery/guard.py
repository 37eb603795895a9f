"""Who may ask the gallery what: hosts, origins, the token; and headers that bound what a page may do.

Pure. A page of somebody else's in the same browser must neither read the library (DNS rebinding: it asks
under a name of its own) nor have it do anything (CSRF: the browser says where a request comes from).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from msgspec import Struct

from floradl.net.addresses import Endpoint, is_loopback
from floradl.redaction import Secret

COOKIE: Final = "floradl_gallery"
_YEAR: Final = 365 * 86_400
_OWN_PAGES: Final = frozenset({"same-origin", "none"})
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; font-src 'self'; frame-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Server": "floradl",
    "Content-Security-Policy": _PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
"""What every answer carries, unless it brings a header of that name itself."""


class RequestRefusal(Struct, frozen=True):
    """Why a request is not answered: an HTTP status, and a sentence for a person."""

    status: int
    message: str


class SignIn(Struct, frozen=True):
    """The token came in the URL: keep it as a cookie, and go on at `location`, which does not have it."""

    cookie: str
    location: str


class Asked(Struct, frozen=True):
    """What the guard looks at. `headers` have lower-case names; `query` is that of the URL, as it came."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    cookies: Mapping[str, str]


class Guard:
    """Judges requests to a gallery at `endpoint`; with a `token` it alone lets anybody in."""

    def __init__(self, endpoint: Endpoint, token: Secret | None) -> None:
        self._endpoint = endpoint
        self._token = token
        # Not the token itself: what a browser keeps does not open the API for other programs.
        self._cookie = "" if token is None else _derived(token.reveal())

    @property
    def may_change(self) -> bool:
        """Whether those who come in may have runs retried and forgotten."""
        return self._token is not None

    def judge(self, asked: Asked) -> RequestRefusal | SignIn | None:
        """Return why not, or how to sign in; None where the request is to be answered."""
        refusal = self._of_host(asked) or self._of_origin(asked)
        if refusal is not None or self._token is None:
            return refusal
        if asked.method == "GET" and (sign_in := self._signed_in(asked)) is not None:
            return sign_in
        scheme, _, given = asked.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), self._token.reveal()):
            return None
        if _same(asked.cookies.get(COOKIE, ""), self._cookie):
            return None
        return RequestRefusal(
            401, "this gallery wants its token: open /?token=TOKEN once, with what web.token_file holds"
        )

    def _of_host(self, asked: Asked) -> RequestRefusal | None:
        host = _host(asked.headers.get("host", ""))
        if host is None:
            return RequestRefusal(400, "the request names no host")
        # With a token no other name is of use to anybody: no browser sends the cookie there.
        if self._token is not None or is_loopback(host) or host == self._endpoint.host.lower():
            return None
        return RequestRefusal(
            403, f"this gallery answers on this machine alone: open http://{self._endpoint}/ there"
        )

    def _of_origin(self, asked: Asked) -> RequestRefusal | None:
        origin, site = asked.headers.get("origin"), asked.headers.get("sec-fetch-site")
        strange = RequestRefusal(403, "another site's page asked for this: the gallery answers its own alone")
        if origin is not None and urlsplit_netloc(origin) != asked.headers.get("host", "").lower():
            return strange
        if site is not None and site not in _OWN_PAGES:
            # A link that somebody followed is fine: the page that it was on does not see the answer.
            followed = asked.headers.get("sec-fetch-mode") == "navigate" and asked.headers.get(
                "sec-fetch-dest"
            )
            if asked.method != "GET" or followed != "document":
                return strange
        if asked.method not in {"GET", "HEAD"} and origin is None and site is None:
            scheme = asked.headers.get("authorization", "").partition(" ")[0]
            if (
                scheme.lower() != "bearer"
            ):  # no browser, which would say where it comes from: a program has the token
                return strange
        return None

    def _signed_in(self, asked: Asked) -> SignIn | None:
        pairs = (
            parse_qsl(asked.query, keep_blank_values=True, max_num_fields=100)
            if "token=" in asked.query
            else []
        )
        given = [value for name, value in pairs if name == "token"]
        if self._token is None or not given or not _same(given[0], self._token.reveal()):
            return None
        rest = urlencode([pair for pair in pairs if pair[0] != "token"])
        cookie = f"{COOKIE}={self._cookie}; Path=/; Max-Age={_YEAR}; HttpOnly; SameSite=Lax"
        return SignIn(cookie, f"/?{rest}" if rest else "/")


def _host(header: str) -> str | None:
    """Return the host of a `Host` header without brackets and port, in lower case; None for none."""
    try:
        found = urlsplit(f"//{header}")
        odd = found.path or found.query or found.fragment or "@" in header
        _ = found.port
    except ValueError:
        return None
    return None if odd or not found.hostname else found.hostname.removesuffix(".")


def urlsplit_netloc(origin: str) -> str | None:
    """Return `host:port` of an origin, as a `Host` header has it; None for what is no web origin (`null`)."""
    try:
        found = urlsplit(origin.lower())
    except ValueError:
        return None
    return found.netloc if found.scheme in {"http", "https"} else None


def _derived(token: str) -> str:
    return hmac.new(token.encode(), b"floradl gallery cookie 1", hashlib.sha256).hexdigest()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8", "replace"))
