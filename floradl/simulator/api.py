"""The API host: the endpoints of FLORA's public API that concern runs, with its error envelopes."""

from __future__ import annotations

import hmac
import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web
from msgspec.structs import replace

from floradl.simulator import server as wire
from floradl.simulator.delivery import StoredAnswer, bend, error_answer, json_answer, small
from floradl.simulator.runs import (
    Addresses,
    OutputSpec,
    RunKind,
    ScriptedRun,
    Technique,
    listed_json,
    run_json,
    technique_json,
)
from floradl.simulator.state import Simulator

_STATUSES = {"pending", "running", "completed", "failed"}
_DEFAULT_LIMIT = 20
_GENERATED = {"image": "imageUrl", "video": "videoUrl", "audio": "audioUrl", "text": "text"}


class ApiError(Exception):
    """An answer in FLORA's error envelope."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        self.body: dict[str, Any] = {"code": code, "message": message}
        if field is not None:
            self.body["fields"] = [{"field": field, "message": message}]


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
    """Read a field that may be missing. Raises `ApiError` where it is not a text."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(name, f"{name} is a text.")
    return value


def invalid(field: str, message: str) -> ApiError:
    """Make the error for one wrong field."""
    return ApiError(400, "input_validation_error", message, field=field)


class TokenBucket:
    """Tokens that come back at a steady rate, up to a burst."""

    def __init__(self) -> None:
        self._tokens: float | None = None
        self._at = 0.0

    def take(self, now: float, rate: float, burst: float) -> float:
        """Take one token; return 0, or the seconds until there is one. `rate` is in tokens a second."""
        tokens = burst if self._tokens is None else min(burst, self._tokens + (now - self._at) * rate)
        self._at = now
        if tokens >= 1:
            self._tokens = tokens - 1
            return 0.0
        self._tokens = tokens
        return (1 - tokens) / rate


