"""One question, one answer: each status and code of FLORA's table has its meaning, and nonsense has too."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web
from anyio.abc import SocketStream
from clients import api_client
from hypothesis import example, given, strategies as st
from studio import TEST_TIMEOUT

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
from floradl.flora import client as api_module
from floradl.flora.client import FloraClient
from floradl.flora.rate_limit import RateLimiter
from floradl.flora.schema import decode_page, decode_run
from floradl.models import Reference, RemoteOutput, RemoteRun
from floradl.net.client import ApiClient
from floradl.net.pool import PoolLimits
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator, serve

KEY = "sk_test_0123456789abcdef"
RUN = Reference("run_a", "tech")
CREATED = 1_795_460_580.12


class Answers:
    """What the server says, to each request the same or one after another; `paths` are what it was asked."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.keys: list[str] = []
        self.accepted: list[str] = []
        self.say: Callable[[str], web.Response] = lambda _: web.json_response(answer())

    async def handle(self, request: web.Request) -> web.Response:
        self.paths.append(request.raw_path)
        self.keys.append(request.headers.get("authorization", ""))
        self.accepted.append(request.headers.get("accept-encoding", ""))
        return self.say(request.raw_path)


class Unpaced(RateLimiter):
    """A gate that is always open, and keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.told: list[object] = []

    def throttled(self, retry_after: float | None) -> None:
        self.told.append(("throttled", retry_after))

    def unreachable(self) -> None:
        self.told.append("unreachable")

    def answered(self) -> None:
        self.told.append("answered")


class World:
    def __init__(self, base_url: str, client: ApiClient, answers: Answers) -> None:
        self.base_url = base_url
        self.answers = answers
        self.key = KEY
        self.rate_limiter = Unpaced()
        self.flora = FloraClient(client, lambda: self.key, self.rate_limiter)

    async def refusal(self, reference: Reference = RUN) -> FloradlError:
        with pytest.raises(FloradlError) as caught:
            await self.flora.run(reference)
        assert KEY not in str(caught.value)
        return caught.value


@pytest.fixture
async def world() -> AsyncIterator[World]:
    answers = Answers()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answers.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1"
    with api_client(base_url) as client:
        yield World(base_url, client, answers)
    await runner.cleanup()


def answer(**fields: Any) -> dict[str, Any]:
    whole = {"run_id": "run_a", "status": "running", "progress": 40, "created_at": CREATED * 1000}
    return {name: value for name, value in {**whole, **fields}.items() if value is not ...}


def envelope(
    code: str = "some_code", message: str = "Some words.", **more: Any
) -> Callable[[int, dict[str, str]], web.Response]:
    def say(status: int, headers: dict[str, str]) -> web.Response:
        body = {"error": {"code": code, "message": message, **more}}
        return web.json_response(body, status=status, headers={"request-id": "req_1", **headers})

    return say


def decode(**fields: Any) -> RemoteRun:
    return decode_run(json.dumps(answer(**fields)).encode(), "run_a")


# Asking


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reference", "path"),
    [
        (Reference("run_a", "tech"), "/api/v1/techniques/tech/runs/run_a"),
        (Reference("run_a"), "/api/v1/runs/run_a"),
        (
            Reference("run_%2F&=ü", "a%b?"),
            "/api/v1/techniques/a%25b%3F/runs/run_%252F%26%3D%C3%BC",
        ),
    ],
)
async def test_a_run_is_asked_for_where_flora_has_it(world: World, reference: Reference, path: str) -> None:
    world.answers.say = lambda _: web.json_response(answer(run_id=reference.run_id))
    run = await world.flora.run(reference)
    assert run.run_id == reference.run_id
    assert world.answers.paths == [path]


@pytest.mark.anyio
async def test_a_key_that_changed_is_used_at_once(world: World) -> None:
    await world.flora.run(RUN)
    world.key = "sk_test_new"
    await world.flora.run(RUN)
    assert world.answers.keys == [f"Bearer {KEY}", "Bearer sk_test_new"]


@pytest.mark.anyio
async def test_a_key_that_is_refused_is_read_anew_and_a_changed_one_tried_before_that_counts(
    world: World,
) -> None:
    def say(_path: str) -> web.Response:
        new = world.answers.keys[-1] == "Bearer sk_test_new"
        return web.json_response(answer()) if new else envelope("invalid_api_key")(401, {})

    def forget() -> None:
        world.key = "sk_test_new"  # what stands in its file by now

    world.answers.say = say
    client = world.flora._client
    flora = FloraClient(client, lambda: world.key, world.rate_limiter, forget_key=forget)
    assert (await flora.run(RUN)).run_id == "run_a"
    assert world.answers.keys == [f"Bearer {KEY}", "Bearer sk_test_new"]


@pytest.mark.anyio
async def test_a_refused_key_that_has_not_changed_is_not_sent_again(world: World) -> None:
    world.answers.say = lambda _: envelope("invalid_api_key")(401, {})
    assert isinstance(await world.refusal(), ServicePausedError)
    assert len(world.answers.keys) == 1


@pytest.mark.anyio
async def test_without_a_key_nothing_is_asked(world: World) -> None:
    def none() -> str:
        raise ServicePausedError("there is no key", PauseReason.KEY_REFUSED)

    flora = FloraClient(world.flora._client, none, world.rate_limiter)
    with pytest.raises(ServicePausedError):
        await flora.run(RUN)
    assert world.answers.paths == []


@pytest.mark.parametrize("number", [str(2**70), "-" + "9" * 5000, "1e400", "1.5"])
def test_a_number_beyond_64_bits_in_a_field_that_nobody_reads_costs_no_run(number: str) -> None:
    body = f'{{"run_id": "run_a", "status": "completed", "progress": 100, "seed": {number}}}'.encode()
    run = decode_run(body, "run_a")
    assert run.status == "completed"
    msgspec.json.encode(run.raw)


@pytest.mark.parametrize("number", ["1e999", "1" + "0" * 5000])
def test_a_progress_beyond_all_numbers_counts_as_none(number: str) -> None:
    body = f'{{"run_id": "run_a", "status": "running", "progress": {number}}}'.encode()
    assert decode_run(body, "run_a").progress == 0.0


def test_an_output_id_and_type_of_a_megabyte_are_bounded_and_stay_distinct() -> None:
    outputs = [
        {"output_id": "x" * 1_000_000 + end, "type": "t" * 1_000_000, "url": "https://x.example/y"}
        for end in "ab"
    ]
    body = msgspec.json.encode({"run_id": "run_a", "status": "completed", "outputs": outputs})
    found = decode_run(body, "run_a").outputs
    assert [len(output.output_id) for output in found] == [1000, 1000]
    assert found[0].key != found[1].key
    assert len(found[0].type) == 1000


# Refusals

TABLE: list[tuple[int, str, type[FloradlError], ErrorCode | PauseReason]] = [
    (400, "input_validation_error", PermanentError, ErrorCode.BAD_REQUEST),
    (400, "invalid_json", PermanentError, ErrorCode.BAD_REQUEST),
    (401, "unauthorized", ServicePausedError, PauseReason.KEY_REFUSED),
    (401, "invalid_api_key", ServicePausedError, PauseReason.KEY_REFUSED),
    (402, "insufficient_credits", ServicePausedError, PauseReason.CREDITS),
    (403, "forbidden", TransientError, ErrorCode.FORBIDDEN),
    (404, "not_found", TransientError, ErrorCode.NOT_FOUND),
    (405, "method_not_allowed", PermanentError, ErrorCode.BAD_REQUEST),
    (408, "timeout", TransientError, ErrorCode.NETWORK),
    (409, "idempotency_duplicate", TransientError, ErrorCode.BAD_REQUEST),
    (409, "conflict", TransientError, ErrorCode.BAD_REQUEST),
    (422, "idempotency_conflict", PermanentError, ErrorCode.BAD_REQUEST),
    (425, "too_early", TransientError, ErrorCode.NETWORK),
    (429, "rate_limited", ApiUnavailableError, ErrorCode.NETWORK),
    (500, "internal_error", TransientError, ErrorCode.NETWORK),
    (500, "unknown_error", TransientError, ErrorCode.NETWORK),
    (502, "bad_gateway", TransientError, ErrorCode.NETWORK),
    (503, "service_unavailable", TransientError, ErrorCode.NETWORK),
    (504, "gateway_timeout", TransientError, ErrorCode.NETWORK),
    (529, "of_tomorrow", TransientError, ErrorCode.NETWORK),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "code", "kind", "meaning"), TABLE)
async def test_each_refusal_has_its_meaning(
    world: World, status: int, code: str, kind: type[FloradlError], meaning: ErrorCode | PauseReason
) -> None:
    world.answers.say = lambda _: envelope(code)(status, {})
    error = await world.refusal()
    assert type(error) is kind
    assert getattr(error, "reason", None) is meaning or getattr(error, "code", None) is meaning


def under(technique: str | None) -> Callable[[str], web.Response]:
    """Have a run that only its id leads to; it is of `technique`."""

    def say(path: str) -> web.Response:
        if "/techniques/" in path:
            return envelope("not_found")(404, {})
        where = f"/techniques/{technique}" if technique else ""
        return web.json_response(answer(poll_url=f"https://app.flora.ai/api/v1{where}/runs/run_a"))

    return say


@pytest.mark.anyio
async def test_a_run_under_a_wrong_technique_is_found_by_its_id_and_from_then_on_asked_for_so(
    world: World,
) -> None:
    world.answers.say = under("right")
    for _ in range(3):
        assert (await world.flora.run(RUN)).run_id == "run_a"
    alone = "/api/v1/runs/run_a"
    assert world.answers.paths == ["/api/v1/techniques/tech/runs/run_a", alone, alone, alone]
    (message,) = world.flora.wrong_techniques.values()
    assert "under the technique 'tech', but under 'right'" in message


@pytest.mark.anyio
async def test_a_run_of_no_technique_that_was_named_with_one_is_found_too(world: World) -> None:
    world.answers.say = under(None)
    assert (await world.flora.run(RUN)).run_id == "run_a"
    assert "but it is not of a technique (a generation or action)" in world.flora.wrong_techniques["run_a"]


@pytest.mark.anyio
async def test_a_run_that_only_came_to_be_visible_is_not_under_a_wrong_technique(world: World) -> None:
    world.answers.say = under("tech")
    await world.flora.run(RUN)
    assert world.flora.wrong_techniques == {}


@pytest.mark.anyio
async def test_a_run_that_nobody_knows_is_looked_for_by_its_id_once(world: World) -> None:
    world.answers.say = lambda _: envelope("not_found")(404, {})
    for _ in range(3):
        assert "tech/run_a" in str(await world.refusal())
    assert world.answers.paths.count("/api/v1/runs/run_a") == 1


@pytest.mark.anyio
async def test_trouble_of_the_look_without_a_technique_is_what_is_reported(world: World) -> None:
    def say(path: str) -> web.Response:
        return envelope("x")(404 if "/techniques/" in path else 503, {})

    world.answers.say = say
    error = await world.refusal()
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.NETWORK


@pytest.mark.anyio
async def test_a_refusal_says_what_flora_said_and_the_request_id(world: World) -> None:
    fields = [{"field": "runId", "message": "x"}, {"field": "y"}, "z", {"field": 3}]
    world.answers.say = lambda _: envelope("invalid_json", "Bad id.", fields=fields)(400, {})
    message = str(await world.refusal())
    for part in ("400", "invalid_json", "Bad id.", "tech/run_a", "req_1", "runId"):
        assert part in message


@pytest.mark.anyio
async def test_a_refusal_that_repeats_a_secret_is_not_repeated(world: World) -> None:
    message = f"Key {KEY} may not; see https://media.flora.ai/a.png?signature=s3cret"
    world.answers.say = lambda _: envelope("forbidden", message)(401, {})
    error = await world.refusal()  # looks for the key
    assert "s3cret" not in str(error)


@pytest.mark.anyio
async def test_a_refusal_steers_no_terminal(world: World) -> None:
    world.answers.say = lambda _: envelope("c\x9b31m", "m\u202e\x7f")(401, {"request-id": "r\x9b"})
    message = str(await world.refusal())
    assert message.isprintable()
    assert "m\\u202e\\x7f" in message


@pytest.mark.anyio
async def test_a_long_refusal_is_cut(world: World) -> None:
    fields = [{"field": "f" * 10_000}] * 1000
    world.answers.say = lambda _: envelope("c" * 10_000, "m" * 10_000, fields=fields)(400, {})
    assert len(str(await world.refusal())) < 2000


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 422, 451])
@pytest.mark.parametrize(
    "body",
    [
        b"<html>Not here</html>",
        b"",
        b'{"error": "words"}',
        b'{"error": {"code": 7, "message": "x"}}',
        b'{"error": {"code": "\xff", "message": "x"}}',
        b'["error"]',
        b"[" * 100_000,
    ],
)
async def test_a_refusal_that_is_not_in_floras_form_decides_nothing(
    world: World, status: int, body: bytes
) -> None:
    """It comes of a proxy, a portal or a wrong base URL: no run is failed on its word."""
    world.answers.say = lambda _: web.Response(status=status, body=body)
    error = await world.refusal()
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.BAD_ANSWER
    assert "api.base_url" in str(error)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [201, 204, 206, 301, 302, 304, 307])
async def test_a_status_that_is_no_answer_decides_nothing(world: World, status: int) -> None:
    world.answers.say = lambda _: web.Response(status=status, headers={"location": "http://127.0.0.1:1/"})
    error = await world.refusal()
    assert isinstance(error, TransientError)
    assert len(world.answers.paths) == 1  # and nothing is followed: the key would go along


@pytest.mark.anyio
async def test_an_html_page_on_502_is_passing(world: World) -> None:
    world.answers.say = lambda _: web.Response(status=502, text="<html>Bad gateway</html>")
    error = await world.refusal()
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.NETWORK


@pytest.mark.anyio
@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("0", 0.0), ("soon", None), (None, None)])
async def test_what_retry_after_asks_for_is_passed_on(
    world: World, status: int, value: str | None, seconds: float | None
) -> None:
    headers = {"retry-after": value} if value else {}
    world.answers.say = lambda _: envelope()(status, headers)
    error = await world.refusal()
    assert isinstance(error, TransientError)
    assert error.retry_after == seconds
    assert world.rate_limiter.told == [("throttled", seconds) if status == 429 else "answered"]


# Somebody else in FLORA's place

PAGE = "<!DOCTYPE html><html><title>Please sign in</title></html>"
STRANGE_STATUS = [200, 202, 400, 401, 402, 403, 404, 407, 410, 451, 511]


@pytest.mark.anyio
@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "text/plain"])
@pytest.mark.parametrize("status", STRANGE_STATUS)
async def test_a_web_page_is_no_answer_of_floras(world: World, status: int, content_type: str) -> None:
    """A portal, a proxy or a filter wrote it: neither the key nor the run is judged by it."""
    for headers in ({}, {"request-id": "req_1"}):
        world.answers.say = lambda _, headers=headers: web.Response(  # type: ignore[misc]
            status=status, text=PAGE, headers={"content-type": content_type, **headers}
        )
        error = await world.refusal()
        assert isinstance(error, ForeignAnswerError)
        assert f"answered {status} with a web page" in str(error)
    with pytest.raises(ForeignAnswerError):
        await world.flora.page("technique_runs")


@pytest.mark.anyio
@pytest.mark.parametrize("status", [401, 402])
async def test_a_refused_key_is_floras_word_alone(world: World, status: int) -> None:
    world.answers.say = lambda _: web.json_response({"message": "Unauthorized"}, status=status)
    assert isinstance(await world.refusal(), ForeignAnswerError)
    world.answers.say = lambda _: web.Response(status=status, headers={"request-id": "req_1"})
    assert isinstance(await world.refusal(), ServicePausedError)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (407, {}, "NAME:PASSWORD@HOST:PORT in HTTPS_PROXY"),
        (511, {}, "want a login"),
        (200, {}, "want a login"),
        (302, {"location": "https://login.corp.example/in?token=s3cret"}, "redirect to login.corp.example"),
        (403, {}, "have it let through"),
        (404, {}, "is api.base_url right"),
    ],
)
async def test_who_is_in_the_way_is_told_with_what_to_do(
    world: World, status: int, headers: dict[str, str], words: str
) -> None:
    world.answers.say = lambda _: web.Response(
        status=status, text=PAGE, headers={"content-type": "text/html", **headers}
    )
    message = str(await world.refusal())
    assert words in message
    assert "s3cret" not in message


@pytest.mark.anyio
@pytest.mark.parametrize("status", [429, 502, 503, 520, 522])
async def test_a_gateways_page_says_when_to_come_back(world: World, status: int) -> None:
    world.answers.say = lambda _: web.Response(
        status=status, text=PAGE, headers={"content-type": "text/html", "retry-after": "120"}
    )
    error = await world.refusal()
    assert isinstance(error, TransientError)
    assert (error.code, error.retry_after) == (ErrorCode.NETWORK, 120.0)


@pytest.mark.anyio
async def test_a_portal_is_asked_by_one_at_a_time(world: World) -> None:
    world.answers.say = lambda _: web.Response(status=200, text=PAGE, content_type="text/html")
    await world.refusal()
    assert world.rate_limiter.told == ["unreachable"]


@pytest.mark.anyio
async def test_a_list_that_a_filter_refuses_says_nothing_of_the_key(world: World) -> None:
    def say(path: str) -> web.Response:
        if "technique-runs" in path:
            return web.Response(status=403, text=PAGE, content_type="text/html")
        return envelope("forbidden")(403, {})

    world.answers.say = say
    for number in range(5):
        assert isinstance(await world.refusal(Reference(f"run_{number}")), TransientError)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [200, 201, 202, 203])
async def test_an_answer_with_a_run_in_it_is_one(world: World, status: int) -> None:
    world.answers.say = lambda _: web.json_response(answer(), status=status)
    assert (await world.flora.run(RUN)).status == "running"


# Codings that nobody asked for


def coded(body: bytes, coding: str) -> web.Response:
    return web.Response(body=body, headers={"content-encoding": coding, "content-type": "application/json"})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
        ("", bytes),
        ("gzip, identity", gzip.compress),
        ("deflate, gzip", lambda body: gzip.compress(zlib.compress(body))),
    ],
)
async def test_a_coding_that_nobody_asked_for_is_undone(
    world: World, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    world.answers.say = lambda _: coded(pack(json.dumps(answer()).encode()), coding)
    assert (await world.flora.run(RUN)).run_id == "run_a"
    assert world.answers.accepted == ["identity"]


@pytest.mark.anyio
async def test_an_answer_that_inflates_without_end_is_not_inflated(world: World) -> None:
    bomb = gzip.compress(bytes(200 << 20))
    world.answers.say = lambda _: coded(bomb, "gzip")
    tracemalloc.start()
    error = await world.refusal()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.BAD_ANSWER
    assert "16 MiB" in str(error)
    assert peak < 48 << 20


@pytest.mark.anyio
@pytest.mark.parametrize("coding", ["br", "zstd", "utf-8", "gzip, gzip, gzip"])
async def test_a_coding_that_is_not_known_is_no_answer_of_floras(world: World, coding: str) -> None:
    world.answers.say = lambda _: coded(b"whatever", coding)
    assert isinstance(await world.refusal(), ForeignAnswerError)


# 403: one run's, or the key's


@pytest.mark.anyio
async def test_a_key_that_may_read_nothing_pauses_all(world: World) -> None:
    world.answers.say = lambda _: envelope("forbidden")(403, {})
    for run_id in ("run_a", "run_b"):
        assert isinstance(await world.refusal(Reference(run_id)), TransientError)
    error = await world.refusal(Reference("run_c"))
    assert isinstance(error, ServicePausedError)
    assert error.reason is PauseReason.KEY_REFUSED


@pytest.mark.anyio
async def test_runs_of_others_do_not_stop_ours(world: World) -> None:
    """Where the key reads a list it is good, however many runs it may not read."""

    def say(path: str) -> web.Response:
        if "technique-runs" in path:
            return web.json_response({"technique_runs": [], "meta": {}})
        return envelope("forbidden")(403, {})

    world.answers.say = say
    for number in range(10):
        error = await world.refusal(Reference(f"run_{number}"))
        assert isinstance(error, TransientError)
        assert error.code is ErrorCode.FORBIDDEN


@pytest.mark.anyio
async def test_one_run_that_is_refused_again_and_again_is_one(world: World) -> None:
    world.answers.say = lambda _: envelope("forbidden")(403, {})
    for _ in range(10):
        assert isinstance(await world.refusal(), TransientError)
    assert all("technique-runs" not in path for path in world.answers.paths)


@pytest.mark.anyio
async def test_a_run_that_is_answered_clears_the_key(world: World) -> None:
    def say(path: str) -> web.Response:
        run_id = path.rpartition("/")[2]
        return (
            web.json_response(answer(run_id=run_id)) if "good" in run_id else envelope("forbidden")(403, {})
        )

    world.answers.say = say
    for number in range(10):
        assert isinstance(await world.refusal(Reference(f"run_{number}")), TransientError)
        await world.flora.run(Reference(f"run_good{number}"))


# The wire


async def unanswered(world: World, base_url: str, limits: PoolLimits | None = None) -> FloradlError:
    with api_client(base_url, limits=limits) as client:
        flora = FloraClient(client, lambda: KEY, world.rate_limiter)
        with pytest.raises(FloradlError) as caught:
            await flora.run(RUN)
        return caught.value


@asynccontextmanager
async def speaking(talk: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve connections with `talk`, once the request has come."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            with suppress(anyio.BrokenResourceError):  # it went before all was said
                await talk(stream)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, handle)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        yield f"http://127.0.0.1:{port}/api/v1"
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_an_api_that_nobody_serves_cannot_be_reached(world: World) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
    error = await unanswered(world, f"http://127.0.0.1:{port}")
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.NETWORK
    assert "127.0.0.1 cannot be reached (127.0.0.1: no connection (Connection refused))" in str(error)
    assert world.rate_limiter.told == ["unreachable"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"run_id": "run_a", ',
        b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"run',
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope",
    ],
)
async def test_an_answer_that_breaks_off_is_passing_trouble(world: World, said: bytes) -> None:
    async def talk(stream: SocketStream) -> None:
        await stream.send(said) if said else None

    async with speaking(talk) as base_url:
        error = await unanswered(world, base_url)
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.NETWORK
    assert world.rate_limiter.told == ["unreachable"]


@pytest.mark.anyio
async def test_an_answer_that_never_comes_times_out(world: World) -> None:
    async with speaking(lambda _: anyio.sleep_forever()) as base_url:
        error = await unanswered(world, base_url, PoolLimits(read=0.1))
    assert isinstance(error, TransientError)
    assert world.rate_limiter.told == ["unreachable"]


@pytest.mark.anyio
async def test_an_answer_that_drips_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then never runs into a socket's timeout, and would hold a turn for ever."""
    monkeypatch.setattr(api_module, "_DEADLINE", 0.3)

    async def talk(stream: SocketStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            await stream.send(b" ")
            await anyio.sleep(0.01)

    async with speaking(talk) as base_url:
        with anyio.fail_after(TEST_TIMEOUT):
            error = await unanswered(world, base_url)
    assert isinstance(error, TransientError)
    assert "did not end its answer" in str(error)
    assert world.rate_limiter.told == ["unreachable"]


@pytest.mark.anyio
async def test_a_huge_answer_is_not_read_to_its_end(world: World) -> None:
    sent = 0

    async def talk(stream: SocketStream) -> None:
        nonlocal sent
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        for _ in range(1000):
            await stream.send(bytes(1_000_000))
            sent += 1

    with anyio.fail_after(30):
        async with speaking(talk) as base_url:
            error = await unanswered(world, base_url)
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.BAD_ANSWER
    assert "16 MiB" in str(error)
    assert sent < 100


@pytest.mark.anyio
async def test_no_connection_is_lost_whatever_is_answered(world: World) -> None:
    """A response that is not closed keeps its connection, and the pool runs dry."""
    with api_client(world.base_url, limits=PoolLimits(read=5, connections=1)) as client:
        flora = FloraClient(client, lambda: KEY, world.rate_limiter)
        says: list[Callable[[str], web.Response]] = [
            lambda _: web.Response(body=bytes(17 << 20)),
            lambda _: envelope()(500, {}),
            lambda _: web.Response(text="nonsense"),
        ]
        for say in says * 3:
            world.answers.say = say
            with pytest.raises(TransientError):
                await flora.run(RUN)
        world.answers.say = lambda _: web.json_response(answer())
        assert (await flora.run(RUN)).run_id == "run_a"


# The answer


def test_a_whole_answer_is_read() -> None:
    outputs = [
        {"output_id": "o", "type": "imageUrl", "url": "https://media.flora.ai/o.png?s=1"},
        {"output_id": "t", "type": "text", "url": "Words."},
    ]
    fields = answer(
        status="completed",
        progress=100,
        started_at=(CREATED + 1) * 1000,
        completed_at=CREATED + 2,
        charged_cost=0.25,
        outputs=outputs,
        poll_url="https://app.flora.ai/api/v1/runs/run_a",
        something_new={"x": 1},
    )
    assert decode_run(json.dumps(fields).encode(), "run_a") == RemoteRun(
        run_id="run_a",
        status="completed",
        progress=100.0,
        created_at=CREATED,
        started_at=CREATED + 1,
        completed_at=CREATED + 2,
        charged_cost=0.25,
        outputs=(
            RemoteOutput("o", "imageUrl", "https://media.flora.ai/o.png?s=1"),
            RemoteOutput("t", "text", "Words."),
        ),
        poll_url="https://app.flora.ai/api/v1/runs/run_a",
        raw=fields,
    )


def test_camel_case_of_older_pages_is_understood_and_kept_as_it_came() -> None:
    fields = {
        "runId": "run_a",
        "status": "failed",
        "progress": 10,
        "createdAt": CREATED,
        "chargedCost": 1,
        "errorCode": "provider_error",
        "errorMessage": "Sorry.",
        "pollUrl": "https://x/runs/run_a",
        "outputs": [{"outputId": "o", "type": "text", "url": "Words."}],
    }
    run = decode_run(json.dumps(fields).encode(), "run_a")
    assert (run.error_code, run.error_message, run.charged_cost) == ("provider_error", "Sorry.", 1.0)
    assert run.outputs == (RemoteOutput("o", "text", "Words."),)
    assert run.created_at == CREATED
    assert run.raw == fields


@pytest.mark.parametrize("value", [CREATED, CREATED * 1000])
def test_times_are_seconds_or_milliseconds(value: float) -> None:
    assert decode(created_at=value).created_at == pytest.approx(CREATED)


@pytest.mark.parametrize("value", [0, -1, None, ...])
def test_a_time_of_zero_is_not_known(value: Any) -> None:
    assert decode(created_at=value).created_at is None


@pytest.mark.parametrize(
    ("status", "finished"),
    [("pending", False), ("running", False), ("completed", True), ("failed", True), ("of_tomorrow", False)],
)
def test_an_unknown_status_is_not_finished(status: str, finished: bool) -> None:  # noqa: FBT001 - a table
    assert decode(status=status).finished is finished


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (40, 40.0),
        (-5, 0.0),
        (250, 100.0),
        (None, 0.0),
        (..., 0.0),
        ("40", 40.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("much", 0.0),
    ],
)
def test_progress_is_a_number_from_0_to_100(value: Any, expected: float) -> None:
    assert decode(progress=value).progress == expected


