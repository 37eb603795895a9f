"""The state of the simulated FLORA: its runs, its key, and the requests it answered."""

from __future__ import annotations

import base64
import bisect
import itertools
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from floradl.models import Reference
from floradl.simulator.faults import FaultBook
from floradl.simulator.formats import BodyDigests, digest
from floradl.simulator.runs import (
    BUILT_IN,
    VERDICT,
    MediaStyle,
    OutputSpec,
    ProgressStyle,
    RunKind,
    ScriptedRun,
    Signer,
    Technique,
    TimeUnit,
    WebhookSigning,
    media_of,
    technique_id_of,
)

_LOG_LENGTH = 200_000
_DEFAULT_OUTPUTS = (OutputSpec(),)


class RequestRecord(Struct, frozen=True, kw_only=True):
    """One answered request. It is written before the answer's first byte leaves.

    `status` is 0 where the connection was broken instead. `authorization` says whether that header was
    there; its value is not kept. `query` is kept for the API only: a media URL's is a secret.
    """

    time: float
    host: Literal["api", "media"]
    method: str
    path: str
    status: int
    authorization: bool
    run_id: str | None = None
    output_id: str | None = None
    query: str = ""
    range: str | None = None
    accept_encoding: str | None = None


class Attempt(Struct, frozen=True):
    """One attempt to deliver a webhook; `number` counts from 1, `status` is 0 where no answer came."""

    time: float
    run_id: str
    webhook_id: str
    number: int
    status: int


@dataclass
class Counters:
    """Sums over the simulator's life; `bytes_sent` is of media, `peak_…` of requests at the same time."""

    api: int = 0
    media: int = 0
    bytes_sent: int = 0
    open_api: int = 0
    open_media: int = 0
    peak_api: int = 0
    peak_media: int = 0

    def opened(self, host: Literal["api", "media"], by: int) -> None:
        """Count a request in or out."""
        if host == "api":
            self.open_api += by
            self.peak_api = max(self.peak_api, self.open_api)
        else:
            self.open_media += by
            self.peak_media = max(self.peak_media, self.open_media)


class StatePage(Struct, frozen=True):
    """One page of a listing; `cursor` opens the next one."""

    runs: tuple[ScriptedRun, ...]
    cursor: str | None


