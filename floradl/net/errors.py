"""What goes wrong on a connection, as httpx's exceptions, which say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

import h11
import httpcore
import httpx

Translated: TypeAlias = Callable[[], AbstractContextManager[None]]


class CertificateError(httpx.ConnectError):
    """The other side's certificate is not trusted; the message says what to set."""


class ProxyRefusedError(httpx.ProxyError):
    """The proxy itself refuses (403, 407); the message says what to set."""


# From the names of httpcore and h11 to httpx's, the special before the general, and what to say where they
# are silent.
_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError], str], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout, "no connection within the time limit"),
    (httpcore.ReadTimeout, httpx.ReadTimeout, "no answer within the time limit"),
    (httpcore.WriteTimeout, httpx.WriteTimeout, "it took nothing within the time limit"),
    (httpcore.PoolTimeout, httpx.PoolTimeout, "no connection was free within the time limit"),
    (httpcore.TimeoutException, httpx.TimeoutException, "timed out"),
    (httpcore.ConnectError, httpx.ConnectError, "no connection"),
    (httpcore.ReadError, httpx.ReadError, "the connection broke while reading"),
    (httpcore.WriteError, httpx.WriteError, "the connection broke while writing"),
    (httpcore.NetworkError, httpx.NetworkError, "the connection broke"),
    (httpcore.ProxyError, httpx.ProxyError, "the proxy refused"),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol, "unsupported protocol"),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError, "the answer is no HTTP"),
    (h11.RemoteProtocolError, httpx.RemoteProtocolError, "the answer is no HTTP"),
    (httpcore.ProtocolError, httpx.ProtocolError, "no HTTP"),
)


_PROXY_REMEDIES = {
    407: "it wants a name and a password, or other ones: NAME:PASSWORD@{proxy} in HTTPS_PROXY",
    403: "it does not let this host and port through: have them allowed, or name the host in NO_PROXY",
}


@contextmanager
def map_errors(host: str, proxy: str | None = None) -> Iterator[None]:
    """Raise as httpx's exceptions what httpcore and h11 raise.

    `host` begins the message, and no URL's query stands in it. `proxy` is HOST:PORT of the proxy on the
    way, if there is one: the message names it.
    """
    try:
        yield
    except (httpcore.LocalProtocolError, h11.LocalProtocolError):
        # Its text quotes the header that cannot be sent, and that may be the key: nothing of it is kept.
        raise httpx.LocalProtocolError(f"{host}: the request has a header that HTTP cannot carry") from None
    except tuple(error for error, _, _ in _ERRORS) as error:
        kind, what = next((kind, what) for known, kind, what in _ERRORS if isinstance(error, known))
        # What a server sent may be quoted, and with it a signed URL.
        text = re.sub(r"\?[^\s'\"]+", "?...", str(error))
        text = re.sub(r"^\[Errno -?\d+\] ", "", text)
        said = f"{host}: {what}" + (f" ({text})" if text else "")
        if isinstance(error, httpcore.ProxyError):
            remedy = _PROXY_REMEDIES.get(int(text[:3]) if text[:3].isdecimal() else 0)
            if proxy is None:
                raise httpx.ProxyError(said) from error
            said = f"{said}: the proxy is {proxy}"
            if remedy is None:
                raise httpx.ProxyError(f"{said}; is it the right one (HTTPS_PROXY, NO_PROXY)?") from error
            raise ProxyRefusedError(f"{said}; {remedy.format(proxy=proxy)}") from error
        through = f" through the proxy {proxy}" if proxy else ""
        if isinstance(error, httpcore.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in text:
            raise CertificateError(
                f"{said}{through}: where a proxy or a filter of yours opens TLS, SSL_CERT_FILE names its "
                "certificates; otherwise, is the clock right?"
            ) from error
        raise kind(f"{said}{through}") from error


def refuse_proxy_answer(response: httpx.Response, proxy: str | None) -> None:
    """Raise `httpcore.ProxyError` where a forwarding proxy answered that it wants a login (407)."""
    if proxy is not None and response.status_code == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
        raise httpcore.ProxyError(f"407 {response.reason_phrase or 'Proxy Authentication Required'}")
