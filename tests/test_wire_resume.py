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
from wire import (
    RUN,
    Bench,
    MediaHost,
    Reply,
    Request,
    answer,
    broken,
    chunked,
    ranged,
    served,
    unframed,
)

from floradl.errors import ErrorCode, TransientError
from floradl.models import Integrity, RemoteOutput
from floradl.simulator import formats

PNG = formats.png("wire", "wire", 300_000).read()
OTHER_PNG = formats.png("other wire", "other wire", 300_000).read()
HALF = 150_000
OVERLAP = 65_536  # bytes that are asked for again, and compared
BACK = HALF - OVERLAP  # where a part that ends at HALF is continued
SHORTER = formats.png("shorter", "shorter", 120_000).read()
LONGER = formats.png("longer", "longer", 432_100).read()


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
        pytest.raises(TransientError),
    ):
        bench.fetch(host.url())


def test_a_part_is_continued_where_it_ended(bench: Bench) -> None:
    begin(bench)
    assert bench.part() == PNG[:HALF]
    with MediaHost(lambda request: Reply(ranged(PNG, request.start or 0, etag(PNG)))) as host:
        fetched = bench.fetch(host.url())
        assert fetched.data == PNG
        assert [request.start for request in host.requests] == [BACK]
    assert bench.part() is None


def test_a_part_that_is_complete_already_costs_what_is_compared(bench: Bench) -> None:
    whole = answer(PNG, etag(PNG))
    output = RemoteOutput("o", "imageUrl", "")
    with MediaHost(lambda _: Reply(whole)) as host:
        slot = bench.library.destination(RUN, output, 1, None)
        with bench.fetcher.fetch(host.url(), slot, lambda _received, _total: None):
            pass  # and is killed before the file has its name
    assert bench.part() == PNG
    with MediaHost(lambda request: Reply(ranged(PNG, request.start or 0, etag(PNG)))) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [len(PNG) - OVERLAP]


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
        assert [request.start for request in host.requests] == [BACK, None]


@pytest.mark.parametrize(
    "span",
    [
        f"bytes {HALF}-299999/300000",
        f"bytes {BACK - 1}-299999/300000",
        f"bytes {BACK + 1}-299999/300000",
        f"bytes {BACK}-299999/300001",
        f"bytes {BACK}-299998/300000",
        f"bytes {BACK}-299999/*",
        f"bytes {BACK}-300000/300000",
        "bytes */300000",
        f"items {BACK}-299999/300000",
        "nonsense",
    ],
)
def test_a_range_other_than_was_asked_for_is_not_appended(bench: Bench, span: str) -> None:
    begin(bench)

    def reply(request: Request) -> Reply:
        if request.start is None:
            return Reply(answer(PNG, etag(PNG)))
        return Reply(answer(PNG[BACK:], f"Content-Range: {span}", etag(PNG), status="206 Partial Content"))

    with MediaHost(reply) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [BACK, None]


@pytest.mark.parametrize("headers", [(), ("Content-Type: multipart/byteranges; boundary=x",)])
def test_a_206_without_a_range_is_not_appended(bench: Bench, headers: tuple[str, ...]) -> None:
    begin(bench)

    def reply(request: Request) -> Reply:
        if request.start is None:
            return Reply(answer(PNG, etag(PNG)))
        return Reply(answer(PNG[BACK:], etag(PNG), *headers, status="206 Partial Content"))

    with MediaHost(reply) as host:
        assert bench.fetch(host.url()).data == PNG


def test_a_part_of_what_was_asked_for_whole_is_trouble_that_may_pass(bench: Bench) -> None:
    with MediaHost(lambda _: Reply(ranged(PNG, 10))) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    assert bench.files() == []


def test_a_416_for_a_whole_request_is_not_the_file(bench: Bench) -> None:
    begin(bench)
    nothing = answer(b"", f"Content-Range: bytes */{len(PNG)}", etag(PNG), status="416 Range Not Satisfiable")
    with MediaHost(lambda _: Reply(nothing)) as host:
        with pytest.raises(Exception, match="answered 416"):
            bench.fetch(host.url())
        assert [request.start for request in host.requests] == [BACK, None]
    assert bench.files() == []


