"""Tells people: gathers what happened, and sends it to each address, at most one message a minute.

Events are read from the event log, from where the last reader was; a pause is looked at as it holds, since it
may be a full disk that keeps it from the log. A message is sent at least once: one that a stop cuts short is
sent again.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio import CapacityLimiter, to_thread
from msgspec import Struct

from floradl.clock import rfc3339, unix_seconds
from floradl.errors import ConfigError
from floradl.hooks.pauses import PauseNotice
from floradl.log import get_logger
from floradl.notify.daily import DayReport, day_of
from floradl.notify.memory import Keeper, Memory, Outbox, encoded, load
from floradl.notify.news import Item, Kind, Message, Topic, compose, item_of
from floradl.notify.sending import NotSentError
from floradl.notify.targets import Target
from floradl.queue.base import SentPause
from floradl.queue.event_log import EventReader
from floradl.queue.heartbeat import LivePause
from floradl.redaction import redact
from floradl.retry import backoff
from floradl.wakeups import next_tick

_LOOK_EVERY = 1.0  # seconds
_GATHER = 2.0  # seconds in which the first of several things is waited with
_APART = 60.0  # seconds between two messages to an address
_CALMER = (60.0, 300.0, 900.0, 3600.0)  # the same where one follows the other, and nothing of it is urgent
_QUIET = 3600.0  # seconds after a message without anything to tell, after which the next begins anew
_MOST_BACKOFF = 3600.0
_FIRST_BACKOFF = 6  # of `backoff`: half a minute and more
_KEEP_EVERY = 60.0  # seconds between two writes of how far the events were read
_AT_ONCE = 4
_READ_EVERY = 4.0  # seconds between two looks at the file of addresses
_EARLY = 8 * 3600.0  # seconds of a day that are over when the day before is told
FILE_SETTING: Final = "notify.urls_file"
"""What the file of addresses is called in messages."""

_log = get_logger()


class NotifyOptions(Struct, frozen=True):
    """What is told: `topics`. `targets` reads where to, anew each time; it blocks, and raises `ConfigError`.

    `place` says whose messages they are.
    """

    topics: frozenset[Topic]
    targets: Callable[[], tuple[Target, ...]]
    place: str


class Doors(Struct, frozen=True):
    """What the notifier looks at and acts by.

    `pause` gives the one that holds now, and whether that is sure; `send` raises `NotSentError`, and blocks;
    `report` sums up the days from one to another that is not counted, and blocks; `wall` gives unix seconds.
    """

    pause: Callable[[], tuple[LivePause | None, bool]]
    send: Callable[[Message, Target], None]
    report: Callable[[dt.date, dt.date], list[DayReport]]
    wall: Callable[[], float] = time.time


class Notifier:
    """Tells people what happens. `serve` must be running, in the process that holds `state_dir`."""

    def __init__(self, state_dir: Path, options: NotifyOptions, doors: Doors) -> None:
        self._options = options
        self._doors = doors
        self._keeper = Keeper(state_dir)
        self._state_dir = state_dir
        self._memory = Memory()
        self._reader = EventReader(state_dir, None)
        self._notice = PauseNotice((), 0.0, 0.0)
        self._targets: dict[str, Target] = {}
        self._sending: set[str] = set()
        self._limiter = CapacityLimiter(_AT_ONCE)
        self._kept = b""
        self._kept_at = -_KEEP_EVERY
        self._read_at = -_READ_EVERY
        self._broken: str | None = None

    def change(self, options: NotifyOptions) -> None:
        """Let `options` hold from now on; what is to be sent already still is."""
        self._options = options
        self._read_at = -_READ_EVERY  # before anything else is gathered

    @property
    def troubles(self) -> tuple[str, ...]:
        """What keeps messages from being sent, for people."""
        found = [] if self._broken is None else [f"notify: {self._broken}"]
        for name, outbox in self._memory.outboxes.items():
            if outbox.failing is not None and name in self._targets:
                found.append(
                    f"notify: {name} of {FILE_SETTING} takes no message since {_clock(outbox.since)}: "
                    f"{outbox.failing}"
                )
        return tuple(found)

    async def serve(self) -> None:
        """Tell, for ever."""
        await to_thread.run_sync(self._begin)
        async with anyio.create_task_group() as group:
            try:
                while True:
                    await self._look()
                    for name, target in self._targets.items():
                        if name not in self._sending and self._is_due(self._memory.outboxes[name]):
                            self._sending.add(name)
                            group.start_soon(self._send, name, target)
                    await self._keep()
                    await next_tick(_LOOK_EVERY)
            finally:
                self._reader.close()

    def _begin(self) -> None:
        """Go on where the last process was; the first one tells nothing of what was before it."""
        now = self._doors.wall()
        known = load(self._state_dir)
        self._memory = known or Memory(at=now, day=_summed_up(now).isoformat())
        self._notice = PauseNotice(self._memory.pauses, time.monotonic(), now)
        if known is None:
            self._reader.go_to_end()
        elif known.position is None or not self._reader.go_to(known.position):
            self._reader = EventReader(self._state_dir, known.at)

    async def _look(self) -> None:
        """Gather what is new."""
        if anyio.current_time() - self._read_at >= _READ_EVERY:
            self._read_at = anyio.current_time()
            self._heed(*await to_thread.run_sync(self._read_targets))
        if self._broken is None and self._reader.has_more():  # else it waits in the log
            for topic, item in await to_thread.run_sync(self._read_events):
                if topic in self._options.topics:
                    self._add(item)
        self._look_at_pause()
        now = self._doors.wall()
        today, before = _summed_up(now), self._memory.day
        if today.isoformat() > before:
            self._memory.day = today.isoformat()
            if Topic.DAILY in self._options.topics and self._targets:
                for report in await to_thread.run_sync(self._doors.report, _date(before, today), today):
                    self._add(Item(Kind.DAILY, now, report.text, report.facts))

    def _read_targets(self) -> tuple[tuple[Target, ...], str | None]:
        try:
            return self._options.targets(), None
        except ConfigError as error:
            return (), str(error)

    def _heed(self, targets: tuple[Target, ...], broken: str | None) -> None:
        if broken is not None and broken != self._broken:
            _log.warning("notify_broken", message=broken)
        if broken is None:  # else what waits goes on waiting
            self._targets = {target.name: target for target in targets}
            outboxes = self._memory.outboxes
            self._memory.outboxes = {name: outboxes.get(name) or Outbox() for name in self._targets}
        self._broken = broken

    def _read_events(self) -> list[tuple[Topic, Item]]:
        found = []
        for line in self._reader.read():
            event = msgspec.json.decode(line)
            at = unix_seconds(event.get("at")) or self._doors.wall()
            self._memory.at = max(self._memory.at, at)
            if (told := item_of(event, at)) is not None:
                found.append(told)
        return found

    def _look_at_pause(self) -> None:
        if Topic.PAUSED not in self._options.topics or not self._targets:
            return
        pause, sure = self._doors.pause()
        now, wall = time.monotonic(), self._doors.wall()
        for over in self._notice.ended(pause.reason if pause else None) if sure else ():
            self._remember(over)
            self._add(Item(Kind.RESUMED, wall, f"{over.reason} is over: it goes on", {"reason": over.reason}))
        if pause is not None and (due := self._notice.due(pause, now)) is not None:
            self._remember(self._notice.note(due, now, wall))
            text = f"it waits since {_clock(due.since)} ({due.reason}): {due.message}"
            facts = {"reason": due.reason, "message": redact(due.message), "since": rfc3339(due.since)}
            self._add(Item(Kind.PAUSED, wall, text, facts))

    def _remember(self, pause: SentPause) -> None:
        others = [each for each in self._memory.pauses if each.reason != pause.reason]
        self._memory.pauses = [*others, pause]

    def _add(self, item: Item) -> None:
        for outbox in self._memory.outboxes.values():
            outbox.pending.add(item)

    def _is_due(self, outbox: Outbox) -> bool:
        now = self._doors.wall()
        if not outbox.pending:
            return False
        # A clock that was put back must not silence it.
        since = abs(now - outbox.sent_at)
        apart = _APART if outbox.pending.urgent else _CALMER[min(outbox.streak, len(_CALMER) - 1)]
        if since < (apart if outbox.sent_at else 0.0) or 0 < outbox.not_before - now <= _MOST_BACKOFF:
            return False
        return now - outbox.pending.items[0].at >= _GATHER or now < outbox.pending.items[0].at

    async def _send(self, name: str, target: Target) -> None:
        outbox = self._memory.outboxes[name]
        sent = outbox.pending.copy()
        now = self._doors.wall()
        message = compose(sent, self._options.place, now)
        try:
            await to_thread.run_sync(
                self._doors.send, message, target, abandon_on_cancel=True, limiter=self._limiter
            )
        except NotSentError as error:
            self._note_failure(name, outbox, error)
        else:
            if outbox.failing is not None:
                _log.info("notify_recovered", target=name)
            outbox.pending.take(sent)
            outbox.streak = outbox.streak + 1 if sent.items[0].at - outbox.sent_at < _QUIET else 0
            outbox.sent_at, outbox.tries, outbox.not_before, outbox.failing = now, 0, 0.0, None
            _log.info("notify_sent", target=name, title=message.title)
        finally:
            self._sending.discard(name)

    def _note_failure(self, name: str, outbox: Outbox, error: NotSentError) -> None:
        now = self._doors.wall()
        outbox.tries += 1
        wait = max(backoff(outbox.tries + _FIRST_BACKOFF, _MOST_BACKOFF), error.wait)
        outbox.not_before = now + wait
        why = str(error)
        if outbox.failing is None:
            outbox.since = now
        if why != outbox.failing:
            message = f"{name} of {FILE_SETTING}: {why}; it is tried again"
            _log.warning("notify_failed", target=name, message=message, next_in=round(wait))
        outbox.failing = why

    async def _keep(self) -> None:
        """Write down what changed: what is to be sent at once, how far the events were read now and then."""
        told = msgspec.json.encode([self._memory.pauses, self._memory.outboxes, self._memory.day])
        position = self._reader.position
        moved = position != self._memory.position and anyio.current_time() - self._kept_at >= _KEEP_EVERY
        if told != self._kept or moved:
            self._kept, self._kept_at = told, anyio.current_time()
            self._memory.position = position
            await to_thread.run_sync(self._keeper.keep, encoded(self._memory))


def _summed_up(now: float) -> dt.date:
    """Return the first day that is not to be summed up at `now` (unix seconds): from 8 o'clock on, today."""
    return day_of(now - _EARLY)


def _date(text: str, otherwise: dt.date) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return otherwise


def _clock(seconds: float) -> str:
    return time.strftime("%d %b %H:%M", time.localtime(seconds))
