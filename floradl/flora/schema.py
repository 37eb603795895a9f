"""Wire JSON becomes values: read leniently where it may be, and strictly where it counts.

Source: FLORA's OpenAPI document 1.6.0; older guide pages write camelCase.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from floradl.clock import unix_seconds, wire_time
from floradl.errors import ErrorCode, TransientError
from floradl.models import Reference, RemoteOutput, RemoteRun, RunNames, bounded
from floradl.urls import is_only_url

# Escapes of JSON: a pair of surrogates, half of one, or any other.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
KINDS = ("technique_runs", "generations")
"""The lists of an account: `GET /technique-runs` and `GET /generations`."""

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What `parse_json` raises."""

_NAMELESS = RunNames()
_MOST_INTEGER = 2.0**63
_MOST_NUMBER = 10**18  # of a number that serves as an id
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")


class _WireRun(msgspec.Struct, frozen=True):
    """What an answer must have to be one about a run; without the rest it is still worth something."""

    run_id: str
    status: str


class RunPage(msgspec.Struct, frozen=True):
    """One page of a list, newest first; `cursor` opens the next one, None where there is none."""

    runs: tuple[RemoteRun, ...]
    cursor: str | None


def decode_run(body: bytes, run_id: str) -> RemoteRun:
    """Read a run from the answer's body. A malformed output has a `flaw`, and costs no other one.

    Raises `TransientError` (`bad_answer`) that says what is wrong: the next answer may be whole.
    """
    try:
        run = _run(parse_json(body))
    except NOT_JSON as error:
        raise TransientError(
            f"FLORA's answer about {run_id} is malformed ({error})", ErrorCode.BAD_ANSWER
        ) from error
    if run.run_id != run_id:
        raise TransientError(f"FLORA answered about another run than {run_id}", ErrorCode.BAD_ANSWER)
    return run


def decode_page(body: bytes, key: str) -> RunPage:
    """Read a page of runs that stand under `key`; a run that is malformed is left out.

    One with a malformed output has none here: whoever waits for it asks for it alone.

    Raises `TransientError` (`bad_answer`) where it is no page at all.
    """
    try:
        raw = parse_json(body)
    except NOT_JSON:
        raw = None
    items = raw.get(key) if isinstance(raw, dict) else None
    if not isinstance(items, list):
        raise TransientError("FLORA's list of runs is malformed", ErrorCode.BAD_ANSWER)
    runs = []
    for item in items:
        try:
            runs.append(_for_a_list(_run(item)))
        except (msgspec.ValidationError, RecursionError):
            continue  # whoever waits for it asks for it alone, and learns what is wrong
    return RunPage(tuple(runs), _next_cursor(raw))


def run_owner(run: RemoteRun) -> RunNames:
    """Read from its raw answer what a run belongs to."""
    return _names(run.raw if "run_id" in run.raw else _snake(run.raw))


def technique_of(answer: RemoteRun) -> str | None:
    """Return how an answer names a run's technique: by `poll_url`, else by id; None where it does not."""
    polled = polled_technique(answer)
    if polled is not None or answer.names.technique_id is None:
        return polled
    try:
        return Reference.of(answer.run_id, answer.names.technique_id).technique
    except ValueError:
        return None


def polled_technique(answer: RemoteRun) -> str | None:
    """Return the technique that a run's `poll_url` names, None where there is none."""
    if answer.poll_url is None:
        return None
    try:
        reference = Reference.parse(answer.poll_url)
    except ValueError:
        return None
    return reference.technique if reference.run_id == answer.run_id else None


def decode_technique(body: bytes) -> RunNames | None:
    """Read id and name from an answer about a technique; None where it is malformed."""
    try:
        raw = _snake(parse_json(body))
    except NOT_JSON:
        return None
    technique_id, name = (raw.get("technique_id"), raw.get("name")) if isinstance(raw, dict) else (None, None)
    return RunNames(_short(technique_id), _short(name)) if _short(technique_id) else None


class ErrorBody(msgspec.Struct, frozen=True):
    """FLORA's error envelope: why it refused, and the fields of the request that it names."""

    code: str
    message: str
    fields: tuple[str, ...] = ()


def error_body(answer: Any) -> ErrorBody | None:
    """Read the error envelope from an answer's JSON; None where it is something else."""
    match answer:
        case {"error": {"code": str(code), "message": str(message), **rest}}:
            fields = rest.get("fields")
            named = (
                field["field"]
                for field in (fields if isinstance(fields, list) else [])
                if isinstance(field, dict) and isinstance(field.get("field"), str)
            )
            return ErrorBody(code, message, tuple(named))
    return None


def _next_cursor(raw: dict[str, Any]) -> str | None:
    match _snake(raw.get("meta")):
        case {"next_cursor": str(cursor)} if cursor:
            return cursor
    return None


