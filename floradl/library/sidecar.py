"""The sidecar: what became of a run, in a file beside its outputs, for people and for other programs.

A run whose sidecar stands is done. The JSON Schema of the file ships with the package.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field, structs

from floradl import __version__
from floradl.clock import unix_seconds
from floradl.errors import ErrorCode
from floradl.fs.names import stored_path
from floradl.models import (
    EarlierSidecar,
    Integrity,
    OutputKind,
    QueuedRun,
    Reference,
    RemoteOutput,
    RemoteRun,
    RemovalReason,
    Result,
    RunFailure,
    RunNames,
    SavedOutput,
    SkipReason,
    bounded,
)
from floradl.redaction import hide_keys, redact, shown_json
from floradl.urls import strip_queries, strip_query

SCHEMA_VERSION = 1
"""Grows when a reader of the old would be misled; additions do not count."""

SCHEMA_ID = "urn:floradl:schema:sidecar:1"

_DEEPEST = 64
_URL_KEYS = ("url", "urls", "uri", "href")
# With a scheme, relative to one, or relative to a host: but not text (an output of a type yet to come).
_URL_LIKE = re.compile(
    r"\s*data:[^\s,]*,|\s*(?:[a-z][a-z0-9+.-]{0,30}:)?[/\\]{2}|\s*\S*/\S*\s*\Z", re.IGNORECASE
)


class Times(Struct, frozen=True, kw_only=True):
    """When what happened, RFC 3339 UTC; `None` where it is not known.

    Created, started and completed at FLORA; queued, seen finished (`detected_at`) and all saved
    (`finished_at`) here.
    """

    queued_at: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    detected_at: str | None = None
    finished_at: str | None = None


class Sidecar(Struct, frozen=True, kw_only=True):
    """One run as in its sidecar. `run` is `public_run` of the API's last answer, if there was one."""

    schema: str = field(default=SCHEMA_ID, name="$schema")
    schema_version: int = SCHEMA_VERSION
    floradl_version: str = __version__
    reference: str
    technique: str | None = None
    technique_id: str | None = None
    technique_name: str | None = None
    workspace_id: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    model_id: str | None = None
    run_id: str
    label: str | None = None
    meta: dict[str, str] = {}
    result: Result
    run: dict[str, Any] | None = None
    outputs: tuple[SavedOutput, ...] = ()
    error: RunFailure | None = None
    times: Times = Times()


# Made before any thread reads one, so that no two of them look the type up at the same moment.
_DECODER = msgspec.json.Decoder(Sidecar)


def by_key(outputs: Iterable[SavedOutput]) -> dict[str, SavedOutput]:
    """Return outputs in their order by `RemoteOutput.key`, which differs for those that share an id."""
    seen: dict[str, int] = {}
    found = {}
    for output in outputs:
        nth = seen[output.output_id] = seen.get(output.output_id, 0) + 1
        found[RemoteOutput(output.output_id, output.type, "", nth).key] = output
    return found


def names_of(sidecar: Sidecar) -> RunNames:
    """Return what a sidecar says that its run belongs to."""
    return RunNames(*(getattr(sidecar, name) for name in RunNames.__struct_fields__))


def earlier_of(sidecar: Sidecar | None) -> EarlierSidecar:
    """Return what a sidecar that stands says of its run; nothing where there is none."""
    if sidecar is None:
        return EarlierSidecar()
    # What is about to be removed is not there: nothing is to rely on it.
    outputs = by_key(structs.replace(each, path=None) if each.removed else each for each in sidecar.outputs)
    names, costed = names_of(sidecar), _cost(sidecar.run) is not None
    return EarlierSidecar(outputs, sidecar.technique, sidecar.label, sidecar.meta, names, costed)


def _cost(raw: dict[str, Any] | None) -> Any:
    return None if raw is None else raw.get("charged_cost", raw.get("chargedCost"))


def completed(sidecar: Sidecar, run: QueuedRun, answer: RemoteRun | None = None) -> Sidecar:
    """Return a sidecar with what its run's row and a later answer say, where it has nothing itself."""
    names = run.names.updated(answer.names) if answer else run.names
    technique = sidecar.technique if sidecar.technique is not None else run.technique
    if technique is not None and technique.startswith("tech_"):
        names = RunNames(technique_id=technique).updated(names)
    raw, cost = sidecar.run, answer.charged_cost if answer else None
    if raw is not None and cost is not None and _cost(raw) is None:
        raw = {**raw, "charged_cost" if "run_id" in raw else "chargedCost": cost}
    return structs.replace(
        sidecar,
        reference=str(Reference(sidecar.run_id, technique)),
        technique=technique,
        label=run.label if sidecar.label is None else sidecar.label,
        meta=sidecar.meta or run.meta,
        run=raw,
        **structs.asdict(names.updated(names_of(sidecar))),
    )


_COSTS_SETTLE = 86_400.0  # seconds


def uncosted(sidecar: Sidecar, now: float) -> float | None:
    """Return when FLORA created a run whose cost it may yet settle (unix seconds, 0 for unknown).

    None where the cost is known, or the run ended too long before `now` (unix seconds).
    """
    raw, ended = sidecar.run, unix_seconds(sidecar.times.finished_at)
    if raw is None or ended is None or now - ended > _COSTS_SETTLE:
        return None
    return None if _cost(raw) is not None else unix_seconds(sidecar.times.created_at) or 0.0


