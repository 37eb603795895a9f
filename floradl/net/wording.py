"""What goes wrong on a connection, in httpx's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

import h11
import httpcore
import httpx

Translated: TypeAlias = Callable[[], AbstractContextManager[None]]

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


@contextmanager
def translated(host: str) -> Iterator[None]:
    """Raise in httpx's words what httpcore and h11 raise.

    `host` begins the message, and no URL's query stands in it.
    """
    try:
        yield
    except (httpcore.LocalProtocolError, h11.LocalProtocolError):
        # Its text quotes the header that cannot be sent, and that may be the key: nothing of it is kept.
        raise httpx.LocalProtocolError(f"{host}: the request has a header that HTTP cannot carry") from None
    except tuple(error for error, _, _ in _ERRORS) as error:
        kind, words = next((kind, words) for known, kind, words in _ERRORS if isinstance(error, known))
        # What a server sent may be quoted, and with it a signed URL.
        text = re.sub(r"\?[^\s'\"]+", "?...", str(error))
        raise kind(f"{host}: {words}" + (f" ({text})" if text else "")) from error
