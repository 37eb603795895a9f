"""`add`, `retry`, `forget` and `sync`: pass runs to the daemon through the inbox, the only way in."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from anyio import to_thread
from msgspec import Struct
from msgspec.structs import replace

from floradl.app import flora_alone
from floradl.commands.exits import Exit
from floradl.commands.options import moment
from floradl.commands.streams import say, tell
from floradl.config.credentials import NAME as KEY_NAME, find_api_key
from floradl.config.settings import SQLITE, Config
from floradl.errors import ConfigError, FloradlError, JobError, PauseReason, ServicePausedError
from floradl.flora.client import FloraClient
from floradl.flora.schema import KINDS
from floradl.library.sidecar import by_key
from floradl.library_builder import build_library
from floradl.models import Action, Reference, RemoteRun, Result, RunRequest, RunState, refuse_joined
from floradl.queue import folder
from floradl.units import format_count

if TYPE_CHECKING:
    from floradl.library.base import LibraryStore
    from floradl.sources.history import HistoryRange, RunFilter

_LARGEST = 256 << 20  # bytes that are read of a file or of standard input
STDIN = "-"
_NOTHING_NAMED = {
    Action.FETCH: "name at least one run, or a file of runs with -i ('-' is standard input)",
    Action.RETRY: "name a run, or --failed",
    Action.FORGET: "name at least one run, or pipe references to standard input",
}


class Given(Struct, frozen=True):
    """The options that hold for all runs of a command; they win over what a file says of one.

    `inputs` are files to read runs from, `-` for standard input; `kinds` and `meta` are not parsed yet.
    """

    inputs: tuple[str, ...] = ()
    label: str | None = None
    meta: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def applied(self, requests: Iterable[RunRequest]) -> list[RunRequest]:
        """Return the requests with these options. Raises `ConfigError` for an invalid one."""
        if self.label is None and not self.meta and not self.kinds:
            return list(requests)
        from floradl.sources import job_document  # noqa: PLC0415 - a plain `get` needs none of this

        option = "--label: "
        try:
            label = job_document.label_value(self.label or "") or None
            option = "--kind: "
            kinds = job_document.kinds_of(" ".join(self.kinds))
            option = "--meta: "
            meta = dict(map(_pair, self.meta))
            return [
                replace(
                    request,
                    label=label or request.label,
                    kinds=kinds or request.kinds,
                    meta=job_document.few({k: v for k, v in (request.meta | meta).items() if v}),
                )
                for request in requests
            ]
        except ValueError as error:
            raise ConfigError(f"{option}{error}") from None


def _pair(text: str) -> tuple[str, str]:
    from floradl.sources.job_document import meta_name, meta_value  # noqa: PLC0415 - as above

    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text[:60]!a} has no '=': write it like --meta client=ACME")
    return meta_name(name), meta_value(value)


def queue(config: Config, requests: Iterable[RunRequest], *, quiet: bool = False) -> Exit:
    """Write job files for `requests`, and report on stderr how many; `quiet`: only that no daemon runs.

    Where the queue is shared and no daemon of this machine would read them, the runs go into its database.
    """
    from floradl.sources.job_file import drop_jobs, render_jobs  # noqa: PLC0415 - `get` needs none of this

    wanted = list(requests)
    if config.queue.engine != SQLITE and not _has_daemon(config):
        return _queue_in_database(config, wanted, quiet=quiet)
    drop_jobs(config.queue.watch_dir, render_jobs(wanted), _daemon_user(config))
    hint = _no_daemon_hint(config)
    if not quiet:
        tell(f"put {_named(wanted)} into the inbox{f'; {hint}' if hint else ''}")
    elif hint:
        tell(f"floradl: {hint}")
    return Exit.OK


def _named(requests: Sequence[RunRequest]) -> str:
    count = format_count(len(requests), "run")
    return f"{count} to be forgotten" if all(each.action is Action.FORGET for each in requests) else count


def _has_daemon(config: Config) -> bool:
    try:
        return folder.holder(config.state_dir) is not None
    except OSError:
        return False


def _queue_in_database(config: Config, wanted: list[RunRequest], *, quiet: bool) -> Exit:
    import anyio  # noqa: PLC0415 - as `queue`

    from floradl.daemon.database import submit_there  # noqa: PLC0415 - as above

    daemons = anyio.run(submit_there, config, wanted)
    hint = "" if daemons else "no daemon shares it: start one with 'floradl run'"
    if not quiet:
        tell(f"put {_named(wanted)} into the shared queue{f'; {hint}' if hint else ''}")
    elif hint:
        tell(f"floradl: {hint}")
    return Exit.OK


def failed_runs(config: Config) -> list[RunRequest]:
    """Return requests to retry all failed and partial runs, also those that only `get` tried."""
    from floradl.commands.daemon_state import read_ended, read_runs  # noqa: PLC0415 - it opens the queue

    failed = read_ended(config.state_dir, RunState.FAILED, RunState.PARTIAL)
    requests = [RunRequest(run.reference, run.label, Action.RETRY) for run in failed]
    in_library = _failed_in_library(config)
    known = read_runs(config.state_dir, list(in_library))
    return requests + [
        RunRequest(reference, action=Action.RETRY)  # with the label of its sidecar
        for run_id, reference in in_library.items()
        if run_id not in known
    ]


def _failed_in_library(config: Config) -> dict[str, Reference]:
    """Return the runs, by id, whose sidecar has the result failed or partial."""
    found: dict[str, Reference] = {}
    if not _has_library(config):
        return found
    try:
        for entry in build_library(config).scan():
            sidecar = entry.sidecar
            if sidecar is not None and sidecar.result is not Result.COMPLETE:
                with suppress(ValueError):
                    found[sidecar.run_id] = Reference.of(sidecar.run_id, sidecar.technique)
    except FloradlError as error:
        tell(f"floradl: runs that only 'get' tried are left out: {error}")
    return found


def _has_library(config: Config) -> bool:
    """Whether there may be a library: floradl has worked here, or it is in a bucket."""
    place = config.output.dir
    return not isinstance(place, Path) or place.is_dir()


def warn_of_unknown(config: Config, requests: Iterable[RunRequest]) -> None:
    """Say on stderr which runs are neither in the queue nor in the library, where both can be read."""
    from floradl.commands.daemon_state import read_runs  # noqa: PLC0415 - as above

    references = {request.reference.run_id: request.reference for request in requests}
    try:
        known = read_runs(config.state_dir, list(references))
    except ConfigError:
        return
    library = build_library(config) if _has_library(config) else None
    unknown: list[Reference] = []
    for run_id in references.keys() - known.keys():
        try:
            if library is None or library.find_sidecar(references[run_id]) is None:
                unknown.append(references[run_id])
        except FloradlError:
            return
    if unknown:
        more = f" (and {len(unknown) - 1:,} more)" if len(unknown) > 1 else ""
        are = "are" if more else "is"
        tell(f"floradl: {unknown[0]}{more} {are} not known here yet; the job stands, but check the id")


def read_requests(references: Iterable[str], action: Action, given: Given) -> list[RunRequest]:
    """Return the requests of arguments and input files; where there are neither, those of standard input.

    Raises `ConfigError` for what cannot be read, with the file, line and key, and `UsageError` for nothing.
    """
    words = tuple(references)
    inputs = [*given.inputs, *(word for word in words if word == STDIN)]
    requests = [RunRequest(each) for each in parse_all(word for word in words if word != STDIN)]
    relabelled: set[str] = set()
    if not words and not inputs:
        requests += _piped(action, relabelled)
    for name in dict.fromkeys(inputs):
        requests += _read(name, relabelled)
    if len(inputs) > 1:
        requests = _merged(requests, relabelled)
    if relabelled and given.label is None:
        runs = format_count(len(relabelled), "run")
        tell(f"floradl: {runs} named again with another label: the last one counts")
    if action is not Action.FETCH:
        requests = [replace(request, action=action) for request in requests]
    return given.applied(requests)


def _piped(action: Action, relabelled: set[str]) -> tuple[RunRequest, ...]:
    """Read standard input, which is read where nothing is named. Raises as `read_requests`."""
    if not sys.stdin.isatty():
        with suppress(click.UsageError):  # it is empty
            return _read(STDIN, relabelled)
    raise click.UsageError(_NOTHING_NAMED[action])


def parse_all(texts: Iterable[str]) -> list[Reference]:
    """Read references. Raises `ConfigError` for the first bad one."""
    return [_parsed(text) for text in texts]


def _parsed(text: str) -> Reference:
    try:
        refuse_joined(text)
        return Reference.parse(text)
    except ValueError as error:
        with suppress(OSError, ValueError):
            if Path(text).is_file():
                raise ConfigError(
                    f"{text[:200]!a} is a file, not a run: 'floradl add -i FILE' and 'floradl get -i FILE' "
                    "read runs from one"
                ) from None
        raise ConfigError(str(error)) from None


def _merged(requests: Iterable[RunRequest], relabelled: set[str]) -> list[RunRequest]:
    from floradl.sources.job_file import described, merge  # noqa: PLC0415 - as above

    try:
        return list(merge(requests, relabelled))
    except JobError as error:
        raise ConfigError(described(error)) from error


def _read(name: str, relabelled: set[str]) -> tuple[RunRequest, ...]:
    from floradl.sources.job_file import described, parse_job  # noqa: PLC0415 - as above

    shown = "standard input" if name == STDIN else name
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with open(name, "rb") as file:  # noqa: PTH123 - a pipe, too
                data = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{shown} cannot be read: {why}") from error
    if len(data) > _LARGEST:
        raise ConfigError(f"{shown} is larger than {_LARGEST >> 20} MiB: split it")
    if not data.strip():
        raise click.UsageError(f"{shown} names no run")
    try:
        return parse_job(data, shown, relabelled)
    except JobError as error:
        between = ": " if error.line is None and error.key is None else ", "
        raise ConfigError(f"{shown}{between}{described(error)}") from error


def _daemon_user(config: Config) -> int | None:
    """Return the user id of the daemon, who owns the state folder; None where it is unknown."""
    for place in (config.state_dir, config.queue.watch_dir):
        with suppress(OSError):
            return place.stat().st_uid
    return None


def _no_daemon_hint(config: Config) -> str:
    try:
        alive = folder.holder(config.state_dir) is not None
    except OSError:
        return ""
    return "" if alive else "no daemon is running: start one with 'floradl run', or once: 'floradl once'"


async def sync(
    config: Config,
    environ: Mapping[str, str],
    since: str | None,
    wall: Callable[[], float] = time.time,
    *,
    dry_run: bool = False,
) -> Exit:
    """Queue the account's runs that are newer than `since` and that the queue does not know.

    Finished ones that have more outputs by now are queued as retries, unless they were forgotten.
    Lists, projects and techniques are those of the configuration's `sync`; where that names no list, both are
    read. With `dry_run` nothing is queued, and stdout names what would be. `wall` returns unix seconds.
    Raises `ConfigError`, `TransientError`, `PermanentError` and `ServicePausedError`; nothing was queued
    then.
    """
    now = wall()
    environ = await to_thread.run_sync(service_environ, config, environ, since)
    back = config.sync.since if since is None else max(now - moment(since, now), 0.0)
    known = await to_thread.run_sync(known_states, config)
    async with flora_alone(config, environ) as flora:
        listed = await read_history(config, flora, known, back, now)
    message = f"the account lists {format_count(listed.total, 'run')}"
    if len(listed.new) < listed.total:
        message += f", {listed.total - len(listed.new):,} of them known already"
    if listed.more:
        message += f", {len(listed.more):,} of these with more outputs than before"
    tell(message)
    new = [*listed.new, *listed.more]
    if dry_run:
        for request in new:
            say(sys.stdout, f"would queue  {request.reference}")
        tell(f"dry run: nothing was put into the inbox; it would be {format_count(len(new), 'run')}")
        return Exit.OK
    return await to_thread.run_sync(queue, config, new) if new else Exit.OK


class ListedRuns(Struct, frozen=True):
    """The account's lists: of `total` runs the `new` ones, and those that have `more` outputs by now."""

    total: int
    new: tuple[RunRequest, ...]
    more: tuple[RunRequest, ...]


