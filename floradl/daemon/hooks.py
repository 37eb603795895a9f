"""Connects hooks with the daemon: their settings, the pauses they report, their memory in the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import anyio
import msgspec
from anyio import to_thread

from floradl.app import App, safe_hook_settings
from floradl.config.settings import Config
from floradl.errors import QueueUnavailableError
from floradl.hooks.command import PAUSED, HookSettings
from floradl.hooks.pauses import PauseHook
from floradl.hooks.runs import RunHooks
from floradl.log import get_logger
from floradl.queue.base import SentPause
from floradl.queue.heartbeat import LivePause

_READ_WITHIN = 5.0  # seconds; then pauses are reported without what the queue remembers
_log = get_logger()


class HookRunner(msgspec.Struct, frozen=True):
    """All hooks of a daemon."""

    runs: RunHooks
    pauses: PauseHook

    async def change(self, settings: HookSettings) -> None:
        """Let `settings` hold from now on, and log which of their programs are missing."""
        self.runs.change(settings)
        self.pauses.change(settings)
        await log_missing(settings)


def build_hooks(config: Config, environ: Mapping[str, str]) -> HookRunner:
    """Return the hooks that the configuration describes. Raises as `safe_hook_settings`."""
    settings = safe_hook_settings(config, environ)
    return HookRunner(RunHooks(settings), PauseHook(settings, str(config.home)))


async def log_missing(settings: HookSettings) -> None:
    """Log each hook whose program is missing: only its events wait until the program is there."""
    for event, why in (await to_thread.run_sync(settings.missing)).items():
        _log.warning("hook_missing", hook=event, message=f"hooks.{event}: {why}")


@contextmanager
def _outages_logged() -> Iterator[None]:
    # Where the queue is broken others report it: the hook's memory of a pause is not worth the daemon.
    try:
        yield
    except QueueUnavailableError as error:
        _log.debug("hook_memory", hook=PAUSED, message=str(error))


def pause_with_certainty(
    app: App, paused: Callable[[], LivePause | None]
) -> Callable[[], tuple[LivePause | None, bool]]:
    """Return a function that gives the current pause, and whether it is certain that there is no other.

    After a start the last daemon's pause may still hold: that is certain once a pause begins or a run moves.
    """
    began = app.scheduler.moved_at
    known = False

    def look() -> tuple[LivePause | None, bool]:
        nonlocal known
        pause = paused()
        known = known or pause is not None or app.scheduler.moved_at > began
        return pause, known

    return look


async def serve_pauses(hook: PauseHook, app: App, paused: Callable[[], LivePause | None]) -> None:
    """Report pauses for ever. `paused` gives the current one."""
    outbox, look = app.queue.outbox, pause_with_certainty(app, paused)
    sent: list[SentPause] = []
    with anyio.move_on_after(_READ_WITHIN), _outages_logged():
        sent = await outbox.pauses()

    async def remember(sent: SentPause) -> None:
        with _outages_logged():
            await outbox.put_pause(sent)

    await hook.serve(sent, look, remember)
