"""Holds one address of this machine, as soon as it can be had and for as long as floradl works.

A port that is taken, or an address that this machine does not have yet, costs no download: it is said once
and tried again.
"""

from __future__ import annotations

import errno
import os
import socket
from itertools import count

import anyio
import structlog
from anyio.abc import SocketListener, SocketStream, TaskGroup

from floradl.listening.http import WITHIN, Page, converse
from floradl.net.endpoint import Endpoint

_AT_ONCE = 64  # connections; more wait in the system's own queue, and none lasts longer than some seconds
_AGAIN = 5.0  # seconds
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Listener:
    """Answers at `endpoint` with `page`.

    A port that cannot be had is tried again each `again` seconds; a request has `within` seconds to come.
    """

    def __init__(
        self, endpoint: Endpoint, page: Page, *, again: float = _AGAIN, within: float = WITHIN
    ) -> None:
        self._endpoint = endpoint
        self._page = page
        self._again = again
        self._within = within
        self._slots = anyio.CapacityLimiter(_AT_ONCE)
        self._tokens = count()
        self.trouble: str | None = None
        """Why nobody can be answered now."""

    async def serve(self) -> None:
        """Listen for ever. Raises nothing."""
        while True:
            try:
                await self._listen()
            except* OSError as group:
                self._note(explained(self._endpoint, _first(group)))
            except* Exception:  # noqa: BLE001 - a bug of ours here must not end the downloads
                _log.exception("bug", address=str(self._endpoint))
            await anyio.sleep(self._again)

    async def _listen(self) -> None:
        listener = await anyio.create_tcp_listener(
            local_host=self._endpoint.host, local_port=self._endpoint.port
        )
        async with listener, anyio.create_task_group() as group:
            self._note(None)
            _log.info("listening", address=str(self._endpoint))
            for each in listener.listeners:
                if isinstance(each, SocketListener):
                    group.start_soon(self._accept, each, group)

    async def _accept(self, listener: SocketListener, group: TaskGroup) -> None:
        while True:
            token = next(self._tokens)
            await self._slots.acquire_on_behalf_of(token)  # before: who has no turn yet costs us nothing
            group.start_soon(self._answer, await listener.accept(), token)

    async def _answer(self, stream: SocketStream, token: int) -> None:
        try:
            await converse(stream, self._page, self._within)
        finally:
            self._slots.release_on_behalf_of(token)

    def _note(self, message: str | None) -> None:
        if message is not None and message != self.trouble:
            _log.error("not_listening", address=str(self._endpoint), message=message)
        self.trouble = message


def explained(endpoint: Endpoint, error: OSError) -> str:
    """Say why nobody can listen at `endpoint`, and what to do."""
    match error.errno:
        case errno.EADDRINUSE:
            remedy = "another program has it: end that, or name another port"
        case errno.EADDRNOTAVAIL:
            remedy = "this machine has no such address: name one that it has, or 0.0.0.0 for all"
        case errno.EACCES | errno.EPERM:
            remedy = "ports below 1024 are not for every user: name a higher one"
        case _ if isinstance(error, socket.gaierror):
            remedy = "name an address of this machine"
        case _:
            remedy = "see to it, or name another address"
    said = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return f"{endpoint} cannot be listened at ({said}): {remedy}"


def _first(group: BaseExceptionGroup[OSError]) -> OSError:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, OSError) else OSError(str(first))