def test_no_outputs_are_none() -> None:
    absent: list[Any] = [[], None, ...]
    for outputs in absent:
        assert decode(outputs=outputs).outputs == ()


def test_an_output_that_is_listed_twice_is_one_and_another_of_its_id_is_another() -> None:
    one = {"output_id": "o", "type": "imageUrl", "url": "https://a"}
    other = {**one, "url": "https://b"}
    assert decode(outputs=[one, one, other]).outputs == (
        RemoteOutput("o", "imageUrl", "https://a", 1),
        RemoteOutput("o", "imageUrl", "https://b", 2),
    )


def test_half_an_emoji_does_not_cost_the_run() -> None:
    r"""JavaScript cuts a text inside an emoji, and writes the half as `\ud83d`."""
    body = (
        rb'{"run_id": "run_a", "status": "failed", "error_message": "no \ud83d! \\ud83d \ude00'
        rb' \ud83d\ude00 \\\ud83d"}'
    )
    assert decode_run(body, "run_a").error_message == "no �! \\ud83d � 😀 \\�"


def test_another_run_is_no_answer() -> None:
    with pytest.raises(TransientError, match="another run") as caught:
        decode_run(json.dumps(answer(run_id="run_A")).encode(), "run_a")
    assert caught.value.code is ErrorCode.BAD_ANSWER


