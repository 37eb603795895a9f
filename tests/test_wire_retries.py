"""What follows when an output cannot be had at once: how often it is asked for again, and how it ends."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import google_crc32c
import msgspec
import pytest
from hypothesis import given, settings, strategies as st
from studio import TEST_TIMEOUT, logged
from wire import (
    LARGE_PNG,
    OTHER_PNG,
    PNG,
    RUN,
    Bench,
    MediaHost,
    Reply,
    Request,
    Silent,
    answer,
    ranged,
    serving,
    unframed,
)

from floradl.errors import (
    ErrorCode,
    OverLimitError,
    PauseReason,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.models import (
    Integrity,
    RemoteOutput,
    RemoteRun,
    RunFailure,
    SavedOutput,
    Skipped,
    SkipReason,
)
from floradl.net.addresses import HostPatterns
from floradl.retry import after_trouble
from floradl.runs.output_saver import Fetchers, OutputOptions, OutputSaver
from floradl.runs.slots import TransferSlots
from floradl.simulator import formats

EXPIRED = answer(b"<Error><Code>ExpiredToken</Code></Error>", status="400 Bad Request")
DENIED = answer(b"<Error><Code>AccessDenied</Code></Error>", status="403 Forbidden")
MISSING = answer(b"<Error><Code>NoSuchKey</Code></Error>", status="404 Not Found")
BUSY = answer(b"", status="503 Service Unavailable")
PAGE = answer(b"<!doctype html><html><body>Please sign in.</body></html>", "Content-Type: text/html")
IMAGE = answer(PNG)


class Desk:
    """Saves outputs without the waits, which it writes down; `fresh` counts the questions to FLORA."""

    def __init__(self, bench: Bench, transfers: int = 4) -> None:
        self.waits: list[float] = []
        self.fresh = 0
        self.next_url: Callable[[], str] | None = None
        self.refusal: Exception | None = None
        self._saver = OutputSaver(
            bench.library,
            bench.disk,
            Fetchers(bench.fetcher, bench.small),
            Silent(),
            TransferSlots(transfers),
            OutputOptions(HostPatterns.parse(["127.0.0.1"]), keep_times=False, delay=self._delay),
        )

    def _delay(self, error: TransientError, tries: int) -> float | None:
        delay = after_trouble(error, tries)
        self.waits.append(0.0 if delay is None else delay)
        return None if delay is None else 0.0

    async def save(
        self, url: str, type_: str = "imageUrl", output_id: str = "o", flaw: str = ""
    ) -> SavedOutput:
        output = RemoteOutput(output_id, type_, url, flaw=flaw)
        return await self._saver.save(RUN, run_of(output), output, self._refresh)

    async def _refresh(self, before: RemoteRun) -> RemoteRun:
        self.fresh += 1
        if self.refusal is not None:
            raise self.refusal
        url = self.next_url() if self.next_url else before.outputs[0].url
        return run_of(msgspec.structs.replace(before.outputs[0], url=url))


def run_of(output: RemoteOutput) -> RemoteRun:
    return RemoteRun("run_wire", "completed", 100.0, 1.7e9, outputs=(output,))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "library") as bench:
        yield bench


@pytest.fixture
def desk(bench: Bench) -> Desk:
    return Desk(bench)


def code_of(saved: SavedOutput) -> str | None:
    return saved.error.code if saved.error else None


# --- not there, or not the right thing ----------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
async def test_what_is_not_there_is_asked_for_a_few_times_over_a_minute(desk: Desk, status: str) -> None:
    with MediaHost(lambda _: Reply(answer(b"", status=status))) as host:
        saved = await desk.save(host.url())
        assert len(host.requests) == 6
    assert code_of(saved) == ErrorCode.NOT_FOUND
    assert 55 < sum(desk.waits) < 75


@pytest.mark.anyio
async def test_what_is_gone_is_asked_for_at_once_under_a_fresh_url(desk: Desk) -> None:
    gone = Reply(answer(b"", status="410 Gone"))
    with MediaHost(lambda request: Reply(IMAGE) if "fresh" in request.path else gone) as host:
        desk.next_url = lambda: host.url("/fresh.png")
        assert (await desk.save(host.url())).path == "image/o.png"
        assert len(host.requests) == 2
    assert desk.fresh == 1


@pytest.mark.anyio
async def test_what_was_moved_is_found_under_a_fresh_url(desk: Desk) -> None:
    with MediaHost(lambda request: Reply(IMAGE) if "fresh" in request.path else Reply(MISSING)) as host:
        desk.next_url = lambda: host.url("/fresh.png")
        assert (await desk.save(host.url())).path == "image/o.png"
        assert len(host.requests) == 3  # it may only have been late
    assert desk.fresh == 1


@pytest.mark.anyio
async def test_what_is_not_there_costs_one_question_before_it_is_final(desk: Desk) -> None:
    with MediaHost(lambda _: Reply(MISSING)) as host:
        assert code_of(await desk.save(host.url())) == ErrorCode.NOT_FOUND
    assert desk.fresh == 1


@pytest.mark.anyio
@pytest.mark.parametrize("status", ["202 Accepted", "204 No Content", "205 Reset Content"])
async def test_what_is_not_ready_yet_is_asked_for_again(desk: Desk, status: str) -> None:
    with MediaHost(serving(Reply(answer(b"", status=status)), Reply(IMAGE))) as host:
        assert (await desk.save(host.url())).path == "image/o.png"


@pytest.mark.anyio
async def test_an_output_that_flora_lists_without_a_url_is_asked_for_a_few_times(desk: Desk) -> None:
    saved = await desk.save("", flaw="FLORA lists nothing")
    assert saved.error == RunFailure(ErrorCode.BAD_URL, "FLORA lists nothing")
    assert (desk.fresh, sum(desk.waits)) == (3, 17.0)


@pytest.mark.anyio
async def test_what_appears_late_is_saved(desk: Desk) -> None:
    with MediaHost(serving(Reply(MISSING), Reply(MISSING), Reply(IMAGE))) as host:
        assert (await desk.save(host.url())).path == "image/o.png"


@pytest.mark.anyio
async def test_trouble_of_another_kind_does_not_use_up_the_tries(desk: Desk) -> None:
    replies = serving(*[Reply(BUSY)] * 5, *[Reply(MISSING)] * 5, Reply(IMAGE))
    with MediaHost(replies) as host:
        assert (await desk.save(host.url())).path == "image/o.png"


@pytest.mark.anyio
@pytest.mark.parametrize("page", [PAGE, answer(b""), unframed(b"")], ids=["page", "empty", "cut at once"])
async def test_a_page_or_nothing_where_an_image_should_be_is_asked_for_again(desk: Desk, page: bytes) -> None:
    with MediaHost(serving(Reply(page), Reply(IMAGE))) as host:
        assert (await desk.save(host.url())).path == "image/o.png"


@pytest.mark.anyio
async def test_a_page_that_stays_where_an_image_should_be_is_an_error(desk: Desk, bench: Bench) -> None:
    with MediaHost(lambda _: Reply(PAGE)) as host:
        saved = await desk.save(host.url())
        assert len(host.requests) == 6
    assert code_of(saved) == ErrorCode.NOT_MEDIA
    assert (bench.files(), bench.part()) == ([], None)


# --- damaged ------------------------------------------------------------------------------------------------


def promises(body: bytes) -> dict[str, tuple[str, ...]]:
    """Give the headers by which a server vouches for `body`."""
    md5 = hashlib.md5(body, usedforsecurity=False)
    in_base64 = base64.b64encode(md5.digest()).decode()
    crc32c = base64.b64encode(google_crc32c.value(body).to_bytes(4, "big")).decode()
    sha256 = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return {
        "crc32c": (f"x-goog-hash: crc32c={crc32c}",),
        "md5": (f"x-goog-hash: md5={in_base64}",),
        "s3": (f'ETag: "{md5.hexdigest()}"', "x-amz-request-id: 1"),
        "content-md5": (f"Content-MD5: {in_base64}",),
        "repr-digest": (f"Repr-Digest: sha-256=:{sha256}:",),
    }


@pytest.mark.anyio
@pytest.mark.parametrize("kind", list(promises(b"")))
async def test_bytes_that_do_not_match_the_checksum_are_thrown_away_and_fetched_again(
    desk: Desk, kind: str
) -> None:
    wrong = bytearray(PNG)
    wrong[len(PNG) // 2] ^= 1
    headers = promises(PNG)[kind]
    with MediaHost(serving(Reply(answer(bytes(wrong), *headers)), Reply(answer(PNG, *headers)))) as host:
        saved = await desk.save(host.url())
        assert [request.start for request in host.requests] == [None, None]
    assert (saved.sha256, saved.integrity) == (hashlib.sha256(PNG).hexdigest(), Integrity.VERIFIED)


@pytest.mark.anyio
async def test_bytes_that_never_match_are_given_up_and_nothing_is_left(desk: Desk, bench: Bench) -> None:
    left = [formats.png(f"damage {nth}", "damage", len(PNG)).read() for nth in range(9)]
    with MediaHost(lambda _: Reply(answer(left.pop(), *promises(PNG)["md5"]))) as host:
        saved = await desk.save(host.url())
        assert len(host.requests) == 9
    assert code_of(saved) == ErrorCode.DAMAGED
    assert saved.error is not None
    assert "md5" in saved.error.message
    assert (bench.files(), bench.part()) == ([], None)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", list(promises(b"")))
async def test_a_checksum_that_two_whole_downloads_do_not_match_is_taken_to_be_wrong(
    desk: Desk, bench: Bench, kind: str
) -> None:
    """Azure gives the MD5 of a block list that its writer said, whatever that is."""
    wrong = promises(OTHER_PNG)[kind]
    with MediaHost(lambda _: Reply(answer(PNG, *wrong))) as host, logged() as logs:
        saved = await desk.save(host.url())
        assert [request.start for request in host.requests] == [None, None]
    assert (saved.sha256, saved.integrity) == (hashlib.sha256(PNG).hexdigest(), Integrity.LENGTH_ONLY)
    length, twice, disagreed = saved.checked
    assert (length, twice) == ("length", "twice")
    assert disagreed.removesuffix("-disagreed") in {"crc32c", "md5", "sha-256"}
    assert [log["log_level"] for log in logs if log["event"] == "checksum_wrong"] == ["warning"]
    assert bench.part() is None


@pytest.mark.anyio
async def test_a_checksum_that_is_wrong_makes_nothing_of_a_cut(desk: Desk) -> None:
    """Two that are cut at the same place are alike, too: it is the length that refuses them."""
    cut = answer(PNG, *promises(OTHER_PNG)["md5"])[:-100]
    with MediaHost(serving(*[Reply(cut)] * 3, Reply(answer(PNG)))) as host:
        saved = await desk.save(host.url())
        assert len(host.requests) == 4
    assert saved.sha256 == hashlib.sha256(PNG).hexdigest()


@pytest.mark.anyio
async def test_bytes_that_differ_each_time_do_not_prove_a_checksum_wrong(desk: Desk) -> None:
    damaged = [formats.png(f"damage {nth}", "damage", len(PNG)).read() for nth in range(3)]
    headers = promises(PNG)["md5"]
    replies = [Reply(answer(body, *headers)) for body in (*damaged, damaged[0], PNG)]
    with MediaHost(serving(*replies)) as host:
        saved = await desk.save(host.url())
    assert (saved.sha256, saved.integrity) == (hashlib.sha256(PNG).hexdigest(), Integrity.VERIFIED)


# --- too much -----------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("frame", [answer, unframed])
async def test_what_is_over_the_largest_size_is_skipped(tmp_path: Path, frame: Callable[..., bytes]) -> None:
    with Bench(tmp_path, max_file_size=len(PNG) - 1) as bench:
        with MediaHost(lambda _: Reply(frame(PNG))) as host:
            saved = await Desk(bench).save(host.url())
            assert len(host.requests) == 1
        assert (saved.path, saved.error, saved.skipped) == (None, None, Skipped(SkipReason.TOO_LARGE))
        assert saved.bytes == (len(PNG) if frame is answer else None)
        assert (bench.files(), bench.part()) == ([], None)


@pytest.mark.anyio
async def test_what_is_left_of_an_output_that_is_too_large_now_is_removed(tmp_path: Path) -> None:
    cut = answer(LARGE_PNG, 'ETag: "a"')[:200_000]
    with Bench(tmp_path) as bench, MediaHost(lambda _: Reply(cut, "cut")) as host:
        with pytest.raises(TransientError):
            bench.fetch(host.url())
        assert bench.part()
    changed = answer(LARGE_PNG, 'ETag: "b"')
    with Bench(tmp_path, max_file_size=1000) as bench, MediaHost(lambda _: Reply(changed)) as host:
        with pytest.raises(OverLimitError):
            bench.fetch(host.url())
        assert (bench.files(), bench.part()) == ([], None)


@pytest.mark.anyio
async def test_what_is_just_the_largest_size_is_taken(tmp_path: Path) -> None:
    with Bench(tmp_path, max_file_size=len(PNG)) as bench, MediaHost(lambda _: Reply(IMAGE)) as host:
        assert (await Desk(bench).save(host.url())).path == "image/o.png"


@pytest.mark.anyio
async def test_a_transfer_has_a_deadline_and_its_part_stays(tmp_path: Path) -> None:
    whole = answer(LARGE_PNG, 'ETag: "a"')
    with Bench(tmp_path, deadline=0.3) as bench:
        with MediaHost(lambda _: Reply(whole, drip=300_000)) as host:
            saved = await Desk(bench).save(host.url())
        assert code_of(saved) == ErrorCode.GAVE_UP
        part = bench.part()
        assert part
        with MediaHost(lambda request: Reply(ranged(LARGE_PNG, request.start or 0, 'ETag: "a"'))) as host:
            assert (await Desk(bench).save(host.url())).path == "image/o.png"
            assert [request.start for request in host.requests] == [len(part) - 65_536]


# --- expired ------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("refusal", [EXPIRED, DENIED], ids=["400", "403"])
async def test_an_expired_url_costs_one_question_to_flora_and_no_wait(desk: Desk, refusal: bytes) -> None:
    with MediaHost(lambda request: Reply(IMAGE if request.path == "/new.png" else refusal)) as host:
        desk.next_url = lambda: host.url("/new.png")
        assert (await desk.save(host.url())).path == "image/o.png"
        assert [request.path for request in host.requests] == ["/o.png", "/new.png"]
    assert desk.fresh == 1


@pytest.mark.anyio
async def test_a_url_that_expires_in_the_middle_is_continued_under_a_fresh_one(desk: Desk) -> None:
    tag = 'ETag: "a"'
    cut = answer(LARGE_PNG, tag)[: -len(LARGE_PNG) // 50]  # at 98 %
    replies = serving(Reply(cut), Reply(EXPIRED))

    def reply(request: Request) -> Reply:
        if request.path == "/new.png":
            return Reply(ranged(LARGE_PNG, request.start or 0, tag))
        return replies(request)

    with MediaHost(reply) as host:
        desk.next_url = lambda: host.url("/new.png")
        saved = await desk.save(host.url())
        starts = [request.start for request in host.requests]
    assert saved.sha256 == hashlib.sha256(LARGE_PNG).hexdigest()
    assert starts[0] is None
    assert starts[1:] == [len(LARGE_PNG) - len(LARGE_PNG) // 50 - 65_536] * 2
    assert desk.fresh == 1


@pytest.mark.anyio
@pytest.mark.parametrize("status", ["403 Forbidden", "412 Precondition Failed", "500 Oops"])
async def test_a_host_that_refuses_ranges_costs_no_output(desk: Desk, status: str) -> None:
    tag = 'ETag: "a"'
    whole = serving(Reply(answer(LARGE_PNG, tag)[:-100_000]), Reply(answer(LARGE_PNG, tag)))
    refused = Reply(answer(b"", status=status))
    with MediaHost(lambda request: whole(request) if request.start is None else refused) as host:
        saved = await desk.save(host.url())
        starts = [request.start for request in host.requests]
    assert saved.sha256 == hashlib.sha256(LARGE_PNG).hexdigest()
    assert starts == [None, *[len(LARGE_PNG) - 100_000 - 65_536] * 2, None]


@pytest.mark.anyio
@pytest.mark.parametrize("refusal", [EXPIRED, DENIED], ids=["400", "403"])
async def test_a_url_that_is_never_valid_is_given_up_after_a_few_questions(
    desk: Desk, refusal: bytes
) -> None:
    with MediaHost(lambda _: Reply(refusal)) as host:
        saved = await desk.save(host.url())
        assert len(host.requests) == 6
    assert desk.fresh == 5
    assert code_of(saved) == ErrorCode.EXPIRED


@pytest.mark.anyio
async def test_an_expired_url_that_flora_refuses_to_renew_is_an_output_that_cannot_be_had(desk: Desk) -> None:
    desk.refusal = PermanentError("FLORA answered 400", ErrorCode.BAD_REQUEST)
    with MediaHost(lambda _: Reply(EXPIRED)) as host:
        assert code_of(await desk.save(host.url())) == ErrorCode.BAD_REQUEST
    assert desk.fresh == 1


@pytest.mark.anyio
async def test_a_key_that_is_refused_while_a_url_is_renewed_pauses_all(desk: Desk) -> None:
    desk.refusal = ServicePausedError("FLORA answered 401", PauseReason.KEY_REFUSED)
    with MediaHost(lambda _: Reply(EXPIRED)) as host, pytest.raises(ServicePausedError):
        await desk.save(host.url())


@pytest.mark.anyio
async def test_flora_away_while_a_url_is_renewed_is_asked_again_before_the_media_host_is(desk: Desk) -> None:
    desk.refusal = TransientError("FLORA cannot be reached")
    with MediaHost(lambda _: Reply(EXPIRED)) as host:
        with pytest.raises(TransientError, match="FLORA"):
            await desk.save(host.url())
        assert len(host.requests) == 1
    assert desk.fresh == 6


# --- storms -------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("status", ["429 Too Many", "500 Oh", "502 Bad", "503 Busy", "504 Late", "520 Odd"])
async def test_a_storm_is_sat_out_and_longer_each_time(desk: Desk, status: str) -> None:
    storm = Reply(answer(b"<html>", "Content-Type: text/html", status=status))
    with MediaHost(serving(*[storm] * 5, Reply(IMAGE))) as host:
        assert (await desk.save(host.url())).path == "image/o.png"
    assert [round(wait, 9) <= 2.0**number for number, wait in enumerate(desk.waits)] == [True] * 5
    assert [wait >= 0.75 * 2**number for number, wait in enumerate(desk.waits)] == [True] * 5


@pytest.mark.anyio
async def test_trouble_without_end_is_handed_back_after_a_few_tries(desk: Desk) -> None:
    with MediaHost(lambda _: Reply(BUSY)) as host:
        with pytest.raises(TransientError, match="503"):
            await desk.save(host.url())
        assert len(host.requests) == 6


@pytest.mark.anyio
async def test_a_host_that_asks_for_silence_gets_it_from_all_transfers(bench: Bench) -> None:
    times: list[float] = []
    lock = threading.Lock()

    def reply(_: Request) -> Reply:
        with lock:
            times.append(time.monotonic())
            first = len(times) <= 2  # as many as are under way together
        return Reply(answer(b"", "Retry-After: 1", status="429 Too Many") if first else IMAGE, "keep")

    desk = Desk(bench, transfers=2)
    saved: list[SavedOutput] = []

    async def save(name: str) -> None:
        saved.append(await desk.save(host.url(), output_id=name))

    with MediaHost(reply) as host:
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(save, f"o{number}")
    assert len(times) == 14
    assert min(times[2:]) >= min(times[:2]) + 1.0
    assert [output.error for output in saved] == [None] * 12


@pytest.mark.anyio
async def test_a_host_that_asks_for_silence_keeps_no_other_waiting(bench: Bench) -> None:
    desk = Desk(bench, transfers=2)
    busy = answer(b"", "Retry-After: 60", status="429 Too Many")
    with MediaHost(lambda _: Reply(busy)) as silent, MediaHost(lambda _: Reply(IMAGE)) as ready:
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(desk.save, silent.url(), "imageUrl", f"o{number}")
            await anyio.to_thread.run_sync(silent.asked.wait)
            with anyio.fail_after(TEST_TIMEOUT):
                saved = await desk.save(ready.url().replace("127.0.0.1", "localhost"), output_id="other")
            group.cancel_scope.cancel()
        assert len(silent.requests) <= 2
    assert saved.error is None


# --- redirects ----------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    "where", ["/new.png", "new.png", "//127.0.0.1:{port}/new.png", "http://127.0.0.1:{port}/new.png#part"]
)
async def test_a_redirect_is_followed(desk: Desk, where: str) -> None:
    def reply(request: Request) -> Reply:
        if request.path == "/new.png":
            return Reply(IMAGE)
        place = where.replace("{port}", str(host.port))
        return Reply(answer(b"", f"Location: {place}", status="302 Found"))

    with MediaHost(reply) as host:
        assert (await desk.save(host.url())).path == "image/o.png"


@pytest.mark.anyio
@pytest.mark.parametrize(("hops", "reached"), [(5, True), (6, False)])
async def test_five_redirects_are_followed_and_no_sixth(desk: Desk, hops: int, *, reached: bool) -> None:
    def reply(request: Request) -> Reply:
        number = int(request.path.removeprefix("/"))
        if number == hops:
            return Reply(IMAGE)
        return Reply(answer(b"", f"Location: /{number + 1}", status="307 Temporary Redirect"))

    with MediaHost(reply) as host:
        saved = await desk.save(host.url("/0"))
        assert len(host.requests) == 6
    assert code_of(saved) == (None if reached else ErrorCode.HTTP_ERROR)


@pytest.mark.anyio
async def test_a_loop_of_redirects_ends(desk: Desk) -> None:
    with MediaHost(lambda _: Reply(answer(b"", "Location: /o.png", status="301 Moved"))) as host:
        saved = await desk.save(host.url())
        assert len(host.requests) == 6
    assert code_of(saved) == ErrorCode.HTTP_ERROR


BAD = {ErrorCode.BAD_URL, ErrorCode.HOST_REFUSED, ErrorCode.HTTP_ERROR}
LOCATIONS = [
    b"http://[::bad",
    b"http://xn--/",
    b"https://" + b"a" * 70_000,
    b"http://\xe2\x80\xa8/",
]


@pytest.mark.anyio
@pytest.mark.parametrize("where", LOCATIONS, ids=lambda where: ascii(where[:16]))
async def test_a_redirect_to_what_is_no_url_is_refused_at_once(desk: Desk, where: bytes) -> None:
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + where + b"\r\n\r\n"
    with MediaHost(lambda _: Reply(head)) as host:
        saved = await desk.save(host.url())
        assert len(host.requests) == 1
    assert code_of(saved) in BAD


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("shared")) as bench:
        yield bench


HOSTILE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=60)


@settings(max_examples=300)
@given(text=HOSTILE, start=st.sampled_from(["", "https://", "http://", "https://xn--", "https://[", "//"]))
def test_whatever_stands_where_a_url_should_it_is_an_output_that_cannot_be_had(
    shared: Bench, text: str, start: str
) -> None:
    async def main() -> SavedOutput:
        # `.invalid`: no name may be looked up that is one (RFC 6761, 6.4).
        return await Desk(shared).save(f"{start}{text}.invalid:99999/?Signature=abc")

    saved = anyio.run(main)
    assert code_of(saved) in BAD
    assert saved.error is not None
    assert "abc" not in saved.error.message
