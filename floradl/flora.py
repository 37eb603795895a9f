"""The FLORA API: one question, one answer; wire JSON becomes a `RemoteRun`, each refusal one of our errors.

Source: FLORA's reference of `GET /techniques/{techniqueId}/runs/{runId}` and its OpenAPI document 1.6.0.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import structlog

from floradl.errors import ErrorCode, FloradlError, PassingError, PausedError, PauseReason, PermanentError
from floradl.headers import retry_after
from floradl.models import Reference, RemoteOutput, RemoteRun
from floradl.pace import Pace
from floradl.times import wire_time

_MAX_ANSWER = 16 * 1024 * 1024  # bytes; text outputs stand in the answer itself
_FORBIDDEN_RUNS = 3  # so many different runs refused in a row: it is the key, not the runs
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


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


class Flora:
    """The API as seen with one key.

    `client` has the API's base URL; `key` is asked at each request, so a changed key is used at once.
    """

    def __init__(self, client: httpx.AsyncClient, key: Callable[[], str], pace: Pace) -> None:
        self._client = client
        self._key = key
        self._pace = pace
        self._forbidden: set[str] = set()

    async def run(self, reference: Reference) -> RemoteRun:
        """Ask for one run.

        Raises `PassingError` (network, 404, 408, 409, 429, 5xx, an answer that makes no sense),
        `PermanentError` (400 and other refusals of this run) and `PausedError` (401, 402, and 403 for
        every run).
        """
        run_id = quote(reference.run_id, safe="")
        path = f"runs/{run_id}"
        if reference.technique:
            path = f"techniques/{quote(reference.technique, safe='')}/{path}"
        status, headers, body = await self._get(path, reference)
        if status == httpx.codes.OK:
            run = decode_run(body, reference.run_id)
            self._forbidden.clear()
            return run
        error = self._refusal(status, headers, body, reference)
        _log.warning(
            "api_refused",
            run=reference.run_id,
            technique=reference.technique,
            status=status,
            request_id=headers.get("request-id"),
            message=str(error),
        )
        raise error

    async def _get(self, path: str, reference: Reference) -> tuple[int, httpx.Headers, bytes]:
        async with self._pace.turn():
            started = time.monotonic()
            try:
                request = self._client.build_request(
                    "GET", path, headers={"Authorization": f"Bearer {self._key()}"}
                )
                response = await self._client.send(request, stream=True)
                try:
                    body = await _read_capped(response)
                finally:
                    await response.aclose()
            except httpx.RequestError as error:
                self._pace.unreachable()
                raise PassingError(
                    f"FLORA's API at {self._client.base_url.host} cannot be reached "
                    f"({type(error).__name__}: {error})"
                ) from error
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            self._pace.throttled(retry_after(response.headers, time.time()))
        else:
            self._pace.answered()
        _log.debug(
            "api_answered",
            run=reference.run_id,
            technique=reference.technique,
            status=response.status_code,
            request_id=response.headers.get("request-id"),
            duration=round(time.monotonic() - started, 4),
        )
        return response.status_code, response.headers, body

    def _refusal(
        self, status: int, headers: httpx.Headers, body: bytes, reference: Reference
    ) -> FloradlError:
        """Return what a status other than 200 means, after FLORA's table of error codes."""
        said = _envelope(body)
        text = f"FLORA answered {status}{f' {said}' if said else ''} for {reference}" + _request_id(headers)
        if status == httpx.codes.UNAUTHORIZED:
            return PausedError(
                f"{text}: the API key is refused; put a valid one in place", PauseReason.KEY_REFUSED
            )
        if status == httpx.codes.PAYMENT_REQUIRED:
            return PausedError(f"{text}: the workspace is out of credits; top it up", PauseReason.CREDITS)
        if status in {408, 409, 425, 429} or status >= 500:
            return PassingError(text, retry_after=retry_after(headers, time.time()))
        if said is None:
            # Not FLORA's voice: a proxy, a portal or a wrong base URL. Nothing is decided on its word.
            return PassingError(
                f"{text}, and not in FLORA's form: is api.base_url right?", ErrorCode.BAD_ANSWER
            )
        if status == httpx.codes.FORBIDDEN:
            return self._forbid(text, reference)
        if status == httpx.codes.NOT_FOUND:
            return PassingError(f"{text}: no such run in this key's workspace", ErrorCode.NOT_FOUND)
        return PermanentError(text, ErrorCode.BAD_REQUEST)

    def _forbid(self, text: str, reference: Reference) -> FloradlError:
        self._forbidden.add(reference.run_id)
        if len(self._forbidden) < _FORBIDDEN_RUNS:
            return PassingError(text, ErrorCode.FORBIDDEN)
        return PausedError(
            f"{text}, as for every other run: the key may not read runs; give it that right, or use another",
            PauseReason.KEY_REFUSED,
        )


def decode_run(body: bytes, run_id: str) -> RemoteRun:
    """Read a run from the answer's body; `camelCase` of older guide pages is understood.

    Raises `PassingError` (`bad_answer`) that says what is wrong: the next answer may be whole.
    """
    try:
        raw = msgspec.json.decode(body)
        if not isinstance(raw, dict):
            raise msgspec.ValidationError("expected an object")
        wire = msgspec.convert(_snake(raw), _WireRun, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PassingError(
            f"FLORA's answer about {run_id} makes no sense ({error})", ErrorCode.BAD_ANSWER
        ) from error
    if wire.run_id != run_id:
        raise PassingError(f"FLORA answered about another run than {run_id}", ErrorCode.BAD_ANSWER)
    return RemoteRun(
        run_id=wire.run_id,
        status=wire.status,
        progress=min(max(wire.progress or 0.0, 0.0), 100.0),
        created_at=wire_time(wire.created_at),
        started_at=wire_time(wire.started_at),
        completed_at=wire_time(wire.completed_at),
        charged_cost=wire.charged_cost,
        error_code=wire.error_code,
        error_message=wire.error_message,
        outputs=_outputs(wire.outputs),
        poll_url=wire.poll_url,
        raw=raw,
    )


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


async def _read_capped(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MAX_ANSWER:
            raise PassingError(
                f"FLORA's answer is over {_MAX_ANSWER >> 20} MiB and was not read", ErrorCode.BAD_ANSWER
            )
    return bytes(body)


def _envelope(body: bytes) -> str | None:
    """Return `code: message` of FLORA's error envelope; None where the body is something else."""
    try:
        match msgspec.json.decode(body):
            case {"error": {"code": str(code), "message": str(message), **rest}}:
                fields = rest.get("fields")
                named = [f["field"] for f in fields if isinstance(f, dict) and "field" in f] if fields else []
                return f"{code} ({message[:300]}{f'; fields: {named}' if named else ''})"
    except (msgspec.DecodeError, RecursionError, TypeError):
        pass
    return None


def _request_id(headers: httpx.Headers) -> str:
    value = headers.get("request-id")
    return f" (request-id {value})" if value else ""
