"""FLORA's webhooks: each is checked, durably recorded, and only then answered with 200.

FLORA waits 10 s and tries four times, so whatever keeps us from recording one is answered with 503, within
a second: it comes again. One that never comes costs little, as each run is polled all the same.
"""

from __future__ import annotations

import hmac
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

import anyio
import msgspec
from anyio import CapacityLimiter, to_thread
from msgspec import Struct, field

from floradl.errors import ConfigError, JobError
from floradl.log import get_logger
from floradl.models import RunRequest
from floradl.queue.base import RunQueue
from floradl.redaction import Secret
from floradl.sources.job_file import described, parse_job
from floradl.web.http import HttpRequest, HttpResponse

AHEAD = 300.0
"""How many seconds a signature's time may lie ahead of ours."""

OLDEST = 900.0
"""How many seconds a signature may be old.

FLORA's own library takes 300. Its developer site says that all four attempts have the same signature, and the
last comes some 370 s after it. Whoever lets it be older must know again what came already.
"""

PATH = "/webhook"
MISSING = "there is no webhook secret: set FLORA_WEBHOOK_SECRET, or let webhook.secret_file name a file"
_TIME = re.compile("[0-9]{1,12}")
_LONGEST_ID = 200
_ANSWER_WITHIN = 0.8  # seconds; one is promised
_MOST_WAITING = 1000  # deliveries that are not recorded yet
_AT_ONCE = 200  # are recorded together
_LOG_EVERY = 60.0  # seconds: anybody can send what is refused, and must not fill the log
_log = get_logger()


class SignatureError(Exception):
    """The signature is missing, wrong or out of time; the message has which, without any of it."""


def verify(header: str | None, body: bytes, secrets: Iterable[Secret], now: float) -> None:
    """Check the signature of the raw `body`; `now` is unix seconds. Raises `SignatureError`."""
    if not header:
        raise SignatureError("it has no Flora-Signature")
    times, signatures = _parts(header)
    if not times or not _TIME.fullmatch(times[-1]) or not signatures:
        raise SignatureError("its Flora-Signature has no t, or no v1")
    signed = f"{times[-1]}.".encode() + body
    good = False
    for secret in secrets:
        expected = hmac.digest(secret.reveal().encode(), signed, "sha256").hex().encode()
        for signature in signatures:  # all of them: how long it takes must not tell which one is near
            good |= hmac.compare_digest(expected, signature.encode())
    if not good:
        raise SignatureError("its signature does not match: is the secret the one that FLORA shows?")
    off = now - int(times[-1])
    if not -AHEAD <= off <= OLDEST:
        when = f"{abs(off):.0f} s {'ago' if off > 0 else 'ahead'}"
        raise SignatureError(f"its signature is of {when}: is this machine's clock right?")


def _parts(header: str) -> tuple[list[str], list[str]]:
    times, signatures = [], []
    for part in header.split(","):
        name, _, value = part.partition("=")
        if name.strip() == "t":
            times.append(value.strip())
        elif name.strip() == "v1" and value.strip():
            signatures.append(value.strip())
    return times, signatures


class WebhookDelivery(Struct, frozen=True):
    """One delivery. FLORA may send it several times under the same `id`."""

    id: str
    type: str
    order: RunRequest

    @property
    def ended(self) -> bool:
        """Whether the run is over; deliveries of other types change nothing."""
        return self.type in {"run.completed", "run.failed"}

    @property
    def completed(self) -> bool:
        """Whether there are outputs."""
        return self.type == "run.completed"


class _Body(Struct, frozen=True):
    id: str
    type: str
    data: dict[str, msgspec.Raw]


def parse_delivery(data: bytes) -> WebhookDelivery:
    """Read the body of a webhook. Raises `JobError` where it is none."""
    try:
        body = msgspec.json.decode(data, type=_Body)
        orders = parse_job(data, "webhook")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JobError(f"this is not a webhook of FLORA's: {error}") from error
    except JobError as error:
        raise JobError(described(error)) from error
    if not 0 < len(body.id) <= _LONGEST_ID:
        raise JobError(f"this is not a webhook of FLORA's: its id has {len(body.id)} characters")
    return WebhookDelivery(body.id, body.type, orders[0])


class Work(Protocol):
    """Polls runs."""

    def poll_now(self, run_id: str, *, new: bool = False) -> None:
        """Poll a run at once: it is over at FLORA. `new`: the delivery itself has queued it."""