DATE = "Last-Modified: Sun, 29 Nov 2026 10:00:00 GMT"
LATER = "Last-Modified: Sun, 29 Nov 2026 10:00:01 GMT"
SAME = ('ETag: "of-time-and-size"', DATE)
WEAK = {
    "a weak ETag": ('ETag: W/"a"', DATE),
    "no ETag": (DATE,),
    "an ETag that is malformed": ("ETag: a", DATE),
}


def spans(host: MediaHost) -> list[tuple[int | None, int | None]]:
    return [(request.start, request.last) for request in host.requests]


def differing(*places: int) -> bytes:
    """Give what `PNG` is, but for a byte at each of `places`."""
    body = bytearray(PNG)
    for place in places:
        body[place] ^= 1
    return bytes(body)


@pytest.mark.parametrize("place", [BACK, BACK + 1, HALF - 1], ids=["first", "second", "last"])
def test_other_content_under_the_same_strong_etag_is_not_spliced(bench: Bench, place: int) -> None:
    """One byte of those that are compared is enough: nginx, Apache, Caddy … call it the same."""
    begin(bench, *SAME)
    other = differing(1000, place, HALF + 1000)
    with MediaHost(lambda request: Reply(served(other, request, *SAME))) as host:
        assert bench.fetch(host.url()).data == other
        assert [request.start for request in host.requests] == [BACK, None]


def test_a_part_that_is_no_longer_than_what_is_compared_is_fetched_from_the_start(bench: Bench) -> None:
    begin(bench, at=OVERLAP)
    with MediaHost(lambda request: Reply(served(PNG, request, etag(PNG)))) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [None]


@pytest.mark.parametrize("headers", WEAK.values(), ids=WEAK)
def test_without_a_strong_etag_both_ends_are_compared_where_time_and_length_agree(
    bench: Bench, headers: tuple[str, ...]
) -> None:
    begin(bench, *headers)
    with MediaHost(lambda request: Reply(served(PNG, request, *headers))) as host:
        fetched = bench.fetch(host.url())
        assert spans(host) == [(0, OVERLAP - 1), (BACK, None)]
    assert (fetched.data, fetched.integrity) == (PNG, Integrity.LENGTH_ONLY)


@pytest.mark.parametrize("place", [0, OVERLAP - 1, BACK, HALF - 1])
def test_without_a_strong_etag_content_that_differs_at_either_end_starts_over(
    bench: Bench, place: int
) -> None:
    begin(bench, DATE)
    other = differing(place, HALF + 1000)
    with MediaHost(lambda request: Reply(served(other, request, DATE))) as host:
        assert bench.fetch(host.url()).data == other
        assert spans(host)[-1] == (None, None)


def test_without_a_strong_etag_a_host_without_ranges_is_asked_once(bench: Bench) -> None:
    begin(bench, DATE)
    with MediaHost(lambda _: Reply(answer(OTHER_PNG, DATE))) as host:
        assert bench.fetch(host.url()).data == OTHER_PNG
        assert spans(host) == [(0, OVERLAP - 1)]


@pytest.mark.parametrize(
    ("now", "headers"),
    [
        (OTHER_PNG, (LATER,)),
        (OTHER_PNG, ()),
        (OTHER_PNG, ('ETag: W/"b"', DATE)),
        (LONGER, (DATE,)),
        (OTHER_PNG, ("Last-Modified: yesterday",)),
    ],
    ids=["another time", "no time", "another weak ETag", "another length", "no date"],
)
def test_without_a_strong_etag_it_starts_over_where_time_or_length_changed(
    bench: Bench, now: bytes, headers: tuple[str, ...]
) -> None:
    begin(bench, DATE)
    with MediaHost(lambda request: Reply(served(now, request, *headers))) as host:
        assert bench.fetch(host.url()).data == now
        assert [request.start for request in host.requests] == [0, None]


