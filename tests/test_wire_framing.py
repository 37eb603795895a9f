"""Bodies that end too early, or too late, in every framing that HTTP has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cuts import SAMPLES
from loopback import Certificate
from wire import (
    LARGE_PNG,
    MP4,
    OTHER_PNG,
    PDF,
    PNG,
    WAV,
    Bench,
    MediaHost,
    Reply,
    Request,
    answer,
    chunked,
    serving,
    unframed,
)

from floradl.errors import ErrorCode, TransientError
from floradl.models import Integrity, RemoteOutput

Frame = Callable[..., bytes]
# Where a body may be cut, as a place in it: nothing, one byte, the middle, all but one byte.
CUTS = [0, 1, len(PNG) // 2, len(PNG) - 1]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "library") as bench:
        yield bench


def cut(whole: bytes, at: int, body: bytes = PNG) -> bytes:
    """Give an answer up to the `at`-th byte of its body, which has no frames in it."""
    return whole[: len(whole) - len(body) + at]


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("at", CUTS)
def test_a_body_shorter_than_its_length_is_not_accepted(bench: Bench, at: int, end: Any) -> None:
    with MediaHost(lambda _: Reply(cut(answer(PNG), at), end)) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    assert bench.files() == []


@pytest.mark.parametrize("end", ["close", "reset", "hang"])
@pytest.mark.parametrize("short", [1, len(LARGE_PNG) // 2, len(LARGE_PNG) - 1, len(LARGE_PNG)])
def test_a_large_body_shorter_than_its_length_is_not_accepted(tmp_path: Path, short: int, end: Any) -> None:
    with (
        Bench(tmp_path, stall_timeout=0.5) as bench,
        MediaHost(lambda _: Reply(answer(LARGE_PNG)[:-short], end)) as host,
    ):
        with pytest.raises(TransientError):
            bench.fetch(host.url())
        assert bench.files() == []


def test_a_large_body_with_bytes_beyond_its_length_is_cut_there(bench: Bench) -> None:
    def reply(request: Request) -> Reply:
        return Reply(answer(LARGE_PNG) + answer(OTHER_PNG) if request.path == "/a" else answer(PNG), "keep")

    with MediaHost(reply) as host:
        assert bench.fetch(host.url("/a"), RemoteOutput("a", "imageUrl", "")).data == LARGE_PNG
        assert bench.fetch(host.url("/b"), RemoteOutput("b", "imageUrl", "")).data == PNG


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("place", ["head", "first size", "first byte", "inside", "size", "last", "trailer"])
def test_a_chunked_body_without_its_last_chunk_is_not_accepted(bench: Bench, place: str, end: Any) -> None:
    whole = chunked(PNG)
    head = whole.index(b"\r\n\r\n") + 4
    at = {
        "head": head,
        "first size": head + 1,  # "3" of "3e8"
        "first byte": head + 6,
        "inside": head + 500,
        "size": head + 5 + 1000 + 2 + 2,  # in the second chunk's size
        "last": len(whole) - 5,  # all bytes are there, and the chunk that says so is not
        "trailer": len(whole) - 2,
    }[place]
    with MediaHost(lambda _: Reply(whole[:at], end)) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    assert bench.files() == []


@pytest.mark.parametrize(
    ("body", "type_", "ext"),
    [
        (PNG, "imageUrl", "png"),
        (MP4, "videoUrl", "mp4"),
        (WAV, "audioUrl", "wav"),
        (PDF, "documentUrl", "pdf"),
    ],
)
def test_a_body_without_any_length_is_accepted_only_if_its_container_is_whole(
    bench: Bench, body: bytes, type_: str, ext: str
) -> None:
    output = RemoteOutput("o", type_, "")
    # Whether the line end behind a PDF's last mark is missing cannot be told: hence two bytes.
    for at in (0, 1, 40, len(body) // 2, len(body) - 2):
        with MediaHost(serving(Reply(unframed(body[:at])))) as host, pytest.raises(TransientError):
            bench.fetch(host.url(f"/o.{ext}"), output)
        assert bench.files() == []
    with MediaHost(lambda _: Reply(unframed(body))) as host:
        fetched = bench.fetch(host.url(f"/o.{ext}"), output)
    assert fetched.data == body
    # Behind a PDF's end mark an update may be missing.
    checked = () if body is PDF else ("container",)
    assert (fetched.integrity, fetched.checked) == (Integrity.UNVERIFIED, checked)


@pytest.mark.parametrize("name", ["short-espeak-pipe.wav", "short-lame-pipe.wav", "short-sox-pipe.aiff"])
def test_streamed_speech_without_any_length_is_accepted_at_once(bench: Bench, name: str) -> None:
    body = (SAMPLES / "writers" / name).read_bytes()
    with MediaHost(lambda _: Reply(unframed(body))) as host:
        fetched = bench.fetch(host.url("/o" + Path(name).suffix), RemoteOutput("o", "audioUrl", ""))
        assert len(host.requests) == 1
    assert fetched.data == body
    assert (fetched.integrity, fetched.checked) == (Integrity.UNVERIFIED, ())


def test_a_text_without_any_length_is_accepted_and_marked_unverified(bench: Bench) -> None:
    with MediaHost(lambda _: Reply(unframed(b"Nobody can tell whether this is al"))) as host:
        fetched = bench.fetch(host.url("/o.txt"), RemoteOutput("o", "text", ""))
    assert (fetched.integrity, fetched.checked) == (Integrity.UNVERIFIED, ())


def test_a_body_that_a_reset_ends_is_not_accepted_however_whole_it_looks(bench: Bench) -> None:
    with MediaHost(lambda _: Reply(unframed(PNG), "reset")) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    assert bench.files() == []


def test_over_tls_a_body_without_length_needs_the_servers_goodbye(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path, "127.0.0.1")
    text = RemoteOutput("o", "text", "")
    replies = serving(Reply(unframed(b"half of i"), "cut"), Reply(unframed(b"half of it, and the rest")))
    with (
        Bench(tmp_path / "library", environ={"SSL_CERT_FILE": str(certificate.file)}) as bench,
        MediaHost(replies, certificate) as host,
    ):
        # RFC 9112, 9.8: anybody on the way can close a connection; only the server can say that this was all.
        with pytest.raises(TransientError):
            bench.fetch(host.url("/o.txt"), text)
        assert bench.files() == []
        assert bench.fetch(host.url("/o.txt"), text).data == b"half of it, and the rest"


@pytest.mark.parametrize("frame", [answer, chunked])
def test_over_tls_a_body_that_says_its_end_needs_no_goodbye(tmp_path: Path, frame: Frame) -> None:
    certificate = Certificate(tmp_path, "127.0.0.1")
    with (
        Bench(tmp_path / "library", environ={"SSL_CERT_FILE": str(certificate.file)}) as bench,
        MediaHost(lambda _: Reply(frame(PNG), "cut"), certificate) as host,
    ):
        assert bench.fetch(host.url()).data == PNG


def test_a_chunked_body_is_not_accepted_against_its_length(bench: Bench) -> None:
    whole = chunked(PNG, f"Content-Length: {len(PNG) + 1}")
    with MediaHost(lambda _: Reply(whole)) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    assert bench.files() == []


def test_two_lengths_that_differ_are_not_accepted(bench: Bench) -> None:
    whole = answer(PNG, f"Content-Length: {len(PNG) - 1}")
    with MediaHost(lambda _: Reply(whole)) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    assert bench.files() == []


def test_bytes_beyond_the_length_are_not_taken_for_the_next_answer(bench: Bench) -> None:
    def reply(request: Request) -> Reply:
        if request.path == "/a.png":
            return Reply(answer(PNG) + answer(OTHER_PNG), "keep")
        return Reply(answer(MP4), "keep")

    with MediaHost(reply) as host:
        assert bench.fetch(host.url("/a.png"), RemoteOutput("a", "imageUrl", "")).data == PNG
        assert bench.fetch(host.url("/b.mp4"), RemoteOutput("b", "videoUrl", "")).data == MP4


def test_a_chunk_behind_the_last_one_is_not_taken_for_the_next_answer(bench: Bench) -> None:
    def reply(request: Request) -> Reply:
        return Reply(chunked(PNG) + answer(OTHER_PNG) if request.path == "/a.png" else answer(MP4), "keep")

    with MediaHost(reply) as host:
        assert bench.fetch(host.url("/a.png"), RemoteOutput("a", "imageUrl", "")).data == PNG
        assert bench.fetch(host.url("/b.mp4"), RemoteOutput("b", "videoUrl", "")).data == MP4


def test_a_connection_that_owes_nothing_is_kept(bench: Bench) -> None:
    with MediaHost(lambda request: Reply((answer, chunked)[request.path == "/b"](PNG), "keep")) as host:
        for path in ("/a", "/b", "/c"):
            bench.fetch(host.url(path), RemoteOutput(path, "imageUrl", ""))
        assert host.connections == 1


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Le", b"SSH-2.0-OpenSSH\r\n", b"\x00" * 200_000],
    ids=["nothing", "half a line", "half a head", "no HTTP", "no end"],
)
def test_what_is_no_answer_is_trouble_that_may_pass(bench: Bench, said: bytes) -> None:
    with MediaHost(lambda _: Reply(said)) as host, pytest.raises(TransientError) as caught:
        bench.fetch(host.url())
    assert caught.value.code is ErrorCode.NETWORK
    assert bench.files() == []


@pytest.mark.parametrize(
    "slow",
    [
        Reply(answer(PNG, *(f"X-{number}: y" for number in range(50))), drip=1),
        Reply(answer(PNG)[:90] + b"\x00" * 50, drip=1),
        Reply(chunked(b"")[:-5] + b"3e8;" + b"x" * 100, drip=1),
        Reply(answer(PNG)[:-1], "hang"),
        Reply(b"", "hang"),
    ],
    ids=["head", "body", "chunk header", "stall", "silence"],
)
def test_what_drips_or_stalls_is_given_up_long_before_it_ends(tmp_path: Path, slow: Reply) -> None:
    with Bench(tmp_path, stall_timeout=0.7) as bench, MediaHost(lambda _: slow) as host:
        with pytest.raises(TransientError):
            bench.fetch(host.url())
        assert host.dripped < 10  # of 50 and more
        assert bench.files() == []


def test_what_is_slow_but_not_too_slow_is_waited_for(tmp_path: Path) -> None:
    slow = Reply(answer(PNG), drip=1500)  # at 3,000 bytes a second
    with Bench(tmp_path, stall_timeout=0.8) as bench, MediaHost(lambda _: slow) as host:
        assert bench.fetch(host.url()).data == PNG
