"""Wire JSON becomes values: read leniently where it may be, and strictly where it counts.

Source: FLORA's OpenAPI document 1.6.0; older guide pages write camelCase.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from floradl.errors import ErrorCode, PassingError
from floradl.models import RemoteOutput, RemoteRun
from floradl.times import wire_time

# Escapes of JSON: a pair of surrogates, half of one, or any other.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
_MOST_INTEGER = 2.0**63
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")


class _WireOutput(msgspec.Struct, frozen=True):
    output_id: str
    type: str
    url: str


class _WireRun(msgspec.Struct, frozen=True):
    run_id: str
    status: str
    progress: float | None = None
    created_at: float | None = None
    started_at: float | None = None
    completed_at: float | None = None
    charged_cost: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    outputs: list[_WireOutput] | None = None
    poll_url: str | None = None


class Page(msgspec.Struct, frozen=True):
    """One page of a list, newest first; `cursor` opens the next one, None where there is none."""

    runs: tuple[RemoteRun, ...]
    cursor: str | None


def decode_run(body: bytes, run_id: str) -> RemoteRun:
    """Read a run from the answer's body.

    Raises `PassingError` (`bad_answer`) that says what is wrong: the next answer may be whole.
    """
    try:
        run = _run(parse_json(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PassingError(
            f"FLORA's answer about {run_id} makes no sense ({error})", ErrorCode.BAD_ANSWER
        ) from error
    if run.run_id != run_id:
        raise PassingError(f"FLORA answered about another run than {run_id}", ErrorCode.BAD_ANSWER)
    return run


def decode_page(body: bytes, key: str) -> Page:
    """Read a page of runs that stand under `key`; a run that makes no sense is left out.

    Raises `PassingError` (`bad_answer`) where it is no page at all.
    """
    try:
        raw = parse_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raw = None
    items = raw.get(key) if isinstance(raw, dict) else None
    if not isinstance(items, list):
        raise PassingError("FLORA's list of runs makes no sense", ErrorCode.BAD_ANSWER)
    runs = []
    for item in items:
        try:
            runs.append(_run(item))
        except (msgspec.ValidationError, RecursionError):
            continue  # whoever waits for it asks for it alone, and hears what is wrong
    return Page(tuple(runs), _next_cursor(raw))


class Belongings(msgspec.Struct, frozen=True):
    """Whose a listed run is; None where its list does not tell."""

    technique_id: str | None = None
    project_id: str | None = None
    workspace_id: str | None = None


def belongings(run: RemoteRun) -> Belongings:
    """Read what a list tells of a run beside what is told of every run."""
    raw = run.raw if "run_id" in run.raw else _snake(run.raw)
    technique = raw.get("technique")
    found = {
        "technique_id": technique.get("technique_id", technique.get("techniqueId"))
        if isinstance(technique, dict)
        else None,
        "project_id": raw.get("project_id"),
        "workspace_id": raw.get("workspace_id"),
    }
    return Belongings(**{name: value for name, value in found.items() if isinstance(value, str)})


class Refusal(msgspec.Struct, frozen=True):
    """FLORA's error envelope: why it refused, and the fields of the request that it names."""

    code: str
    message: str
    fields: tuple[str, ...] = ()


def refusal(answer: Any) -> Refusal | None:
    """Read the error envelope from an answer's JSON; None where it is something else."""
    match answer:
        case {"error": {"code": str(code), "message": str(message), **rest}}:
            fields = rest.get("fields")
            named = (
                field["field"]
                for field in (fields if isinstance(fields, list) else [])
                if isinstance(field, dict) and isinstance(field.get("field"), str)
            )
            return Refusal(code, message, tuple(named))
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
    wire = msgspec.convert(named, _WireRun, strict=False)
    return RemoteRun(
        run_id=wire.run_id,
        status=wire.status,
        progress=min(max(_finite(wire.progress) or 0.0, 0.0), 100.0),
        created_at=wire_time(wire.created_at),
        started_at=wire_time(wire.started_at),
        completed_at=wire_time(wire.completed_at),
        charged_cost=_finite(wire.charged_cost),
        error_code=wire.error_code,
        error_message=wire.error_message,
        outputs=_outputs(wire.outputs),
        poll_url=wire.poll_url,
        raw=raw,
    )


def parse_json(body: bytes) -> Any:
    """Decode JSON; half a surrogate pair, which JavaScript makes of an emoji cut in two, becomes U+FFFD.

    An integer of more than 64 bits (a seed, in a field that nobody here reads) becomes what it is to
    JavaScript, the nearest float.
    """
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        mended = _ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], body)
        if "out of range" in str(error):  # msgspec's words for a number
            return _with_any_numbers(mended)
        if mended == body:
            raise
        return msgspec.json.decode(mended)


def _with_any_numbers(body: bytes) -> Any:
    try:
        return json.loads(body, parse_int=_integer)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error


def _integer(text: str) -> int | float:
    value = float(text)
    return int(text) if abs(value) < _MOST_INTEGER else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _outputs(wire: list[_WireOutput] | None) -> tuple[RemoteOutput, ...]:
    seen: dict[str, int] = {}
    found = []
    for output in dict.fromkeys(wire) if wire else ():  # the same one listed twice is one
        seen[output.output_id] = seen.get(output.output_id, 0) + 1
        found.append(RemoteOutput(output.output_id, output.type, output.url, seen[output.output_id]))
    return tuple(found)


def _snake(value: Any) -> Any:
    """Return `value` with the keys of its objects in snake_case."""
    if isinstance(value, dict):
        return {_CAMEL.sub(r"_\1", key).lower(): _snake(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_snake(item) for item in value]
    return value