def test_an_etag_that_is_weak_at_first_and_strong_later_is_continued(bench: Bench) -> None:
    """Apache 2.4 calls a file weak for its first second, by the same letters."""
    begin(bench, 'ETag: W/"a"', DATE)
    with MediaHost(lambda request: Reply(served(PNG, request, 'ETag: "a"', DATE))) as host:
        assert bench.fetch(host.url()).data == PNG
        assert spans(host) == [(0, OVERLAP - 1), (BACK, None)]


@pytest.mark.parametrize("headers", [('ETag: "a"',), *WEAK.values()], ids=["a strong ETag", *WEAK])
def test_a_large_file_over_a_line_that_breaks_costs_little_more_than_its_size(
    bench: Bench, headers: tuple[str, ...]
) -> None:
    body = formats.png("large", "large", 20_000_000).read()
    sent = 0

    def reply(request: Request) -> Reply:
        nonlocal sent
        answer = broken(served(body, request, *headers), 6_000_000)
        sent += len(answer.data)
        return answer

    with MediaHost(reply) as host:
        for _ in range(3):
            with pytest.raises(TransientError):
                bench.fetch(host.url())
        assert bench.fetch(host.url()).data == body
    assert sent <= 22_000_000


def test_what_is_held_is_not_lost_where_a_whole_answer_breaks_before_it(bench: Bench) -> None:
    begin(bench, *SAME)
    with MediaHost(lambda _: broken(answer(PNG, *SAME), 1000)) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    assert bench.part() == PNG[:HALF]
    with MediaHost(lambda _: broken(answer(PNG, *SAME), HALF + 1000)) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    assert bench.part() == PNG[: HALF + 1000]


def test_a_whole_answer_of_other_bytes_takes_the_place_of_those_held(bench: Bench) -> None:
    begin(bench, *SAME)
    other = differing(HALF - 5)
    whole = broken(answer(other, *SAME), HALF - 1)
    with MediaHost(lambda _: whole) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    assert bench.part() == other[: HALF - 1]


def test_a_whole_answer_that_ends_before_what_is_held_is_the_file(bench: Bench) -> None:
    """As long as is said: the file that was continued had grown beyond it."""
    begin(bench, *SAME)
    with MediaHost(lambda request: Reply(served(PNG, request, *SAME))) as host:
        slot = bench.library.destination(RUN, RemoteOutput("o", "imageUrl", ""), 1, None)
        validator, _ = slot.resume_point() or ("", 0)
        with slot.open(validator) as part:
            part.write(PNG[HALF:] + b"more")
        assert bench.fetch(host.url()).data == PNG


@pytest.mark.parametrize(
    "answered", ["400 Bad", "403 No", "405 No", "412 No", "500 Oops", "501 No", "nothing", "reset", "cut"]
)
def test_a_host_that_refuses_ranges_is_asked_for_the_whole_after_two_tries(
    bench: Bench, answered: str
) -> None:
    begin(bench, *SAME)

    def reply(request: Request) -> Reply:
        if request.start is None:
            return Reply(answer(PNG, *SAME))
        if answered in {"nothing", "reset"}:
            return Reply(b"", "close" if answered == "nothing" else "reset")
        if answered == "cut":
            return broken(served(PNG, request, *SAME), 1000)
        return Reply(answer(b"", status=answered))

    with MediaHost(reply) as host:
        for _ in range(2):
            with pytest.raises(TransientError):
                bench.fetch(host.url())
            assert bench.part() == PNG[:HALF]
        assert bench.fetch(host.url()).data == PNG
        assert host.requests[-1].start is None
        assert {request.start for request in host.requests[:-1]} == {BACK}


@pytest.mark.parametrize("status", ["404 Not Found", "429 Slow Down", "503 Busy", "502 Bad Gateway"])
def test_trouble_that_is_not_the_ranges_does_not_end_ranged_tries(bench: Bench, status: str) -> None:
    begin(bench, *SAME)
    with MediaHost(lambda _: Reply(answer(b"", status=status))) as host:
        for _ in range(4):
            with pytest.raises(TransientError):
                bench.fetch(host.url())
        assert {request.start for request in host.requests} == {BACK}
    with MediaHost(lambda request: Reply(served(PNG, request, *SAME))) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [BACK]


