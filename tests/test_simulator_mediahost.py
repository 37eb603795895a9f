"""The simulated media host behaves as the object stores behind FLORA do."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import anyio
import google_crc32c
import httpx
import pytest
from studio import TEST_TIMEOUT

from floradl.simulator import MediaStyle, OutputSpec, Simulator, serve

pytestmark = pytest.mark.anyio


@dataclass
class Clock:
    at: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Host:
    simulator: Simulator
    clock: Clock
    api: httpx.AsyncClient
    client: httpx.AsyncClient

    async def urls(self, run_id: str) -> list[str]:
        answer = (await self.api.get(f"/runs/{run_id}")).json()
        return [output["url"] for output in answer["outputs"]]

    async def url_of(self, *outputs: OutputSpec) -> str:
        run = self.simulator.add_run(outputs=outputs, duration=0)
        return (await self.urls(run.run_id))[0]

    async def get(self, url: str, **headers: str) -> httpx.Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(url, headers=fields)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    clock = Clock()
    simulator = Simulator(now=clock)
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
        yield Host(simulator, clock, api, client)


async def test_media_lie_at_another_origin_than_the_api(host: Host) -> None:
    url = httpx.URL(await host.url_of(OutputSpec()))
    assert url.port != httpx.URL(host.simulator.base_url).port


async def test_each_type_is_served_as_what_it_is(host: Host) -> None:
    run = host.simulator.add_run(technique="campaign", duration=0)
    starts = (b"\x89PNG", b"\0\0\0", b"RIFF", b"%PDF")
    types = ("image/png", "video/mp4", "audio/wav", "application/pdf")
    for url, start, content_type in zip(await host.urls(run.run_id), starts, types, strict=False):
        answer = await host.get(url)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == content_type
        assert answer.content.startswith(start)
        assert int(answer.headers["content-length"]) == len(answer.content)


async def test_checksums_and_validators_are_those_of_the_bytes(host: Host) -> None:
    answer = await host.get(await host.url_of(OutputSpec(size=123_457)))
    md5 = hashlib.md5(answer.content)
    crc = base64.b64encode(google_crc32c.value(answer.content).to_bytes(4, "big")).decode()
    hashes = f"crc32c={crc},md5={base64.b64encode(md5.digest()).decode()}"
    assert answer.headers["x-goog-hash"] == hashes
    assert answer.headers["x-goog-stored-content-encoding"] == "identity"
    assert answer.headers["etag"] == f'"{md5.hexdigest()}"'
    assert answer.headers["last-modified"] == "Fri, 15 Jan 2027 08:00:00 GMT"


async def test_s3_has_its_etag_and_no_checksum_of_googles(host: Host) -> None:
    host.simulator.media_style = MediaStyle.S3
    answer = await host.get(await host.url_of(OutputSpec()))
    assert answer.headers["etag"] == f'"{hashlib.md5(answer.content).hexdigest()}"'
    assert not [name for name in answer.headers if name.startswith("x-goog")]


@pytest.mark.parametrize(
    ("asked", "status", "start", "stop", "content_range"),
    [
        ("bytes=0-9", 206, 0, 10, "bytes 0-9/60000"),
        ("bytes=59990-", 206, 59_990, 60_000, "bytes 59990-59999/60000"),
        ("bytes=59990-99999", 206, 59_990, 60_000, "bytes 59990-59999/60000"),
        ("bytes=-10", 206, 59_990, 60_000, "bytes 59990-59999/60000"),
        ("bytes=60000-", 416, 0, 0, "bytes */60000"),
        ("bytes=-0", 416, 0, 0, "bytes */60000"),
        ("bytes=9-0", 200, 0, 60_000, None),
        ("bytes=0-1,4-5", 200, 0, 60_000, None),
        ("lines=0-1", 200, 0, 60_000, None),
        ("bytes=-", 200, 0, 60_000, None),
    ],
)
async def test_ranges_follow_rfc_9110(
    host: Host, asked: str, status: int, start: int, stop: int, content_range: str | None
) -> None:
    url = await host.url_of(OutputSpec(size=60_000))
    whole = (await host.get(url)).content
    answer = await host.get(url, Range=asked)
    assert answer.status_code == status
    assert answer.content == whole[start:stop]
    assert answer.headers.get("content-range") == content_range


async def test_if_range_with_another_validator_brings_the_whole_body(host: Host) -> None:
    url = await host.url_of(OutputSpec(size=60_000))
    etag = (await host.get(url)).headers["etag"]
    for validator, status in ((etag, 206), ('"other"', 200), (f"W/{etag}", 200)):
        answer = await host.get(url, Range="bytes=5-", If_Range=validator)
        assert answer.status_code == status


async def test_head_answers_like_get_without_the_body(host: Host) -> None:
    answer = await host.client.head(await host.url_of(OutputSpec(size=60_000)))
    assert answer.status_code == 200
    assert answer.headers["content-length"] == "60000"
    assert answer.content == b""


@pytest.mark.parametrize(
    ("style", "status", "code"),
    [(MediaStyle.GCS, 400, "ExpiredToken"), (MediaStyle.S3, 403, "AccessDenied")],
)
async def test_a_url_runs_out_and_asking_again_gives_a_fresh_one(
    host: Host, style: MediaStyle, status: int, code: str
) -> None:
    host.simulator.media_style, host.simulator.url_lifetime = style, 10
    run = host.simulator.add_run(outputs=[OutputSpec()], duration=0)
    (old,) = await host.urls(run.run_id)
    host.clock.at += 11
    refused = await host.get(old)
    assert (refused.status_code, refused.headers["content-type"]) == (
        status,
        "application/xml; charset=utf-8",
    )
    assert f"<Code>{code}</Code>" in refused.text
    (fresh,) = await host.urls(run.run_id)
    assert fresh != old
    assert (await host.get(fresh)).status_code == 200


async def test_urls_can_be_made_to_run_out_at_once(host: Host) -> None:
    run = host.simulator.add_run(outputs=[OutputSpec()], duration=0)
    (old,) = await host.urls(run.run_id)
    host.simulator.expire_urls()
    assert (await host.get(old)).status_code == 400
    assert (await host.get((await host.urls(run.run_id))[0])).status_code == 200


async def test_a_url_that_was_tampered_with_opens_nothing(host: Host) -> None:
    url = await host.url_of(OutputSpec())
    for forged in (url.replace("/1.png", "/2.png"), url.split("?")[0], url.replace("Expires=1", "Expires=2")):
        answer = await host.get(forged)
        assert answer.status_code == 403
        assert "<Code>SignatureDoesNotMatch</Code>" in answer.text


async def test_what_is_not_there_is_a_404_in_xml(host: Host) -> None:
    answer = await host.get(f"{host.simulator.media_url}/media/nothing")
    assert answer.status_code == 404
    assert "<Code>NoSuchKey</Code>" in answer.text


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (OutputSpec("o", "text"), "composition"),
        (OutputSpec("o", "text", text="words"), "words"),
        (OutputSpec("o", "text", url="https://example.com/a.txt"), "https://example.com/a.txt"),
        (OutputSpec("o", "imageUrl", url="{media}/elsewhere"), "/elsewhere"),
        (OutputSpec("o", "text", size=100), "/media/run_a/1.txt?"),
    ],
)
async def test_an_output_holds_its_words_or_a_url(host: Host, output: OutputSpec, expected: str) -> None:
    host.simulator.add_run("run_a", outputs=[output], duration=0)
    assert expected in (await host.urls("run_a"))[0]


async def test_headers_and_bytes_can_be_scripted(host: Host) -> None:
    output = OutputSpec("o", "imageUrl", body=b"GIF89a", headers={"ETAG": None, "content-type": "image/gif"})
    answer = await host.get(await host.url_of(output))
    assert answer.content == b"GIF89a"
    assert "etag" not in answer.headers
    assert answer.headers["content-type"] == "image/gif"


async def test_a_throttled_body_takes_its_time(host: Host) -> None:
    url = await host.url_of(OutputSpec("o", "videoUrl", size=200_000, rate=1_000_000))
    began = time.monotonic()
    assert len((await host.get(url)).content) == 200_000
    assert time.monotonic() - began > 0.15


async def test_a_large_body_has_a_crc_and_an_etag_that_is_no_md5(host: Host) -> None:
    url = await host.url_of(OutputSpec("o", "videoUrl", size=70 * 1024 * 1024))
    answer = await host.get(url, Range="bytes=-100")
    assert answer.headers["x-goog-hash"].startswith("crc32c=")
    assert "md5" not in answer.headers["x-goog-hash"]
    assert answer.headers["etag"].endswith('-2"')
    assert len(answer.content) == 100


async def test_a_connection_is_kept_and_media_requests_are_logged(host: Host) -> None:
    run = host.simulator.add_run(outputs=[OutputSpec("a"), OutputSpec("b")], duration=0)
    streams: Sequence[object] = [
        (await host.get(url)).extensions["network_stream"] for url in await host.urls(run.run_id)
    ]
    addresses = [stream.get_extra_info("client_addr") for stream in streams]  # type: ignore[attr-defined]
    assert all(one == other for one, other in pairwise(addresses))
    records = host.simulator.asked("media", run.run_id)
    assert [(record.output_id, record.status) for record in records] == [("a", 200), ("b", 200)]
    assert not any(record.authorization for record in records)
    assert "Signature" not in repr(records)


async def test_the_most_requests_at_once_are_counted(host: Host) -> None:
    outputs = [OutputSpec(f"o{number}", size=60_000, rate=300_000) for number in range(3)]
    run = host.simulator.add_run(outputs=outputs, duration=0)
    async with anyio.create_task_group() as tasks:
        for url in await host.urls(run.run_id):
            tasks.start_soon(host.get, url)
    assert host.simulator.counters.peak_media == 3
    assert host.simulator.counters.open_media == 0
    assert host.simulator.counters.bytes_sent == 180_000
