"""One output of a finished run becomes one file of the library.

Some transfers are not for videos, sounds and files of unknown type, since these may take hours: whatever is
on its way, a picture or a document has a turn soon.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from functools import partial

import anyio
import httpx
import msgspec
from anyio import CapacityLimiter, to_thread

from floradl.clock import rfc3339
from floradl.download.checksums import names_wrong
from floradl.download.downloader import DownloadStoppedError, Fetcher, Received
from floradl.download.small_files import Conclude, SmallFiles, SmallOutput
from floradl.errors import (
    ErrorCode,
    ExpiredUrlError,
    FloradlError,
    FreshAnswerNeededError,
    OverLimitError,
    PermanentError,
    TransientError,
)
from floradl.library.base import Destination, LibraryStore, Steps, completed
from floradl.library.batch_writer import BatchWriter
from floradl.library.selection import skipped
from floradl.log import get_logger
from floradl.models import (
    Integrity,
    OutputKind,
    QueuedRun,
    RemoteOutput,
    RemoteRun,
    RunFailure,
    SavedOutput,
    SkipReason,
)
from floradl.net.addresses import HostPatterns
from floradl.net.plain_exchange import NotPlainError
from floradl.net.url_policy import port_of
from floradl.retry import after_trouble
from floradl.runs.events import ErrorLog, LoggedError, OutputCounters, RunEvents
from floradl.runs.result import RetryState
from floradl.runs.slots import HostBackoff, HostBackoffError, TransferSlots
from floradl.urls import host_of, is_only_url, strip_query

_PUBLISHERS = 16  # large files put on disk at once: their flushes overlap
_LARGE = 4 << 20  # bytes from which on a file's own flush takes longer than its folder's
_IN_HAND = 48  # files that have arrived and are not on disk yet
_MAX_INLINE = 1024 * 1024
_log = get_logger()

Refresh = Callable[[RemoteRun], Awaitable[RemoteRun]]
"""Ask FLORA for an answer newer than the one given."""


class OutputOptions(msgspec.Struct, frozen=True):
    """How outputs are saved.

    `text_url_hosts`: a text that is nothing but a URL there is fetched. `keep_times`: files get the run's
    time. `delay` gives the seconds until the next try as `after_trouble` does. `monotonic` gives seconds by
    which transfers take their time. `report` hears of each output that is on disk.
    """

    text_url_hosts: HostPatterns
    keep_times: bool
    delay: Callable[[TransientError, int], float | None] = after_trouble
    monotonic: Callable[[], float] = time.monotonic
    report: Callable[[QueuedRun, SavedOutput], None] = lambda _run, _output: None


class PlannedOutput(msgspec.Struct, frozen=True):
    """An output of which nothing arrived yet, and where it comes from and goes."""

    output: RemoteOutput
    url: httpx.URL
    host: str
    destination: Destination


class Fetchers(msgspec.Struct, frozen=True):
    """Who downloads: `small` the first time an output of a small kind is tried, `any` all else."""

    any: Fetcher
    small: SmallFiles


class OutputSaver:
    """Saves outputs, as many at once as `slots` allows."""

    def __init__(
        self,
        library: LibraryStore,
        disk: BatchWriter,
        fetchers: Fetchers,
        progress: RunEvents,
        slots: TransferSlots,
        options: OutputOptions,
    ) -> None:
        self._library = library
        self._fetchers = fetchers
        self._progress = progress
        self._slots = slots
        self._threads = CapacityLimiter(1)
        self._options = options
        self._quiet = HostBackoff(time.monotonic)
        self.disk = disk
        self._troubles = ErrorLog()
        self._publishers = CapacityLimiter(_PUBLISHERS)
        self.tally = OutputCounters()
        self._in_hand, self._large = CapacityLimiter(1), CapacityLimiter(1)
        self.change(slots.total, options.text_url_hosts)

    @property
    def quiet_hosts(self) -> dict[str, float]:
        """Return until when each media host asked to be left alone (monotonic seconds), past moments too."""
        return self._quiet.hosts()

    def change(self, transfers: int, text_url_hosts: HostPatterns) -> None:
        """Have so many transfers at once, and fetch texts from these hosts; those under way go on."""
        self._slots.change(transfers)
        self._threads.total_tokens = transfers
        # A slow disk must not gather open files without end.
        self._in_hand.total_tokens = transfers + _IN_HAND
        # Of few transfers one is for small outputs, of one none.
        self._large.total_tokens = transfers - math.ceil((transfers - 1) / 8)
        self._options = msgspec.structs.replace(self._options, text_url_hosts=text_url_hosts)

    def plan_small(self, run: QueuedRun, answer: RemoteRun, output: RemoteOutput) -> PlannedOutput | None:
        """Plan how `output` is fetched with many others; None where it is not for `save_small`. Blocking.

        It is where it is of a small kind, nothing of it arrived yet, and its folder can be written.
        """
        if (
            output.flaw
            or output.kind.is_large
            or (output.kind is OutputKind.TEXT and not self._is_link(output.url))
        ):
            return None
        url = self._fetchers.small.plain_url(output.url)
        host = host_of(output.url) or ""
        if url is None or self._quiet.asked_for(host):
            return None
        try:
            destination = self._destination(run, answer, output)
            with destination.held():
                if destination.resume_point() is not None:
                    return None
        except (FloradlError, OSError):  # reported when it is saved
            return None
        return PlannedOutput(output, url, host, destination)

    async def save_small(
        self,
        run: QueuedRun,
        answer: RemoteRun,
        planned: Sequence[PlannedOutput],
        conclude: Conclude | None = None,
    ) -> tuple[dict[str, SavedOutput | Exception], object]:
        """Save what is `planned` of a run, each output in one try; return by key what came of it.

        One that is not to be had this way is left out; `save` goes on with it, and with an error. `conclude`
        is that of `SmallFiles.save`.
        """
        mtime = answer.completed_at if self._options.keep_times else None
        begun, took = [0.0] * len(planned), [0.0] * len(planned)

        def begin(index: int) -> None:
            begun[index] = time.monotonic()
            self._quiet.check(planned[index].host)

        def publish(index: int, received: Received) -> Steps[SavedOutput]:
            saved = yield from _publish(planned[index].destination, planned[index].output, mtime, received)
            took[index] = time.monotonic() - begun[index]
            return saved

        small = [
            SmallOutput(
                each.url,
                each.destination,
                partial(begin, index),
                partial(self._quiet.ask_for, each.host),
                partial(self._progress.transfer, run, each.output.output_id),
                partial(publish, index),
            )
            for index, each in enumerate(planned)
        ]
        found: dict[str, SavedOutput | Exception] = {}
        try:
            results, concluded = await self._fetchers.small.save(small, conclude)
        finally:
            for each in planned:
                self._progress.transferred(run, each.output.output_id)
        if any(isinstance(result, DownloadStoppedError) for result in results):
            await anyio.sleep_forever()  # all is being cancelled; the part files stay
        for each, result, seconds in zip(planned, results, took, strict=True):
            if isinstance(result, SavedOutput):
                self._saved(run, result, seconds, each.host)
                self._troubles.over(f"{run.run_id}\0{each.output.key}")
            if not isinstance(result, NotPlainError | HostBackoffError):
                found[each.output.key] = result
        return found, concluded

    async def save(
        self,
        run: QueuedRun,
        answer: RemoteRun,
        output: RemoteOutput,
        refresh: Refresh,
        failed: Exception | None = None,
    ) -> SavedOutput:
        """Save `output`, of which one try `failed`.

        One that is unavailable comes back with its `error`, one that is too large as `skipped`. Raises
        `AttemptsExhaustedError` where several tries failed, and `ServicePausedError`.
        """
        saved = await self._save(run, answer, output, refresh, failed)
        self._troubles.over(f"{run.run_id}\0{output.key}")
        return saved

    async def _save(
        self,
        run: QueuedRun,
        answer: RemoteRun,
        output: RemoteOutput,
        refresh: Refresh,
        failed: Exception | None,
    ) -> SavedOutput:
        attempts = RetryState(self._options.delay, self._options.monotonic)
        first = failed  # whose host knows already for how long it is left alone
        while True:
            try:
                if failed is not None:
                    error, failed = failed, None
                    raise error
                if attempts.stale:
                    answer, output = await _renewed(answer, output, refresh)
                    attempts.stale = False
                return await self._attempt(run, answer, output, attempts)
            except OverLimitError as error:
                _log.info("output_skipped", run=run.run_id, output=output.output_id, message=str(error))
                return skipped(output, SkipReason.TOO_LARGE, error.size)
            except PermanentError as error:
                return not_had(output, RunFailure(error.code, str(error)))
            except FreshAnswerNeededError:
                raise attempts.exhausted() from None
            except TransientError as error:
                if error.retry_after is not None and error is not first:
                    self._quiet.ask_for(host_of(output.url) or "", error.retry_after)
                delay = attempts.failed(error)
                if delay is None:
                    return not_had(output, RunFailure(error.code, str(error)))
                told = self._troubles.met(f"{run.run_id}\0{output.key}", error.code)
                tell = (
                    _log.debug if told is LoggedError.NOTHING else _log.warning
                )  # one line a change, none a try
                tell(
                    "output_trouble",
                    run=run.run_id,
                    output=output.output_id,
                    message=str(error),
                    next_in=delay,
                )
                self._progress.run(run, delay)
                await anyio.sleep(delay)
                self._progress.run(run, None)

    async def _attempt(
        self, run: QueuedRun, answer: RemoteRun, output: RemoteOutput, attempts: RetryState
    ) -> SavedOutput:
        if output.flaw:
            raise ExpiredUrlError(output.flaw, ErrorCode.BAD_URL)
        destination = self._destination(run, answer, output)
        mtime = answer.completed_at if self._options.keep_times else None
        if output.kind is OutputKind.TEXT and not self._is_link(output.url):
            written = await self.disk.do(partial(_write_text, destination, output, mtime))
            self.tally.saved(output.kind, written.bytes or 0, None)
            self._options.report(run, written)
            return written
        began = time.monotonic()
        host = host_of(output.url) or ""

        report = partial(self._progress.transfer, run, output.output_id)

        def fetch() -> Received:
            nonlocal began
            began = time.monotonic()  # from here on it does not stand in line any more
            self._quiet.check(host)
            attempts.begin()
            return self._fetchers.any.fetch(output.url.strip(), destination, report)

        publish = partial(_publish, destination, output, mtime)
        saved = None
        while saved is None:
            await self._quiet.over(host)  # with nothing in hand: what goes to other hosts must not wait
            try:
                async with self._large if output.kind.is_large else nullcontext():
                    saved = await self._transfer(fetch, publish)
            except HostBackoffError:
                continue
            finally:
                self._progress.transferred(run, output.output_id)
        self._saved(run, saved, time.monotonic() - began, host)
        return saved

    def _saved(self, run: QueuedRun, saved: SavedOutput, seconds: float, host: str) -> None:
        """Report an output that was downloaded in so many seconds."""
        self.tally.saved(saved.kind, saved.bytes or 0, seconds)
        self._options.report(run, saved)
        _log.info(
            "output_saved",
            run=run.run_id,
            technique=run.technique,
            output=saved.output_id,
            path=saved.path,
            bytes=saved.bytes,
            integrity=saved.integrity,
            duration=round(seconds, 3),
        )
        if (wrong := names_wrong(saved.checked)) is not None:
            _log.warning(
                "checksum_wrong",
                run=run.run_id,
                output=saved.output_id,
                message=f"two whole downloads from {host} are alike, and not what its {wrong} checksum says: "
                "that is taken to be wrong, and the file is kept",
            )

    async def _transfer(
        self, fetch: Callable[[], Received], publish: Callable[[Received], Steps[SavedOutput]]
    ) -> SavedOutput:
        """Let `fetch` run when a slot is free, then `publish`.

        That is done in another thread, so that the slot goes to the next transfer meanwhile.
        """
        async with self._in_hand:
            try:
                async with self._slots:
                    received = await to_thread.run_sync(fetch, limiter=self._threads)
            except DownloadStoppedError:
                await anyio.sleep_forever()  # all is being cancelled; the part file stays
                raise
            with received:
                if received.sink.size >= _LARGE:
                    steps = publish(received)
                    return await to_thread.run_sync(completed, steps, limiter=self._publishers)
                return await self.disk.do(partial(publish, received))

    def _destination(self, run: QueuedRun, answer: RemoteRun, output: RemoteOutput) -> Destination:
        index = 1 + next(i for i, other in enumerate(answer.outputs) if other.key == output.key)
        return self._library.destination(run, output, index, answer.completed_at, answer.created_at)

    def _is_link(self, text: str) -> bool:
        """Whether a text is nothing but a URL at a host that keeps outputs: any other is a model's words."""
        if not is_only_url(text):
            return False
        try:
            url = httpx.URL(text.strip())
            return self._options.text_url_hosts.match(url.host, port_of(url))
        except (httpx.InvalidURL, UnicodeError, FloradlError):
            return False


