"""Small outputs, many at once: one thread fetches them, and others check and publish them in batches.

An output that needs more than a plain answer raises `NotPlainError`, with nothing done: `Downloader.fetch`
is for it, and for all further attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Lock
from typing import NoReturn, TypeAlias

import httpx
from msgspec import Struct

from floradl.download.checksums import signed_fields
from floradl.download.downloader import Downloader, Received, Report
from floradl.download.resume import refusal_of, wire_errors
from floradl.errors import FloradlError, ServicePausedError, TransientError
from floradl.library.base import Destination, Steps
from floradl.library.batch_writer import BatchWriter, Then
from floradl.models import SavedOutput
from floradl.net import url_policy
from floradl.net.http11 import Piece
from floradl.net.multi_client import MultiClient
from floradl.net.plain_exchange import NotPlainError, SmallAnswer, SmallRequest
from floradl.urls import is_data_url


class SmallOutput(Struct, frozen=True):
    """An output of which nothing arrived yet.

    `begin` is called right before it is asked for, from another thread, and may raise. `back_off` is called,
    from another thread, with the seconds for which the host wants to be left alone. `publish` is given what
    arrived; what it ends with is the result.
    """

    url: httpx.URL
    destination: Destination
    begin: Callable[[], None]
    back_off: Callable[[float], None]
    report: Report
    publish: Callable[[Received], Steps[SavedOutput]]


_WORTH_KEEPING = 64 << 10  # bytes; fewer are not continued, see `resume.OVERLAP`

Conclude: TypeAlias = Callable[[Sequence[SavedOutput]], object]
"""What is done once all of some outputs are saved; it may be in `Steps`."""


class _Group:
    """Outputs that are waited for together."""

    def __init__(self, size: int, conclude: Conclude | None) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.results: list[SavedOutput | Exception] = [NotPlainError()] * size
        self.concluded: object = None
        self._left = size
        self._conclude = conclude
        self._lock = Lock()

    def settle(self, index: int, result: SavedOutput | Exception) -> bool:
        """Note a result; return whether it is the last one. May be called from any thread."""
        with self._lock:
            self.results[index] = result
            self._left -= 1
            return not self._left

    def conclusion(self) -> Callable[[], object] | None:
        """Return what is left to do once all was saved."""
        saved = [result for result in self.results if isinstance(result, SavedOutput)]
        if self._conclude is None or len(saved) < len(self.results):
            return None
        return partial(self._conclude, saved)

    def wake(self) -> None:
        """Wake who waits; in the event loop."""
        if not self.future.done():
            self.future.set_result(None)


class _Fetch:
    """An output that is being fetched: how much is in its part file, and whether more is being put there."""

    __slots__ = ("answer", "is_keeping", "kept", "lock", "output", "pause", "settle")

    def __init__(
        self,
        output: SmallOutput,
        pause: ServicePausedError | None,
        settle: Callable[[SavedOutput | Exception], Then | None],
    ) -> None:
        self.output = output
        self.pause = pause  # the last one of the library's before it came
        self.settle = settle
        self.lock = Lock()
        self.is_keeping = False
        self.kept = 0
        self.answer: SmallAnswer | Exception | None = None


class SmallFiles:
    """Fetches small outputs, and has `disk` check and publish them. Close it before `disk`."""

    def __init__(self, client: MultiClient, downloader: Downloader, disk: BatchWriter) -> None:
        self._client = client
        self._downloader = downloader
        self._disk = disk
        self._pause: ServicePausedError | None = None  # the last one that the library met

    def plain_url(self, url: str) -> httpx.URL | None:
        """Return `url` parsed, where it may have a plain answer; None where that is not to be expected."""
        if is_data_url(url) or not self._downloader.is_unlimited:
            return None
        try:
            parsed = url_policy.parse(url.strip())
            return parsed if self._client.reads(parsed) else None
        except (httpx.InvalidURL, UnicodeError, FloradlError):  # reported when it is saved
            return None

    async def save(
        self, outputs: Sequence[SmallOutput], conclude: Conclude | None = None
    ) -> tuple[list[SavedOutput | Exception], object]:
        """Fetch `outputs`, check and publish them; return for each what `publish` returned, or its error.

        What was returned is on disk. Errors are those of `begin`, `Downloader.receive` and `publish`, and
        `NotPlainError`. If all were saved, `conclude` is given them, in a thread as `publish` is: what it
        returned or raised comes second.
        """
        self._disk.attach()
        group = _Group(len(outputs), conclude)
        for index, output in enumerate(outputs):
            fetch = _Fetch(output, self._pause, partial(self._settle, group, index))
            fields = signed_fields(output.url)
            begin, done = partial(self._begin, fetch), partial(self._take, fetch)
            most = self._downloader.limits.max_file_size
            self._client.send(SmallRequest(output.url, fields, begin, partial(self._keep, fetch), done, most))
        await group.future
        return group.results, group.concluded

    def close(self) -> None:
        """End what is under way: what arrived of it is kept for the next start. Safe to repeat."""
        self._client.close()

    def _begin(self, fetch: _Fetch) -> None:
        """Raise where it is not to be asked for any more: much may have changed while it waited."""
        if self._pause is not None and fetch.pause is not self._pause:
            raise self._pause
        if not self._downloader.is_unlimited:
            raise NotPlainError
        fetch.output.begin()

    def _keep(self, fetch: _Fetch, so_far: SmallAnswer, total: int) -> None:
        """Put on disk what a slow answer has brought so far; in the client's thread."""
        fetch.output.report(len(so_far.body), total)
        with fetch.lock:
            if fetch.is_keeping or len(so_far.body) - fetch.kept < _WORTH_KEEPING:
                return
            fetch.is_keeping = True
        more = bytes(memoryview(so_far.body)[fetch.kept :])
        self._disk.put(partial(self._append, fetch, so_far, more), partial(self._kept, fetch))

    def _append(self, fetch: _Fetch, answer: SmallAnswer, more: bytes) -> None:
        target = fetch.output.destination
        with target.held():
            if self._downloader.keep(answer, fetch.kept, more, target):
                fetch.kept += len(more)

    def _kept(self, fetch: _Fetch, _: object) -> None:
        """Go on with the whole answer, if it came meanwhile; what could not be kept is met again then."""
        with fetch.lock:
            fetch.is_keeping = False
            answer, fetch.answer = fetch.answer, None
        if answer is not None:
            self._take(fetch, answer)

    def _take(self, fetch: _Fetch, answer: SmallAnswer | Exception) -> None:
        """Take an answer, in the client's thread or that of `_kept`."""
        with fetch.lock:
            if fetch.is_keeping:
                fetch.answer = answer
                return
        if isinstance(answer, SmallAnswer):
            if (seconds := back_off_of(answer)) is not None:
                fetch.output.back_off(seconds)
            done = partial(self._stored, fetch, answer)
            self._disk.put(partial(self._store, answer, fetch.output), done)
        else:
            self._disk.put(partial(raise_as_download, answer), fetch.settle)

    def _settle(self, group: _Group, index: int, result: SavedOutput | Exception) -> Then | None:
        if not group.settle(index, result):
            return None
        conclude = group.conclusion()
        if conclude is None:
            return group.wake
        self._disk.put(conclude, partial(_conclude, group))
        return None

    def _store(self, answer: SmallAnswer, output: SmallOutput) -> Steps[SavedOutput]:
        with (
            output.destination.held(),
            self._downloader.receive(answer, body_of(answer), output.destination, output.report) as received,
        ):
            return (yield from output.publish(received))

    def _stored(self, fetch: _Fetch, answer: SmallAnswer, result: SavedOutput | Exception) -> Then | None:
        self._client.taken(answer)
        if isinstance(result, ServicePausedError):  # what waits already is not asked for in vain
            self._pause = result
        return fetch.settle(result)


def back_off_of(answer: SmallAnswer) -> float | None:
    """Return the seconds for which a refusal wants its host to be left alone; None where it does not say."""
    if answer.status_code == 200:
        return None
    refusal = refusal_of(answer)
    return refusal.retry_after if isinstance(refusal, TransientError) else None


def body_of(answer: SmallAnswer) -> Iterator[Piece]:
    """Yield what came of the body, and raise what ended it."""
    if answer.body:
        yield memoryview(answer.body)
    if answer.error is not None:
        raise answer.error


def raise_as_download(error: Exception) -> NoReturn:
    """Raise `error` as `Downloader.fetch` would."""
    if isinstance(error, httpx.TransportError):
        with wire_errors():
            raise error
    raise error


def _conclude(group: _Group, result: object) -> Then:
    group.concluded = result
    return group.wake
