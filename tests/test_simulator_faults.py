"""Faults that can be ordered from the simulator happen on the wire as they do in the world."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import google_crc32c
import httpx
import pytest
from studio import TEST_TIMEOUT, until

from floradl.simulator import Do, Fault, MediaStyle, OutputSpec, Simulator, serve
from floradl.simulator.faults import Facts, FaultBook, Match, position

pytestmark = pytest.mark.anyio

SIZE = 100_000


@dataclass
class World:
    simulator: Simulator
    api: httpx.AsyncClient
    client: httpx.AsyncClient

    def fault(self, do: Do, match: Match | None = None, *, times: int | None = None) -> None:
        self.simulator.faults.add(Fault(do=do, match=match or Match(), times=times))

    async def run(self) -> dict[str, Any]:
        if self.simulator.run("run_a") is None:
            output = OutputSpec("o", "videoUrl", size=SIZE)
            self.simulator.add_run("run_a", technique="camera-move", outputs=[output], duration=0)
        found: dict[str, Any] = (await self.api.get("/runs/run_a")).json()
        return found

    async def url(self) -> str:
        url: str = (await self.run())["outputs"][0]["url"]
        return url

    async def get(self, url: str | None = None, **headers: str) -> httpx.Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(url or await self.url(), headers=fields)

    async def body(self) -> bytes:
        """Read what comes before the connection breaks."""
        received = b""
        try:
            async with self.client.stream("GET", await self.url()) as answer:
                async for chunk in answer.aiter_raw():
                    received += chunk
        except (httpx.RemoteProtocolError, httpx.ReadError):
            pass
        return received

    def whole(self) -> bytes:
        run = self.simulator.run("run_a")
        assert run is not None
        return run.body(0).read()


MEDIA = Match(host="media")
API = Match(host="api")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    simulator = Simulator()
    async with (
        serve(simulator) as base_url,
        httpx.AsyncClient(
            base_url=base_url,
            headers={"Authorization": f"Bearer {simulator.key}"},
            trust_env=False,
            timeout=TEST_TIMEOUT,
        ) as api,
        httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"}, trust_env=False, timeout=TEST_TIMEOUT
        ) as client,
    ):
        yield World(simulator, api, client)


# --- bodies that end early, late, or never ------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_cut_short_in_a_framing_that_shows_it_is_a_protocol_error(
    world: World, framing: Any
) -> None:
    world.fault(Do(framing=framing, cut_after=50_000), MEDIA)
    with pytest.raises(httpx.RemoteProtocolError):
        await world.get()
    assert await world.body() == world.whole()[:50_000]


async def test_a_body_without_length_cut_short_looks_whole(world: World) -> None:
    world.fault(Do(framing="close", cut_after="98%"), MEDIA)
    answer = await world.get()
    assert answer.content == world.whole()[:98_000]
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_body_is_whole_in_every_framing(world: World, framing: Any) -> None:
    world.fault(Do(framing=framing), MEDIA)
    assert (await world.get()).content == world.whole()


async def test_a_length_that_promises_too_much_is_a_protocol_error(world: World) -> None:
    world.fault(Do(wrong_length=10), MEDIA)
    with pytest.raises(httpx.RemoteProtocolError):
        await world.get()


async def test_a_length_that_promises_too_little_hides_the_rest(world: World) -> None:
    world.fault(Do(wrong_length=-10), MEDIA)
    assert len((await world.get()).content) == SIZE - 10


async def test_a_connection_is_reset_in_the_middle(world: World) -> None:
    world.fault(Do(reset_after=40_000), MEDIA)
    with pytest.raises(httpx.ReadError):
        await world.get()


@pytest.mark.parametrize("match", [MEDIA, API])
async def test_a_connection_is_reset_instead_of_an_answer(world: World, match: Match) -> None:
    url = await world.url()
    world.fault(Do(reset=True), match)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await (world.get(url) if match is MEDIA else world.api.get("/runs/run_a"))
    assert world.simulator.requests[-1].status == 0


async def test_a_stalled_body_stays_silent_until_the_client_leaves(world: World) -> None:
    url = await world.url()
    world.fault(Do(stall_after=1_000), MEDIA)
    with pytest.raises(httpx.ReadTimeout):
        await world.client.get(url, timeout=httpx.Timeout(TEST_TIMEOUT, read=0.2))
    await until(lambda: not world.simulator.counters.open_media)


async def test_a_stall_can_end_by_itself(world: World) -> None:
    world.fault(Do(stall_after=1_000, stall_for=0.1), MEDIA)
    began = time.monotonic()
    assert (await world.get()).content == world.whole()
    assert time.monotonic() - began >= 0.1


async def test_a_drip_is_slow_and_steady(world: World) -> None:
    url = await world.url()
    world.fault(Do(drip=50), MEDIA)
    received = 0
    began = time.monotonic()
    async with world.client.stream("GET", url) as answer:
        async for chunk in answer.aiter_raw():
            received += len(chunk)
            assert received <= 50 * (time.monotonic() - began) + 5
            if received >= 20:
                break


async def test_an_answer_can_be_late(world: World) -> None:
    url = await world.url()
    world.fault(Do(delay=0.1), MEDIA)
    began = time.monotonic()
    assert (await world.get(url)).status_code == 200
    assert time.monotonic() - began >= 0.1


# --- ranges, validators, content ----------------------------------------------------------------------------


async def test_a_range_is_ignored(world: World) -> None:
    world.fault(Do(ignore_range=True), MEDIA)
    answer = await world.get(Range="bytes=500-")
    assert (answer.status_code, len(answer.content)) == (200, SIZE)


async def test_a_range_begins_elsewhere_and_says_so(world: World) -> None:
    world.fault(Do(wrong_content_range=-100), MEDIA)
    answer = await world.get(Range="bytes=500-")
    assert answer.headers["content-range"] == f"bytes 400-{SIZE - 1}/{SIZE}"
    assert answer.content == world.whole()[400:]


async def test_headers_can_be_bent_and_removed(world: World) -> None:
    world.fault(Do(headers={"content-range": "bytes 7-9/10", "ETAG": None}), MEDIA)
    answer = await world.get(Range="bytes=500-")
    assert answer.headers["content-range"] == "bytes 7-9/10"
    assert "etag" not in answer.headers


async def test_a_weak_etag_does_not_resume(world: World) -> None:
    world.fault(Do(weak_etag=True), MEDIA)
    etag = (await world.get()).headers["etag"]
    assert etag.startswith('W/"')
    assert (await world.get(Range="bytes=5-", If_Range=etag)).status_code == 200


async def test_content_changes_between_attempts(world: World) -> None:
    world.fault(Do(change_content=True), MEDIA)
    first, second = [await world.get() for _attempt in range(2)]
    assert first.content != second.content != world.whole()
    assert len(first.content) == len(second.content) == SIZE
    assert first.headers["etag"] != second.headers["etag"]
    assert second.headers["etag"] == f'"{hashlib.md5(second.content).hexdigest()}"'


async def test_content_changes_under_the_same_etag(world: World) -> None:
    honest = await world.get()
    world.fault(Do(change_content=True, keep_etag=True), MEDIA)
    changed = await world.get()
    assert changed.content != honest.content
    assert changed.headers["etag"] == honest.headers["etag"]


async def test_one_wrong_bit_shows_in_the_checksum_alone(world: World) -> None:
    world.fault(Do(corrupt=True), MEDIA)
    answer = await world.get()
    differing = [
        one ^ other for one, other in zip(answer.content, world.whole(), strict=True) if one != other
    ]
    assert differing == [1]
    crc = base64.b64encode(google_crc32c.value(world.whole()).to_bytes(4, "big")).decode()
    assert crc in answer.headers["x-goog-hash"]


async def test_an_object_stored_gzipped_comes_gzipped_under_the_checksum_of_that(world: World) -> None:
    world.fault(Do(gzip=True), MEDIA)
    async with world.client.stream("GET", await world.url()) as answer:
        raw = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["x-goog-stored-content-encoding"] == "gzip"
    assert gzip.decompress(raw) == world.whole()
    crc = base64.b64encode(google_crc32c.value(raw).to_bytes(4, "big")).decode()
    assert f"crc32c={crc}," in answer.headers["x-goog-hash"]


async def test_a_gzip_bomb_is_small_and_inflates_to_what_was_asked(world: World) -> None:
    world.fault(Do(gzip_bomb=3_000_001), MEDIA)
    answer = await world.get()
    assert int(answer.headers["content-length"]) < 10_000
    assert len(answer.content) == 3_000_001


# --- other answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("style", "status"), [(MediaStyle.GCS, 400), (MediaStyle.S3, 403)])
async def test_a_url_runs_out_in_the_middle_of_a_download(
    world: World, style: MediaStyle, status: int
) -> None:
    world.simulator.media_style = style
    world.fault(Do(cut_after="98%"), MEDIA, times=1)
    world.fault(Do(expire=True), Match(host="media", resumed=True), times=1)
    url = await world.url()
    with pytest.raises(httpx.RemoteProtocolError):
        await world.get(url)
    assert (await world.get(url, Range="bytes=98000-")).status_code == status
    assert (await world.get(Range="bytes=98000-")).status_code == 206


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "invalid_api_key"),
        (402, "insufficient_credits"),
        (403, "forbidden"),
        (503, "service_unavailable"),
    ],
)
async def test_the_api_answers_a_status_in_its_envelope(world: World, status: int, code: str) -> None:
    world.fault(Do(status=status), API, times=1)
    answer = await world.api.get("/runs/run_a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["request-id"].startswith("req_")
    assert (await world.api.get("/workspaces")).status_code == 200


async def test_a_429_says_when_in_any_words(world: World) -> None:
    world.fault(Do(status=429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), API)
    answer = await world.api.get("/runs/run_a")
    assert answer.headers["retry-after"] == "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize("match", [MEDIA, API])
async def test_a_gateway_answers_in_html(world: World, match: Match) -> None:
    url = await world.url()
    world.fault(Do(status=502, html=True), match)
    answer = await (world.get(url) if match is MEDIA else world.api.get("/runs/run_a"))
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.startswith("<!doctype html>")


async def test_an_html_page_stands_where_an_image_should_be(world: World) -> None:
    world.fault(Do(html=True), MEDIA)
    answer = await world.get()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


async def test_a_body_is_whatever_is_wanted(world: World) -> None:
    world.fault(Do(body="null"), API)
    assert (await world.api.get("/runs/run_a")).json() is None


async def test_a_redirect_leads_on(world: World) -> None:
    url = await world.url()
    world.fault(Do(redirect="{again}"), MEDIA, times=1)
    answer = await world.get(url)
    assert answer.status_code == 302
    assert (await world.get(answer.headers["location"])).content == world.whole()


async def test_a_redirect_leads_to_the_other_host_or_anywhere(world: World) -> None:
    url = await world.url()
    world.fault(Do(redirect="{base}/workspaces", status=307), MEDIA, times=1)
    world.fault(Do(redirect="http://169.254.169.254/latest"), MEDIA)
    first = await world.get(url)
    assert (first.status_code, first.headers["location"]) == (307, f"{world.simulator.base_url}/workspaces")
    assert (await world.get(url)).headers["location"] == "http://169.254.169.254/latest"


async def test_a_page_can_be_put_where_nothing_is(world: World) -> None:
    world.fault(Do(body="hello"), Match(path="/elsewhere"))
    assert (await world.get(f"{world.simulator.media_url}/elsewhere")).text == "hello"


# --- what the API says of a run -----------------------------------------------------------------------------


async def test_answers_are_bent(world: World) -> None:
    await world.run()
    bent: list[tuple[Do, Any]] = [
        (Do(unknown_status="queued"), lambda run: run["status"] == "queued"),
        (Do(missing_field="status"), lambda run: "status" not in run),
        (Do(missing_field="outputs.url"), lambda run: "url" not in run["outputs"][0]),
        (Do(wrong_type="progress"), lambda run: isinstance(run["progress"], dict)),
        (Do(set={"outputs.type": "modelUrl", "progress": "101"}), lambda run: run["progress"] == 101),
        (Do(camel_case=True), lambda run: run["runId"] == "run_a" and "createdAt" in run),
    ]
    for do, holds in bent:
        world.fault(do, Match(run="run_a"), times=1)
        assert holds(await world.run()), do
    assert (await world.run())["status"] == "completed"


async def test_listed_runs_are_bent_too(world: World) -> None:
    await world.run()
    world.fault(Do(unknown_status="queued"), Match(path="*/technique-runs"))
    (run,) = (await world.api.get("/technique-runs")).json()["technique_runs"]
    assert run["status"] == "queued"


async def test_json_ends_in_the_middle_and_nothing_else_shows_it(world: World) -> None:
    await world.run()
    world.fault(Do(cut_json="50%"), API)
    answer = await world.api.get("/runs/run_a")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    with pytest.raises(json.JSONDecodeError):
        answer.json()


# --- which requests are hit ---------------------------------------------------------------------------------


def facts(**changes: Any) -> Facts:
    return Facts(
        **({"host": "media", "method": "GET", "path": "/media/run_a/1.png", "run_id": "run_a"} | changes)
    )


@pytest.mark.parametrize(
    ("match", "hit"),
    [
        (Match(), True),
        (Match(host="api"), False),
        (Match(method="get", path="/media/*"), True),
        (Match(run="run_?"), True),
        (Match(run="run_b"), False),
        (Match(output="*"), False),
        (Match(resumed=True), False),
        (Match(technique="camera-move"), False),
    ],
)
def test_a_rule_hits_what_it_names(match: Match, *, hit: bool) -> None:
    book = FaultBook([Fault(do=Do(delay=1), match=match)])
    assert (book.pick(facts(), 0) is not None) is hit


def test_a_rule_counts_for_each_run_or_output_by_itself() -> None:
    book = FaultBook([Fault(do=Do(reset=True), times=1, per="output")])
    asked = [facts(output_id=name) for name in ("a", "b", "a", "b")]
    assert [book.pick(one, 0) is not None for one in asked] == [True, True, False, False]


def test_a_rule_waits_lasts_and_then_lets_the_next_one_in() -> None:
    book = FaultBook([Fault(do=Do(status=500), after=1, seconds=10), Fault(do=Do(status=400), times=2)])
    picked = [book.pick(facts(), now) for now in (0, 1, 9.9, 10, 11)]
    assert [do and do.status for do in picked] == [400, 500, 500, 400, None]


def test_a_share_is_about_that_share_and_the_same_every_time() -> None:
    def hits() -> list[bool]:
        book = FaultBook([Fault(do=Do(reset=True), share=0.1)])
        return [book.pick(facts(), 0) is not None for _request in range(2_000)]

    first = hits()
    assert 150 < sum(first) < 250
    assert hits() == first


@pytest.mark.parametrize(
    ("value", "offset"),
    [(None, None), (5, 5), ("5", 5), ("50%", 50), ("98.5%", 98), (500, 100), ("100%", 100)],
)
def test_a_position_is_bytes_or_a_share(value: str | int | None, offset: int | None) -> None:
    assert position(value, 100) == offset


@pytest.mark.parametrize("value", ["x", "-1", "5 %", -1, "1e3"])
def test_a_position_that_is_none_is_refused(value: str | int) -> None:
    with pytest.raises(ValueError, match="cut_after is a number of bytes"):
        Do(cut_after=value)