async def read_history(
    config: Config, flora: FloraClient, known: Mapping[str, RunState], back: float, now: float
) -> ListedRuns:
    """Read the account's lists `back` seconds from `now`. Raises as `sync`. `known` has states by run id."""
    from floradl.sources.history import wanted  # noqa: PLC0415 - `get` needs none of this

    seen: set[str] = set()
    new: dict[str, RunRequest] = {}
    more: dict[str, RunRequest] = {}
    wants = await wanted(flora, config.sync.projects, config.sync.techniques)
    library = await to_thread.run_sync(build_library, config)
    for kind in config.sync.kinds or KINDS:
        async for run, reference in _listed(flora, kind, wants, back, now):
            run_id = reference.run_id
            seen.add(run_id)
            if run_id not in known:
                new[run_id] = RunRequest(reference)
            elif known[run_id] is not RunState.FORGOTTEN and await to_thread.run_sync(
                _lacks, library, run, reference
            ):
                more[run_id] = RunRequest(reference, action=Action.RETRY)
    return ListedRuns(len(seen), tuple(new.values()), tuple(more.values()))


def service_environ(
    config: Config,
    environ: Mapping[str, str],
    since: str | None,
    proc: Path = Path("/proc"),
    credentials: Path = Path("/run/credentials"),
) -> Mapping[str, str]:
    """Return `environ`; where it leads to no key, with the credentials of the running service.

    A unit's credentials lie in `credentials`, for its user and root. Raises `ServicePausedError` where this
    user may not read them: the message has the command that can.
    """
    if find_api_key(config, environ) is not None:
        return environ
    try:
        found = folder.holder(config.state_dir)
        groups = (proc / str(found.pid) / "cgroup").read_text() if found is not None else ""
    except OSError:
        return environ
    unit = groups.strip().rpartition("/")[2]
    if not unit.endswith(".service") or unit.startswith("user@"):
        return environ
    if os.access(credentials / unit / KEY_NAME, os.R_OK):
        return {**environ, "CREDENTIALS_DIRECTORY": str(credentials / unit)}
    options = f" --config {shlex.quote(str(config.file))}" if config.file is not None else ""
    options += f" --home {shlex.quote(str(config.home))}"
    options += f" sync --since {shlex.quote(since)}" if since is not None else " sync"
    raise ServicePausedError(
        f"there is no API key here; {unit} at work has one, which root may read: sudo floradl{options}",
        PauseReason.KEY_REFUSED,
    )