def test_after_one_whole_try_ranges_are_tried_again(bench: Bench) -> None:
    begin(bench, *SAME)
    with MediaHost(lambda _: Reply(answer(b"", status="500 Oops"))) as host:
        for _ in range(4):
            with pytest.raises(TransientError):
                bench.fetch(host.url())
        assert [request.start for request in host.requests] == [BACK, BACK, None, BACK]
    assert bench.part() == PNG[:HALF]


@pytest.mark.parametrize(
    "refused",
    [
        Reply(answer(PNG, status="416 No")),  # serve 14.2: the whole file
        Reply(answer(b"", f"Content-Range: bytes */{len(PNG)}", status="416 No", length=1000), "hang"),
        Reply(answer(b"", status="416 No")),
    ],
    ids=["with the file", "with a length that never comes", "with nothing"],
)
def test_a_416_of_whatever_body_starts_over_at_once(bench: Bench, refused: Reply) -> None:
    begin(bench, *SAME)
    with MediaHost(lambda r: Reply(answer(PNG, *SAME)) if r.start is None else refused) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [BACK, None]


def test_several_ranges_in_one_answer_are_not_appended(bench: Bench) -> None:
    begin(bench, *SAME)
    part = b"\r\n--x\r\nContent-Range: bytes 0-1/2\r\n\r\n" + PNG[BACK:]
    head = ("Content-Type: multipart/byteranges; boundary=x", f"Content-Range: bytes {BACK}-299999/300000")
    several = Reply(answer(part[: len(PNG) - BACK], *head, *SAME, status="206 Partial Content"))
    with MediaHost(lambda r: Reply(answer(PNG, *SAME)) if r.start is None else several) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [BACK, None]


def test_a_range_that_carries_other_bytes_than_it_says_is_not_appended(bench: Bench) -> None:
    begin(bench, *SAME)
    lie = answer(
        PNG[BACK + 1 :] + b"!", f"Content-Range: bytes {BACK}-299999/300000", *SAME, status="206 Partial"
    )
    with MediaHost(lambda r: Reply(answer(PNG, *SAME) if r.start is None else lie)) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [BACK, None]


def test_a_coded_range_is_not_appended_to_what_is_not_coded(bench: Bench) -> None:
    """Caddy 2.6 and serve 14.2 compress the bytes of a range, and call them by their place before."""
    begin(bench, *SAME)

    def reply(request: Request) -> Reply:
        coding = () if request.start is None else ("Content-Encoding: gzip",)
        return Reply(served(PNG, request, *SAME, *coding))

    with MediaHost(reply) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [BACK, None]


def test_a_coding_that_changes_no_byte_does_not_hinder_a_resume(bench: Bench) -> None:
    headers = (*SAME, "Content-Encoding: aws-chunked, utf-8")
    begin(bench, *headers)
    with MediaHost(lambda request: Reply(served(PNG, request, *headers))) as host:
        assert bench.fetch(host.url()).data == PNG
        assert [request.start for request in host.requests] == [BACK]


def checksum(body: bytes) -> str:
    return f"Repr-Digest: sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def test_a_promise_of_the_whole_answer_holds_for_the_part_that_follows(bench: Bench) -> None:
    begin(bench, *SAME, checksum(PNG))
    with MediaHost(lambda request: Reply(served(PNG, request, *SAME))) as host:
        fetched = bench.fetch(host.url())
        assert [request.start for request in host.requests] == [BACK]
    assert fetched.integrity is Integrity.VERIFIED
    assert fetched.checked == ("length", "sha-256")


def test_a_splice_that_no_comparison_shows_is_found_by_the_promise(bench: Bench) -> None:
    begin(bench, *SAME, checksum(PNG))
    other = differing(HALF + 1000)
    with MediaHost(lambda request: Reply(served(other, request, *SAME))) as host:
        with pytest.raises(TransientError) as caught:
            bench.fetch(host.url())
        assert caught.value.code is ErrorCode.DAMAGED
        assert bench.part() is None
        assert bench.fetch(host.url()).data == other


