"""The FLORA API: one request, one answer; each refusal becomes one of our errors, a wrong workspace a hint.

Source: FLORA's reference of `GET /techniques/{techniqueId}/runs/{runId}` and its OpenAPI document 1.6.0.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import quote

import anyio
import httpx
import msgspec

from floradl.errors import (
    ApiUnavailableError,
    ErrorCode,
    FloradlError,
    ForeignAnswerError,
    PauseReason,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.flora.rate_limit import RateLimiter
from floradl.flora.schema import (
    NOT_JSON,
    RunPage,
    decode_page,
    decode_run,
    decode_technique,
    error_body,
    parse_json,
    technique_of,
)
from floradl.flora.technique_names import TechniqueNames
from floradl.log import get_logger
from floradl.models import Reference, RemoteRun, RunNames
from floradl.net.client import ApiAnswer, ApiClient
from floradl.net.headers import date, retry_after
from floradl.redaction import cut, printable, redact
from floradl.urls import host_of

_MAX_ANSWER = 16 * 1024 * 1024  # bytes; text outputs stand in the answer itself
_DEADLINE = 120.0  # seconds for a whole answer: one that drips never runs into a socket's timeout
_PAGE = 100  # runs; the maximum is not published, and a smaller page that comes back is as good
_FORBIDDEN_RUNS = 3  # so many different runs refused in a row: it may be the key, not the runs
_MISSING_RUNS = 5  # so many different runs not found in a row: the key may be of another workspace
_PASSING = {408, 425, 429}
_ANSWERED = {200, 201, 202, 203}  # with a run in it, an answer counts as one
_SOUGHT_FOR = 30.0  # seconds after which a run that is missing is looked for without its technique once more
_MOST_SOUGHT = 10_000  # runs
_log = get_logger()


class WrongWorkspaceCheck:
    """Notes whether FLORA knows the runs that are polled, since the start or since the key changed."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._missing: set[str] = set()
        self._known = False

    def use_key(self, key: str) -> None:
        """Note the key of a request; with another one all begins anew."""
        if key != self._key:
            self._key = key
            self._missing.clear()
            self._known = False

    def found(self) -> None:
        """Note that FLORA knows a run: the key is of the right workspace."""
        self._known = True
        self._missing.clear()

    def missing(self, run_id: str) -> None:
        """Note that FLORA knows no such run."""
        if not self._known:
            self._missing.add(run_id)

    @property
    def hint(self) -> str | None:
        """What to say to a person; None while there is no reason for doubt."""
        if len(self._missing) < _MISSING_RUNS:
            return None
        return (
            "FLORA knows none of the runs that it was asked about so far (404, not_found): the key may be of "
            "another workspace than they are; put the right one in place, then 'floradl retry --failed'"
        )