OUTPUT = {"output_id": "o", "type": "imageUrl", "url": "https://a"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"run_a"',
        b"<html></html>",
        b"\xff\xfe",
        b'{"run_id": "\xff"}',
        json.dumps(answer()).encode()[:-9],
        b"[" * 100_000,
        b'{"a":' * 100_000,
        json.dumps(answer(run_id=...)).encode(),
        json.dumps(answer(status=...)).encode(),
        json.dumps(answer(status=None)).encode(),
        json.dumps(answer(status=7)).encode(),
        json.dumps(answer(status="completed", outputs={})).encode(),
        json.dumps(answer(status="completed", outputs="https://a")).encode(),
    ],
)
def test_an_answer_that_makes_no_sense_is_passing_trouble(body: bytes) -> None:
    with pytest.raises(TransientError) as caught:
        decode_run(body, "run_a")
    assert caught.value.code is ErrorCode.BAD_ANSWER
    assert "run_a" in str(caught.value)


@pytest.mark.parametrize(
    ("item", "output"),
    [
        (
            {"output_id": 7, "type": "imageUrl", "url": "https://a"},
            RemoteOutput("7", "imageUrl", "https://a"),
        ),
        ({"type": "imageUrl", "url": "https://a"}, RemoteOutput("unnamed_2", "imageUrl", "https://a")),
        ({**OUTPUT, "output_id": None}, RemoteOutput("unnamed_2", "imageUrl", "https://a")),
        ({**OUTPUT, "output_id": ""}, RemoteOutput("", "imageUrl", "https://a")),
        ({**OUTPUT, "output_id": ["x"]}, RemoteOutput("unnamed_2", "imageUrl", "https://a")),
        (
            {"outputId": "x", "type": "imageUrl", "url": "https://a"},
            RemoteOutput("x", "imageUrl", "https://a"),
        ),
        ({"output_id": "x", "url": "https://a"}, RemoteOutput("x", "", "https://a")),
        ({"output_id": "x", "type": None, "url": "https://a"}, RemoteOutput("x", "", "https://a")),
        ("https://a", RemoteOutput("unnamed_2", "", "https://a")),
        ({"output_id": "x", "type": "text", "url": ""}, RemoteOutput("x", "text", "")),
    ],
)
def test_a_malformed_output_is_read_as_far_as_it_goes(item: Any, output: RemoteOutput) -> None:
    assert decode(status="completed", outputs=[OUTPUT, item]).outputs == (
        RemoteOutput("o", "imageUrl", "https://a"),
        output,
    )


