"""The hook `paused`: run once a pause, and each day while it lasts.

A pause goes on over a restart: what was reported is in the queue. But the hook never waits for the queue,
whose full disk may be what there is to report. Time is measured by the monotonic clock; the wall clock counts
across restarts only, and where it jumped a pause is reported once too often.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import anyio
import msgspec
from anyio import to_thread
from msgspec.structs import replace

from floradl.clock import rfc3339
from floradl.hooks.command import PAUSED, Command, HookSettings, NotStartedError, run, to_its_end
from floradl.log import get_logger
from floradl.portability import unnamed_file
from floradl.queue.base import SentPause
from floradl.queue.heartbeat import LivePause
from floradl.redaction import redact
from floradl.retry import backoff
from floradl.wakeups import next_tick

_DAY = 86_400.0
_APART = 600.0  # seconds between two that begin for the same reason: a disk at its limit comes and goes
_LOOK_EVERY = 1.0
_MOST_BACKOFF = 600.0
_log = get_logger()


class PauseNotice:
    """Decides whether a pause has to be reported now. Pure but for its memory; `now` is monotonic seconds."""

    def __init__(self, sent: Iterable[SentPause], now: float, wall: float) -> None:
        self._sent = {each.reason: each for each in sent}
        # A clock that was put back must not silence it, nor one put forward make a pause look older.
        self._at = {
            each.reason: now - min(max(wall - each.reported_at, 0.0), 2 * _DAY)
            for each in self._sent.values()
        }

    def ended(self, but: str | None) -> list[SentPause]:
        """Record that no pause holds for any other reason than `but`; return those that are over by that."""
        known = self._sent.values()
        over = [replace(sent, over=True) for sent in known if sent.reason != but and not sent.over]
        self._sent.update({sent.reason: sent for sent in over})
        return over

    def due(self, pause: LivePause, now: float) -> LivePause | None:
        """Return the pause to report now, with its beginning before any restart; None for not now."""
        if (sent := self._sent.get(pause.reason)) is None:
            return pause
        if sent.over:
            return pause if now - self._at[pause.reason] >= _APART else None
        if now - self._at[pause.reason] < _DAY:
            return None
        return replace(pause, since=min(sent.since, pause.since))

    def note(self, pause: LivePause, now: float, wall: float) -> SentPause:
        """Record that a pause was reported; return what is to be kept of it."""
        sent = self._sent[pause.reason] = SentPause(pause.reason, pause.since, wall)
        self._at[pause.reason] = now
        return sent


class PauseHook:
    """Runs the hook. `serve` must be running; `home` is passed to it, as there may be several daemons."""

    def __init__(self, settings: HookSettings, home: str) -> None:
        self._settings = settings
        self._home = home
        self._tries = 0
        self._not_before = 0.0
        self._failure: str | None = None
        self.on_failure: Callable[[str], None] = lambda _message: None
        """Called with what went wrong, once as long as that stays the same."""

    def change(self, settings: HookSettings) -> None:
        """Let `settings` hold from now on."""
        self._settings = settings
        self._not_before = 0.0

    async def serve(
        self,
        sent: Iterable[SentPause],
        look: Callable[[], tuple[LivePause | None, bool]],
        remember: Callable[[SentPause], Coroutine[Any, Any, None]],
    ) -> None:
        """Report the pause that `look` gives (and whether it is sure) for ever; `remember` records it."""
        notice = PauseNotice(sent, time.monotonic(), time.time())
        async with anyio.create_task_group() as group:
            while True:
                pause, sure = look()
                for over in notice.ended(pause.reason if pause else None) if sure else ():
                    group.start_soon(remember, over)
                if pause is None:
                    self._tries, self._not_before, self._failure = 0, 0.0, None
                elif (sent_now := await self._report(pause, notice)) is not None:
                    group.start_soon(remember, sent_now)
                await next_tick(_LOOK_EVERY)

    async def _report(self, pause: LivePause, notice: PauseNotice) -> SentPause | None:
        due = notice.due(pause, time.monotonic())
        command = self._settings.command(PAUSED, pause.reason, "/")
        if due is None or command is None or time.monotonic() < self._not_before:
            return None
        done = False

        async def run_it(hurry: anyio.Event) -> None:
            nonlocal done
            done = await self._run(command, due, hurry)

        await to_its_end(run_it)
        if done:
            self._tries, self._failure = 0, None
            return notice.note(due, time.monotonic(), time.time())
        self._tries += 1
        self._not_before = time.monotonic() + backoff(self._tries, _MOST_BACKOFF)
        return None

    async def _run(self, command: Command, pause: LivePause, hurry: anyio.Event) -> bool:
        facts = {
            "schema_version": 1,
            "reason": pause.reason,
            "message": redact(pause.message),
            "since": rfc3339(pause.since),
            "home": self._home,
        }
        stdin = await to_thread.run_sync(unnamed_file, msgspec.json.encode(facts) + b"\n")
        try:
            ended = await run(command, stdin, hurry)
        except NotStartedError as error:
            self._log_failure(f"hooks.{PAUSED}: {error}")
            return False
        finally:
            os.close(stdin)
        if ended.trouble is not None:
            self._log_failure(ended.trouble, **ended.facts)
            return False
        _log.info("hook_done", hook=PAUSED, reason=pause.reason, **ended.facts)
        return True

    def _log_failure(self, message: str, **facts: object) -> None:
        """Log what went wrong, once as long as it stays the same."""
        if message != self._failure:
            self.on_failure(message)
            _log.warning("hook_failed", hook=PAUSED, message=f"{message}; it is tried again", **facts)
        self._failure = message
