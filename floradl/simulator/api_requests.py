"""Reading what a client of the API asks for, and the errors that this may be answered with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from floradl.simulator.runs import RunKind, ScriptedRun

_STATUSES = {"pending", "running", "completed", "failed"}
_DEFAULT_LIMIT = 20


class ApiError(Exception):
    """An answer in FLORA's error envelope."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fields: tuple[str, ...] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        self.body: dict[str, Any] = {"code": code, "message": message}
        if fields:
            self.body["fields"] = [{"field": field, "message": message} for field in fields]


def page_size(query: Mapping[str, str], most: int) -> int:
    """Read `limit`; a larger one than `most` is cut to it. Raises `ApiError`."""
    text = query.get("limit") or str(_DEFAULT_LIMIT)
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise invalid("limit", "limit is a whole number from 1.")
    return min(int(text), most)


def run_filter(query: Mapping[str, str], kind: RunKind, now: float) -> Callable[[ScriptedRun], bool]:
    """Read the filters of a listing, whose statuses are those at `now`. Raises `ApiError`."""
    status = query.get("status")
    if status is not None and status not in _STATUSES:
        raise invalid("status", "status is one of pending, running, completed, failed.")
    technique, project, workspace = (
        query.get(f"{what}_id") for what in ("technique", "project", "workspace")
    )

    def wanted(run: ScriptedRun) -> bool:
        return (
            run.kind is kind
            and (status is None or run.status(now) == status)
            and (technique is None or (run.technique is not None and run.technique.technique_id == technique))
            and project in {None, run.project_id}
            and workspace in {None, run.workspace_id}
        )

    return wanted


def json_object(data: bytes) -> dict[str, Any]:
    """Read a request's JSON object. Raises `ApiError`."""
    try:
        body = msgspec.json.decode(data)
    except msgspec.DecodeError:
        raise ApiError(400, "invalid_json", "The request body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "input_validation_error", "The request body is not a JSON object.")
    return body


def text_or_none(body: Mapping[str, Any], name: str) -> str | None:
    """Read a field that may be missing. Raises `ApiError` where it is no text."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(name, f"{name} is a text.")
    return value


def invalid(field: str, message: str) -> ApiError:
    """Make the error for one wrong field."""
    return ApiError(400, "input_validation_error", message, fields=(field,))
