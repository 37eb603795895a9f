"""`add`, `retry`, `forget` and `sync`: pass runs to the daemon through the inbox, the only way in."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import suppress

import click
from anyio import to_thread

from floradl.app import build_library, flora_alone
from floradl.commands.exits import Exit
from floradl.commands.options import moment
from floradl.commands.streams import tell
from floradl.config.settings import Config
from floradl.errors import ConfigError, FloradlError
from floradl.flora.client import FloraClient
from floradl.flora.schema import KINDS
from floradl.library.sidecar import by_key
from floradl.models import Action, Reference, RemoteRun, RunRequest, RunState
from floradl.sources.history import HistoryRange, RunFilter, pages, wanted
from floradl.units import format_count

_AT_ONCE = 10_000  # runs a job file: far below the size that the inbox takes


def queue(config: Config, requests: Iterable[RunRequest]) -> Exit:
    """Write job files for `requests`, and report on stderr how many."""
    from floradl.sources.job_file import drop_job, render_orders  # noqa: PLC0415 - `get` needs none of this

    wanted = list(requests)
    owner = _daemon_user(config)
    for start in range(0, len(wanted), _AT_ONCE):
        drop_job(config.queue.watch_dir, render_orders(wanted[start : start + _AT_ONCE]), owner)
    tell(f"put {format_count(len(wanted), 'run')} into the inbox{_no_daemon_hint(config)}")
    return Exit.OK


def failed_runs(config: Config) -> list[RunRequest]:
    """Return requests to retry all failed and partial runs."""
    from floradl.commands.daemon_state import read_ended  # noqa: PLC0415 - it opens the queue

    failed = read_ended(config.state_dir, RunState.FAILED, RunState.PARTIAL)
    return [RunRequest(run.reference, run.label, Action.RETRY) for run in failed]


def parse_all(texts: Iterable[str]) -> list[Reference]:
    """Read references. Raises `ConfigError` for the first bad one."""
    references = []
    for text in texts:
        try:
            references.append(Reference.parse(text))
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return references


def read_requests(references: tuple[str, ...], action: Action) -> list[RunRequest]:
    """Return requests from the arguments, else from standard input. Raises `JobError` and the like."""
    from floradl.sources.job_file import parse_job  # noqa: PLC0415 - `get` needs none of this

    if references and references != ("-",):
        return [RunRequest(reference, None, action) for reference in parse_all(references)]
    if sys.stdin.isatty() and not references:
        raise click.UsageError("name at least one run, or pipe references to standard input")
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise ConfigError(f"standard input cannot be read: {error.strerror}") from error
    if not data.strip():
        raise click.UsageError("standard input names no run")
    requests = parse_job(data, "standard input")
    return [RunRequest(request.reference, request.label, action) for request in requests]


def _daemon_user(config: Config) -> int | None:
    """Return the user id of the daemon, who owns the state folder; None where it is unknown."""
    for place in (config.state_dir, config.queue.watch_dir):
        with suppress(OSError):
            return place.stat().st_uid
    return None


def _no_daemon_hint(config: Config) -> str:
    from floradl.queue import folder  # noqa: PLC0415 - `get` needs none of this

    try:
        alive = folder.holder(config.state_dir) is not None
    except OSError:
        return ""
    return "" if alive else "; no daemon is running: start one with 'floradl run', or once: 'floradl once'"


async def sync(
    config: Config,
    environ: Mapping[str, str],
    since: str | None,
    wall: Callable[[], float] = time.time,
) -> Exit:
    """Queue the account's runs that are newer than `since` and that the queue does not know.

    Finished ones that have more outputs by now are queued as retries, unless they were forgotten.
    Lists, projects and techniques are those of the configuration's `sync`; where that names no list, both are
    read. `wall` returns unix seconds. Raises `ConfigError`, `TransientError`, `PermanentError` and
    `ServicePausedError`; nothing was queued then.
    """
    now = wall()
    back = config.sync.since if since is None else max(now - moment(since, now), 0.0)
    known = await to_thread.run_sync(_known, config)
    requests: dict[str, RunRequest] = {}
    more: dict[str, RunRequest] = {}
    async with flora_alone(config, environ) as flora:
        wants = await wanted(flora, config.sync.projects, config.sync.techniques)
        for kind in config.sync.kinds or KINDS:
            async for run, reference in _listed(flora, kind, wants, back, now):
                requests[reference.run_id] = RunRequest(reference)
                wants_more = known.get(reference.run_id, RunState.FORGOTTEN) is not RunState.FORGOTTEN
                if wants_more and await to_thread.run_sync(_lacks, config, run, reference):
                    more[reference.run_id] = RunRequest(reference, action=Action.RETRY)
    new = [request for run_id, request in requests.items() if run_id not in known]
    message = f"the account lists {format_count(len(requests), 'run')}"
    if len(new) < len(requests):
        message += f", {len(requests) - len(new):,} of them known already"
    if more:
        message += f", {len(more):,} of these with more outputs than before"
    tell(message)
    new += more.values()
    return await to_thread.run_sync(queue, config, new) if new else Exit.OK


async def _listed(
    flora: FloraClient, kind: str, wants: RunFilter, back: float, now: float
) -> AsyncGenerator[tuple[RemoteRun, Reference], None]:
    reach: HistoryRange | None = None
    async for page in pages(flora, kind):
        reach = reach or HistoryRange.of(page, None, back, now)
        found = list(wants.references(kind, reach.take(page)))
        for listed in found:
            yield listed
        if not reach.goes_on(page, news=bool(found)):
            return


def _lacks(config: Config, run: RemoteRun, reference: Reference) -> bool:
    """Whether FLORA lists outputs of a finished run that its sidecar does not name."""
    if not run.finished or not run.outputs:
        return False
    try:
        found = build_library(config).find_sidecar(reference)
    except FloradlError:  # no library: what is done is unknown
        return False
    return found is not None and not {output.key for output in run.outputs} <= by_key(found.outputs).keys()


def _known(config: Config) -> dict[str, RunState]:
    from floradl.commands.daemon_state import all_runs  # noqa: PLC0415 - `get` needs none of this

    # Where it is unreadable the daemon still skips known runs, but retries failed ones.
    try:
        return {run.run_id: run.state for run in all_runs(config.state_dir)}
    except ConfigError:
        return {}
