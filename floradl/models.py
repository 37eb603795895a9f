"""The values that flow from room to room. All are frozen; a change is a copy (`msgspec.structs.replace`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field
from msgspec.structs import astuple, force_setattr, replace

from floradl.errors import ErrorCode

_RUN_ID = re.compile(r"run_[^\s/\\?#\x00-\x1f\x7f\ud800-\udfff]{1,250}")
_TECHNIQUE = re.compile(r"[^\s/\\?#\x00-\x1f\x7f\ud800-\udfff]{1,250}")

_NEXT_REFERENCE = re.compile(r"""[,;][\s"']*(https?://|([^\s,;/]+/)?run_)|^[^,;]*[,;]\s*$""")
_NEXT_CELL = re.compile(r"""[,;]\s*([\w"',;]|$)""")
_AROUND = "\"'`<> \t\n\v\f\r\x1c\x1d\x1e\x1f"


def visible(text: str) -> str:
    """Return `text` without zero-width characters, soft hyphens, direction and byte order marks."""
    if text.isascii():
        return text
    from floradl.odd_characters import without_invisible  # noqa: PLC0415 - most text is ASCII

    return without_invisible(text)


def bare(text: str) -> str:
    """Return a reference without the invisible characters and quotes that other programs put in or around it.

    Spaces of any kind fall away at both ends, too, as do the `<` and `>` around a link in a mail.
    """
    if text.isascii():
        return text.strip(_AROUND)
    from floradl.odd_characters import without_invisible, without_quotes  # noqa: PLC0415 - as above

    return without_quotes(without_invisible(text))


def refuse_joined(text: str) -> None:
    """Raise `ValueError` where a comma or semicolon is followed by a reference, a word, or nothing."""
    if "," not in text and ";" not in text:
        return
    if _NEXT_REFERENCE.search(text):
        raise ValueError(
            "this looks like several references: each is a line or an argument of its own, without commas"
        )
    if _NEXT_CELL.search(text.partition("?")[0]):  # behind it is the query of a URL
        raise ValueError("this looks like a row of a table without a heading")


class Reference(Struct, frozen=True, gc=False):
    """What a user calls a run. The run id alone is the identity, case-sensitive."""

    run_id: str
    technique: str | None = None

    def __str__(self) -> str:
        return f"{self.technique}/{self.run_id}" if self.technique else self.run_id

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `TECHNIQUE/RUN_ID`, `RUN_ID`, or a run's API URL (only its path counts, never its host).

        Raises `ValueError` with a message that says what a reference looks like.
        """
        text = bare(text)
        if text.lower().startswith(("http://", "https://")):
            return cls._from_url(text)
        technique, slash, run_id = text.rpartition("/")
        return cls.of(run_id, technique if slash else None)

    @classmethod
    def of(cls, run_id: str, technique: str | None = None) -> Reference:
        """Check the two parts of a reference. Raises `ValueError` as `parse` does."""
        if not _RUN_ID.fullmatch(run_id) or _odd(run_id):
            raise ValueError(
                f"{_shown(run_id)} is not a run id: it starts with 'run_' and has no spaces or slashes "
                f"(write RUN_ID, TECHNIQUE/RUN_ID, or the run's API URL){_odd(run_id)}"
            )
        if technique is not None and (not _TECHNIQUE.fullmatch(technique) or technique in {".", ".."}):
            raise ValueError(
                f"{_shown(technique)} is not a technique: write its slug (art-directors-critique) or "
                f"tech_… id{_odd(technique)}"
            )
        return cls(run_id, technique)

    @classmethod
    def _from_url(cls, text: str) -> Reference:
        try:
            parts = [unquote(part) for part in urlsplit(text).path.split("/") if part]
        except ValueError:
            parts = []
        match parts:
            case [*_, "techniques", technique, "runs", run_id]:
                return cls.of(run_id, technique)
            case [*_, "runs", run_id]:
                return cls.of(run_id)
        # The query may be signed, and the host private: neither is repeated.
        raise ValueError(
            "this URL is not one of a FLORA run: its path ends in /runs/RUN_ID (a run's poll_url), "
            "not in a file's name"
        )


def _odd(text: str) -> str:
    if text.isascii():
        return ""
    from floradl.odd_characters import named_in  # noqa: PLC0415 - as above

    return named_in(text)


def _shown(text: str) -> str:
    """`text` cut and escaped, for a message; what follows a `?` may be a signature."""
    text = text.partition("?")[0]
    return ascii(text if len(text) <= 60 else text[:57] + "…")


class Action(StrEnum):
    """What a job file wants done with a run."""

    FETCH = "fetch"
    RETRY = "retry"
    FORGET = "forget"


class OutputKind(StrEnum):
    """What an output is to a person; the library has a folder for each."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    DOCUMENT = "document"
    TEXT = "text"
    OTHER = "other"

    @property
    def is_large(self) -> bool:
        """Whether an output of this kind may be large: it may take minutes, or hours."""
        return self in {OutputKind.VIDEO, OutputKind.AUDIO, OutputKind.OTHER}


