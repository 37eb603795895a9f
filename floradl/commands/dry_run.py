"""`get` and `once` with `--dry-run`: what would be downloaded. Nothing is written, and no lock is taken.

Library, queue and inbox are read as they are, beside a daemon too, and FLORA is asked once about each run
that is not done. Outputs are chosen by the same `Selection` as when they are saved.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import CapacityLimiter, to_thread
from msgspec.structs import replace

from floradl.app import flora_alone
from floradl.commands.daemon_state import all_runs, read_daemon_state
from floradl.commands.exits import Exit, worst
from floradl.commands.streams import say, tell
from floradl.commands.submit import known_states, read_history
from floradl.config.settings import Config
from floradl.daemon.startup import is_first_start
from floradl.errors import (
    ErrorCode,
    JobError,
    PauseReason,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.flora.client import FloraClient
from floradl.flora.schema import KINDS
from floradl.fs.folders import NotRegularFileError
from floradl.library.base import LibraryStore
from floradl.library.selection import OutputPlan, Selection, asks_for_more, known_size
from floradl.library.sidecar import earlier_of
from floradl.library_builder import build_library, build_selection
from floradl.models import Action, LeftFile, QueuedRun, RemoteRun, Result, RunRequest, RunState, SavedOutput
from floradl.queue.base import is_queued_again, kinds_after, loses_files, queued
from floradl.queue.reader import readable
from floradl.redaction import redact
from floradl.retry import after_trouble
from floradl.runs.result import reason_of
from floradl.sources import file_ready
from floradl.sources.history import pages
from floradl.sources.job_file import described, parse_job, parse_queue
from floradl.sources.scan import Entry, entries, shown
from floradl.units import format_count, format_size

_BY_LIST = 20  # runs: from so many on, lists are read first
_BARREN = 5  # pages in a row without any of the runs, after which no further one is read
_ALONE = 8  # single requests at once
_MOST_ALONE = 500  # runs that no list shows and that are asked about one by one
_TRIES = 3  # of a request
_NOUNS = {"audio": "sound", "other": "other file"}


class _Report:
    """Prints what would become of each run, and counts it."""

    def __init__(self) -> None:
        self._runs: Counter[str] = Counter()
        self._outputs = self._unsized = self._bytes = self._left_out = 0
        self.code = Exit.OK

    def line(self, what: str, name: object, message: str = "") -> None:
        """Print a line about a run or a file."""
        say(sys.stdout, f"{what:<14}  {name}" + (f": {message}" if message else ""))

    def run(self, what: str, run: QueuedRun, message: str = "", code: Exit = Exit.OK) -> None:
        """Report what would become of a run; `code` is what the real command would end with."""
        self._runs[what] += 1
        self.code = worst(self.code, code)
        self.line(what, run.reference, message)

    def plan(self, run: QueuedRun, plan: OutputPlan, earlier: Mapping[str, SavedOutput], failed: str) -> None:
        """Report what would become of the outputs of a run, which `failed` at FLORA for this reason."""
        before = (earlier.get(output.key) for output in plan.wanted)
        sizes = [
            known_size(output) if known_size(output) is not None else (known.bytes if known else None)
            for output, known in zip(plan.wanted, before, strict=True)
        ]
        size = sum(each or 0 for each in sizes)
        parts = [_counted(output.kind for output in plan.wanted)] if plan.wanted else []
        parts += [format_size(size)] if size else []
        parts += [f"{len(plan.kept)} there already"] if plan.kept else []
        reasons = Counter(output.skipped.reason for output in plan.skipped.values() if output.skipped)
        parts += [f"{count} left out ({reason})" for reason, count in reasons.items()]
        parts += [failed] if failed else []
        self._outputs += len(plan.wanted)
        self._unsized += sum(each is None for each in sizes)
        self._bytes += size
        self._left_out += len(plan.skipped)
        code = Exit.FAILED if failed else Exit.OK
        self.run("would download" if plan.wanted else "nothing to do", run, ", ".join(parts), code)

    def summary(self) -> str:
        """Return the counts as a sentence."""
        what = ", ".join(f"{count:,} {word.replace('would', 'to')}" for word, count in self._runs.items())
        runs = format_count(self._runs.total(), "run")
        text = f"dry run, nothing was written: {f'{runs}, {what}' if what else 'nothing to do'}"
        if self._outputs:
            sizes = [format_size(self._bytes)] if self._bytes else []
            sizes += [f"{self._unsized:,} of unknown size"] if self._unsized else []
            text += f"; {format_count(self._outputs, 'output')} to download ({' and '.join(sizes)})"
        if self._left_out:
            text += f"; {format_count(self._left_out, 'output')} left out"
        return text


def _counted(kinds: Iterable[str]) -> str:
    return ", ".join(format_count(count, _NOUNS.get(kind, kind)) for kind, count in Counter(kinds).items())


async def preview_runs(config: Config, environ: Mapping[str, str], requests: Iterable[RunRequest]) -> Exit:
    """Show what `get` would do. Raises `ConfigError`, and `ServicePausedError` where the key is refused."""
    now = time.time()
    runs = {request.reference.run_id: queued(request, now) for request in requests}
    return await _preview(config, environ, runs, _Report())


async def preview_queue(config: Config, environ: Mapping[str, str]) -> Exit:
    """Show what `once` would do with queue, inbox, queue file and history. Raises as `preview_runs`."""
    report = _Report()
    runs = await to_thread.run_sync(_read_work, config, report)
    if config.sync.kinds:
        known = await to_thread.run_sync(known_states, config)
        async with flora_alone(config, environ) as flora:
            listed = await read_history(config, flora, known, config.sync.since, time.time())
        for request in (*listed.new, *listed.more):
            runs.setdefault(request.reference.run_id, queued(request, time.time()))
    return await _preview(config, environ, runs, report)


# What there is to do


def _read_work(config: Config, report: _Report) -> dict[str, QueuedRun]:
    """Return the runs that `once` would find open, by id; report what it would do with job files."""
    standing = read_daemon_state(config.state_dir)
    if (holder := standing.daemon.holder) is not None:
        tell(f"{holder} works with this state, and does by itself what is shown here")
    jobs = [*_queue_file(config.queue.file, report), *_jobs(config, standing.left.values(), report)]
    named = {request.reference.run_id for _, requests, _ in jobs for request in requests}
    known = {run.run_id: run for run in all_runs(config.state_dir) if run.state.open or run.run_id in named}
    for name, requests, retry_failed in jobs:
        for request in requests:
            _submit(known, request, retry_failed=retry_failed)
        dropped = sum(request.action is Action.FORGET for request in requests)
        message = format_count(len(requests), "run") + (f", {dropped:,} to forget" if dropped else "")
        report.line("would take", name, message)
    return {run_id: run for run_id, run in known.items() if run.state.open}


def _submit(known: dict[str, QueuedRun], request: RunRequest, *, retry_failed: bool) -> None:
    """Apply requests to `known` as `RunQueue.submit` would to the queue."""
    run_id, now = request.reference.run_id, time.time()
    run = known.get(run_id)
    if request.action is Action.FORGET:
        known[run_id] = replace(queued(request, now), state=RunState.FORGOTTEN)
    elif run is None:
        known[run_id] = queued(request, now)
    elif is_queued_again(request.action, run.state, retry_failed=retry_failed):
        again = replace(kinds_after(run, request), state=RunState.WAITING, error=None)
        known[run_id] = replace(again, force=loses_files(run.state))


_Job = tuple[
    str, tuple[RunRequest, ...], bool
]  # its name, what it asks for, whether failed runs are tried again


def _queue_file(path: Path | None, report: _Report) -> Iterator[_Job]:
    if path is None:
        return
    try:
        reading = file_ready.read(path, follow=True, leases=False)
        yield path.name, parse_queue(reading.data or b""), False
    except FileNotFoundError:
        return
    except (OSError, NotRegularFileError, JobError) as error:
        report.line("not taken", path.name, _why(error))


def _jobs(config: Config, left: Iterable[LeftFile], report: _Report) -> Iterator[_Job]:
    """Yield what the job files in the inbox ask for, but for those that are done with."""
    watch_dir = config.queue.watch_dir
    done = {(each.name, each.mtime_ns, each.size) for each in left}
    here: list[Entry] = []
    with suppress(FileNotFoundError):
        here = entries(watch_dir)
    for entry in here:
        path = watch_dir / entry.name
        if path == config.queue.file or (entry.name, entry.stamp.mtime_ns, entry.stamp.size) in done:
            continue
        try:
            yield shown(entry.name), _requests(path, entry), True
        except FileNotFoundError:  # the daemon took it just now
            continue
        except JobError as error:
            report.code = worst(report.code, Exit.FAILED)
            report.line("would reject", shown(entry.name), _why(error))
        except (OSError, NotRegularFileError) as error:
            report.line("not taken", shown(entry.name), _why(error))


def _requests(path: Path, entry: Entry) -> tuple[RunRequest, ...]:
    if entry.kind is not None:
        raise JobError(f"this is {entry.kind}: drop the file itself")
    reading = file_ready.read(path, follow=False, leases=False)
    if reading.data is None:
        raise JobError(f"this file is larger than 1 MiB ({reading.stamp.size:,} bytes): split it")
    return parse_job(reading.data, entry.name)


def _why(error: Exception) -> str:
    if isinstance(error, JobError):
        return redact(described(error))
    return f"it cannot be read: {error.strerror}" if isinstance(error, OSError) else "it is no regular file"


# What would become of it


async def _preview(
    config: Config, environ: Mapping[str, str], runs: Mapping[str, QueuedRun], report: _Report
) -> Exit:
    try:
        await _look(config, environ, runs, report)
    except ServicePausedError as error:
        if error.reason is PauseReason.KEY_REFUSED:
            raise
        tell(f"floradl: {error}")
        return Exit.GAVE_UP
    say(sys.stdout, report.summary())
    return report.code


async def _look(
    config: Config, environ: Mapping[str, str], runs: Mapping[str, QueuedRun], report: _Report
) -> None:
    library = await to_thread.run_sync(_open_library, config)
    left, saved = await to_thread.run_sync(_without_done, library, runs, report)
    selection = build_selection(config)

    async def take(run: QueuedRun, answer: RemoteRun) -> None:
        earlier = saved.get(run.run_id, {})
        existing: dict[str, SavedOutput] = {}
        if library is not None and earlier:
            existing = await to_thread.run_sync(library.existing, earlier)
        _judge(selection, run, answer, earlier, existing, report)

    if left:
        async with flora_alone(config, environ) as flora:
            await _ask(flora, left, take, report)


def _open_library(config: Config) -> LibraryStore | None:
    """Return the library, None where a start would make it.

    Raises `ServicePausedError` where it is missing.
    """
    library = build_library(config)
    try:
        library.require()
        return library
    except ServicePausedError:
        with readable(config.state_dir):
            if is_first_start(config.state_dir, library):
                return None
        raise


def _without_done(
    library: LibraryStore | None, runs: Mapping[str, QueuedRun], report: _Report
) -> tuple[dict[str, QueuedRun], dict[str, dict[str, SavedOutput]]]:
    """Report the runs that are done; return the others, and what their sidecars say."""
    left: dict[str, QueuedRun] = {}
    saved: dict[str, dict[str, SavedOutput]] = {}
    for run_id, run in runs.items():
        try:
            sidecar = library.find_sidecar(run.reference) if library is not None else None
        except (TransientError, PermanentError) as error:
            report.run("not known", run, str(error), Exit.GAVE_UP)
            continue
        if sidecar is not None:
            complete = sidecar.result is Result.COMPLETE
            if complete and not run.force and not asks_for_more(run, sidecar.outputs):
                report.run("already there", run)
                continue
            earlier = earlier_of(sidecar)
            saved[run_id], run = earlier.outputs, earlier.fill(run)  # noqa: PLW2901 - as it will be saved
        left[run_id] = run
    return left, saved


def _judge(
    selection: Selection,
    run: QueuedRun,
    answer: RemoteRun,
    earlier: Mapping[str, SavedOutput],
    existing: Mapping[str, SavedOutput],
    report: _Report,
) -> None:
    """Report what would become of a run; `earlier` and `existing` are as in `Selection.plan`."""
    if not answer.finished:
        report.run("not finished", run, f"{answer.status[:40]}, {answer.progress:.0f} %")
        return
    failure = reason_of(answer) if answer.status == "failed" else None
    failed = f"{failure.code}: {failure.message}" if failure else ""
    if answer.outputs:
        report.plan(run, selection.plan(run, answer, earlier, existing), earlier, failed)
    else:
        message = failed or "FLORA says that it completed, but lists no outputs"
        report.run("would fail", run, message, Exit.FAILED)


async def _ask(
    flora: FloraClient,
    runs: Mapping[str, QueuedRun],
    take: Callable[[QueuedRun, RemoteRun], Awaitable[None]],
    report: _Report,
) -> None:
    """Ask FLORA about each run: many by lists, the others one by one. Raises `ServicePausedError`."""
    left = dict(runs)
    if len(left) > _BY_LIST:
        for kind in KINDS:
            with suppress(TransientError, PermanentError):  # lists may be refused
                await _read_list(flora, kind, left, take)
    paused: list[ServicePausedError] = []
    at_once = CapacityLimiter(_ALONE)

    async def one(run: QueuedRun) -> None:
        async with at_once:
            try:
                await take(run, await _answer(flora, run))
            except ServicePausedError as error:  # kept out of the group, which would wrap it
                paused.append(error)
                group.cancel_scope.cancel()
            except (TransientError, PermanentError) as error:
                lost = isinstance(error, PermanentError) or error.code is ErrorCode.NOT_FOUND
                word, code = ("would fail", Exit.FAILED) if lost else ("not known", Exit.GAVE_UP)
                report.run(word, run, str(error), code)

    async with anyio.create_task_group() as group:
        for run in list(left.values())[:_MOST_ALONE]:
            group.start_soon(one, run)
    if paused:
        raise paused[0]
    for run in list(left.values())[_MOST_ALONE:]:
        report.run("not asked", run)


async def _read_list(
    flora: FloraClient,
    kind: str,
    left: dict[str, QueuedRun],
    take: Callable[[QueuedRun, RemoteRun], Awaitable[None]],
) -> None:
    """Take from `left` what the pages of a list show."""
    barren = 0
    async for page in pages(flora, kind):
        found = [answer for answer in page.runs if answer.run_id in left]
        barren = 0 if found else barren + 1
        for answer in found:
            if answer.status != "completed" or answer.outputs:
                await take(left.pop(answer.run_id), answer)
        if not left or barren == _BARREN:
            return


async def _answer(flora: FloraClient, run: QueuedRun) -> RemoteRun:
    """Ask about one run, a few times where an error may pass. Raises as `FloraClient.run`."""
    for tries in range(1, _TRIES + 1):
        try:
            return await flora.run(run.reference)
        except TransientError as error:
            delay = after_trouble(error, tries)
            if tries == _TRIES or delay is None or error.code is ErrorCode.NOT_FOUND:
                raise
            await anyio.sleep(delay)
    raise AssertionError
