"""The gallery's process: one address, uvicorn on it, and bounds on how slow those may be who ask."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import anyio
import uvicorn
from anyio import to_thread
from msgspec import Struct
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from floradl.errors import ConfigError
from floradl.gallery.answers import day_of
from floradl.gallery.app import ACTIONS, Act, Parts, build_app
from floradl.gallery.guard import Guard
from floradl.gallery.live import News
from floradl.gallery.pace import Pace, Transfers
from floradl.gallery.thumbnails import THUMBNAILS, ThumbnailCache, Thumbnails, open_shown
from floradl.index.follower import IndexFollower
from floradl.index.library_index import LibraryIndex
from floradl.library.base import LibraryStore
from floradl.log import get_logger
from floradl.net.addresses import Endpoint, is_loopback
from floradl.redaction import Secret

_HEAD_TIME: Final = 10.0  # seconds for the head of a request
_STALLED: Final = 30.0  # seconds for a client to take anything at all
_MOST_CONNECTIONS: Final = 250
_LONGEST_HEAD: Final = 32 << 10  # bytes
_log = get_logger()


class GalleryOptions(Struct, frozen=True):
    """What a gallery serves, and where. `place` is the folder of index and thumbnails.

    `status` returns how things stand, as `/api/status` has it, `saved` is that of `IndexFollower`, and
    `transfers` returns the downloads under way: they block. `thumbnail_room` is in bytes.
    """

    endpoint: Endpoint
    place: Path
    token: Secret | None
    environ: Mapping[str, str]
    status: Callable[[], dict[str, Any]]
    act: Act | None = None
    saved: Callable[[], list[str]] = list
    transfers: Callable[[], Transfers] = dict
    thumbnail_room: int = 2 << 30


def bound(endpoint: Endpoint, token: Secret | None) -> socket.socket:
    """Listen at `endpoint`. Raises `ConfigError` where that is not allowed without a token, and `OSError`."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except UnicodeError as error:
        raise OSError(str(error)) from error
    if token is None and not is_loopback(str(address[0])):
        raise ConfigError(
            f"{endpoint} can be reached from other machines: the gallery answers there with a token alone; "
            "put one into a file, and name that in web.token_file"
        )
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(128)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


async def serve(library: LibraryStore, options: GalleryOptions, listener: socket.socket) -> None:
    """Serve the gallery of `library` until cancelled.

    `listener` is closed then. Raises `ConfigError` where the index cannot be opened, and, in a group,
    `IndexDamagedError`.
    """
    index = await to_thread.run_sync(LibraryIndex, options.place, library)
    follower: IndexFollower | None = None

    def opens(sha256: str) -> BinaryIO | None:
        for found in index.by_sha256(sha256):
            if (
                found.kind in {"image", "video"}
                and (file := open_shown(library, found.path, found.kind)) is not None
            ):
                return file
        return None

    def status() -> dict[str, Any]:
        reading, trouble = (follower.reading, follower.trouble) if follower is not None else (None, None)
        indexing = {"done": reading.done, "total": reading.total} if reading is not None else None
        actions = ACTIONS if options.act is not None else ()
        own = {"indexing": indexing, "trouble": trouble, "may_change": bool(actions), "actions": actions}
        return {**options.status(), **own, "today": day_of(time.time())}

    def is_known(run_id: str) -> bool:
        # One that failed stands on the page with or without a sidecar.
        failed = options.status().get("failed", ())
        return index.run(run_id) is not None or any(run["run_id"] == run_id for run in failed)

    try:
        news = News(status, index.views)
        follower = IndexFollower(index, library, news.announce, options.saved)
        cache = ThumbnailCache(options.place / THUMBNAILS, options.thumbnail_room)
        thumbnails = Thumbnails(cache, opens, options.environ, Pace(options.transfers))
        guard = Guard(options.endpoint, options.token)
        app = build_app(Parts(library, index, thumbnails, news, guard, options.act, is_known))
        async with anyio.create_task_group() as group:
            for work in (news.serve, follower.serve, thumbnails.serve, thumbnails.tidy):
                group.start_soon(work)
            await _Server(_config(app)).until_cancelled(listener)
    finally:
        index.close()


def _config(app: Any) -> uvicorn.Config:
    for name in ("uvicorn.error", "uvicorn.asgi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=_LONGEST_HEAD,
    )


class _Server(uvicorn.Server):
    """Uvicorn without its own signals, which are the command's."""

    async def until_cancelled(self, listener: socket.socket) -> None:
        """Serve; on cancellation let go of whoever is connected."""
        try:
            await self._serve([listener])
        finally:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            for server in self.servers:
                server.close()


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 that waits for nobody: a head must be there in time, and an answer must be taken."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give it time for a head."""
        super().connection_made(transport)
        self._head: asyncio.TimerHandle | None = self.loop.call_later(_HEAD_TIME, transport.abort)
        self._stall: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Take what came; what is no whole head yet has its time."""
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle  # None until the first request
        is_asking = cycle is not None and not cycle.response_complete
        if is_asking or self.timeout_keep_alive_task is not None:
            self._cancel_head()
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(_HEAD_TIME, self.transport.abort)

    def pause_writing(self) -> None:
        """Give it time to take what was written."""
        super().pause_writing()
        self._stall = self.loop.call_later(_STALLED, self.transport.abort)

    def resume_writing(self) -> None:
        """Wait no more: that was taken."""
        super().resume_writing()
        self._cancel_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._cancel_head()
        self._cancel_stall()
        super().connection_lost(exc)

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
