"""A download that is continued: the right file, never a splice of two, whatever the server does."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec import Struct
from wire import OTHER_PNG, PNG, RUN, Bench, MediaHost, Reply, Request, answer, chunked, ranged, unframed

from floradl.errors import ErrorCode, PassingError
from floradl.models import Integrity, RemoteOutput
from floradl.simulator import formats

HALF = 1500
SHORTER = formats.png("shorter", "shorter", 1200).read()
LONGER = formats.png("longer", "longer", 4321).read()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "library") as bench:
        yield bench


def etag(body: bytes) -> str:
    return f'ETag: "{hashlib.sha256(body).hexdigest()[:16]}"'


def begin(bench: Bench, *headers: str, at: int = HALF) -> None:
    """Fetch `PNG` up to `at`, where the connection breaks."""
    whole = answer(PNG, *(headers or (etag(PNG),)))
    with (
        MediaHost(lambda _: Reply(whole[: len(whole) - len(PNG) + at])) as host,
        pytest.raises(PassingError),
    ):
        bench.fetch(host.url())


def test_a_part_is_continued_where_it_ended(bench: Bench) -> None:
    begin(bench)
    assert bench.part() == PNG[:HALF]
    with MediaHost(lambda request: Reply(ranged(PNG, request.start or 0, etag(PNG)))) as host:
        fetched = bench.fetch(host.url())
        assert fetched.data == PNG
        assert [request.start for request in host.requests] == [HALF - 1]
    assert bench.part() is None


def test_a_part_that_is_complete_already_costs_one_byte(bench: Bench) -> None:
    whole = answer(PNG, etag(PNG))
    output = RemoteOutput("o", "imageUrl", "")
    with MediaHost(lambda _: Reply(whole)) as host:
        slot = bench.library.slot(RUN, output, 1, None)
        with bench.fetcher.fetch(host.url(), slot, lambda _received, _total: None):
            pass  # and is killed before the file has its name
    assert bench.part() == PNG
    with MediaHost(lambda request: Reply(ranged(PNG, request.start or 0, etag(PNG)))) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [len(PNG) - 1]


@pytest.mark.parametrize("header", ['ETag: W/"weak"', "ETag: unquoted", "X-None: 1", "Last-Modified: Sun"])
def test_without_a_strong_etag_it_starts_over(bench: Bench, header: str) -> None:
    begin(bench, header)
    with MediaHost(lambda _: Reply(answer(OTHER_PNG, header))) as host:
        assert bench.fetch(host.url()).data == OTHER_PNG
        assert [request.start for request in host.requests] == [None]


def test_an_ignored_range_starts_over(bench: Bench) -> None:
    begin(bench)
    with MediaHost(lambda _: Reply(answer(PNG, etag(PNG)))) as host:
        assert bench.fetch(host.url()).data == PNG
        assert len(host.requests) == 1


@pytest.mark.parametrize("now", [OTHER_PNG, SHORTER, LONGER], ids=["as long", "shorter", "longer"])
def test_content_that_changed_meanwhile_starts_over(bench: Bench, now: bytes) -> None:
    begin(bench)

    def reply(request: Request) -> Reply:
        if request.start is None:
            return Reply(answer(now, etag(now)))
        if request.start >= len(now):
            span = f"Content-Range: bytes */{len(now)}"
            return Reply(answer(b"", span, status="416 Range Not Satisfiable"))
        return Reply(ranged(now, request.start, etag(now)))

    with MediaHost(reply) as host:
        assert bench.fetch(host.url()).data == now
        assert [request.start for request in host.requests] == [HALF - 1, None]


@pytest.mark.parametrize(
    "span",
    [
        f"bytes {HALF}-2999/3000",
        f"bytes {HALF - 2}-2999/3000",
        f"bytes {HALF - 1}-2999/3001",
        f"bytes {HALF - 1}-2998/3000",
        f"bytes {HALF - 1}-2999/*",
        f"bytes {HALF - 1}-3000/3000",
        "bytes */3000",
        f"items {HALF - 1}-2999/3000",
        "nonsense",
    ],
)
def test_a_range_other_than_was_asked_for_is_not_appended(bench: Bench, span: str) -> None:
    begin(bench)

    def reply(request: Request) -> Reply:
        if request.start is None:
            return Reply(answer(PNG, etag(PNG)))
        return Reply(
            answer(PNG[HALF - 1 :], f"Content-Range: {span}", etag(PNG), status="206 Partial Content")
        )

    with MediaHost(reply) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [HALF - 1, None]


@pytest.mark.parametrize("headers", [(), ("Content-Type: multipart/byteranges; boundary=x",)])
def test_a_206_without_a_range_is_not_appended(bench: Bench, headers: tuple[str, ...]) -> None:
    begin(bench)

    def reply(request: Request) -> Reply:
        if request.start is None:
            return Reply(answer(PNG, etag(PNG)))
        return Reply(answer(PNG[HALF - 1 :], etag(PNG), *headers, status="206 Partial Content"))

    with MediaHost(reply) as host:
        assert bench.fetch(host.url()).data == PNG


def test_a_part_of_what_was_asked_for_whole_is_trouble_that_may_pass(bench: Bench) -> None:
    with MediaHost(lambda _: Reply(ranged(PNG, 10))) as host, pytest.raises(PassingError):
        bench.fetch(host.url())
    assert bench.files() == []


def test_a_416_for_a_whole_request_is_not_the_file(bench: Bench) -> None:
    begin(bench)
    nothing = answer(b"", f"Content-Range: bytes */{len(PNG)}", etag(PNG), status="416 Range Not Satisfiable")
    with MediaHost(lambda _: Reply(nothing)) as host:
        with pytest.raises(Exception, match="answered 416"):
            bench.fetch(host.url())
        assert [request.start for request in host.requests] == [HALF - 1, None]
    assert bench.files() == []


def test_other_bytes_under_the_same_etag_are_found_by_their_checksum(bench: Bench) -> None:
    checksum = f"Repr-Digest: sha-256=:{base64.b64encode(hashlib.sha256(OTHER_PNG).digest()).decode()}:"
    begin(bench, 'ETag: "same"')
    with MediaHost(
        lambda request: Reply(
            answer(OTHER_PNG, 'ETag: "same"', checksum)
            if request.start is None
            else ranged(OTHER_PNG, request.start, 'ETag: "same"', checksum)
        )
    ) as host:
        with pytest.raises(PassingError) as caught:
            bench.fetch(host.url())
        assert caught.value.code is ErrorCode.DAMAGED
        assert bench.part() is None
        fetched = bench.fetch(host.url())
    assert (fetched.data, fetched.integrity) == (OTHER_PNG, Integrity.VERIFIED)


class Behaviour(Struct, frozen=True):
    """What the server does to one request: which version it has, how it answers, where it breaks off."""

    version: int
    etag: str  # strong, weak or none
    framing: Literal["length", "chunked", "close"]
    ranges: str
    cut: int | None
    ending: Literal["close", "reset"]


FRAMES: dict[str, Callable[..., bytes]] = {"length": answer, "chunked": chunked, "close": unframed}
VERSIONS = (PNG, OTHER_PNG, SHORTER, LONGER)
BEHAVIOURS = st.builds(
    Behaviour,
    version=st.integers(0, len(VERSIONS) - 1),
    etag=st.sampled_from(["strong", "strong", "strong", "weak", "none"]),
    framing=st.sampled_from(["length", "length", "chunked", "close"]),
    ranges=st.sampled_from(
        ["honoured", "honoured", "honoured", "ignored", "early", "late", "total", "unsaid", "short", "416"]
    ),
    cut=st.none() | st.integers(0, 4500),
    ending=st.sampled_from(["close", "reset"]),
)


def respond(how: Behaviour, start: int | None) -> Reply:
    """Answer as `how` says; an honest one says which bytes it sends, whichever they are."""
    body = VERSIONS[how.version]
    tags = {"strong": (etag(body),), "weak": (etag(body).replace('"', 'W/"', 1),), "none": ()}[how.etag]
    data = FRAMES[how.framing](body, *tags)
    sent = len(body)
    if start is not None and how.ranges != "ignored":
        first = start + {"early": -1, "late": 1}.get(how.ranges, 0)
        if how.ranges == "416" or first >= len(body):
            return Reply(answer(b"", f"Content-Range: bytes */{len(body)}", status="416 No"), how.ending)
        sent = len(body) - first
        total = len(body) + (how.ranges == "total")
        if how.ranges == "unsaid":
            data = answer(body[first:], *tags, status="206 Partial Content")
        elif how.ranges == "short":
            span = f"Content-Range: bytes {first}-{first}/{total}"
            data, sent = answer(body[first : first + 1], span, *tags, status="206 Partial Content"), 1
        else:
            data = ranged(body, first, *tags, total=total)
    if how.cut is not None:
        data = data[: max(len(data) - sent, 0) + min(how.cut, sent)]
    return Reply(data, how.ending)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(behaviours=st.lists(BEHAVIOURS, min_size=1, max_size=8), last=st.integers(0, len(VERSIONS) - 1))
def test_whatever_a_server_does_a_file_is_one_of_its_versions(behaviours: list[Behaviour], last: int) -> None:
    left = list(behaviours)
    honest = Behaviour(last, "strong", "length", "honoured", None, "close")
    with (
        tempfile.TemporaryDirectory(prefix="floradl-wire-") as folder,
        Bench(Path(folder)) as bench,
        MediaHost(lambda request: respond(left.pop(0) if left else honest, request.start)) as host,
    ):
        fetched = None
        for _ in range(len(behaviours) + 2):
            try:
                fetched = bench.fetch(host.url())
                break
            except PassingError:
                assert bench.files() == []
        assert fetched is not None
        assert fetched.data in VERSIONS
        assert bench.part() is None
