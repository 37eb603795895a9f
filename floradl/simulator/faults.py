"""Faults that users and tests can order: which requests they hit, how often, and what happens to those."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from msgspec import Struct, field

from floradl.simulator.runs import Technique

Framing = Literal["length", "chunked", "close"]
_POSITION = re.compile(r"\d{1,12}|\d{1,3}(\.\d+)?%", re.ASCII)


class Match(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests a fault hits; what is not named does not matter.

    `path`, `run` and `output` are shell patterns, `technique` is a slug or id. `resumed` selects requests
    with a `Range` (true) or without (false).
    """

    host: Literal["api", "media"] | None = None
    method: str | None = None
    path: str | None = None
    run: str | None = None
    technique: str | None = None
    output: str | None = None
    resumed: bool | None = None


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule: `do` for requests that `match`.

    `times` is how often (`per` rule, run or output), `after` how many matching requests are left alone first,
    `share` the chance of each (seeded, so that a rehearsal can be repeated), `seconds` how long the rule
    lasts from its first match on.
    """

    do: Do
    match: Match = field(default_factory=Match)
    times: int | None = None
    per: Literal["rule", "run", "output"] = "rule"
    after: int = 0
    share: float | None = None
    seconds: float | None = None


class Facts(Struct, frozen=True, kw_only=True):
    """What a rule may look at."""

    host: Literal["api", "media"]
    method: str
    path: str
    run_id: str | None = None
    technique: Technique | None = None
    output_id: str | None = None
    resumed: bool = False


class FaultBook:
    """The rules, and how often each was used. The first rule that applies wins."""

    def __init__(self, faults: Sequence[Fault] = (), seed: str = "floradl") -> None:
        self._faults = list(faults)
        self._seed = seed
        self._matched: Counter[int] = Counter()
        self._used: Counter[tuple[Any, ...]] = Counter()
        self._first: dict[int, float] = {}

    def add(self, fault: Fault) -> None:
        """Add a rule, behind the others."""
        self._faults.append(fault)

    def pick(self, facts: Facts, now: float) -> Do | None:
        """Return what happens to this request, and count it. `now` is in unix seconds."""
        for number, fault in enumerate(self._faults):
            if matches(fault.match, facts) and self._due(number, fault, facts, now):
                return fault.do
        return None

    def _due(self, number: int, fault: Fault, facts: Facts, now: float) -> bool:
        self._matched[number] += 1
        first = self._first.setdefault(number, now)
        if fault.seconds is not None and now - first >= fault.seconds:
            return False
        if self._matched[number] <= fault.after:
            return False
        if fault.share is not None and self._chance(number) >= fault.share:
            return False
        key = {"rule": (), "run": (facts.run_id,), "output": (facts.run_id, facts.output_id)}[fault.per]
        if fault.times is not None and self._used[number, *key] >= fault.times:
            return False
        self._used[number, *key] += 1
        return True

    def _chance(self, number: int) -> float:
        text = f"{self._seed}/{number}/{self._matched[number]}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def matches(match: Match, facts: Facts) -> bool:
    """Whether a request is one that `match` means."""
    return (
        match.host in {None, facts.host}
        and (match.method is None or match.method.upper() == facts.method)
        and _like(match.path, facts.path)
        and _like(match.run, facts.run_id)
        and _like(match.output, facts.output_id)
        and match.resumed in {None, facts.resumed}
        and (
            match.technique is None
            or (facts.technique is not None and facts.technique.named(match.technique))
        )
    )


def _like(pattern: str | None, text: str | None) -> bool:
    return pattern is None or (text is not None and fnmatchcase(text, pattern))


class Do(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to a request. Everything may be combined.

    Positions (`cut_after`, `reset_after`, `stall_after`) are in bytes of this answer's body, or a share of it
    as `98%`. Times are in seconds, `drip` is in bytes a second.
    """

    # before anything is answered
    delay: float = 0.0
    reset: bool = False  # the connection is broken off instead of an answer
    # another answer than the real one
    status: int | None = None
    code: str | None = None  # the error code in FLORA's envelope
    body: str | None = None
    html: bool = False
    retry_after: str | None = None
    redirect: str | None = None  # {media}, {base}: the two hosts; {again}: this URL once more
    expire: bool = False  # as if the signed URL had run out
    headers: Mapping[str, str | None] = {}  # laid over the answer's; null removes one
    # how the body is sent
    framing: Framing = "length"
    wrong_length: int = 0  # what Content-Length is off by
    cut_after: str | int | None = None
    reset_after: str | int | None = None
    stall_after: str | int | None = None
    stall_for: float | None = None  # without end, unless given
    drip: float | None = None
    # what the media host sends
    gzip: bool = False  # the object was stored gzipped
    gzip_bomb: int | None = None  # as `gzip`, and inflates to this many bytes
    ignore_range: bool = False
    wrong_content_range: int | None = None  # begins this many bytes beside what was asked for
    weak_etag: bool = False
    change_content: bool = False  # other bytes of the same size, and so other checksums
    keep_etag: bool = False  # ... but under the old ETag and checksums
    corrupt: bool = False  # one bit is wrong
    # how the API shows a run; a name may be a path, `outputs.url`, and of one item `outputs.0.url`
    accepted: bool = False  # the status is 202 instead of 200
    unknown_status: str | None = None
    missing_field: str | None = None
    wrong_type: str | None = None
    set: Mapping[str, str] = {}  # values are JSON, or plain text
    camel_case: bool = False
    cut_json: str | int | None = None  # the JSON ends here, and nothing else shows it

    def __post_init__(self) -> None:
        for name in ("cut_after", "reset_after", "stall_after", "cut_json"):
            value = getattr(self, name)
            if value is not None and not _POSITION.fullmatch(str(value)):
                raise ValueError(f"{name} is a number of bytes or a share such as 98%, not {value!r}")
        if self.drip is not None and self.drip <= 0:
            raise ValueError("drip is in bytes a second, and more than 0")

    @property
    def replaces(self) -> bool:
        """Whether the real answer is not even made."""
        return self.status is not None or self.redirect is not None or self.body is not None or self.html


def position(value: str | int | None, size: int) -> int | None:
    """Return a position as an offset, at most `size`."""
    if value is None:
        return None
    text = str(value)
    at = int(size * float(text[:-1]) / 100) if text.endswith("%") else int(text)
    return min(at, size)
