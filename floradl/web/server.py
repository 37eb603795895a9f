"""Holds one address of this machine, as soon as it is free and for as long as floradl runs.

A port that is taken, or an address that this machine does not have yet, costs no download: it is logged once
and tried again.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import time

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup

from floradl.errors import innermost
from floradl.log import get_logger
from floradl.net.addresses import Endpoint
from floradl.web.http import MOST, WITHIN, ClientConnection, ClientConnections, Site, converse

_AGAIN = 5.0  # seconds
_ACCEPT_AGAIN = 0.1
_LOG_EVERY = 60.0
_BUFFER = 64 << 10  # bytes that the system takes in for a connection: what we hold of it is as little
_STARVED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Of the connection that was to be accepted, not of the socket that listens (accept(2), man-pages 6.03).
_THEIRS = frozenset(
    {
        errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
        errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EPERM, errno.EPROTO, errno.ETIMEDOUT,
        getattr(errno, "ENONET", errno.ENETDOWN),  # Linux alone has it
    }
)  # fmt: skip
_REMEDIES = {
    errno.EADDRINUSE: "another program has it: end that, or name another port",
    errno.EADDRNOTAVAIL: "this machine has no such address: name one that it has, or 0.0.0.0 for all",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM), "ports below 1024 are not for every user: name a higher one"
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        "those who connect wait until some are free; LimitNOFILE of a unit, or ulimit -n, allows more",
    ),
}
_log = get_logger()


class WebServer:
    """Answers at `endpoint` with the pages of `site`; a port that is taken is tried again."""

    def __init__(
        self,
        endpoint: Endpoint,
        site: Site,
        *,
        again: float = _AGAIN,
        within: float = WITHIN,
        most: int = MOST,
    ) -> None:
        self._endpoint = endpoint
        self._site = site
        self._again = again
        self._within = within
        self._visits = ClientConnections(time.monotonic, most)
        self._starved_at = -math.inf
        self.trouble: str | None = None
        """Why nobody can be answered now."""

    async def serve(self) -> None:
        """Listen for ever. Raises nothing."""
        while True:
            try:
                await self._listen()
            except* OSError as group:
                self._note(explained(self._endpoint, innermost(group)))
            except* Exception:  # noqa: BLE001 - a bug of ours here must not end the downloads
                _log.exception("bug", address=str(self._endpoint))
            await anyio.sleep(self._again)

    async def _listen(self) -> None:
        host, port = self._endpoint.host, self._endpoint.port
        listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
        async with listener, anyio.create_task_group() as group:
            self._note(None)
            _log.info("listening", address=str(self._endpoint))
            for each in listener.listeners:
                if isinstance(each, SocketListener):
                    group.start_soon(self._accept, each, group)

    async def _accept(self, listener: SocketListener, group: TaskGroup) -> None:
        raw = listener.extra(SocketAttribute.raw_socket)  # noqa: S610 - anyio's, not Django's
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        while True:
            await anyio.wait_readable(raw)  # without descriptors Linux refuses even where nobody connects
            await self._visits.room()  # before: what is accepted is read, whoever asks for it
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _STARVED | _THEIRS:
                    raise
                await self._missed(error)
            else:
                group.start_soon(self._answer, stream, self._visits.admit())

    async def _missed(self, error: OSError) -> None:
        """Wait a moment after a connection that was not accepted; where descriptors are scarce, free one."""
        if error.errno in _STARVED:
            self._visits.evict()
            if time.monotonic() - self._starved_at >= _LOG_EVERY:
                self._starved_at = time.monotonic()
                message = explained(self._endpoint, error)
                _log.error("accept_failed", address=str(self._endpoint), message=message)
        await anyio.sleep(_ACCEPT_AGAIN)

    async def _answer(self, stream: SocketStream, visit: ClientConnection) -> None:
        try:
            await converse(stream, self._site, visit, self._within)
        finally:
            self._visits.leave(visit)

    def _note(self, message: str | None) -> None:
        if message is not None and message != self.trouble:
            _log.error("not_listening", address=str(self._endpoint), message=message)
        self.trouble = message


def explained(endpoint: Endpoint, error: BaseException) -> str:
    """Return why nobody can listen at `endpoint`, and what to do."""
    number = getattr(error, "errno", None) or 0
    remedy = _REMEDIES.get(number, "fix that, or name another address")
    if isinstance(error, socket.gaierror):
        remedy = "name an address of this machine"
    reason = os.strerror(number) if number > 0 else str(error)
    return f"{endpoint} cannot be listened at ({reason}): {remedy}"
