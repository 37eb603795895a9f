"""Answers that a fault puts in the place of the real one. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from floradl.simulator.bodies import Body, literal
from floradl.simulator.faults import Do
from floradl.simulator.ranges import Answer

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


def small(status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    """Make an answer with a body that is at hand."""
    return Answer(
        status, {"Content-Type": content_type, **(headers or {})}, Body((literal(body),)), 0, len(body)
    )


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Make an answer in JSON."""
    return small(status, "application/json", msgspec.json.encode(value), headers)


def error_answer(status: int, code: str, message: str) -> Answer:
    """Make an answer in FLORA's error envelope."""
    return json_answer({"error": {"code": code, "message": message}}, status)


def replacement(do: Do, host: Literal["api", "media"], places: Mapping[str, str]) -> Answer:
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
