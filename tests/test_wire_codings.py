"""Bodies in a content coding that nobody asked for: what was stored gzipped may be sent so."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from studio import Home, check_library, command, peak_memory, served
from wire import PNG, Bench, MediaHost, Reply, answer, chunked, serving, unframed

from floradl.errors import ErrorCode, PermanentError, TransientError
from floradl.models import Integrity
from floradl.simulator import Do, Fault, Match, MediaStyle, OutputSpec, Simulator

GZIP = "Content-Encoding: gzip"


def zipped(data: bytes) -> bytes:
    return zlib.compress(data, 6, 31)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "library") as bench:
        yield bench


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "deflate"])
def test_what_is_sent_in_a_coding_is_inflated(bench: Bench, coding: str) -> None:
    body = zlib.compress(PNG) if coding == "deflate" else zipped(PNG)
    with MediaHost(lambda _: Reply(answer(body, f"Content-Encoding: {coding}"))) as host:
        assert bench.fetch(host.url()).data == PNG
        assert b"accept-encoding: identity\r\n" in host.heads[0].lower()


@pytest.mark.parametrize("frame", [answer, chunked, unframed])
def test_a_gzipped_body_that_is_cut_is_not_accepted(bench: Bench, frame: Callable[..., bytes]) -> None:
    body = zipped(PNG)
    for at in (0, 1, 9, len(body) // 2, len(body) - 9, len(body) - 8, len(body) - 1):
        with MediaHost(serving(Reply(frame(body[:at], GZIP)))) as host, pytest.raises(TransientError):
            bench.fetch(host.url())
    assert bench.files() == []


def test_a_gzipped_body_that_is_broken_is_thrown_away(bench: Bench) -> None:
    body = bytearray(zipped(PNG))
    body[len(body) // 2] ^= 1
    with (
        MediaHost(lambda _: Reply(answer(bytes(body), GZIP))) as host,
        pytest.raises(TransientError) as caught,
    ):
        bench.fetch(host.url())
    assert caught.value.code is ErrorCode.DAMAGED
    assert (bench.files(), bench.part()) == ([], None)


def test_a_coding_that_is_not_understood_is_refused(bench: Bench) -> None:
    with (
        MediaHost(lambda _: Reply(answer(b"\x1f\x9d\x90" + PNG, "Content-Encoding: compress"))) as host,
        pytest.raises(PermanentError, match="content coding") as caught,
    ):
        bench.fetch(host.url())
    assert caught.value.code is ErrorCode.HTTP_ERROR


@pytest.mark.parametrize(
    "said",
    ["", "identity", "aws-chunked", "utf-8", "binary", "base64", "none", "7bit", "gzip", "deflate", "br"],
)
def test_media_stay_as_they_are_whatever_coding_an_uploader_said(bench: Bench, said: str) -> None:
    with MediaHost(lambda _: Reply(answer(PNG, f"Content-Encoding: {said}"))) as host:
        fetched = bench.fetch(host.url())
    assert (fetched.data, fetched.integrity, fetched.checked) == (PNG, Integrity.LENGTH_ONLY, ("length",))


@pytest.mark.parametrize("said", ["aws-chunked, gzip", "identity,gzip", "gzip, utf-8", "gzip, gzip", ",gzip"])
def test_a_coding_among_words_that_are_none_is_undone(bench: Bench, said: str) -> None:
    with MediaHost(lambda _: Reply(answer(zipped(PNG), f"Content-Encoding: {said}"))) as host:
        assert bench.fetch(host.url()).data == PNG


def test_a_list_of_codings_is_undone_the_last_first(bench: Bench) -> None:
    body = zipped(zlib.compress(PNG))
    with MediaHost(lambda _: Reply(answer(body, "Content-Encoding: deflate, gzip"))) as host:
        assert bench.fetch(host.url()).data == PNG


def test_a_deflate_without_zlibs_head_is_inflated(bench: Bench) -> None:
    body = zlib.compress(PNG, 9, -15)
    with MediaHost(lambda _: Reply(answer(body, "Content-Encoding: deflate"))) as host:
        assert bench.fetch(host.url()).data == PNG


@pytest.mark.parametrize("frame", [answer, chunked])
def test_a_gzip_members_own_checksum_verifies(bench: Bench, frame: Callable[..., bytes]) -> None:
    with MediaHost(lambda _: Reply(frame(zipped(PNG), GZIP))) as host:
        fetched = bench.fetch(host.url())
    assert (fetched.integrity, fetched.checked) == (Integrity.VERIFIED, ("gzip-crc32",))


def test_a_gzip_members_own_checksum_proves_no_end_that_nothing_tells(bench: Bench) -> None:
    """After its end another member might have followed."""
    with MediaHost(lambda _: Reply(unframed(zipped(PNG), GZIP))) as host:
        fetched = bench.fetch(host.url())
    assert (fetched.integrity, fetched.checked) == (Integrity.UNVERIFIED, ("gzip-crc32", "container"))


def test_media_that_are_called_gzip_and_cut_are_not_accepted(bench: Bench) -> None:
    cut = answer(PNG, GZIP)[:-100]
    with MediaHost(lambda _: Reply(cut)) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    assert bench.files() == []


def test_a_part_of_a_gzipped_body_is_never_continued(bench: Bench) -> None:
    body = zipped(PNG)
    whole = answer(body, GZIP, 'ETag: "strong"')
    with MediaHost(lambda _: Reply(whole[:-100])) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    with MediaHost(lambda _: Reply(whole)) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [None]


def test_checksums_of_stored_bytes_are_not_held_against_inflated_ones(bench: Bench) -> None:
    body = zipped(PNG)
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    # GCS inflates on the way where asked for identity, and goes on telling the stored object's checksum.
    inflated = chunked(PNG, f"x-goog-hash: md5={md5}", "x-goog-stored-content-encoding: gzip")
    with MediaHost(lambda _: Reply(inflated)) as host:
        fetched = bench.fetch(host.url())
    assert (fetched.data, fetched.integrity) == (PNG, Integrity.UNVERIFIED)


@pytest.mark.parametrize("style", list(MediaStyle))
def test_an_object_that_was_stored_gzipped_comes_home_inflated(tmp_path: Path, style: MediaStyle) -> None:
    simulator = Simulator(media_style=style)
    with served(simulator):
        home = Home(tmp_path, simulator)
        simulator.faults.add(Fault(do=Do(gzip=True), match=Match(host="media")))
        outputs = [OutputSpec("a", "imageUrl"), OutputSpec("b", "videoUrl", size=2_000_000)]
        simulator.add_run("run_a", technique="t", outputs=outputs, duration=0.1)
        assert home.run("get", "t/run_a").returncode == 0
        check_library(home, simulator)


def test_a_bomb_is_refused_in_little_memory_and_leaves_nothing(tmp_path: Path, simulator: Simulator) -> None:
    home = Home(tmp_path, simulator)
    simulator.faults.add(Fault(do=Do(gzip_bomb=400 << 20), match=Match(output="bomb")))
    outputs = [OutputSpec("bomb", "videoUrl"), OutputSpec("good", "imageUrl")]
    simulator.add_run("run_a", technique="t", outputs=outputs, duration=0.1)
    process = subprocess.Popen(command("get", "-q", "t/run_a"), env=home.environ, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, peak_memory(process.pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    assert process.returncode == 3
    assert 0 < most < 120 << 20
    sidecar = home.sidecar("t/run_a")
    assert sidecar is not None
    assert [output["error"] and output["error"]["code"] for output in sidecar["outputs"]] == [
        "too_large",
        None,
    ]
    assert list(home.files()) == ["images/t/run_a-good.png"]
