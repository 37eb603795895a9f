"""JSON answers that are not what the API's reference says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from floradl.simulator.faults import Do, position


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
