"""One output of a finished run becomes one file of the library."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import httpx
import msgspec
import structlog
from anyio import CapacityLimiter, to_thread

from floradl.errors import ExpiredUrlError, FloradlError, PassingError, PermanentError
from floradl.library.library import Library, Slot
from floradl.media.download import Downloader, StoppedError
from floradl.models import Failure, Integrity, Kind, QueuedRun, RemoteOutput, RemoteRun, SavedOutput
from floradl.net.addresses import HostPatterns
from floradl.net.guard import port_of
from floradl.policy import after_trouble
from floradl.progress import Progress
from floradl.times import rfc3339
from floradl.urls import is_only_url, strip_query

_TRIES = 5  # in a row, before the run steps back and FLORA is asked anew
_MAX_INLINE = 1024 * 1024
_log: structlog.stdlib.BoundLogger = structlog.get_logger()

Refresh = Callable[[RemoteRun], Awaitable[RemoteRun]]
"""Ask FLORA for an answer newer than the one given."""


class OutputSaver:
    """Saves outputs, as many at once as `transfers` allows."""

    def __init__(
        self,
        library: Library,
        downloader: Downloader,
        progress: Progress,
        *,
        transfers: CapacityLimiter,
        text_url_hosts: HostPatterns,
        keep_times: bool,
    ) -> None:
        self._library = library
        self._downloader = downloader
        self._progress = progress
        self._transfers = transfers
        self._text_url_hosts = text_url_hosts
        self._keep_times = keep_times

    async def save(
        self, run: QueuedRun, answer: RemoteRun, output: RemoteOutput, refresh: Refresh
    ) -> SavedOutput:
        """Save `output`; one that cannot be had comes back with its `error`.

        Raises `PassingError` where several tries in a row failed, and `PausedError`.
        """
        tries = 0
        while True:
            try:
                return await self._attempt(run, answer, output)
            except PermanentError as error:
                return not_had(output, Failure(error.code, str(error)))
            except PassingError as error:
                tries += 1
                delay = after_trouble(error, tries)
                if delay is None:
                    return not_had(output, Failure(error.code, str(error)))
                if tries > _TRIES:
                    raise
                if isinstance(error, ExpiredUrlError) and tries == 1:
                    delay = 0.0
                _log.warning(
                    "output_trouble",
                    run=run.run_id,
                    output=output.output_id,
                    message=str(error),
                    next_in=delay,
                )
                await anyio.sleep(delay)
                if isinstance(error, ExpiredUrlError):
                    answer, output = await _renewed(answer, output, refresh)

    async def _attempt(self, run: QueuedRun, answer: RemoteRun, output: RemoteOutput) -> SavedOutput:
        index = 1 + next(i for i, other in enumerate(answer.outputs) if other.key == output.key)
        slot = self._library.slot(run, output, index, answer.completed_at)
        mtime = answer.completed_at if self._keep_times else None
        if output.kind is Kind.TEXT and not self._is_link(output.url):
            return await to_thread.run_sync(partial(self._write_text, slot, output, mtime))
        started = time.monotonic()
        fetch = partial(self._fetch, run, slot, output, mtime)
        try:
            saved = await to_thread.run_sync(fetch, limiter=self._transfers)
        except StoppedError:
            await anyio.sleep_forever()  # all is being cancelled; the part file stays
            raise
        _log.info(
            "output_saved",
            run=run.run_id,
            technique=run.technique,
            output=output.output_id,
            path=saved.path,
            bytes=saved.bytes,
            integrity=saved.integrity,
            duration=round(time.monotonic() - started, 3),
        )
        return saved

    def _is_link(self, text: str) -> bool:
        """Whether a text is nothing but a URL at a host that keeps outputs: any other is a model's words."""
        if not is_only_url(text):
            return False
        try:
            url = httpx.URL(text.strip())
            return self._text_url_hosts.match(url.host, port_of(url))
        except (httpx.InvalidURL, FloradlError):
            return False

    def _write_text(self, slot: Slot, output: RemoteOutput, mtime: float | None) -> SavedOutput:
        data = output.url.encode("utf-8", "replace")
        path, sha256 = slot.write(data, ".txt", mtime)
        return SavedOutput(
            output_id=output.output_id,
            type=output.type,
            kind=output.kind,
            path=path,
            bytes=len(data),
            sha256=sha256,
            content_type="text/plain; charset=utf-8",
            integrity=Integrity.VERIFIED,
            checked=("inline",),
            text=output.url,
            downloaded_at=rfc3339(time.time()),
        )

    def _fetch(self, run: QueuedRun, slot: Slot, output: RemoteOutput, mtime: float | None) -> SavedOutput:
        """Fetch and publish, in a worker thread."""
        report = partial(self._progress.transfer, run, output.output_id)
        try:
            with (
                self._library.translating(),
                self._downloader.fetch(output.url.strip(), slot, report) as received,
            ):
                text = None
                if output.kind is Kind.TEXT and received.part.size <= _MAX_INLINE:
                    text = received.part.read(_MAX_INLINE, 0).decode("utf-8", "replace")
                path = slot.publish(received.part, received.ext, received.sha256, mtime)
                return SavedOutput(
                    output_id=output.output_id,
                    type=output.type,
                    kind=output.kind,
                    path=path,
                    bytes=received.part.size,
                    sha256=received.sha256,
                    content_type=received.content_type,
                    etag=received.etag,
                    url=strip_query(output.url.strip()),
                    integrity=received.integrity,
                    checked=received.checked,
                    text=text,
                    downloaded_at=rfc3339(time.time()),
                )
        finally:
            self._progress.transferred(run, output.output_id)


async def _renewed(
    answer: RemoteRun, output: RemoteOutput, refresh: Refresh
) -> tuple[RemoteRun, RemoteOutput]:
    newer = await refresh(answer)
    found = next((other for other in newer.outputs if other.key == output.key), None)
    if found is None:
        raise PassingError(f"FLORA does not list output {output.output_id[:60]!a} any more")
    return newer, msgspec.structs.replace(output, url=found.url)


def not_had(output: RemoteOutput, failure: Failure) -> SavedOutput:
    """Return what the sidecar says of an output that could not be had."""
    _log.warning("output_failed", output=output.output_id, code=failure.code, message=failure.message)
    url = strip_query(output.url) if is_only_url(output.url) else None
    return SavedOutput(output_id=output.output_id, type=output.type, kind=output.kind, url=url, error=failure)
