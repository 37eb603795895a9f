"""What there is to tell, gathered until it can be sent, and the message that is made of it. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct, field

from floradl.clock import rfc3339
from floradl.redaction import redact
from floradl.units import format_count

SCHEMA_VERSION: Final = 1
_MOST = 10  # of a kind that are told one by one
_LONGEST_LINE = 300
LONGEST_TEXT: Final = 1900
"""Characters of a message; the least of what chat services take is 2,000."""


class Topic(StrEnum):
    """What can be told, as `notify.on` names it."""

    PAUSED = "paused"
    FAILED = "failed"
    REJECTED = "rejected"
    HOOK_FAILED = "hook_failed"
    DAILY = "daily"


class Kind(StrEnum):
    """What a line of a message is about. A list that only grows."""

    PAUSED = "paused"
    RESUMED = "resumed"
    RUN_FAILED = "run_failed"
    JOB_REJECTED = "job_rejected"
    HOOK_FAILED = "hook_failed"
    DAILY = "daily"
    TEST = "test"


_URGENT: Final = frozenset({Kind.PAUSED, Kind.RESUMED, Kind.DAILY, Kind.TEST})
_COUNTED: Final = {
    Kind.RUN_FAILED: ("run", "failed"),
    Kind.JOB_REJECTED: ("job file", "refused"),
    Kind.HOOK_FAILED: ("hook", "failed"),
}
_ORDER: Final = tuple(Kind)


class Item(Struct, frozen=True):
    """One thing to tell. `text` is a line for people, without secrets; `facts` are for programs.

    `at` is unix seconds.
    """

    kind: Kind
    at: float
    text: str
    facts: dict[str, Any] = {}


class Pending(Struct):
    """What was not sent yet: the first of each kind, and how many there are besides."""

    items: list[Item] = field(default_factory=list)
    more: dict[Kind, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.items)

    @property
    def urgent(self) -> bool:
        """Whether somebody should hear of it soon, however much was told lately."""
        return any(item.kind in _URGENT for item in self.items)

    def add(self, item: Item) -> None:
        """Add it, without secrets and in a line's length, or count it where there are many of its kind."""
        item = Item(item.kind, item.at, _line(item.text), item.facts)
        if sum(each.kind is item.kind for each in self.items) < _MOST:
            self.items.append(item)
        else:
            self.more[item.kind] = self.more.get(item.kind, 0) + 1

    def take(self, sent: Pending) -> None:
        """Forget what `sent` holds, which was copied from this before more was added."""
        self.items = self.items[len(sent.items) :]
        left = {kind: count - sent.more.get(kind, 0) for kind, count in self.more.items()}
        self.more = {kind: count for kind, count in left.items() if count}
        for kind in [kind for kind in self.more if not any(item.kind is kind for item in self.items)]:
            # None of it has a line of its own any more: it was added while the first were being sent.
            count = self.more.pop(kind)
            self.items.append(Item(kind, sent.items[-1].at, f"{_counted(kind, count)} meanwhile"))

    def copy(self) -> Pending:
        """Return what there is now."""
        return Pending(list(self.items), dict(self.more))


class Message(Struct, frozen=True):
    """What is sent: a title, a text of several lines, and the same for programs."""

    title: str
    text: str
    facts: dict[str, Any]


def compose(pending: Pending, place: str, now: float) -> Message:
    """Return the message of what is pending, at `now` (unix seconds); `place` says whose it is."""
    title = f"floradl: {_summary(pending)}"
    lines = []
    for kind in _ORDER:
        lines += [item.text for item in pending.items if item.kind is kind]
        if count := pending.more.get(kind):
            lines.append(f"… and {count:,} more")
    text = _cut(lines, f"({place})")
    events = [
        {"event": item.kind, "at": rfc3339(item.at), "text": item.text, **item.facts}
        for item in pending.items
    ]
    facts = {
        "schema_version": SCHEMA_VERSION,
        "at": rfc3339(now),
        "title": title,
        "text": f"{title}\n{text}",
        "content": f"{title}\n{text}",
        "place": place,
        "events": events,
        "more": {kind.value: count for kind, count in pending.more.items()},
    }
    return Message(title, text, facts)


def _summary(pending: Pending) -> str:
    """Say in a few words what it is about, the gravest first."""
    said = []
    counts = Counter(item.kind for item in pending.items) + Counter(pending.more)
    if reasons := _named(pending.items, Kind.PAUSED):
        said.append(f"paused ({reasons})")
    if _named(pending.items, Kind.RESUMED):
        said.append("goes on")
    said += [_counted(kind, counts[kind]) for kind in _COUNTED if counts[kind]]
    if counts[Kind.DAILY]:
        said.append("the day")
    if counts[Kind.TEST]:
        said.append("a test")
    return ", ".join(said)


def _named(items: Iterable[Item], kind: Kind) -> str:
    return ", ".join(dict.fromkeys(str(item.facts.get("reason", "")) for item in items if item.kind is kind))


def _counted(kind: Kind, count: int) -> str:
    what, verb = _COUNTED.get(kind, (kind.value, ""))
    return f"{format_count(count, what)} {verb}".strip()


def _line(text: str) -> str:
    text = " ".join(redact(text).split())
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 1]}…"


def _cut(lines: Sequence[str], last: str) -> str:
    kept: list[str] = []
    left = LONGEST_TEXT - len(last) - 100
    for nth, line in enumerate(lines):
        if len(line) + 1 > left:
            kept.append(f"… and {len(lines) - nth} lines more")
            break
        kept.append(line)
        left -= len(line) + 1
    return "\n".join([*kept, last])


def item_of(event: Mapping[str, Any], at: float) -> tuple[Topic, Item] | None:
    """Return what an event of the log tells, and under which topic; None where it is not for people."""
    match event.get("event"):
        case "run_finished" if event.get("result") in {"failed", "partial"}:
            error = event.get("error") or {}
            label = f" “{event['label']}”" if event.get("label") else ""
            reference = event.get("reference") or event.get("run_id")
            what = "failed" if event["result"] == "failed" else "is incomplete"
            why = f": {error.get('message')} ({error.get('code')})" if error else ""
            facts = {name: event.get(name) for name in ("run_id", "reference", "label", "result", "error")}
            return Topic.FAILED, Item(Kind.RUN_FAILED, at, f"{reference}{label} {what}{why}", facts)
        case "job_rejected":
            facts = {name: event.get(name) for name in ("file", "message")}
            return Topic.REJECTED, Item(
                Kind.JOB_REJECTED,
                at,
                f"job file {event.get('file')} is refused: {event.get('message')}",
                facts,
            )
        case "hook_failed":
            what = "is not run any more" if event.get("final") else "fails, and is tried again"
            about = f" for {event['run_id']}" if event.get("run_id") else ""
            facts = {name: event.get(name) for name in ("hook", "run_id", "message", "final")}
            return Topic.HOOK_FAILED, Item(
                Kind.HOOK_FAILED, at, f"hook {event.get('hook')} {what}{about}: {event.get('message')}", facts
            )
    return None


def encoded(message: Message) -> bytes:
    """Return the body of a webhook."""
    return json.dumps(message.facts, ensure_ascii=False).encode("utf-8", "backslashreplace")