def _run(raw: Any) -> RemoteRun:
    if not isinstance(raw, dict):
        raise msgspec.ValidationError("expected an object")
    named = raw if "run_id" in raw else _snake(raw)  # only older guide pages write camelCase
    wire = msgspec.convert(named, _WireRun)
    return RemoteRun(
        run_id=wire.run_id,
        status=wire.status,
        progress=min(max(_number(named.get("progress")) or 0.0, 0.0), 100.0),
        created_at=_moment(named.get("created_at")),
        started_at=_moment(named.get("started_at")),
        completed_at=_moment(named.get("completed_at")),
        charged_cost=_number(named.get("charged_cost")),
        error_code=_text(named.get("error_code")),
        error_message=_text(named.get("error_message")),
        outputs=_outputs(named.get("outputs"), needed=wire.status == "completed"),
        poll_url=_text(named.get("poll_url")),
        names=_names(named),
        raw=raw,
    )


def _names(raw: dict[str, Any]) -> RunNames:
    """Read what a run, with its keys in snake_case, belongs to."""
    technique, model, project = raw.get("technique"), raw.get("model"), raw.get("project")
    technique = technique if isinstance(technique, dict) else {}
    model = model if isinstance(model, dict) else {}
    project = project if isinstance(project, dict) else {}
    found = (
        _short(technique.get("technique_id")),
        _short(technique.get("name")),
        _short(raw.get("workspace_id")),
        _short(raw.get("project_id") or project.get("project_id")),
        _short(raw.get("project_name") or project.get("name")),
        _short(model.get("model_id")),
    )
    return RunNames(*found) if any(found) else _NAMELESS


def _short(value: Any) -> str | None:
    """Return a text that is not empty, as long as an id may be."""
    return bounded(value) if isinstance(value, str) and value else None


def _for_a_list(run: RemoteRun) -> RemoteRun:
    flawed = any(output.flaw for output in run.outputs)
    return msgspec.structs.replace(run, outputs=()) if flawed else run


def parse_json(body: bytes) -> Any:
    """Decode JSON; half a surrogate pair, which JavaScript makes of an emoji cut in two, becomes U+FFFD.

    An integer of more than 64 bits (a seed, in a field that nobody here reads) becomes what it is to
    JavaScript, the nearest float.
    """
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        repaired = _ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], body)
        if "out of range" in str(error):  # so msgspec calls a number
            return _with_any_numbers(repaired)
        if repaired == body:
            raise
        return msgspec.json.decode(repaired)


def _with_any_numbers(body: bytes) -> Any:
    try:
        return json.loads(body, parse_int=_integer)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error


def _integer(text: str) -> int | float:
    value = float(text)
    return int(text) if abs(value) < _MOST_INTEGER else value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    """Return a number, also one that is written as a string; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _moment(value: Any) -> float | None:
    """Return unix seconds for a time as a number, or as RFC 3339 has it; one without a zone is UTC."""
    number = _number(value)
    if number is not None or not isinstance(value, str):
        return wire_time(number)
    found = unix_seconds(value)
    return wire_time(unix_seconds(f"{value}Z") if found is None else found)


def _outputs(wire: Any, *, needed: bool) -> tuple[RemoteOutput, ...]:
    """Read what a run lists. Raises `ValidationError` where that is no list, although one is `needed`."""
    if not isinstance(wire, list):
        if needed and wire is not None:
            raise msgspec.ValidationError("expected a list of outputs")
        return ()
    seen: dict[str, int] = {}
    found = []
    # The same one listed twice is one.
    for output in dict.fromkeys(_output(item, place) for place, item in enumerate(wire, 1)):
        nth = seen[output.output_id] = seen.get(output.output_id, 0) + 1
        found.append(output if nth == 1 else msgspec.structs.replace(output, nth=nth))
    return tuple(found)


def _output(item: Any, place: int) -> RemoteOutput:
    """Read one output, as far as there is one to read; `place` counts from 1 and names one without an id."""
    unnamed = f"unnamed_{place}"
    if isinstance(item, str) and is_only_url(item):
        return RemoteOutput(unnamed, "", item)
    if not isinstance(item, dict):
        return RemoteOutput(unnamed, "", "", flaw=f"FLORA lists {_sort(item)} in the place of an output")
    type_, url = _text(item.get("type")) or "", item.get("url")
    flaw = ""
    if not isinstance(url, str) or (not url.strip() and type_ != "text"):
        flaw = f"FLORA lists this output with {_sort(url)} in the place of a URL"
    output_id = item.get("output_id", item.get("outputId"))
    identity = _identity(output_id)
    return RemoteOutput(unnamed if identity is None else identity, type_, _text(url) or "", flaw=flaw)


def _identity(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < _MOST_NUMBER else None
    return _text(value)


def _sort(value: Any) -> str:
    """Return what sort of JSON `value` is, for a person."""
    match value:
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case str() if value:
            return "a text"
    return "an object" if value else "nothing"


def _snake(value: Any) -> Any:
    """Return `value` with the keys of its objects in snake_case."""
    if isinstance(value, dict):
        return {_CAMEL.sub(r"_\1", key).lower(): _snake(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_snake(item) for item in value]
    return value
