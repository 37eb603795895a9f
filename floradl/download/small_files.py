"""Small outputs, many at once: fetched by one thread (`MultiClient`), checked and published by two, in batches.

An output that needs more than a plain answer raises `NotPlainError`, with nothing done: `Downloader.fetch`
is for it, and for all further attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Final, TypeAlias

import httpx
from msgspec import Struct

from floradl.download.downloader import Downloader, Received, Report, signed_fields
from floradl.library.base import Destination
from floradl.library.batch_writer import Together
from floradl.models import SavedOutput
from floradl.net import url_policy
from floradl.net.http11 import Piece
from floradl.net.multi_client import MultiClient, NotPlainError, SmallAnswer, SmallRequest
from floradl.urls import is_data_url

_THREADS: Final = 2  # their flushes overlap; more only contend
_BATCH: Final = 16  # files that share the flushes of their folders


class SmallOutput(Struct, frozen=True):
    """An output of which nothing arrived yet.

    `begin` is called right before it is asked for, from another thread, and may raise. `publish` is given
    what arrived; what it returns is the result.
    """

    url: httpx.URL
    destination: Destination
    begin: Callable[[], None]
    report: Report
    publish: Callable[[Received], SavedOutput]


class _Group:
    """Outputs that are waited for together."""

    __slots__ = ("future", "left", "results")

    def __init__(self, size: int) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.left = size
        self.results: list[SavedOutput | Exception] = [NotPlainError()] * size


class _Work(Struct, frozen=True):
    """Work on the disk, and where its result goes."""

    do: Callable[[], SavedOutput]
    group: _Group
    index: int


class SmallFiles:
    """Fetches small outputs. `together` is that of the library they go to. Close it."""

    def __init__(self, client: MultiClient, downloader: Downloader, together: Together) -> None:
        self._client = client
        self._downloader = downloader
        self._together = together
        self._works: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._lock = Lock()

    def plain_url(self, url: str) -> httpx.URL | None:
        """Return `url` parsed, where it may have a plain answer; None where that is not to be expected."""
        if is_data_url(url) or not self._downloader.is_unlimited:
            return None
        try:
            parsed = url_policy.parse(url.strip())
        except (httpx.InvalidURL, UnicodeError):
            return None
        return parsed if self._client.reads(parsed) else None

    async def save(self, outputs: Sequence[SmallOutput]) -> list[SavedOutput | Exception]:
        """Fetch `outputs`, check and publish them; return for each what `publish` returned, or its error.

        What was returned is on disk. Errors are those of `begin`, `Downloader.receive` and `publish`, and
        `NotPlainError`.
        """
        group = _Group(len(outputs))
        for index, output in enumerate(outputs):
            fields = signed_fields(output.url)
            done = partial(self._take, output, group, index)
            self._client.send(SmallRequest(output.url, fields, output.begin, output.report, done))
        await group.future
        return group.results

    def close(self) -> None:
        """End what is under way: what arrived of it is kept for the next start. Safe to repeat."""
        self._client.close()
        with self._lock:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._works.put(None)
        for thread in threads:
            thread.join()

    def _take(self, output: SmallOutput, group: _Group, index: int, answer: SmallAnswer | Exception) -> None:
        """Take an answer, in the client's thread."""
        if isinstance(answer, SmallAnswer):
            self._put(_Work(partial(self._store, answer, output), group, index))
        elif isinstance(answer, httpx.TransportError):
            self._put(_Work(partial(self._downloader.refuse, answer), group, index))
        else:
            _post([(group, index, answer)])

    def _put(self, work: _Work) -> None:
        if len(self._threads) < _THREADS:
            with self._lock:
                thread = Thread(target=self._serve, name="floradl-disk", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._works.put(work)

    def _serve(self) -> None:
        ended = False
        while not ended:
            works, ended = self._batch()
            if not works:
                continue
            results: Sequence[SavedOutput | Exception]
            try:
                results = self._together([work.do for work in works])
            except Exception as error:  # noqa: BLE001 - each of them meets it
                results = [error] * len(works)
            _post([(work.group, work.index, result) for work, result in zip(works, results, strict=True)])

    def _batch(self) -> tuple[list[_Work], bool]:
        """Wait for work; return what there is of it, and whether that is the end."""
        works: list[_Work] = []
        work = self._works.get()
        while work is not None:
            works.append(work)
            if len(works) == _BATCH:
                return works, False
            try:
                work = self._works.get_nowait()
            except Empty:
                return works, False
        return works, True

    def _store(self, answer: SmallAnswer, output: SmallOutput) -> SavedOutput:
        try:
            with (
                output.destination.held(),
                self._downloader.receive(
                    answer, _body(answer), output.destination, output.report
                ) as received,
            ):
                return output.publish(received)
        finally:
            self._client.taken(answer)


def _body(answer: SmallAnswer) -> Iterator[Piece]:
    if answer.body:
        yield memoryview(answer.body)
    if answer.error is not None:
        raise answer.error


_Settled: TypeAlias = tuple[_Group, int, SavedOutput | Exception]


def _post(settled: list[_Settled]) -> None:
    """Hand results to the event loop, in one step."""
    with suppress(RuntimeError):  # it is closed: nobody waits any more
        settled[0][0].future.get_loop().call_soon_threadsafe(_settle, settled)


def _settle(settled: list[_Settled]) -> None:
    for group, index, result in settled:
        group.results[index] = result
        group.left -= 1
        if not group.left and not group.future.done():
            group.future.set_result(None)