class RunRequest(Struct, frozen=True, gc=False):
    """One run of a job file or queue file. `kinds` are those wanted, none of them meaning all.

    `meta` is what the user knows of the run, by names of their own.
    """

    reference: Reference
    label: str | None = None
    action: Action = Action.FETCH
    kinds: tuple[OutputKind, ...] = ()
    meta: dict[str, str] = {}


_KINDS: Mapping[str, OutputKind] = {
    "imageUrl": OutputKind.IMAGE,
    "videoUrl": OutputKind.VIDEO,
    "audioUrl": OutputKind.AUDIO,
    "documentUrl": OutputKind.DOCUMENT,
    "text": OutputKind.TEXT,
}


_LONGEST_ID = 1000  # characters
_LONGEST_FIELD = 1000


def bounded(text: str) -> str:
    """Return `text`, or of one with over 1,000 characters its beginning and its SHA-256: 1,000 together.

    Two that differ stay different. Doing it twice changes nothing more.
    """
    if len(text) <= _LONGEST_ID:
        return text
    import hashlib  # noqa: PLC0415 - `status` starts without it

    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[: _LONGEST_ID - 1 - len(digest)]}~{digest}"


class RemoteOutput(Struct, frozen=True):
    """One output as FLORA lists it. `url` is a URL, or for `text` mostly the text: never trusted.

    `flaw` says for a person why it cannot be downloaded as it is listed; empty where nothing is wrong.
    """

    output_id: str
    type: str
    url: str
    nth: int = 1  # counts outputs of one run that share an id
    flaw: str = ""

    def __post_init__(self) -> None:
        """Bound the texts that go into names, queue and messages: an API may send anything."""
        for name in ("output_id", "type"):
            force_setattr(self, name, bounded(getattr(self, name)))

    @property
    def kind(self) -> OutputKind:
        """The kind; a type that this version does not know is `other`."""
        return _KINDS.get(self.type, OutputKind.OTHER)

    @property
    def key(self) -> str:
        """The key by which the output is known among its run's."""
        return self.output_id if self.nth == 1 else f"{self.output_id}\0{self.nth}"


class RunNames(Struct, frozen=True, omit_defaults=True):
    """The technique, workspace, project and model of a run at FLORA; None where no answer named it."""

    technique_id: str | None = None
    technique_name: str | None = None
    workspace_id: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    model_id: str | None = None

    def updated(self, newer: RunNames) -> RunNames:
        """Return these names with what `newer` says; what it does not say stays."""
        if newer in (self, _NAMELESS):
            return self
        return RunNames(*(new or old for new, old in zip(astuple(newer), astuple(self), strict=True)))


_NAMELESS = RunNames()


class RemoteRun(Struct, frozen=True):
    """FLORA's answer about one run (reference of `GET /techniques/{techniqueId}/runs/{runId}`).

    Times are unix seconds, `None` where unknown; `progress` is 0 to 100. `raw` is the answer as it came.
    """

    run_id: str
    status: str
    progress: float
    created_at: float | None
    started_at: float | None = None
    completed_at: float | None = None
    charged_cost: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    outputs: tuple[RemoteOutput, ...] = ()
    poll_url: str | None = None
    age: float | None = None  # seconds since it was created, by the server's own clock
    batch_size: int = 1  # how many of our open runs the same request answered for
    names: RunNames = RunNames()
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the status is terminal. An unknown status counts as not finished."""
        return self.status in {"completed", "failed"}


class Integrity(StrEnum):
    """How sure we are that a file is what the server has."""

    VERIFIED = "verified"  # a checksum of the server's matched
    LENGTH_ONLY = "length_only"
    UNVERIFIED = "unverified"


class RunFailure(Struct, frozen=True):
    """Why a run or an output is unavailable."""

    code: ErrorCode
    message: str


class SkipReason(StrEnum):
    """Why an output was left out. A closed list that only grows."""

    KIND = "kind"  # its kind is not among those that are wanted
    RULE = "rule"  # a rule of `output.rules` says so
    TOO_LARGE = "too_large"  # it is over `download.max_file_size`


class Skipped(Struct, frozen=True):
    """An output was left out on purpose, which is no failure."""

    reason: SkipReason


class RemovalReason(StrEnum):
    """Why a file was removed from the library. A closed list that only grows."""

    PRUNED = "pruned"  # by `prune`, or in the gallery
    KEPT_LONG = "kept_long"  # `library.keep` does not keep it any longer
    MISSING = "missing"  # somebody deleted it, and `verify --accept-missing` accepted that


class Removed(Struct, frozen=True):
    """The file of an output was removed, at a time (RFC 3339 UTC): only `retry` brings it back."""

    at: str
    reason: RemovalReason


class SavedOutput(Struct, frozen=True, kw_only=True):
    """One output as in the sidecar: on disk under `path`, unavailable for `error`, `skipped`, or `removed`.

    `path` is relative to the library, with `/`. `url` has no query. `downloaded_at` is RFC 3339 UTC. With
    both `path` and `removed` the file is about to be removed, see `library.retention`. `etag` is the media
    host's; `stored_etag` the object store's that keeps the file, None where it is in a folder.
    """

    output_id: str
    type: str
    kind: OutputKind
    path: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    content_type: str | None = None
    etag: str | None = None
    url: str | None = None
    integrity: Integrity | None = None
    checked: tuple[str, ...] = ()
    text: str | None = None
    error: RunFailure | None = None
    skipped: Skipped | None = None
    removed: Removed | None = None
    downloaded_at: str | None = None
    stored_etag: str | None = None

    def __post_init__(self) -> None:
        """Bound the header fields of a host: a head may have 100 kB."""
        for name in ("content_type", "etag"):
            if (said := getattr(self, name)) is not None and len(said) > _LONGEST_FIELD:
                force_setattr(self, name, said[:_LONGEST_FIELD])


class AttemptNotes(Struct, frozen=True, omit_defaults=True):
    """What one attempt at an output passes to the next, beside the part file.

    `promised` are the checksums that the whole answer named, by algorithm, whose part file is `validator`'s.
    `ranges_refused` counts ranged requests in a row that gained nothing. `disagreed` is the SHA-256 of a
    whole file that did not match the server's checksum.
    """

    validator: str = ""
    promised: dict[str, bytes] = {}
    ranges_refused: int = 0
    disagreed: str | None = None


class Result(StrEnum):
    """How a run ended, as in its sidecar."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"


