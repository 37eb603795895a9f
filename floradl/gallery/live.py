"""Live news as server-sent events: how things stand, at most once a second, and outputs as they are saved."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio
from anyio import to_thread

from floradl.errors import FloradlError
from floradl.gallery.answers import described, encoded
from floradl.index.views import Views

MOST_LISTENERS: Final = 64
_BEAT: Final = 1.0  # seconds
_KEEP_ALIVE: Final = 15.0
MOST_RUNS: Final = 200  # that are named in one event
MOST_OUTPUTS: Final = 500
_MOST_WAITING: Final = 20  # events for a listener who does not listen
_UNKNOWN: Final[dict[str, Any]] = {"daemon": False, "paused": None, "counts": {}, "running": [], "failed": []}


class _Listener:
    """Somebody who listens: what was not sent yet, of how things stand the last alone."""

    def __init__(self) -> None:
        self.is_new = True
        self.status: bytes | None = None
        self.outputs: deque[bytes] = deque(maxlen=_MOST_WAITING)
        self.woken = anyio.Event()


class News:
    """Sends news to those who listen. `read_status` blocks; `serve` must be running."""

    def __init__(self, read_status: Callable[[], dict[str, Any]], views: Views) -> None:
        self._read_status = read_status
        self._views = views
        self._listeners: set[_Listener] = set()
        self._saved: deque[str] = deque(maxlen=MOST_RUNS)
        self._changed = False
        self._is_too_much = False
        self._work = anyio.Event()

    def announce(self, run_ids: list[str]) -> None:
        """Record that the outputs of these runs are saved; with none, that the library changed.

        From any thread.
        """
        self._saved += run_ids
        self._is_too_much = self._is_too_much or len(self._saved) >= MOST_RUNS
        self._changed = True

    async def serve(self) -> None:
        """Look for news once a second while somebody listens, and for what is saved five times as often."""
        sent = b""
        looked = -math.inf
        while True:
            if not self._listeners:
                self._saved.clear()
                self._is_too_much = False
                sent = b""
                self._work = anyio.Event()
                await self._work.wait()
            if self._changed:
                self._changed = False
                self._send_outputs(await to_thread.run_sync(self._read_outputs))
            if anyio.current_time() - looked >= _BEAT:
                looked = anyio.current_time()
                status = await to_thread.run_sync(self.status)
                for listener in self._listeners:
                    if listener.is_new or status != sent:
                        listener.is_new, listener.status = False, status
                        listener.woken.set()
                sent = status
            await anyio.sleep(_BEAT / 5)

    def status(self) -> bytes:
        """Return how things stand, as JSON; what cannot be read is said in `trouble`. Blocking."""
        try:
            return encoded(self._read_status())
        except FloradlError as error:
            return encoded({**_UNKNOWN, "trouble": str(error)})

    def _read_outputs(self) -> bytes:
        is_too_much, self._is_too_much = self._is_too_much, False
        run_ids = [self._saved.popleft() for _ in range(len(self._saved))]
        try:
            found = [] if is_too_much else self._views.of_runs(run_ids, MOST_OUTPUTS)
        except FloradlError:
            found = []
        if len(found) >= MOST_OUTPUTS:
            found = []  # whoever listens looks at the whole view: a part of the news would be a wrong one
        return encoded({"outputs": [described(output) for output in found]})

    def _send_outputs(self, data: bytes) -> None:
        for listener in self._listeners:
            listener.outputs.append(data)
            listener.woken.set()

    async def listen(self) -> AsyncIterator[bytes]:
        """Yield events as they are sent, for ever; a comment where there was none for 15 seconds."""
        listener = _Listener()
        with self._listening(listener):
            yield b"retry: 2000\n\n"
            while True:
                with anyio.move_on_after(_KEEP_ALIVE) as scope:
                    await listener.woken.wait()
                if scope.cancelled_caught:
                    yield b": still here\n\n"
                    continue
                listener.woken = anyio.Event()
                while listener.outputs:
                    yield b"event: outputs\ndata: " + listener.outputs.popleft() + b"\n\n"
                status, listener.status = listener.status, None
                if status is not None:
                    yield b"event: status\ndata: " + status + b"\n\n"

    @property
    def is_full(self) -> bool:
        """Whether nobody else may listen."""
        return len(self._listeners) >= MOST_LISTENERS

    @contextmanager
    def _listening(self, listener: _Listener) -> Iterator[None]:
        self._listeners.add(listener)
        self._work.set()
        try:
            yield
        finally:
            self._listeners.discard(listener)
