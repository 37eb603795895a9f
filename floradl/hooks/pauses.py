"""The hook `paused`: run once a pause, and each day while it lasts.

A pause goes on over a restart: what was reported is in the queue. But the hook never waits for the journal,
whose full disk may be what there is to tell. Time is measured by the monotonic clock; the wall clock counts
across restarts only, and where it jumped a pause is reported once too often.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import anyio
import msgspec
import structlog
from anyio import to_thread
from msgspec.structs import replace

from floradl.clock import next_tick, rfc3339
from floradl.hooks.command import PAUSED, Command, HookSettings, NotStartedError, run, to_its_end
from floradl.queue.base import SentPause
from floradl.queue.heartbeat import LivePause
from floradl.redaction import redact
from floradl.retry import backoff

_DAY = 86_400.0
_APART = 600.0  # seconds between two that begin for the same reason: a disk at its limit comes and goes
_LOOK_EVERY = 1.0
_MOST_BACKOFF = 600.0
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class PauseNotice:
    """Decides whether a pause has to be reported now. Pure but for its memory; `now` is monotonic seconds."""

    def __init__(self, told: Iterable[SentPause], now: float, wall: float) -> None:
        """Begin with what was reported before, at `wall` unix seconds."""
        self._told = {each.reason: each for each in told}
        # A clock that was put back must not silence it, nor one put forward make a pause look older.
        self._at = {
            each.reason: now - min(max(wall - each.reported_at, 0.0), 2 * _DAY)
            for each in self._told.values()
        }

    def ended(self, but: str | None) -> list[SentPause]:
        """Note that no pause holds for any other reason than `but`; returns those that are over by that."""
        over = [
            replace(told, over=True) for reason, told in self._told.items() if reason != but and not told.over
        ]
        self._told.update({told.reason: told for told in over})
        return over

    def due(self, pause: LivePause, now: float) -> LivePause | None:
        """Return the pause to report now, with its beginning before any restart; None for not now."""
        told = self._told.get(pause.reason)
        if told is None:
            return pause
        if told.over:
            return pause if now - self._at[pause.reason] >= _APART else None
        if now - self._at[pause.reason] < _DAY:
            return None
        return replace(pause, since=min(told.since, pause.since))

    def note(self, pause: LivePause, now: float, wall: float) -> SentPause:
        """Note that a pause was reported; returns what is to be recorded."""
        told = SentPause(pause.reason, pause.since, wall)
        self._told[pause.reason] = told
        self._at[pause.reason] = now
        return told


class PauseHook:
    """Runs the hook. `serve` must be running; `home` is named to it, as there may be several daemons."""

    def __init__(self, orders: HookSettings, home: str) -> None:
        self._orders = orders
        self._home = home
        self._tries = 0
        self._not_before = 0.0
        self._said: str | None = None

    def change(self, orders: HookSettings) -> None:
        """Let `orders` hold from now on."""
        self._orders = orders
        self._not_before = 0.0

    async def serve(
        self,
        told: Iterable[SentPause],
        look: Callable[[], tuple[LivePause | None, bool]],
        remember: Callable[[SentPause], Coroutine[Any, Any, None]],
    ) -> None:
        """Tell of pauses for ever; when stopped, a hook that runs has some seconds to end.

        `look` gives the pause that holds now, and whether it is known that no other does. `remember` may
        take as long as it likes.
        """
        telling = PauseNotice(told, time.monotonic(), time.time())
        async with anyio.create_task_group() as group:
            while True:
                pause, sure = look()
                for over in telling.ended(pause.reason if pause else None) if sure else ():
                    group.start_soon(remember, over)
                if pause is None:
                    self._tries, self._not_before, self._said = 0, 0.0, None
                else:
                    told_now = await self._tell(pause, telling)
                    if told_now is not None:
                        group.start_soon(remember, told_now)
                await next_tick(_LOOK_EVERY)

    async def _tell(self, pause: LivePause, telling: PauseNotice) -> SentPause | None:
        """Run the hook if it is time; returns what is to be remembered of it."""
        due = telling.due(pause, time.monotonic())
        command = self._orders.command(PAUSED, pause.reason, "/")
        if due is None or command is None or time.monotonic() < self._not_before:
            return None
        done = False

        async def run_it(hurry: anyio.Event) -> None:
            nonlocal done
            done = await self._run(command, due, hurry)

        await to_its_end(run_it)
        if done:
            self._tries, self._said = 0, None
            return telling.note(due, time.monotonic(), time.time())
        self._tries += 1
        self._not_before = time.monotonic() + backoff(self._tries, _MOST_BACKOFF)
        return None

    async def _run(self, command: Command, pause: LivePause, hurry: anyio.Event) -> bool:
        """Run it once; whether it went well."""
        words = {
            "schema_version": 1,
            "reason": pause.reason,
            "message": redact(pause.message),
            "since": rfc3339(pause.since),
            "home": self._home,
        }
        stdin = await to_thread.run_sync(_in_memory, msgspec.json.encode(words) + b"\n")
        try:
            ended = await run(command, stdin, hurry)
        except NotStartedError as error:
            self._say(f"hooks.{PAUSED}: {error}", "")
            return False
        finally:
            os.close(stdin)
        if ended.trouble is not None:
            self._say(ended.trouble, ended.output)
            return False
        told = {"output": ended.output} if ended.output else {}
        _log.info("hook_done", hook=PAUSED, reason=pause.reason, duration=round(ended.seconds, 3), **told)
        return True

    def _say(self, message: str, output: str) -> None:
        """Say what went wrong, once as long as it stays the same."""
        if message != self._said:
            told = {"output": output} if output else {}
            _log.warning("hook_failed", hook=PAUSED, message=f"{message}; it is tried again", **told)
        self._said = message


def _in_memory(data: bytes) -> int:
    """Return a descriptor of a file that holds `data` and has no name; close it."""
    fd = os.memfd_create("floradl-hook")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