class ApiHost:
    """The handlers. They read and write one `Simulator`."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._bucket = TokenBucket()
        self._request_ids = itertools.count(1)
        self._idempotent: set[str] = set()
        self._addresses = Addresses(poll=self._poll_url, output=simulator.output_url)

    def application(self) -> web.Application:
        """Build the application, with its paths below `/api/v1`."""
        app = web.Application(middlewares=[self._exchange])
        prefix = "/api/v1"
        app.router.add_get(f"{prefix}/workspaces", self._workspaces)
        app.router.add_get(f"{prefix}/techniques", self._techniques)
        app.router.add_get(f"{prefix}/techniques/{{technique}}", self._technique)
        app.router.add_post(f"{prefix}/techniques/{{technique}}/runs", self._start_run)
        app.router.add_get(f"{prefix}/techniques/{{technique}}/runs/{{run_id}}", self._run)
        app.router.add_get(f"{prefix}/runs/{{run_id}}", self._run)
        app.router.add_get(
            f"{prefix}/technique-runs", partial(self._list, "technique_runs", RunKind.TECHNIQUE)
        )
        app.router.add_get(f"{prefix}/generations", partial(self._list, "generations", RunKind.GENERATION))
        app.router.add_post(f"{prefix}/generate", self._generate)
        app.router.add_post(f"{prefix}/runs/technique", self._start_technique)
        app.on_response_prepare.append(self._before_sending)
        return app

    @web.middleware
    async def _exchange(self, request: web.Request, handler: wire.Handler) -> web.StreamResponse:
        exchange = wire.ServedRequest(self._simulator, "api", request)
        begun = await exchange.begin()
        if isinstance(begun, web.StreamResponse):
            return begun
        answer = begun or await self._answer(request, handler)
        if exchange.do is not None and begun is None:
            answer = small(
                202 if exchange.do.accepted and answer.status == 200 else answer.status,
                answer.headers["Content-Type"],
                bend(answer.body.read(), exchange.do),
                answer.headers,
            )
        request_id = {"request-id": f"req_{next(self._request_ids):016x}"}
        return await exchange.finish(replace(answer, headers={**answer.headers, **request_id}))

    async def _answer(self, request: web.Request, handler: wire.Handler) -> StoredAnswer:
        try:
            self._admit(request)
            response = await handler(request)
        except ApiError as error:
            return json_answer({"error": error.body}, error.status, error.headers)
        except web.HTTPNotFound:
            message = f"{request.method} {request.path} is not an endpoint that the simulator has."
            return error_answer(404, "not_found", message)
        except web.HTTPMethodNotAllowed:
            return error_answer(405, "not_found", f"{request.method} is not allowed here.")
        if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
            raise TypeError(response)
        return small(response.status, response.content_type, response.body)

    async def _before_sending(self, request: web.Request, response: web.StreamResponse) -> None:
        wire.record(self._simulator, "api", request, response.status)

    def _admit(self, request: web.Request) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "unauthorized", "Missing API key. Send it as 'Authorization: Bearer <key>'.")
        simulator = self._simulator
        if not hmac.compare_digest(key.strip().encode(), simulator.key.encode()):
            raise ApiError(401, "invalid_api_key", "The API key is invalid or was revoked.")
        rate, burst = simulator.rate_limit, simulator.rate_burst
        if rate is not None and (wait := self._bucket.take(simulator.now(), rate, burst)):
            raise ApiError(429, "rate_limited", "Too many requests.", retry_after=math.ceil(wait))

    async def _workspaces(self, _request: web.Request) -> web.Response:
        workspace = {"workspace_id": "ws_simulator", "name": "Simulator", "role": "owner", "created_at": None}
        return _json({"workspaces": [workspace]})

    async def _techniques(self, _request: web.Request) -> web.Response:
        known = [technique_json(technique) for technique in self._simulator.techniques]
        return _json({"techniques": known, "meta": {"next_cursor": None}})

    async def _technique(self, request: web.Request) -> web.Response:
        return _json(technique_json(self._known_technique(request.match_info["technique"])))

    async def _run(self, request: web.Request) -> web.Response:
        run_id, technique = request.match_info["run_id"], request.match_info.get("technique")
        run = self._simulator.run(run_id)
        if run is None or (technique and (not run.technique or not run.technique.named(technique))):
            raise ApiError(404, "not_found", "Run not found.")
        return _json(self._as_json(run))

    async def _list(self, name: str, kind: RunKind, request: web.Request) -> web.Response:
        if not self._simulator.listing:
            raise ApiError(403, "forbidden", "This key may not list runs.")
        now = self._simulator.now()
        query = request.query
        limit, wanted = page_size(query, self._simulator.page_limit), run_filter(query, kind, now)
        try:
            page = self._simulator.page(wanted, limit, query.get("cursor") or None)
        except ValueError:
            raise invalid("cursor", "The cursor is invalid.") from None
        listed = [listed_json(run, self._as_json(run)) for run in page.runs]
        return _json({name: listed, "meta": {"next_cursor": page.cursor}})

    async def _start_run(self, request: web.Request) -> web.Response:
        technique = self._known_technique(request.match_info["technique"])
        body = json_object(await request.read())
        if body.get("mode") not in {"async", "stream"}:
            raise invalid("mode", "mode is 'async' or 'stream'.")
        if not isinstance(body.get("inputs"), list):
            raise invalid("inputs", "inputs is a list of {id, type, value}.")
        callback_url = self._callback(request, body)
        return _json(self._as_json(self._started(technique, callback_url)))

    async def _start_technique(self, request: web.Request) -> web.Response:
        body = json_object(await request.read())
        technique = self._known_technique(str(body.get("technique_id")))
        run = self._started(technique, self._callback(request, body))
        named = {"technique_id": technique.technique_id, "name": technique.name}
        return _json({**self._receipt(run, technique.run_cost), "technique": named})

    async def _generate(self, request: web.Request) -> web.Response:
        body = json_object(await request.read())
        for name in ("prompt", "workspace_id", "project_id"):
            if not isinstance(body.get(name), str):
                raise invalid(name, f"{name} is required.")
        if (output_type := _GENERATED.get(str(body.get("type")))) is None:
            raise invalid("type", "type is one of image, video, audio, text.")
        callback_url = self._callback(request, body)
        run = ScriptedRun(
            run_id=self._simulator.new_run_id(),
            kind=RunKind.GENERATION,
            created=self._simulator.now(),
            duration=4.0 / self._simulator.speed,
            outputs=(OutputSpec("output_1", output_type),),
            workspace_id=body["workspace_id"],
            project_id=body["project_id"],
            model_id=str(body.get("model") or "simulated-model"),
            callback_url=callback_url,
        )
        self._simulator.add(run)
        return _json({**self._receipt(run, 0.04), "model": {"model_id": run.model_id}})

    def _started(self, technique: Technique, callback_url: str | None) -> ScriptedRun:
        reference = self._simulator.add_run(technique=technique.technique_id, duration=technique.duration)
        if callback_url is not None:
            self._simulator.call_back(reference.run_id, callback_url)
        if (run := self._simulator.run(reference.run_id)) is None:
            raise LookupError(reference.run_id)
        return run

    def _callback(self, request: web.Request, body: dict[str, Any]) -> str | None:
        """Return the callback URL, the first time for an idempotency key. Raises `ApiError`."""
        callback_url = text_or_none(body, "callback_url")
        if (key := request.headers.get("Idempotency-Key") or body.get("idempotency_key")) is not None:
            if key in self._idempotent:
                raise ApiError(409, "idempotency_duplicate", "This idempotency key was used already.")
            self._idempotent.add(str(key))
        return callback_url

    def _known_technique(self, name: str) -> Technique:
        if (technique := self._simulator.technique(name)) is None:
            raise ApiError(404, "not_found", "Technique not found.")
        return technique

    def _as_json(self, run: ScriptedRun) -> dict[str, Any]:
        simulator = self._simulator
        return run_json(run, simulator.now(), self._addresses, simulator.time_unit, simulator.progress)

    def _receipt(self, run: ScriptedRun, cost: float) -> dict[str, Any]:
        return {
            "run_id": run.run_id,
            "type": run.kind.value,
            "charged_cost": cost,
            "estimated_seconds": round(run.duration, 1),
            "poll_url": self._poll_url(run),
            "project_id": run.project_id,
        }

    def _poll_url(self, run: ScriptedRun) -> str:
        run_id = quote(run.run_id, safe="")
        if run.technique is None:
            return f"{self._simulator.base_url}/runs/{run_id}"
        return f"{self._simulator.base_url}/techniques/{quote(run.technique.slug, safe='')}/runs/{run_id}"


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
