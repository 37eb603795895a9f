"""The code with which a server refuses a connection; its words are of its own language (`lc_messages`).

psycopg gives the SQLSTATE of a query that failed, and none of a connection that did: neither 3.2 nor 3.3
(`sqlstate` and `diag.sqlstate` are None, `pgconn.error_message` is text), since libpq (up to 18) keeps no
field of such an error. It writes the code in place of the words where its verbosity says so
(`PQsetErrorVerbosity`, `PQERRORS_SQLSTATE`). psycopg does not wrap that call, but gives the pointer for it
(`PGconn.pgconn_ptr`). So a connection that was refused is made once more, for the code alone.
"""

from __future__ import annotations

import ctypes
import re
import selectors
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import psycopg
from anyio import to_thread
from psycopg.conninfo import make_conninfo
from psycopg.pq import ConnStatus, PGconn, PollingStatus

if TYPE_CHECKING:
    from floradl.queue.postgres.connection import Connection

_CODE_ALONE: Final = 3  # PQERRORS_SQLSTATE
_WITHIN: Final = 10.0  # seconds
_CODE: Final = re.compile(r":  ([0-9A-Z]{5})\s*$")
_EVENTS: Final = {
    PollingStatus.READING: selectors.EVENT_READ,
    PollingStatus.WRITING: selectors.EVENT_WRITE,
}


async def connect_coded(conninfo: str) -> Connection:
    """Connect as psycopg does; the error of a server's refusal has its `sqlstate`. Raises `psycopg.Error`."""
    try:
        return await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        if _lacks_code(error):
            error.sqlstate = await to_thread.run_sync(_code_of, error, abandon_on_cancel=True)
        raise


def connect_coded_sync(conninfo: str) -> psycopg.Connection[Any]:
    """Connect as `connect_coded` does. Blocking."""
    try:
        return psycopg.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        if _lacks_code(error):
            error.sqlstate = _code_of(error)
        raise


def _lacks_code(error: psycopg.Error) -> bool:
    """Whether there was a server, or at least a libpq that looked for it, and nobody said its code."""
    return not error.sqlstate and error.pgconn is not None


def _code_of(error: psycopg.Error) -> str | None:
    """Return the code of a refused connection by making it once more; None where none comes."""
    known = {option.keyword.decode(): option.val.decode() for option in _options(error) if option.val}
    try:
        connection: Any = PGconn.connect_start(make_conninfo("", **known).encode())
        try:
            _libpq().PQsetErrorVerbosity(ctypes.c_void_p(connection.pgconn_ptr), _CODE_ALONE)
            _poll(connection)
            found = _CODE.search(connection.get_error_message())
        finally:
            connection.finish()
    except (psycopg.Error, OSError, AttributeError, ValueError):  # the words are still there
        return None
    return found[1] if found else None


def _options(error: psycopg.Error) -> list[Any]:
    return error.pgconn.info if error.pgconn is not None else []


def _poll(connection: Any) -> None:
    """Go on with a connection until it is made, refused, or took too long."""
    until = time.monotonic() + _WITHIN
    while connection.status != ConnStatus.BAD:
        wanted = _EVENTS.get(connection.connect_poll())
        if wanted is None:
            return
        with selectors.DefaultSelector() as selector:  # its socket may be another one each time
            selector.register(connection.socket, wanted)
            if not selector.select(max(until - time.monotonic(), 0.0)):
                return


def _libpq() -> Any:
    """Return the libpq that psycopg uses: what its module needs is found through it."""
    module = sys.modules[PGconn.__module__]
    if psycopg.pq.__impl__ == "python":
        return import_module("psycopg.pq._pq_ctypes").pq
    return ctypes.CDLL(module.__file__)