def _write_text(destination: Destination, output: RemoteOutput, mtime: float | None) -> Steps[SavedOutput]:
    stored = yield from destination.text_written(output.url, mtime)
    return SavedOutput(
        output_id=output.output_id,
        type=output.type,
        kind=output.kind,
        path=stored.path,
        bytes=stored.bytes,
        sha256=stored.sha256,
        content_type="text/plain; charset=utf-8",
        integrity=Integrity.VERIFIED,
        checked=("inline",),
        text=output.url,
        downloaded_at=rfc3339(time.time()),
        stored_etag=stored.stored_etag,
    )


def _publish(
    destination: Destination, output: RemoteOutput, mtime: float | None, received: Received
) -> Steps[SavedOutput]:
    found, sink = received.finding, received.sink
    destination.prepare(sink, mtime)
    yield
    text = None
    if output.kind is OutputKind.TEXT and sink.size <= _MAX_INLINE:
        text = sink.read(_MAX_INLINE, 0).decode("utf-8", "replace")
    return SavedOutput(
        output_id=output.output_id,
        type=output.type,
        kind=output.kind,
        path=destination.publish(sink, found.ext, found.sha256, mtime),
        bytes=sink.size,
        sha256=found.sha256,
        content_type=found.content_type,
        etag=found.etag,
        url=strip_query(output.url.strip()),
        integrity=found.integrity,
        checked=found.checked,
        text=text,
        downloaded_at=rfc3339(time.time()),
        stored_etag=destination.stored_etag,
    )


async def _renewed(
    answer: RemoteRun, output: RemoteOutput, refresh: Refresh
) -> tuple[RemoteRun, RemoteOutput]:
    newer = await refresh(answer)
    found = next((other for other in newer.outputs if other.key == output.key), None)
    if found is None:
        raise TransientError(f"FLORA does not list output {output.output_id[:60]!a} any more")
    return newer, found


def not_had(output: RemoteOutput, failure: RunFailure) -> SavedOutput:
    """Return what the sidecar says of an output that could not be had."""
    _log.warning("output_failed", output=output.output_id, code=failure.code, message=failure.message)
    url = strip_query(output.url) if is_only_url(output.url) else None
    return SavedOutput(output_id=output.output_id, type=output.type, kind=output.kind, url=url, error=failure)
