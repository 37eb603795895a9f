"""What `floradl check` looks at of a shared queue: its database, and who may read the password."""

from __future__ import annotations

from collections.abc import Mapping

from floradl.commands.check import CheckResult, fail, ok, warn
from floradl.commands.daemon_state import read_counts, read_sharers
from floradl.config.credentials import exposure
from floradl.config.settings import SQLITE, Config
from floradl.daemon.database import shared_server
from floradl.errors import ConfigError, QueueUnavailableError
from floradl.units import format_count

_SETTING = "queue.engine: "


async def check_database(config: Config, environ: Mapping[str, str]) -> list[CheckResult]:
    """Try the database that `queue.engine` names, and change nothing; nothing is reported without one."""
    if config.queue.engine == SQLITE:
        return []
    found = [await _queue(config)]
    file = config.queue.password_file
    if file is not None and (why := exposure(file, environ)) is not None:
        found.append(warn("queue.password_file", why, f"chmod 600 '{file}'"))
    return found


async def _queue(config: Config) -> CheckResult:
    try:
        server = shared_server(config)
        assert server is not None  # noqa: S101 - for the type checker
        from floradl.queue.postgres.opening import look  # noqa: PLC0415 - an extra

        if not await look(server):
            return ok("queue", f"{server} can be used; its tables are made at the first start")
        counts, sharers = read_counts(config.state_dir) or {}, read_sharers(config.state_dir)
    except (ConfigError, QueueUnavailableError) as error:
        return fail("queue", str(error).removeprefix(_SETTING))
    runs, daemons = format_count(sum(counts.values()), "run"), format_count(len(sharers), "daemon")
    return ok("queue", f"{server}: {runs}, shared by {daemons} just now")