class RunState(StrEnum):
    """Where a run stands in the queue; the names are those of `status --json`."""

    WAITING = "waiting"  # not polled yet
    RUNNING = "running"  # not finished at FLORA, or its outputs wait for a slot
    DOWNLOADING = "downloading"  # finished at FLORA, its outputs are being downloaded
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    FORGOTTEN = "forgotten"

    @property
    def open(self) -> bool:
        """Whether there is still work to do."""
        return self in {RunState.WAITING, RunState.RUNNING, RunState.DOWNLOADING}


STATE_OF: Mapping[Result, RunState] = {
    Result.COMPLETE: RunState.DONE,
    Result.PARTIAL: RunState.PARTIAL,
    Result.FAILED: RunState.FAILED,
}
"""Where a run stands that ended so."""


class QueuedRun(Struct, frozen=True, kw_only=True):
    """One row of the queue. Times are unix seconds.

    `waited` counts the planned seconds between "not finished" answers, and later those that failed attempts
    at the outputs took: pauses and outages of FLORA are not in it. `tries` counts failed attempts in a row.
    """

    run_id: str
    technique: str | None = None
    label: str | None = None
    state: RunState = RunState.WAITING
    queued_at: float
    detected_at: float | None = None
    waited: float = 0.0
    tries: int = 0
    progress: float = 0.0
    error: RunFailure | None = None
    force: bool = False  # `retry`: a sidecar in the library does not make the run done
    kinds: tuple[OutputKind, ...] = ()  # those wanted; none: all
    meta: dict[str, str] = {}
    names: RunNames = RunNames()
    retry_kinds: tuple[OutputKind, ...] = ()  # those that the last `retry` named, in place of `kinds`

    @property
    def wanted_kinds(self) -> tuple[OutputKind, ...]:
        """The kinds that are wanted now; none where the settings say."""
        return self.retry_kinds or self.kinds

    @property
    def reference(self) -> Reference:
        """The run's name."""
        return Reference(self.run_id, self.technique)


class EarlierSidecar(Struct, frozen=True):
    """What an existing sidecar says of its run; the outputs are by key. `costed`: it has a cost."""

    outputs: dict[str, SavedOutput] = {}
    technique: str | None = None
    label: str | None = None
    meta: dict[str, str] = {}
    names: RunNames = RunNames()
    costed: bool = False

    def fill(self, run: QueuedRun) -> QueuedRun:
        """Return a run's row, its empty fields filled from the sidecar."""
        return replace(
            run,
            technique=run.technique if run.technique is not None else self.technique,
            label=run.label if run.label is not None else self.label,
            meta=run.meta or self.meta,
            names=self.names.updated(run.names),
        )


class FinishedRun(Struct, frozen=True):
    """A run that needs no more polling, to be saved next; `answer` is the API's last.

    `failure` says why it is given up although the API did not finish it. With neither, its sidecar stands
    already, and is `incomplete` where it says less of the run than its row. `uncosted`: FLORA may yet settle
    its cost; it is when the run was created there (unix seconds, 0 for unknown). `earlier` is what the
    sidecar that stands says, where that was read just now.
    """

    run: QueuedRun
    answer: RemoteRun | None = None
    failure: RunFailure | None = None
    earlier: EarlierSidecar | None = None
    incomplete: bool = False
    uncosted: float | None = None


class LeftFile(Struct, frozen=True):
    """A job file that was processed and may still be in the inbox; it must not be processed twice.

    It is known by name, time, size and SHA-256 (empty where it could not be read). `refused`: nothing of
    it was queued.
    """

    name: str
    mtime_ns: int
    size: int
    sha256: str
    refused: bool
