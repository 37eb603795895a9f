"""When a run is worth the next poll, by all that was seen since the last one.

An unfinished run gets a gap. Until that is over, more is learned: other runs of its technique end or go on,
and a list page that was requested for others shows it, too. So the gap is judged again halfway and at its
end, and a poll that turns out to be early is put back, which costs nothing. Of a crowd whose technique is
unknown some are polled early, as scouts. Where webhooks prove reliable, gaps are wider: polls then only
catch the ends that no webhook reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from floradl.models import QueuedRun, RemoteRun
from floradl.polling.due_queue import DueQueue
from floradl.polling.durations import COST, Durations, ProgressEta, WebhookTrust, forecast, next_poll

_KEPT = 10_000  # runs; of a larger crowd the others are polled when they fall due
_FEW = 6  # runs in flight; fewer may be polled more often, which is no burden yet
_PAGE_COST = 5  # single requests that a page of a hundred answers costs FLORA
_JITTER = 0.1  # of a gap; runs that began together are polled one after the other, and each informs the next
_HALFWAY = 0.5  # of a gap, which is then judged again
_FORECASTS = 8  # kept of a run
_STRETCHED = 3.0  # usual gaps that a forecast can make one
_SHORT, _SHORT_COST = 30.0, 1.53  # seconds in the median; of shorter runs a poll costs more, so much at most
_CROWD = 20  # runs of one technique that go on; of fewer none is polled early
_SCOUTS, _MOST_SCOUTS = 0.12, 24.0  # of the runs in flight are polled early in each interval; so many at most
_SCOUTED = 10.0  # seconds of age up to which that is worth it: a wrong guess delays short runs most
_EARLY = 0.25  # of the interval; less is not worth putting back
_WITH_WEBHOOK = 3.0  # usual gaps that become one where a webhook is expected...
_MISSED_WEBHOOK = 60.0  # ... but at most so many seconds, which one that does not come may cost


class _Look(Struct):
    """When a run was last seen unfinished: its age then (seconds), and how many were seen with it."""

    technique: str | None
    age: float
    at: float
    batch_size: int
    spread: float
    put_back: float = 0.0
    scout: bool = False  # polled early, to learn
    forecasts: tuple[ProgressEta, ...] = ()

    def note(self, progress: float) -> None:
        made = forecast(self.age, progress)
        self.forecasts = (*self.forecasts[: _FORECASTS - 1], made) if made else ()


class PollPlanner:
    """Remembers when runs were last seen. `interval` and `monotonic` are in seconds."""

    def __init__(
        self, due_queue: DueQueue, durations: Durations, interval: float, monotonic: Callable[[], float]
    ) -> None:
        self._due_queue = due_queue
        self._durations = durations
        self._interval = interval
        self._monotonic = monotonic
        self._looks: dict[str, _Look] = {}
        self._webhook_trust = WebhookTrust()
        self._scouts: dict[str, float] = {}  # by technique, when the next run may be polled early
        self._reported: set[str] = set()  # runs whose end a webhook reported, and which are still open

    def restart(self, durations: Mapping[str, Iterable[float]]) -> None:
        """Begin anew, with these durations (seconds) by technique."""
        self._looks.clear()
        self._scouts.clear()
        self._reported.clear()
        self._durations.restart(durations)

    def change(self, interval: float) -> None:
        """Judge gaps by another interval (seconds) from now on."""
        self._interval = interval

    def webhook_came(self, run_id: str) -> None:
        """Have a run polled now whose end a webhook reports."""
        self._learn(run_id, by_webhook=True)
        self._reported.add(run_id)
        self._put_aside(run_id)
        self._due_queue.poll_now(run_id)

    def goes_on(self, run: QueuedRun, answer: RemoteRun) -> tuple[float, float]:
        """Record that a run was polled and is unfinished.

        Returns the seconds until the next poll, and those by which it was put back since the last one.
        """
        before = self._looks.pop(run.run_id, None)
        age = run.waited if answer.age is None else answer.age
        import random  # noqa: PLC0415 - where runs are finished already none goes on

        spread = 1.0 if answer.batch_size > 1 else random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
        look = _Look(run.technique, age, self._monotonic(), answer.batch_size, spread)
        look.forecasts = before.forecasts if before else ()
        look.note(answer.progress)
        self._durations.goes_on(run.technique, run.run_id, age)
        put_back = before.put_back if before else 0.0
        if len(self._looks) >= _KEPT:
            return self._gap(look), put_back
        self._looks[run.run_id] = look
        gap = self._gap(look)
        early = self._scout_in(look, gap)
        if early is not None:
            look.scout = True
            return early, put_back
        return self._until_judged(look, gap), put_back

    def saw(self, answer: RemoteRun) -> bool:
        """Record that a list shows an unfinished run that is not due; False where it is its first answer."""
        look = self._looks.get(answer.run_id)
        if look is None:
            return len(self._looks) >= _KEPT  # then it waits until it is due
        now = self._monotonic()
        look.age = look.age + now - look.at if answer.age is None else answer.age
        look.at, look.batch_size, look.scout = now, answer.batch_size, False
        look.note(answer.progress)
        self._durations.goes_on(look.technique, answer.run_id, look.age)
        return True

    def puts_back(self, run_id: str) -> float:
        """Put a run that fell due back, if that is early; return by how many seconds, 0 where it is not."""
        look = self._looks.get(run_id)
        if look is None or look.scout:
            return 0.0
        seconds = self._gap(look) - (self._monotonic() - look.at)
        if seconds <= self._interval * _EARLY:
            return 0.0
        seconds = self._until_judged(look, seconds)
        look.put_back += seconds
        self._due_queue.put(run_id, seconds, aligned=look.batch_size > 1)
        return seconds

    def ended(self, answer: RemoteRun) -> None:
        """Record that a run ended, and learn how good its forecasts were."""
        self._learn(answer.run_id, by_webhook=False)
        look = self._looks.get(answer.run_id)
        if look is not None and answer.created_at is not None and answer.completed_at is not None:
            self._durations.judge(look.technique, look.forecasts, answer.completed_at - answer.created_at)
        self._put_aside(answer.run_id)

    def learn_duration(self, run: QueuedRun, answer: RemoteRun) -> float | None:
        """Learn how long a run took that was first seen completed; return the seconds."""
        if answer.status != "completed":
            return None
        return self._durations.add(run.technique, answer.created_at, answer.completed_at)

    def forget(self, run_id: str) -> None:
        """Record that a run is not waited for any more."""
        self._reported.discard(run_id)
        self._put_aside(run_id)

    def _learn(self, run_id: str, *, by_webhook: bool) -> None:
        look = self._looks.get(run_id)
        if look is not None and run_id not in self._reported:  # the first report of an end counts
            self._webhook_trust.ended(look.technique, by_webhook=by_webhook)

    def _put_aside(self, run_id: str) -> None:
        look = self._looks.pop(run_id, None)
        if look is not None:
            self._durations.ended(look.technique, run_id)

    def _until_judged(self, look: _Look, seconds: float) -> float:
        return seconds if look.batch_size > 1 else max(seconds * _HALFWAY, min(seconds, self._interval))

    def _scout_in(self, look: _Look, gap: float) -> float | None:
        """Return the seconds after which a run is polled before its `gap` is over; None where it is not.

        A few of a crowd are, evenly spaced. Otherwise all would be polled together, when many had long ended.
        """
        in_flight = self._durations.in_flight(look.technique)
        if look.batch_size > 1 or in_flight < _CROWD or self._durations.is_known(look.technique):
            return None
        name, now = look.technique or "", self._monotonic()
        moment = max(self._scouts.get(name, 0.0), now + self._interval)
        seconds = moment - now
        if seconds >= gap or look.age + seconds > _SCOUTED:
            return None
        many = min(in_flight * _SCOUTS, _MOST_SCOUTS)
        self._scouts[name] = moment + self._interval / many
        return seconds

    def _gap(self, look: _Look) -> float:
        expected = self._durations.expected(look.technique)
        cost = COST * min(len(self._looks) / _FEW, 1.0)
        cost *= min(_PAGE_COST / look.batch_size, 1.0)
        if self._durations.is_known(look.technique):
            cost *= min(max(_SHORT / expected.median, 1.0), _SHORT_COST)
        gap = next_poll(look.age, self._interval, expected, cost)
        rest = self._durations.rest(look.technique, look.forecasts)
        if rest is not None:
            gap = min(next_poll(0.0, self._interval, rest, cost), _STRETCHED * gap)
        if self._webhook_trust.expected(look.technique):
            gap = max(gap, min(gap * _WITH_WEBHOOK, _MISSED_WEBHOOK))
        return max(gap * look.spread, self._interval)
