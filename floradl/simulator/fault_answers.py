"""Answers that a fault puts in the place of the real one, or makes of it. Nothing here does I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import msgspec

from floradl.simulator.bodies import Body, literal
from floradl.simulator.faults import Do, position
from floradl.simulator.ranges import StoredAnswer

_ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("input_validation_error", "The request is invalid."),
    401: ("invalid_api_key", "The API key is invalid or was revoked."),
    402: ("insufficient_credits", "The workspace has not enough credits."),
    403: ("forbidden", "This is not allowed."),
    404: ("not_found", "Not found."),
    409: ("conflict", "The request conflicts with another one."),
    429: ("rate_limited", "Too many requests."),
    500: ("internal_error", "Something went wrong on our side."),
    503: ("service_unavailable", "The service is unavailable for now."),
}


_PAGE = (
    "<!doctype html>\n<html><head><title>{status}</title></head>"
    "<body><h1>{status}</h1><p>The server is having a bad day.</p></body></html>\n"
)


def small(
    status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
) -> StoredAnswer:
    """Make an answer with a body that is at hand."""
    return StoredAnswer(
        status, {"Content-Type": content_type, **(headers or {})}, Body((literal(body),)), 0, len(body)
    )


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> StoredAnswer:
    """Make an answer in JSON."""
    return small(status, "application/json", msgspec.json.encode(value), headers)


def error_answer(status: int, code: str, message: str) -> StoredAnswer:
    """Make an answer in FLORA's error envelope."""
    return json_answer({"error": {"code": code, "message": message}}, status)


def replacement(do: Do, host: Literal["api", "media"], places: Mapping[str, str]) -> StoredAnswer:
    """Make the answer that `do` wants; `places` are what stands in braces in a redirect's URL."""
    if do.redirect is not None:
        url = do.redirect
        for name, place in places.items():
            url = url.replace(f"{{{name}}}", place)
        return small(do.status or 302, "text/plain", b"", {"Location": url})
    status = do.status or 200
    if do.html:
        return small(status, "text/html; charset=utf-8", _PAGE.format(status=status).encode())
    if do.body is not None:
        kind = "application/json" if host == "api" else "text/plain; charset=utf-8"
        return small(status, kind, do.body.encode("utf-8", "surrogateescape"))
    code, message = _ERRORS.get(status, ("unknown_error", "Something went wrong on our side."))
    if host == "api":
        return error_answer(status, do.code or code, message)
    xml = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{do.code or code}</Code></Error>"
    return small(status, "application/xml; charset=utf-8", xml.encode())


def bend(body: bytes, do: Do) -> bytes:
    """Give a JSON answer as `do` wants it; one without a run in it comes back as it was."""
    if do.unknown_status or do.missing_field or do.wrong_type or do.set or do.camel_case:
        answer = msgspec.json.decode(body)
        for run in _runs(answer):
            _bend_run(run, do)
        body = msgspec.json.encode(answer)
    if do.cut_json is not None:
        body = body[: position(do.cut_json, len(body))]
    return body


def _runs(answer: Any) -> Iterator[dict[str, Any]]:
    """Find the runs of an answer: itself, or those that it lists."""
    if not isinstance(answer, dict):
        return
    if "run_id" in answer:
        yield answer
    for name in ("technique_runs", "generations"):
        yield from answer.get(name, ())


def _bend_run(run: dict[str, Any], do: Do) -> None:
    if do.unknown_status:
        run["status"] = do.unknown_status
    if do.missing_field:
        _change(run, do.missing_field, _remove)
    if do.wrong_type:
        _change(run, do.wrong_type, partial(_put, value={"unexpected": [None]}))
    for path, text in do.set.items():
        _change(run, path, partial(_put, value=_value(text)))
    if do.camel_case:
        renamed = {_camel(name): value for name, value in run.items()}
        run.clear()
        run.update(renamed)


def _change(holder: Any, path: str, change: Callable[[Any, Any], object]) -> None:
    """Apply `change` at `path`; lists on the way are gone through, unless a number (from 0) names an item."""
    name, dot, rest = path.partition(".")
    key: Any = name
    if isinstance(holder, list):
        if not name.isdecimal():
            for item in holder:
                _change(item, path, change)
            return
        key = int(name)
    elif not isinstance(holder, dict):
        return
    if not dot:
        change(holder, key)
        return
    with suppress(LookupError):
        _change(holder[key], rest, change)


def _remove(holder: Any, key: Any) -> None:
    with suppress(LookupError):
        del holder[key]


def _put(holder: Any, key: Any, value: Any) -> None:
    with suppress(LookupError):  # a list does not grow
        holder[key] = value


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)