def test_a_promise_is_not_held_against_another_version(bench: Bench) -> None:
    begin(bench, *SAME, checksum(PNG))
    with MediaHost(lambda request: Reply(served(OTHER_PNG, request, 'ETag: "new"'))) as host:
        fetched = bench.fetch(host.url())
    assert (fetched.data, fetched.integrity) == (OTHER_PNG, Integrity.LENGTH_ONLY)


def test_other_bytes_under_the_same_etag_are_found_and_verified_by_their_checksum(bench: Bench) -> None:
    begin(bench, 'ETag: "same"')
    with MediaHost(
        lambda request: Reply(served(OTHER_PNG, request, 'ETag: "same"', checksum(OTHER_PNG)))
    ) as host:
        fetched = bench.fetch(host.url())
    assert (fetched.data, fetched.integrity) == (OTHER_PNG, Integrity.VERIFIED)


class Behaviour(Struct, frozen=True):
    """What the server does to one request: which version it has, how it answers, where it breaks off."""

    version: int
    etag: str  # of the content, or as file servers make it: of time and size, weak, or none
    framing: Literal["length", "chunked", "close"]
    ranges: str
    cut: int | None
    ending: Literal["close", "reset"]


FRAMES: dict[str, Callable[..., bytes]] = {"length": answer, "chunked": chunked, "close": unframed}
VERSIONS = (PNG, OTHER_PNG, SHORTER, LONGER)
BEHAVIOURS = st.builds(
    Behaviour,
    version=st.integers(0, len(VERSIONS) - 1),
    etag=st.sampled_from(["strong", "strong", "file's", "file's", "weak", "dated", "none"]),
    framing=st.sampled_from(["length", "length", "chunked", "close"]),
    ranges=st.sampled_from(
        [
            *("honoured", "honoured", "honoured", "ignored", "early", "late", "total", "unsaid", "short"),
            *("416", "403", "500"),
        ]
    ),
    cut=st.none() | st.integers(0, 450_000),
    ending=st.sampled_from(["close", "reset"]),
)


def respond(how: Behaviour, request: Request) -> Reply:
    """Answer as `how` says; an honest one says which bytes it sends, whichever they are."""
    body, start = VERSIONS[how.version], request.start
    tags = {
        "strong": (etag(body),),
        "file's": (f'ETag: "{len(body):x}"', DATE),
        "weak": (f'ETag: W/"{len(body):x}"', DATE),
        "dated": (DATE,),
        "none": (),
    }[how.etag]
    data = FRAMES[how.framing](body, *tags)
    sent = len(body)
    if start is not None and how.ranges != "ignored":
        first = start + {"early": -1 if start else 0, "late": 1}.get(how.ranges, 0)
        if how.ranges in {"403", "416", "500"} or first >= len(body):
            status = how.ranges if how.ranges.isdigit() else "416"
            return Reply(
                answer(b"", f"Content-Range: bytes */{len(body)}", status=f"{status} No"), how.ending
            )
        last = len(body) - 1 if request.last is None else min(request.last, len(body) - 1)
        sent = last + 1 - first
        total = len(body) + (how.ranges == "total")
        if how.ranges == "unsaid":
            data = answer(body[first : last + 1], *tags, status="206 Partial Content")
        elif how.ranges == "short":
            span = f"Content-Range: bytes {first}-{first}/{total}"
            data, sent = answer(body[first : first + 1], span, *tags, status="206 Partial Content"), 1
        else:
            data = ranged(body, first, *tags, total=total, last=last)
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
        MediaHost(lambda request: respond(left.pop(0) if left else honest, request)) as host,
    ):
        fetched = None
        for _ in range(len(behaviours) + 2):
            try:
                fetched = bench.fetch(host.url())
                break
            except TransientError:
                assert bench.files() == []
        assert fetched is not None
        assert fetched.data in VERSIONS
        assert bench.part() is None
