"""`floradl check`: whether everything is ready, and how to fix what is not."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from floradl.app import hook_settings
from floradl.commands.check import CheckLevel, CheckResult, fail, ok, warn
from floradl.commands.check.api import ask_api
from floradl.commands.check.database import check_database
from floradl.commands.check.group import check_guests
from floradl.commands.check.machine import check_listening, check_machine
from floradl.commands.daemon_state import (
    coarse,
    hook_failures,
    read_counts,
    read_daemon,
    read_hook_trouble,
    rejected_jobs,
)
from floradl.commands.exits import Exit
from floradl.commands.streams import say
from floradl.config.credentials import FoundKey, exposure, find_api_key, read_notify_urls
from floradl.config.settings import SQLITE, Config
from floradl.daemon.notify import notify_targets
from floradl.errors import ConfigError
from floradl.queue.reader import check_queue
from floradl.redaction import redact
from floradl.sources.queue_file import QueueFile
from floradl.units import format_count

SCHEMA_VERSION = 1
_PREFIXES = ("sk_live_", "sk_test_")


async def check(
    config: Config,
    environ: Mapping[str, str],
    stream: TextIO,
    *,
    as_json: bool = False,
    wall: Callable[[], float] = time.time,
) -> Exit:
    """Check everything; write a line for each thing to `stream` as it is found, or one JSON object.

    Returns `FOUND` if anything would keep floradl from its work. Nothing is changed: what is written to see
    whether it can be is removed again. `wall` gives unix seconds.
    """
    found: list[CheckResult] = []
    async for finding in _findings(config, environ, wall):
        found.append(finding)
        if not as_json:
            say(stream, str(finding))
            stream.flush()  # a dead mount may hang the next one: the last line shows how far it got
    if as_json:
        checks = [
            {
                "name": finding.name,
                "ok": finding.level is not CheckLevel.FAIL,
                "level": finding.level.lower(),
                "message": redact(finding.message),
                "remedy": redact(finding.remedy) if finding.remedy else None,
            }
            for finding in found
        ]
        stream.write(json.dumps({"schema_version": SCHEMA_VERSION, "checks": checks}, indent=2) + "\n")
    return Exit.FOUND if any(finding.level is CheckLevel.FAIL for finding in found) else Exit.OK


async def _findings(
    config: Config, environ: Mapping[str, str], wall: Callable[[], float]
) -> AsyncIterator[CheckResult]:
    yield ok("configuration", str(config.file) if config.file else "no file: defaults and the environment")
    key: FoundKey | None = None
    works = _works(config)
    try:
        key = find_api_key(config, environ)
        yield _key(key, environ, daemon=works)
    except ConfigError as error:
        yield fail("API key", str(error))
    queue_file = tuple(_queue_file(config))
    for finding in (
        *check_machine(config, daemon=works),
        *check_guests(config),
        *queue_file,
        *_hooks(config, environ),
        *_notify(config, environ),
        *(_journal(config) if config.queue.engine == SQLITE else await check_database(config, environ)),
        *_failures(config),
        *_daemon(config, wall(), {redact(each.message) for each in queue_file}),
        *check_listening(config, environ, daemon=works),
    ):
        yield finding
    for finding in await ask_api(config, environ, key, wall):
        yield finding


def _key(found: FoundKey | None, environ: Mapping[str, str], *, daemon: bool) -> CheckResult:
    if found is None and daemon:
        message = (
            "there is none here; the daemon at work may have been given one, as a systemd credential say"
        )
        return warn("API key", message, "'paused' below says if it has none, or a refused one")
    if found is None:
        remedy = "set FLORA_API_KEY, or let api.key_file (FLORA_API_KEY_FILE) name a file that holds the key"
        return fail("API key", "there is none", remedy)
    if not found.key.reveal().startswith(_PREFIXES):
        message = f"the one from {found.place} does not start with {' or '.join(_PREFIXES)}, as FLORA's do"
        return warn("API key", message)
    why = exposure(found.file, environ) if found.file is not None else None
    if why is not None:
        return warn("API key", why, f"chmod 600 '{found.file}'")
    return ok("API key", f"from {found.place}")


def _works(config: Config) -> bool:
    """Whether a daemon is at work with this state folder, as far as this user can tell."""
    try:
        return read_daemon(config.state_dir).alive
    except ConfigError:
        return False


def _queue_file(config: Config) -> Iterator[CheckResult]:
    if (file := config.queue.file) is None:
        return
    reading = QueueFile(Path(file)).read()
    if reading.error is not None:
        yield fail("queue file", reading.error)
    elif reading.orders is not None:
        yield ok("queue file", f"{file}: {format_count(len(reading.orders), 'run')}")
    elif reading.again_in is not None:
        yield ok("queue file", f"{file} is being written at this moment")
    else:
        yield warn("queue file", f"{file} does not exist", "make it, or take queue.file out")


def _hooks(config: Config, environ: Mapping[str, str]) -> Iterator[CheckResult]:
    settings = hook_settings(config, environ)
    missing, exposed = settings.missing(), settings.exposed()
    for event, command in settings.commands.items():
        if event in exposed:
            yield fail("hooks", f"hooks.{event}: {exposed[event]}")
        elif event in missing:
            yield warn("hooks", f"hooks.{event}: {missing[event]}")
        elif command:
            yield ok("hooks", f"{event} runs {command[0]}")


def _notify(config: Config, environ: Mapping[str, str]) -> Iterator[CheckResult]:
    """Report where messages go; that they get there is tried by `notify --test` alone."""
    try:
        found = read_notify_urls(config, environ)
        targets = notify_targets(config, environ) if found is not None else ()
    except ConfigError as error:
        yield fail("notify", str(error))
        return
    if not targets or found is None:
        return
    if (why := exposure(Path(found[1]), environ)) is not None:
        yield warn("notify", why, f"chmod 600 '{found[1]}'")
    from floradl.notify.sending import APPRISE_MISSING, has_apprise  # noqa: PLC0415 - few have any
    from floradl.notify.targets import Service, Unusable  # noqa: PLC0415 - as above

    for wrong in [each for each in targets if isinstance(each, Unusable)]:
        yield fail("notify", f"{found[1]}, {wrong.name}: {wrong.why}")
    if not (targets := tuple(each for each in targets if not isinstance(each, Unusable))):
        return
    if not has_apprise() and (services := [each.name for each in targets if isinstance(each, Service)]):
        yield warn("notify", f"{', '.join(services)}: {APPRISE_MISSING}")
    elif not config.notify.on:
        yield warn("notify", "notify.on is empty: nothing is told")
    else:
        yield ok("notify", f"{', '.join(config.notify.on)}: to {', '.join(each.name for each in targets)}")


def _journal(config: Config) -> Iterator[CheckResult]:
    try:
        check_queue(config.state_dir)
        counts = read_counts(config.state_dir)
    except ConfigError as error:
        yield fail("journal", str(error))
    else:
        known = "none yet" if counts is None else format_count(sum(counts.values()), "run")
        yield ok("journal", known)


def _failures(config: Config) -> Iterator[CheckResult]:
    """Report what failed while nobody looked: hooks, and job files."""
    with suppress(ConfigError):  # reported as the journal's
        for failure in hook_failures(read_hook_trouble(config.state_dir)):
            yield warn("hooks", failure)
    with suppress(OSError):  # reported as the watch folder's
        if rejected := rejected_jobs(config.queue.watch_dir):
            place = config.queue.watch_dir / "rejected"
            message = f"{format_count(rejected, 'job file')} refused: {place} says why beside each"
            yield warn("job files", message, "drop them again once they are right, and remove them there")


def _daemon(config: Config, now: float, known: Container[str]) -> Iterator[CheckResult]:
    """Report the daemon and what it met, but for messages that are `known` already."""
    try:
        daemon = read_daemon(config.state_dir)
    except ConfigError as error:
        yield fail("daemon", str(error))
        return
    if daemon.holder is None:
        yield ok("daemon", "not running")
        return
    trouble = daemon.trouble(now) if daemon.alive else None
    if trouble is not None:
        yield fail("daemon", trouble)
        return
    yield ok("daemon", f"{daemon.holder}, for {coarse(now - daemon.holder.since)}")
    if daemon.snapshot is not None and (paused := daemon.snapshot.paused) is not None:
        message = f"the daemon waits for {coarse(now - paused.since)} ({paused.reason}): {paused.message}"
        yield fail("paused", message, "it resumes once that is fixed")
    if daemon.snapshot is not None and (broken := daemon.snapshot.queue_file_error) and broken not in known:
        yield fail("queue file", f"the daemon reports: {broken}")
    for hint in daemon.snapshot.hints if daemon.snapshot is not None else ():
        yield warn("hint", f"the daemon reports: {hint}")