@pytest.mark.parametrize(
    ("item", "output_id", "words"),
    [
        ({**OUTPUT, "output_id": "x", "url": None}, "x", "nothing in the place of a URL"),
        ({**OUTPUT, "output_id": "x", "url": 7}, "x", "a number in the place of a URL"),
        ({**OUTPUT, "output_id": "x", "url": {"href": "https://a"}}, "x", "an object in the place of a URL"),
        ({**OUTPUT, "output_id": "x", "url": ""}, "x", "nothing in the place of a URL"),
        ({"output_id": "x", "type": "text"}, "x", "nothing in the place of a URL"),
        ({}, "unnamed_2", "nothing in the place of a URL"),
        (None, "unnamed_2", "nothing in the place of an output"),
        ("words", "unnamed_2", "a text in the place of an output"),
        (True, "unnamed_2", "a truth value in the place of an output"),
        (["https://a"], "unnamed_2", "a list in the place of an output"),
    ],
)
def test_a_malformed_output_costs_itself_alone(item: Any, output_id: str, words: str) -> None:
    good, bad = decode(status="completed", outputs=[OUTPUT, item]).outputs
    assert good == RemoteOutput("o", "imageUrl", "https://a")
    assert (bad.output_id, bad.url) == (output_id, "")
    assert words in bad.flaw


