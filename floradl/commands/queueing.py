"""`add`, `retry` and `forget`: hand work to the daemon through the inbox, the only way in."""

from __future__ import annotations

from collections.abc import Iterable

import click

from floradl.commands.exits import Exit
from floradl.config.settings import Config
from floradl.errors import ConfigError
from floradl.incoming.handin import drop_job
from floradl.incoming.jobs import render_orders
from floradl.models import Action, Order, Reference, State
from floradl.state import lock
from floradl.state.store import Store

_AT_ONCE = 10_000  # runs a job file: far below the size that the inbox takes


def queue(config: Config, orders: Iterable[Order]) -> Exit:
    """Write job files for `orders`, and say on stderr what happens with them."""
    wanted = list(orders)
    for start in range(0, len(wanted), _AT_ONCE):
        drop_job(config.queue.watch_dir, render_orders(wanted[start : start + _AT_ONCE]))
    noun = "run" if len(wanted) == 1 else "runs"
    click.echo(f"handed in {len(wanted)} {noun}{_who_takes_it(config)}", err=True)
    return Exit.OK


def failed_runs(config: Config) -> list[Order]:
    """Return orders to retry all runs that failed, in whole or in part."""
    with Store.reading(config.state_dir) as store:
        if store is None:
            return []
        states = (State.FAILED, State.PARTIAL)
        return [Order(run.reference, run.label, Action.RETRY) for run in store.finished(states, -1)]


def parse_all(texts: Iterable[str]) -> list[Reference]:
    """Read references. Raises `ConfigError` that names the first bad one."""
    references = []
    for text in texts:
        try:
            references.append(Reference.parse(text))
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return references


def _who_takes_it(config: Config) -> str:
    try:
        alive = lock.holder(config.state_dir) is not None
    except PermissionError:
        return ""
    return "" if alive else "; no daemon is running: start one with 'floradl run', or once: 'floradl once'"