class _Waiting(Struct, eq=False):
    """A delivery that is to be recorded, and whether it was."""

    delivery: WebhookDelivery
    new: bool | None = None  # None where it could not be recorded
    done: anyio.Event = field(default_factory=anyio.Event)


class Webhooks:
    """Takes deliveries in, for runs that nobody queued too if `everything`. `serve` must be running."""

    def __init__(
        self,
        secrets: Callable[[], tuple[Secret, ...]],
        queue: RunQueue,
        work: Work,
        *,
        everything: bool,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = secrets
        self._queue = queue
        self._work = work
        self._everything = everything
        self._wall = wall
        self._send, self._receive = anyio.create_memory_object_stream[_Waiting](_MOST_WAITING)
        self._reader = CapacityLimiter(4)  # its own: a disk that hangs elsewhere must not keep us
        self._logged: dict[str, tuple[float, int]] = {}
        self.counts: Counter[str] = Counter()
        """How many deliveries there were, by what became of them."""

    async def serve(self) -> None:
        """Record what comes, those that wait together in one go; for ever."""
        with self._send, self._receive:
            async for first in self._receive:
                batch = [first]
                while len(batch) < _AT_ONCE and self._receive.statistics().current_buffer_used:
                    batch.append(self._receive.receive_nowait())
                async with anyio.create_task_group() as group:
                    for waiting in batch:
                        group.start_soon(self._record, waiting)

    async def take(self, request: HttpRequest) -> HttpResponse:
        """Answer a delivery: 200 once it is recorded, within a second whatever happens."""
        with anyio.move_on_after(_ANSWER_WITHIN):
            return await self._take(request)
        return self._not_now("it could not be recorded in time")

    async def _take(self, request: HttpRequest) -> HttpResponse:
        try:
            secrets = await to_thread.run_sync(self._secrets, limiter=self._reader, abandon_on_cancel=True)
        except ConfigError as error:
            return self._not_now(str(error))
        if not secrets:
            return self._not_now(MISSING)
        try:
            verify(request.headers.get("flora-signature"), request.body, secrets, self._wall())
            delivery = parse_delivery(request.body)
        except SignatureError as error:
            self._warn("webhook_refused", str(error))
            return self._answer("refused", 401, "the signature is not accepted")
        except JobError as error:
            self._warn("webhook_refused", str(error))
            return self._answer("refused", 400, "this is not a webhook that floradl knows")
        if not delivery.ended:
            return self._answer("ignored", 200, "nothing to do")
        return await self._accept(delivery)

    async def _accept(self, delivery: WebhookDelivery) -> HttpResponse:
        if (trouble := self._queue.trouble) is not None:  # what would wait for it must not pile up
            return self._not_now(trouble.message)
        waiting = _Waiting(delivery)
        try:
            self._send.send_nowait(waiting)
        except anyio.WouldBlock:
            return self._not_now("too many wait to be recorded")
        await waiting.done.wait()
        if waiting.new is None:
            return self._not_now("it could not be recorded")
        return self._answer("accepted" if waiting.new else "repeated", 200, "taken")

    async def _record(self, waiting: _Waiting) -> None:
        delivery = waiting.delivery
        run_id = delivery.order.reference.run_id
        try:
            # What failed before (floradl gave up, or did not find it) is retried where there are outputs.
            recorded = await self._queue.note_delivery(
                delivery.id,
                delivery.order,
                self._wall(),
                known_only=not self._everything,
                retry_failed=delivery.completed,
            )
            waiting.new = recorded.new
            if recorded.open and recorded.new:
                self._work.poll_now(run_id, new=recorded.queued)
                _log.info("webhook_accepted", run=run_id, webhook=delivery.id, type=delivery.type)
        except Exception:  # noqa: BLE001 - what cannot be recorded comes again, and must not stop the others
            _log.exception("bug", webhook=delivery.id)
        finally:
            waiting.done.set()

    def _not_now(self, why: str) -> HttpResponse:
        self._warn("webhook_trouble", f"{why}; FLORA will send it again")
        return self._answer("postponed", 503, "not now: try again")

    def _answer(self, result: str, status: int, text: str) -> HttpResponse:
        self.counts[result] += 1
        return HttpResponse.of_text(status, text)

    def _warn(self, event: str, message: str) -> None:
        # Unless the like was logged a moment ago; then it is counted.
        logged_at, since = self._logged.get(event, (-math.inf, 0))
        if time.monotonic() - logged_at < _LOG_EVERY:
            self._logged[event] = (logged_at, since + 1)
            return
        _log.warning(event, message=message, since_last=since)
        self._logged[event] = (time.monotonic(), 0)