class FloraClient:
    """The API as seen with one key, which `key` returns for each request: a changed one is used at once.

    Where it is refused, `forget_key` is called and `key` once more: another one is tried before that counts.
    """

    def __init__(
        self,
        client: ApiClient,
        key: Callable[[], str],
        rate_limiter: RateLimiter,
        workspace_check: WrongWorkspaceCheck | None = None,
        technique_names: TechniqueNames | None = None,
        forget_key: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._key = key
        self._forget_key = forget_key
        self._rate_limiter = rate_limiter
        self._workspace_check = workspace_check or WrongWorkspaceCheck()
        self._technique_names = technique_names or TechniqueNames()
        self._sought: dict[str, float] = {}  # runs missing under their techniques, and when they were sought
        self.wrong_techniques = self._technique_names.wrong
        """See `TechniqueNames.wrong`."""
        self._forbidden: set[str] = set()
        self._refused: ServicePausedError | None = None
        self.answers: Counter[str] = Counter()
        """How often each status came; `none` stands for no answer."""

    @property
    def silent_until(self) -> float:
        """See `RateLimiter.silent_until`."""
        return self._rate_limiter.silent_until

    async def run(self, reference: Reference) -> RemoteRun:
        """Fetch one run. Where its technique has none of that id, it is looked for by its id alone, once.

        Raises `TransientError` (network, 404, 408, 409, 429, 5xx, an answer that is malformed),
        `PermanentError` (400 and other refusals of this run) and `ServicePausedError` (401, 402, and 403 for
        every run). Where somebody else answers in FLORA's place it is `ForeignAnswerError`, whatever the
        status.
        """
        technique, alone = reference.technique, Reference(reference.run_id)
        if reference.run_id in self.wrong_techniques:
            return self._technique_names.add_to(await self._run(alone), None)
        try:
            return self._technique_names.add_to(await self._run(reference), technique)
        except TransientError as error:
            if error.code is not ErrorCode.NOT_FOUND or technique is None:
                raise
            if not self._seeks(alone.run_id):
                raise
            missing = error
        try:
            answer = await self._run(alone)
        except TransientError as error:
            if error.code is ErrorCode.NOT_FOUND:
                raise missing from error
            raise
        if technique_of(answer) != technique:  # else it came to be visible just now
            self._technique_names.note_wrong(reference, answer)
        return self._technique_names.add_to(answer, None)

    def _seeks(self, run_id: str) -> bool:
        """Whether a run is looked for without its technique now, which it is seldom."""
        now = time.monotonic()
        if now - self._sought.get(run_id, -math.inf) < _SOUGHT_FOR:
            return False
        self._sought.pop(run_id, None)
        self._sought[run_id] = now
        while len(self._sought) > _MOST_SOUGHT:
            del self._sought[next(iter(self._sought))]
        return True

    async def _run(self, reference: Reference) -> RemoteRun:
        run_id = quote(reference.run_id, safe="")
        path = f"runs/{run_id}"
        if reference.technique:
            path = f"techniques/{quote(reference.technique, safe='')}/{path}"
        status, headers, body = await self._get(path, reference)
        if status in _ANSWERED and not _is_page(headers, body):
            self._forbidden.clear()
            run = decode_run(body, reference.run_id)
            if run.finished:
                self._rate_limiter.paid()
            return _aged(run, date(headers))
        error = self._refusal(status, headers, body, reference)
        if isinstance(error, TransientError) and error.code is ErrorCode.FORBIDDEN:
            error = await self._forbidden_error(error, reference)
        if isinstance(error, ServicePausedError):
            self._refused = error
        _log.debug(  # what follows from it is logged by the caller, when it changes
            "api_refused",
            run=reference.run_id,
            technique=reference.technique,
            status=status,
            request_id=headers.get("request-id"),
            message=str(error),
        )
        raise error

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        """Fetch a page of the newest runs; `kind` is `technique_runs` or `generations`.

        Raises as `run` does, `TransientError` with `forbidden` where the key may not list.
        """
        path = f"{kind.replace('_', '-')}?limit={_PAGE}"
        if cursor:
            path += f"&cursor={quote(cursor, safe='')}"
        status, headers, body = await self._get(path, None)
        if status in _ANSWERED and not _is_page(headers, body):
            page = decode_page(body, kind)
            now = date(headers)
            for run in page.runs:
                self._technique_names.learn(run)
            return msgspec.structs.replace(page, runs=tuple(_aged(run, now) for run in page.runs))
        error = self._refusal(status, headers, body, f"the list of {kind.replace('_', ' ')}")
        if isinstance(error, ServicePausedError):
            self._refused = error
        raise error

    async def technique(self, name: str) -> RunNames:
        """Fetch id and name of the technique of this slug or id. Raises as `run` does."""
        status, headers, body = await self._get(f"techniques/{quote(name, safe='')}", None)
        if status != httpx.codes.OK:
            raise self._refusal(status, headers, body, f"the technique {name!a}")
        if (found := decode_technique(body)) is None:
            raise TransientError(
                f"FLORA's answer about the technique {name!a} is malformed", ErrorCode.BAD_ANSWER
            )
        return found

    async def technique_id(self, name: str) -> str:
        """Fetch the `tech_…` id of the technique that has this slug. Raises as `run` does."""
        found = (await self.technique(name)).technique_id
        if found is None:
            raise TransientError(f"FLORA names no id of the technique {name!a}", ErrorCode.BAD_ANSWER)
        return found

    async def _get(self, path: str, reference: Reference | None) -> tuple[int, httpx.Headers, bytes]:
        host = self._client.base_url.host
        before = self._refused
        async with self._rate_limiter.turn(patient=reference is not None):
            if self._refused is not None and self._refused is not before:
                # The key was refused while this one waited: hundreds of requests more change nothing.
                raise ServicePausedError(str(self._refused), self._refused.reason)
            started = time.monotonic()
            key = self._key()
            try:
                answer = await self._send(path, key)
                if answer.status == httpx.codes.UNAUTHORIZED:
                    self._forget_key()
                    if (changed := self._key()) != key:
                        answer = await self._send(path, changed)
            except (httpx.RequestError, TimeoutError) as error:
                self._rate_limiter.unreachable()
                self.answers["none"] += 1
                what = f"cannot be reached ({error})"
                if isinstance(error, TimeoutError):
                    what = f"did not end its answer in {_DEADLINE:.0f} s"
                raise ApiUnavailableError(f"FLORA's API at {host} {what}") from error
        status, headers, body = answer.status, answer.headers, answer.body
        self.answers[str(status)] += 1
        if _is_foreign(status, headers, body):
            self._rate_limiter.unreachable()
        elif status == httpx.codes.TOO_MANY_REQUESTS:
            self._rate_limiter.throttled(retry_after(headers, time.time()))
        else:
            self._rate_limiter.answered()
        if status == httpx.codes.SERVICE_UNAVAILABLE:
            self._rate_limiter.closed(retry_after(headers, time.time()) or 0.0)
        _log.debug(
            "api_answered",
            run=reference.run_id if reference else None,
            technique=reference.technique if reference else None,
            status=status,
            request_id=headers.get("request-id"),
            duration=round(time.monotonic() - started, 4),
        )
        return status, headers, body

    async def _send(self, path: str, key: str) -> ApiAnswer:
        self._workspace_check.use_key(key)
        with anyio.fail_after(_DEADLINE):
            return await self._client.get(path, _MAX_ANSWER, {"Authorization": f"Bearer {key}"})

    def _refusal(
        self, status: int, headers: httpx.Headers, body: bytes, what: Reference | str
    ) -> FloradlError:
        """Return what a status other than 200 means, after FLORA's table of error codes."""
        said = _envelope(body)
        if _is_foreign(status, headers, body):
            return _foreign_error(status, headers, body, what)
        text = f"FLORA answered {status}{f' {said}' if said else ''} for {what}" + _request_id(headers)
        if status == httpx.codes.UNAUTHORIZED:
            return ServicePausedError(
                f"{text}: the API key is refused; put a valid one in place", PauseReason.KEY_REFUSED
            )
        if status == httpx.codes.PAYMENT_REQUIRED:
            return ServicePausedError(
                f"{text}: the workspace is out of credits; top it up", PauseReason.CREDITS
            )
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return ApiUnavailableError(text, retry_after=retry_after(headers, time.time()))
        if status == httpx.codes.CONFLICT:  # FLORA lists it under "do not retry", its own library retries it
            return TransientError(text, ErrorCode.BAD_REQUEST, retry_after=retry_after(headers, time.time()))
        if status in _PASSING or status >= 500:
            return TransientError(text, retry_after=retry_after(headers, time.time()))
        if status == httpx.codes.FORBIDDEN:
            return TransientError(text, ErrorCode.FORBIDDEN)
        if status == httpx.codes.NOT_FOUND:
            return TransientError(f"{text}: there is none in this key's workspace", ErrorCode.NOT_FOUND)
        return PermanentError(text, ErrorCode.BAD_REQUEST)

    async def _forbidden_error(self, error: TransientError, reference: Reference) -> FloradlError:
        """Return what a 403 for a run means: after several in a row a list shows whether it is the key.

        A few runs of somebody else's must not stop all others, so only a list that is refused too does.
        """
        self._forbidden.add(reference.run_id)
        if len(self._forbidden) < _FORBIDDEN_RUNS:
            return error
        status, headers, body = await self._get("technique-runs?limit=1", reference)
        if status != httpx.codes.FORBIDDEN or _is_foreign(status, headers, body):
            self._forbidden.clear()
            return error
        return ServicePausedError(
            f"{error}, as for every other run: the key may not read runs; give it that right, or use another",
            PauseReason.KEY_REFUSED,
        )


def _aged(run: RemoteRun, now: float | None) -> RemoteRun:
    """Add the run's age; `now` is from the server that also wrote its times: our clock may be another."""
    if now is None or run.created_at is None:
        return run
    return msgspec.structs.replace(run, age=max(now - run.created_at, 0.0))


def _is_page(headers: httpx.Headers, body: bytes) -> bool:
    """Whether this is a web page: FLORA's API never answers with one."""
    return "html" in headers.get("content-type", "").lower() or body.lstrip()[:1] == b"<"


def _is_foreign(status: int, headers: httpx.Headers, body: bytes) -> bool:
    """Whether somebody else answered in FLORA's place: a proxy, a portal, a gateway, or another service.

    FLORA's refusals have its envelope, or at least its `request-id`. That an error will pass is believed of
    anybody.
    """
    if _is_page(headers, body):
        return status not in _PASSING and (status < 500 or status == 511)
    if status in _ANSWERED or status in _PASSING or (status >= 500 and status != 511):
        return False
    if status in {401, 402} and "request-id" in headers:
        return False
    return _envelope(body) is None


def _foreign_error(
    status: int, headers: httpx.Headers, body: bytes, what: Reference | str
) -> ForeignAnswerError:
    form = "a web page" if _is_page(headers, body) else "something that is not in FLORA's form"
    remedy = "is api.base_url right?"
    if status == 511 or status in _ANSWERED:
        remedy = f"does this network want a login first, or a proxy? {remedy}"
    elif status == 407:
        remedy = "a proxy on the way wants a name and a password: NAME:PASSWORD@HOST:PORT in HTTPS_PROXY"
    elif httpx.codes.is_redirect(status):
        form = f"a redirect to {host_of(headers.get('location', '')) or 'elsewhere'}"
        remedy = f"does this network want a login first? {remedy}"
    elif status in {401, 403}:
        remedy = f"a proxy or a filter on the way refuses it: have it let through; {remedy}"
    return ForeignAnswerError(
        f"not FLORA but somebody on the way answered {status} with {form} for {what}: {remedy}"
        + _request_id(headers),
        retry_after=retry_after(headers, time.time()),
    )


def _envelope(body: bytes) -> str | None:
    """Return `code (message)` of FLORA's error envelope; None where the body is something else."""
    try:
        said = error_body(parse_json(body))
    except NOT_JSON:
        return None
    if said is None:
        return None
    fields = [field[:60] for field in said.fields[:10]]
    # It may repeat the key, or a URL, that it refuses.
    return printable(
        redact(f"{said.code[:60]} ({said.message[:300]}{f'; fields: {fields}' if fields else ''})")
    )


def _request_id(headers: httpx.Headers) -> str:
    value = headers.get("request-id")
    return f" (request-id {printable(cut(value, 100))})" if value else ""
