"""Which URLs may be requested, and which addresses connected to; and what URL a redirect means.

A URL is judged by `UrlPolicy.check` before anything is sent; a name's addresses by `UrlPolicy.resolve`, at
the moment of the connection, which then goes to one of the addresses that it returned. So an answer that
changes between two look-ups (DNS rebinding) has no second look-up to fool.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import lru_cache
from threading import Thread
from typing import TypeAlias
from urllib.parse import urljoin

import httpx

from floradl.errors import ErrorCode, PermanentError
from floradl.net.addresses import (
    HostPatterns,
    canonical_host,
    is_local_name,
    is_public,
    join_port,
    literal,
    shown,
)

_PARTS = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?(?://[^/?#]*)?([^#]*)", re.IGNORECASE | re.DOTALL)
# Most URLs of media: nothing in them has to be encoded or normalised (RFC 3986, 3.3, 3.4). No backtracking.
_PLAIN = re.compile(
    r"(https?://[a-z0-9.-]+(?::[0-9]{1,5})?)"
    r"(/(?:[A-Za-z0-9._~!$&()*+,;=:@/-]++|%[0-9A-Fa-f]{2})*+)"
    r"(?:\?((?:[A-Za-z0-9._~!$&()*+,;=:@/?-]++|%[0-9A-Fa-f]{2})*+))?"
)
_LONG = 8 << 10  # characters; httpx refuses what is much longer
_DOTS = re.compile(r"/\.{1,2}(?:/|\Z)")
Resolver: TypeAlias = Callable[[str, int], Sequence[str]]
# A name with more addresses than this is played with; each would get its share of the time to connect.
_MOST_ADDRESSES = 8
# host, port, seconds -> addresses; raises as `UrlPolicy.resolve` does
Resolve: TypeAlias = Callable[[str, int, float | None], tuple[str, ...]]


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
    plain = _PLAIN.fullmatch(url) if len(url) < _LONG else None
    if plain is not None and "/." not in plain[2]:
        # httpx takes a quarter of the time that a small file has to look for what is not there.
        parsed = httpx.URL(_origin(plain[1]))
        parsed._uri_reference = parsed._uri_reference._replace(path=plain[2], query=plain[3])  # noqa: SLF001
        return parsed
    path = url.partition("#")[0].partition("?")[0]
    return ExactURL(url) if _DOTS.search(path) else httpx.URL(url)


_origin = lru_cache(maxsize=256)(httpx.URL)


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

    A relative `Location` is resolved against the URL of the request (section 10.2.2), and a fragment
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


def look_up(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of `host`, in the order in which to try them (RFC 6724).

    Raises `OSError` (`socket.gaierror`) where there are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class UrlPolicy:
    """Judges URLs and addresses.

    `trusted_private_hosts` may be plain http, and at private addresses; nothing else may.
    `allowed_hosts` are those that may be requested at all, trusted ones too. Both are patterns of
    `HostPatterns`, which raises `ValueError` for a bad one. `remedy` ends the sentence "host X is not
    allowed: ..." for the setting that `allowed_hosts` came from. `resolver` is called as `look_up` is.
    """

    def __init__(
        self,
        trusted_private_hosts: Sequence[str] = (),
        allowed_hosts: Sequence[str] = ("*",),
        *,
        remedy: str = "if it is meant, add it to download.media_hosts",
        resolver: Resolver = look_up,
    ) -> None:
        self._remedy = remedy
        self._resolver = resolver
        self.change(trusted_private_hosts, allowed_hosts)

    def change(self, trusted_private_hosts: Sequence[str], allowed_hosts: Sequence[str]) -> None:
        """Judge by these from now on; connections that stand are not looked at. Raises `ValueError`.

        May be called from any thread.
        """
        trusted, allowed = HostPatterns.parse(trusted_private_hosts), HostPatterns.parse(allowed_hosts)
        self._trusted, self._allowed = trusted, allowed
        # Each request is checked, and few hosts are requested often; a refusal, an exception, is not kept.
        self._judge_site = lru_cache(maxsize=256)(self._judge)

    def check(self, url: str | httpx.URL) -> None:
        """Refuse what may not be requested. A name is not looked up here: see `resolve`.

        Raises `PermanentError`: `BAD_URL` for what is no plain https or http URL (one with `user@`, too),
        `HOST_REFUSED` for a host that is not allowed, or is private, or plain http, and not trusted.
        No message repeats more of the URL than its scheme, host and port.
        """
        parsed = _parse(url)
        self._judge_site(parsed.scheme, parsed.raw_host, port_of(parsed))

    def resolve(self, host: str, port: int, timeout: float | None = None) -> tuple[str, ...]:
        """Look `host` up once; return the addresses that may be connected to, in the order to try them.

        Raises `PermanentError` (`HOST_REFUSED`) where none of them is public and the host is not
        trusted, `TimeoutError` after `timeout` seconds, `OSError` where the name has no address.
        """
        found = addresses(host, port, timeout, self._resolver)
        if self._trusted.match(host, port):
            return found[:_MOST_ADDRESSES]
        public = [text for text in found if (ip := literal(text)) is not None and is_public(ip)]
        if found and not public:
            raise _refused(f"host {shown(host)} is at a private address: {_trust(host, port)}")
        return tuple(public[:_MOST_ADDRESSES])

    def _judge(self, scheme: str, raw_host: bytes, port: int) -> None:
        host = _canonical(raw_host)
        if not self._allowed.match(host, port):
            raise _refused(f"host {shown(host)} is not allowed: {self._remedy}")
        if self._trusted.match(host, port):
            return
        if scheme == "http":
            raise _refused(
                f"host {shown(host)} is asked for without TLS (http, not https): {_trust(host, port)}"
            )
        ip = literal(host)
        if ip is not None and not is_public(ip):
            raise _refused(f"{shown(host)} is a private address: {_trust(host, port)}")
        if is_local_name(host):
            raise _refused(f"{shown(host)} is a name of a private network: {_trust(host, port)}")


def addresses(host: str, port: int, timeout: float | None, resolver: Resolver = look_up) -> tuple[str, ...]:
    """Return what `resolver` says of `host`, or `host` itself where it is an address; judge nothing.

    Raises as `UrlPolicy.resolve` does. The system's resolver cannot be stopped, and may take half a minute
    where no server answers: hence a thread of its own, that an exit need not wait for.
    """
    if literal(host) is not None:
        return (host,)
    answer: Future[Sequence[str]] = Future()

    def ask() -> None:
        try:
            answer.set_result(resolver(host, port))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            answer.set_exception(error)

    Thread(target=ask, name="floradl-look-up", daemon=True).start()
    try:
        return tuple(answer.result(timeout))
    except UnicodeError as error:  # what the resolver says of a name that no server could know
        raise OSError(f"{shown(host)} cannot be looked up") from error


def port_of(url: httpx.URL) -> int:
    """Return the port that `url` (https or http) leads to."""
    port = url.port
    return port if port is not None else {"https": 443, "http": 80}[url.scheme]


def _parse(url: str | httpx.URL) -> httpx.URL:
    try:
        # The same reading as the one that is connected by; parsers that differ are how policies are fooled.
        parsed = url if isinstance(url, httpx.URL) else httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        raise _bad("this is not a URL that can be requested") from None  # the cause may quote the query
    if parsed.scheme not in {"https", "http"}:
        raise _bad(f"only https is fetched, not {shown(parsed.scheme)}")
    if parsed.userinfo:
        raise _bad(f"the URL has a user or password before the host {shown(parsed.host)}: that is not sent")
    port = parsed.port
    if port is not None and not 1 <= port <= 65535:
        raise _bad(f"the URL's port is {port}, and a port is from 1 to 65535")
    return parsed


def _canonical(raw_host: bytes) -> str:
    try:
        return canonical_host(raw_host.decode("ascii"))
    except ValueError as error:
        raise _bad(str(error) if raw_host else "the URL names no host") from None


def _trust(host: str, port: int) -> str:
    return f"if that is meant, add {join_port(host, port)!r} to network.trusted_private_hosts"


def _bad(message: str) -> PermanentError:
    return PermanentError(message, ErrorCode.BAD_URL)


def _refused(message: str) -> PermanentError:
    return PermanentError(message, ErrorCode.HOST_REFUSED)