@dataclass(kw_only=True)
class Simulator:
    """The state of a simulated FLORA, for one event loop. Every field may be changed while it serves.

    `now` gives unix seconds. `speed` divides durations and multiplies throttled rates. `rate_limit` is in
    requests a second for the workspace, with bursts of `rate_burst`. `url_lifetime` is in seconds.
    `webhook_secrets` sign webhooks, all of them each; one that fails is sent again after `webhook_delays`
    (seconds, divided by `speed`), signed anew for each attempt or `once`, and given up on after
    `webhook_timeout`. `attempts` are those made.
    """

    key: str = field(default_factory=lambda: f"sk_test_{secrets.token_hex(16)}")
    now: Callable[[], float] = time.time
    speed: float = 1.0
    rate_limit: float | None = None
    rate_burst: float = 5.0
    url_lifetime: float = 3600.0
    media_style: MediaStyle = MediaStyle.GCS
    time_unit: TimeUnit = "s"
    progress: ProgressStyle = "even"
    page_limit: int = 100
    listing: bool = True
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    webhook_secrets: list[str] = field(default_factory=lambda: [f"whsec_{secrets.token_hex(16)}"])
    webhook_signing: WebhookSigning = "each"
    webhook_delays: tuple[float, ...] = (10.0, 60.0, 300.0)
    webhook_timeout: float = 10.0
    techniques: list[Technique] = field(default_factory=lambda: list(BUILT_IN))
    counters: Counters = field(default_factory=Counters)
    faults: FaultBook = field(default_factory=FaultBook)
    base_url: str = field(default="", init=False)
    media_url: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._runs: dict[str, ScriptedRun] = {}
        self.callbacks: deque[ScriptedRun] = deque()  # whose webhooks are not sent yet
        self.attempts: list[Attempt] = []
        self._order: list[tuple[float, int, str]] = []  # oldest first
        self._log: deque[RequestRecord] = deque(maxlen=_LOG_LENGTH)
        self._digests: dict[tuple[str, int], BodyDigests] = {}
        self._serial = 0
        self.revoked_to = -1
        """The last serial number that `expire_urls` took back; -1 if none."""
        self.variants = itertools.count(1)
        """Numbers the changes of content."""
        self._lock = threading.Lock()

    def technique(self, name: str) -> Technique | None:
        """Find a technique by its id or slug."""
        return next((technique for technique in self.techniques if technique.named(name)), None)

    def add_technique(self, name: str) -> Technique:
        """Return the technique of that slug or `tech_…` id, making a new one if there is none."""
        if (technique := self.technique(name)) is None:
            is_id = name.startswith("tech_")
            technique_id = name if is_id else technique_id_of(name)
            title = name.replace("-", " ").capitalize()
            technique = Technique(technique_id, name, title, outputs=_DEFAULT_OUTPUTS)
            self.techniques.append(technique)
        return technique

    def add_run(
        self,
        run_id: str | None = None,
        *,
        technique: str | None = "art-directors-critique",
        outputs: Sequence[OutputSpec] | None = None,
        duration: float = 3.0,
        fail: tuple[str, str] | None = None,
        created: float | None = None,
    ) -> Reference:
        """Script a run that starts now (or at `created`, unix seconds) and ends after `duration` seconds.

        It completes with `outputs` (default: those of its technique), or fails with `fail`, an error code and
        message. `technique` is a slug or id; `None` makes it a generation. Raises `ValueError` for a run id
        that is taken or outputs that share an id.
        """
        known = self.add_technique(technique) if technique is not None else None
        if outputs is None:
            outputs = known.outputs if known else _DEFAULT_OUTPUTS
        run = ScriptedRun(
            run_id=run_id or self.new_run_id(),
            kind=RunKind.TECHNIQUE if known else RunKind.GENERATION,
            technique=known,
            outputs=tuple(outputs),
            duration=duration / self.speed,
            fail=fail,
            created=self.now() if created is None else created,
        )
        return self.add(run)

    def add(self, run: ScriptedRun) -> Reference:
        """Add a run as it is. Raises `ValueError` as `add_run` does."""
        if run.run_id in self._runs:
            raise ValueError(f"there is a run {run.run_id!r} already")
        self._runs[run.run_id] = run
        bisect.insort(self._order, (run.created, len(self._order), run.run_id))
        if run.callback_url is not None:
            self.callbacks.append(run)
        return Reference(run.run_id, run.technique.slug if run.technique else None)

    def call_back(self, run_id: str, url: str) -> None:
        """Have a webhook sent to `url` when a run ends. Raises `KeyError` for a run that there is not."""
        run = self._runs[run_id] = replace(self._runs[run_id], callback_url=url)
        self.callbacks.append(run)

    def new_run_id(self) -> str:
        """Make up a run id that is not taken."""
        return f"run_{secrets.token_hex(6)}"

    def run(self, run_id: str) -> ScriptedRun | None:
        """Find a run."""
        return self._runs.get(run_id)

    def page(self, wanted: Callable[[ScriptedRun], bool], limit: int, cursor: str | None) -> StatePage:
        """Return the newest `limit` runs that are `wanted`, from `cursor` on. Raises `ValueError`."""
        end = len(self._order) if cursor is None else bisect.bisect_left(self._order, _place(cursor))
        found: list[ScriptedRun] = []
        for at in range(end - 1, -1, -1):
            run = self._runs[self._order[at][2]]
            if not wanted(run):
                continue
            found.append(run)
            if len(found) > limit:
                # One more than asked for: there is a next page, which starts below the last one given.
                return StatePage(tuple(found[:limit]), self._cursor(found[limit - 1]))
        return StatePage(tuple(found), None)

    def _cursor(self, run: ScriptedRun) -> str:
        at = bisect.bisect_left(self._order, (run.created,))
        while self._order[at][2] != run.run_id:
            at += 1
        created, serial, _run_id = self._order[at]
        return base64.urlsafe_b64encode(f"{created!r} {serial}".encode()).decode()

    def output_url(self, run: ScriptedRun, index: int) -> str:
        """Return what stands in an output's `url`: a URL signed afresh, the text, or what the script has."""
        output = run.outputs[index]
        if output.inline:
            return output.text if output.text is not None else VERDICT
        if output.url is not None:
            return output.url.replace("{media}", self.media_url)
        path = f"/media/{quote(run.run_id, safe='')}/{index + 1}{media_of(output).extension}"
        self._serial += 1
        query = self.signer.sign(path, self._serial, self.now() + self.url_lifetime)
        return f"{self.media_url}{path}?{query}"

    @property
    def signer(self) -> Signer:
        """What signs the URLs."""
        return Signer(self.secret)

    def expire_urls(self) -> None:
        """Let every URL that was given out so far count as expired."""
        self.revoked_to = self._serial

    def digests(self, run_id: str, index: int) -> BodyDigests:
        """Hash an output's bytes (its position, from 0), once. May be called from a thread."""
        if (known := self._digests.get((run_id, index))) is None:
            with self._lock:
                if (known := self._digests.get((run_id, index))) is None:
                    known = self._digests[run_id, index] = digest(self._runs[run_id].body(index))
        return known

    @property
    def requests(self) -> list[RequestRecord]:
        """The answered requests, oldest first (the last 200,000)."""
        return list(self._log)

    def asked(self, host: Literal["api", "media"], run_id: str | None = None) -> list[RequestRecord]:
        """Return the answered requests to one host, for one run if it is named."""
        return [record for record in self._log if record.host == host and run_id in {None, record.run_id}]

    def record(self, record: RequestRecord) -> None:
        """Write down an answered request."""
        self._log.append(record)
        if record.host == "api":
            self.counters.api += 1
        else:
            self.counters.media += 1


def _place(cursor: str) -> tuple[float, int, str]:
    try:
        created, serial = base64.urlsafe_b64decode(cursor).decode().split(" ")
        return float(created), int(serial), ""
    except ValueError:
        raise ValueError("this cursor is not one that a page gave") from None