def lacks(sidecar: Sidecar, run: QueuedRun) -> bool:
    """Whether a sidecar says less of its run than the row does."""
    return (
        (sidecar.technique is None and run.technique is not None)
        or (sidecar.label is None and run.label is not None)
        or (not sidecar.meta and bool(run.meta))
    )


def render(sidecar: Sidecar) -> bytes:
    """Return the file's bytes: UTF-8, indented by 2, keys in the order of the documentation.

    An output's `url` loses its query here, should it still have one, and errors lose what is secret: they
    quote what others said. What steers a terminal or turns the direction of writing is escaped.
    """
    outputs = tuple(
        structs.replace(
            output, url=output.url and hide_keys(strip_query(output.url)), error=_redacted(output.error)
        )
        for output in sidecar.outputs
    )
    sidecar = structs.replace(sidecar, outputs=outputs, error=_redacted(sidecar.error))
    try:
        packed = msgspec.json.encode(sidecar)
    except UnicodeEncodeError:  # half a surrogate pair, from a label or an answer
        packed = msgspec.json.encode(_encodable(msgspec.to_builtins(sidecar)))
    return shown_json(msgspec.json.format(packed, indent=2)) + b"\n"


def _redacted(error: RunFailure | None) -> RunFailure | None:
    return None if error is None else structs.replace(error, message=redact(error.message))


def read(data: bytes) -> Sidecar:
    """Read a sidecar, of a later floradl too if it only added to the format.

    Keys that are not known are ignored; an error code, kind, integrity or reason to skip that is not known
    becomes the most general one. Raises `ValueError` for anything else that is no sidecar, also where an
    output's path would lead out of the library.
    """
    try:
        sidecar = _decode(data)
        for output in sidecar.outputs:
            if output.path is not None:
                stored_path(output.path)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"this is no sidecar that this version of floradl can read: {error}") from error
    return sidecar


def _decode(data: bytes) -> Sidecar:
    try:
        return _DECODER.decode(data)
    except msgspec.ValidationError:
        raw = msgspec.json.decode(data)
        if not isinstance(raw, dict) or not isinstance(raw.get("outputs", []), list):
            raise
        outputs = [_known(output) for output in raw.get("outputs", [])]
        error = _known_error(raw.get("error"), ErrorCode.RUN_FAILED)
        return msgspec.convert({**raw, "outputs": outputs, "error": error}, Sidecar)


def _known(output: Any) -> Any:
    """Return an output whose closed lists hold nothing that this version does not know."""
    if not isinstance(output, dict):
        return output
    return {
        **output,
        "kind": _one_of(OutputKind, output.get("kind"), OutputKind.OTHER),
        "integrity": _one_of(Integrity, output.get("integrity"), Integrity.UNVERIFIED),
        "error": _known_error(output.get("error"), ErrorCode.HTTP_ERROR),
        "skipped": _known_reason(output.get("skipped"), SkipReason, SkipReason.RULE),
        "removed": _known_reason(output.get("removed"), RemovalReason, RemovalReason.PRUNED),
    }


def _known_reason(said: Any, names: type[StrEnum], general: StrEnum) -> Any:
    return {**said, "reason": _one_of(names, said.get("reason"), general)} if isinstance(said, dict) else said


def _known_error(error: Any, general: ErrorCode) -> Any:
    if not isinstance(error, dict):
        return error
    return {**error, "code": _one_of(ErrorCode, error.get("code"), general)}


def _one_of(names: type[StrEnum], value: Any, general: StrEnum) -> Any:
    return general if isinstance(value, str) and value not in set(names) else value


def public_run(raw: Mapping[str, Any], text_urls: Collection[str] = ()) -> dict[str, Any]:
    """Return the API's answer as it came, but for what is secret: keys; user, query and fragment of URLs.

    The text of a `text` output stays untouched, URLs in it too: it is content. `text_urls` are the ids, or
    the texts, of those outputs whose text is a URL that was to be fetched: these lose their query.
    """
    ids = frozenset(text_urls)
    return {_name(key): _public(key, value, ids, 0) for key, value in raw.items()}


def _public(key: str, value: Any, text_urls: frozenset[str], depth: int) -> Any:
    if isinstance(value, str):
        whole = key.lower().endswith(_URL_KEYS) and _URL_LIKE.match(value)
        return hide_keys(strip_query(value) if whole else strip_queries(value))
    if depth >= _DEEPEST:
        return None
    if isinstance(value, list):
        return [_public(key, item, text_urls, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    is_text = key == "outputs" and _holds_text(value, text_urls)
    return {
        _name(name): inner
        if is_text and name in {"url", "text"} and isinstance(inner, str)
        else _public(name, inner, text_urls, depth + 1)
        for name, inner in value.items()
    }


def _name(key: str) -> str:
    return hide_keys(strip_queries(key))


def _holds_text(output: dict[str, Any], text_urls: frozenset[str]) -> bool:
    output_id, url = output.get("output_id", output.get("outputId")), output.get("url")
    known = isinstance(output_id, str) and bounded(output_id) in text_urls
    return output.get("type") == "text" and not (known or (isinstance(url, str) and url in text_urls))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(inner) for key, inner in value.items()}
    return [_encodable(inner) for inner in value] if isinstance(value, list) else value


def schema_path() -> Path:
    """Return where the sidecar's JSON Schema lies."""
    return Path(__file__).parent / "schemas" / f"sidecar-{SCHEMA_VERSION}.json"


def load_schema() -> dict[str, Any]:
    """Return the sidecar's JSON Schema (draft 2020-12)."""
    return msgspec.json.decode(schema_path().read_bytes(), type=dict[str, Any])