async def _listed(
    flora: FloraClient, kind: str, wants: RunFilter, back: float, now: float
) -> AsyncGenerator[tuple[RemoteRun, Reference], None]:
    from floradl.sources.history import HistoryRange, pages  # noqa: PLC0415 - as above

    reach: HistoryRange | None = None
    async for page in pages(flora, kind):
        reach = reach or HistoryRange.of(page, None, back, now)
        found = list(wants.references(kind, reach.take(page)))
        for listed in found:
            yield listed
        if not reach.goes_on(page, news=bool(found)):
            return


def _lacks(library: LibraryStore, run: RemoteRun, reference: Reference) -> bool:
    """Whether FLORA lists outputs of a finished run that its sidecar does not name."""
    if not run.finished or not run.outputs:
        return False
    try:
        found = library.find_sidecar(reference)
    except FloradlError:  # no library: what is done is unknown
        return False
    return found is not None and not {output.key for output in run.outputs} <= by_key(found.outputs).keys()


def known_states(config: Config) -> dict[str, RunState]:
    """Return the state of each run in the queue, by id; empty where the queue cannot be read."""
    # The daemon still skips known runs then, but retries failed ones.
    try:
        from floradl.commands.daemon_state import all_runs  # noqa: PLC0415 - as in `failed_runs`

        return {run.run_id: run.state for run in all_runs(config.state_dir)}
    except ConfigError:
        return {}