def test_a_list_does_not_answer_for_a_run_with_a_malformed_output() -> None:
    listed = [answer(status="completed", outputs=[OUTPUT, None]), {"run_id": "run_b", "status": 7}]
    page = decode_page(json.dumps({"technique_runs": listed}).encode(), "technique_runs")
    assert [(run.run_id, run.outputs) for run in page.runs] == [("run_a", ())]


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-23T19:03:00.120Z",
        "2026-11-23T20:03:00.12+01:00",
        "2026-11-23T19:03:00.12",
        str(CREATED * 1000),
    ],
)
def test_times_may_be_written_as_text(value: str) -> None:
    assert decode(created_at=value).created_at == pytest.approx(CREATED)


@pytest.mark.parametrize(
    "fields",
    [
        {"created_at": "yesterday"},
        {"created_at": {}},
        {"completed_at": True},
        {"charged_cost": "much"},
        {"error_message": {"a": 1}},
        {"poll_url": 7},
        {"outputs": {}},
        {"progress": []},
    ],
)
def test_what_is_malformed_beside_the_outputs_is_not_known(fields: dict[str, Any]) -> None:
    run = decode(**fields)
    (name,) = fields
    assert getattr(run, name) in {None, (), 0.0}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
NAMES = [*answer(), "started_at", "completedAt", "charged_cost", "errorCode", "error_message", "outputs"]


def check(body: bytes) -> None:
    try:
        run = decode_run(body, "run_a")
    except TransientError:
        return
    assert run.run_id == "run_a"
    assert 0 <= run.progress <= 100
    assert len({output.key for output in run.outputs}) == len(run.outputs)
    run.status.encode()
    (run.error_message or "").encode()


@given(JSON)
def test_any_json_is_a_run_or_passing_trouble(value: Any) -> None:
    check(json.dumps(value).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_run_or_passing_trouble(body: bytes) -> None:
    check(body)


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
@example({"progress": 10**400})
@example({"outputs": [{"output_id": "\ud800", "type": "text", "url": "\udfff"}]})
def test_any_change_to_an_answer_is_a_run_or_passing_trouble(changes: dict[str, Any]) -> None:
    check(json.dumps({**answer(), **changes}).encode())


@given(st.integers(0, 400))
def test_an_answer_cut_anywhere_is_passing_trouble(end: int) -> None:
    body = json.dumps(answer(outputs=[OUTPUT] * 3)).encode()
    with pytest.raises(TransientError):
        decode_run(body[: min(end, len(body) - 1)], "run_a")


# Against the simulator


@asynccontextmanager
async def simulated(simulator: Simulator, key: str | None = None) -> AsyncIterator[FloraClient]:
    async with serve(simulator) as base_url:
        with api_client(base_url) as client:
            yield FloraClient(client, lambda: key or simulator.key, Unpaced())


@pytest.mark.anyio
async def test_a_simulated_run_is_read_with_and_without_its_technique() -> None:
    simulator = Simulator()
    outputs = [OutputSpec("o", "videoUrl", size=1000), OutputSpec("t", "text")]
    simulator.add_run("run_a", technique="camera-move", outputs=outputs, duration=0)
    async with simulated(simulator) as flora:
        for reference in (Reference("run_a", "camera-move"), Reference("run_a")):
            run = await flora.run(reference)
            assert run.status == "completed"
            assert [output.output_id for output in run.outputs] == ["o", "t"]
        with pytest.raises(TransientError) as caught:
            await flora.run(Reference("run_none"))
        assert caught.value.code is ErrorCode.NOT_FOUND


@pytest.mark.anyio
async def test_a_wrong_key_pauses_and_is_not_repeated() -> None:
    simulator = Simulator()
    async with simulated(simulator, "sk_test_wrong_wrong_wrong") as flora:
        with pytest.raises(ServicePausedError) as caught:
            await flora.run(Reference("run_a"))
    assert caught.value.reason is PauseReason.KEY_REFUSED
    assert "wrong_wrong" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "do",
    [
        Do(reset=True),
        Do(html=True),
        Do(status=502, html=True),
        Do(cut_json="60%"),
        Do(cut_after="60%"),
        Do(reset_after="60%"),
        Do(cut_after="60%", framing="chunked"),
        Do(cut_after="60%", framing="close"),
        Do(missing_field="run_id"),
        Do(missing_field="status"),
        Do(wrong_type="outputs"),
        Do(wrong_type="status"),
        Do(set={"run_id": "run_b"}),
    ],
)
async def test_whatever_happens_on_the_way_the_next_answer_may_be_whole(do: Do) -> None:
    simulator = Simulator()
    simulator.add_run("run_a", technique="camera-move", outputs=[OutputSpec("o", "videoUrl")], duration=0)
    simulator.faults.add(Fault(do=do, match=Match(host="api"), times=1))
    async with simulated(simulator) as flora:
        with pytest.raises(TransientError):
            await flora.run(Reference("run_a"))
        assert (await flora.run(Reference("run_a"))).status == "completed"


@pytest.mark.anyio
async def test_a_simulated_answer_in_camel_case_is_read() -> None:
    simulator = Simulator()
    simulator.add_run("run_a", technique="camera-move", outputs=[OutputSpec("o", "videoUrl")], duration=0)
    simulator.faults.add(Fault(do=Do(camel_case=True)))
    async with simulated(simulator) as flora:
        run = await flora.run(Reference("run_a"))
    assert "runId" in run.raw
    assert [output.output_id for output in run.outputs] == ["o"]
