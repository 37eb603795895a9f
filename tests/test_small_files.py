"""Small outputs, fetched many at once: against a host that a test scripts, and through the program itself."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from studio import TEST_TIMEOUT, Home, check_library, wait_until
from wire import PNG, RUN, Bench, MediaHost, Reply, answer

from floradl.download.downloader import Downloader, Received
from floradl.download.small_files import SmallFiles, SmallOutput
from floradl.errors import ErrorCode, OverLimitError, PauseReason, ServicePausedError, TransientError
from floradl.fs.durable import Steps
from floradl.library.batch_writer import BatchWriter
from floradl.models import OutputKind, RemoteOutput, SavedOutput
from floradl.net import url_policy
from floradl.net.plain_exchange import NotPlainError
from floradl.runs.slots import HostBackoff, HostBackoffError, TransferSlots
from floradl.simulator import OutputSpec, Simulator

SIZE = 3_000_000
PICTURE = OutputSpec("a", "imageUrl", size=SIZE, rate=600_000)
BURST = (OutputSpec("a", "imageUrl", size=3000), OutputSpec("b", "imageUrl", size=200_000))


class Counter:
    """Small files of a bench, over one connection at a time; `back_off` has what hosts asked for."""

    def __init__(self, bench: Bench, disk: BatchWriter | None = None) -> None:
        self.bench = bench
        self.back_off = HostBackoff(lambda: 100.0)
        self.refusal: Exception | None = None
        assert isinstance(bench.fetcher, Downloader)
        self.files = SmallFiles(
            bench._client.many(TransferSlots(1)), bench.fetcher, bench.disk if disk is None else disk
        )

    def outputs(self, host: MediaHost, count: int) -> list[SmallOutput]:
        return [self._output(host.url(f"/{nth}.png"), f"o{nth}") for nth in range(count)]

    def _output(self, url: str, output_id: str) -> SmallOutput:
        destination = self.bench.library.destination(RUN, RemoteOutput(output_id, "imageUrl", url), 1, None)

        def publish(received: Received) -> Steps[SavedOutput]:
            destination.prepare(received.sink, None)
            yield
            if self.refusal is not None:
                raise self.refusal
            found = received.finding
            path = destination.publish(received.sink, found.ext, found.sha256, None)
            return SavedOutput(output_id=output_id, type="imageUrl", kind=OutputKind.IMAGE, path=path)

        return SmallOutput(
            url_policy.parse(url),
            destination,
            lambda: self.back_off.check("127.0.0.1"),
            lambda seconds: self.back_off.ask_for("127.0.0.1", seconds),
            lambda _received, _total: None,
            publish,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "library") as bench:
        yield bench


@pytest.fixture
def counter(bench: Bench) -> Iterator[Counter]:
    counter = Counter(bench)
    yield counter
    counter.files.close()


@pytest.fixture
def host() -> Iterator[MediaHost]:
    with MediaHost(lambda _: Reply(answer(PNG), "keep")) as host:
        yield host


@pytest.mark.anyio
async def test_all_are_saved_and_the_conclusion_is_drawn_from_them_in_their_order(
    bench: Bench, counter: Counter, host: MediaHost
) -> None:
    def paths(saved: Sequence[SavedOutput]) -> list[str | None]:
        return [output.path for output in saved]

    results, concluded = await counter.files.save(counter.outputs(host, 30), paths)
    assert concluded == [f"image/o{nth}.png" for nth in range(30)]
    assert all(isinstance(result, SavedOutput) for result in results)
    assert sorted(bench.files()) == sorted(f"o{nth}.png" for nth in range(30))
    assert bench.part() is None


@pytest.mark.anyio
async def test_nothing_is_concluded_where_one_is_unavailable(counter: Counter) -> None:
    def reply(request: Any) -> Reply:
        return Reply(
            answer(b"", status="404 Not Found") if request.path == "/1.png" else answer(PNG), "close"
        )

    with MediaHost(reply) as host:
        results, concluded = await counter.files.save(counter.outputs(host, 3), lambda _: 1)
    assert concluded is None
    assert [type(result) for result in results] == [SavedOutput, TransientError, SavedOutput]


@pytest.mark.anyio
async def test_answers_that_a_failing_disk_never_looked_at_do_not_hold_up_the_next(
    bench: Bench, host: MediaHost
) -> None:
    def broken(_: Sequence[Callable[[], Any]]) -> list[Any]:
        raise OSError(5, "Input/output error")

    disk = BatchWriter(broken)
    counter = Counter(bench, disk)
    results, _ = await counter.files.save(counter.outputs(host, 150))
    assert [type(result) for result in results] == 150 * [OSError]
    counter.files.close()
    disk.close()


@pytest.mark.anyio
async def test_once_the_library_pauses_what_waits_is_not_asked_for(counter: Counter, host: MediaHost) -> None:
    counter.refusal = ServicePausedError("full", PauseReason.DISK_FULL)
    results, _ = await counter.files.save(counter.outputs(host, 400))
    assert results == 400 * [counter.refusal]
    assert len(host.requests) < 150  # those that had arrived before the disk said so


@pytest.mark.anyio
async def test_after_a_pause_what_is_new_is_asked_for(counter: Counter, host: MediaHost) -> None:
    counter.refusal = ServicePausedError("full", PauseReason.DISK_FULL)
    await counter.files.save(counter.outputs(host, 3))
    counter.refusal = None
    results, _ = await counter.files.save(counter.outputs(host, 3))
    assert [type(result) for result in results] == 3 * [SavedOutput]


@pytest.mark.anyio
async def test_retry_after_is_respected_at_once_by_all_that_wait(counter: Counter) -> None:
    busy = answer(b"", "Retry-After: 60", status="429 Too Many Requests")
    with MediaHost(lambda _: Reply(busy)) as host:
        results, _ = await counter.files.save(counter.outputs(host, 20))
        assert len(host.requests) == 1
    assert isinstance(results[0], TransientError)
    assert results[0].retry_after == 60.0
    assert [type(result) for result in results[1:]] == 19 * [HostBackoffError]


@pytest.mark.anyio
async def test_a_bandwidth_limit_that_is_set_meanwhile_holds_for_what_waits(
    bench: Bench, counter: Counter, host: MediaHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.bandwidth, "limits", lambda: True)
    results, _ = await counter.files.save(counter.outputs(host, 20))
    assert [type(result) for result in results] == 20 * [NotPlainError]
    assert host.requests == []


@pytest.mark.anyio
async def test_what_breaks_off_leaves_what_came_to_be_continued(bench: Bench, counter: Counter) -> None:
    cut = answer(PNG[:2000], 'ETag: "a"', length=len(PNG))
    with MediaHost(lambda _: Reply(cut, "cut")) as host:
        results, _ = await counter.files.save(counter.outputs(host, 1))
    assert isinstance(results[0], TransientError)
    assert results[0].code is ErrorCode.NETWORK
    assert bench.part() == PNG[:2000]


@pytest.mark.anyio
async def test_a_body_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    endless = answer(b"", length=5_000_000)  # the body never comes: who waits for it fails by the clock
    with (
        Bench(tmp_path, max_file_size=4_999_999) as bench,
        MediaHost(lambda _: Reply(endless, "keep")) as host,
    ):
        counter = Counter(bench)
        results, _ = await counter.files.save(counter.outputs(host, 3))
        counter.files.close()
        assert [type(result) for result in results] == 3 * [OverLimitError]
        assert [getattr(result, "size", None) for result in results] == 3 * [5_000_000]
        assert bench.files() == []


def arrived(home: Home) -> int:
    """Return how many bytes of pictures there are in part files."""
    return sum(path.stat().st_size for path in home.library.rglob(".*.part"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_slow_picture_is_continued_where_it_was(
    home: Home, simulator: Simulator, number: signal.Signals
) -> None:
    simulator.add_run("run_0", technique="campaign", outputs=[PICTURE], duration=0)
    home.drop("campaign/run_0")
    with home.daemon() as process:
        wait_until(lambda: arrived(home) > SIZE / 4)
        process.send_signal(number)
        process.wait(TEST_TIMEOUT)
    part = arrived(home)
    with home.daemon():
        assert home.finished("campaign/run_0")["result"] == "complete"
    first, second = simulator.asked("media", "run_0")
    assert (first.status, first.range) == (200, None)
    assert (second.status, second.range) == (206, f"bytes={part - 65_536}-")
    check_library(home, simulator)
    assert not list(home.library.rglob(".*.part"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_end_within_a_burst_loses_and_doubles_nothing(
    home: Home, simulator: Simulator, number: signal.Signals
) -> None:
    names = [f"run_{nth}" for nth in range(150)]
    for name in names:
        simulator.add_run(name, technique="campaign", outputs=BURST, duration=0)
    home.drop("".join(f"campaign/{name}\n" for name in names))
    with home.daemon() as process:
        wait_until(lambda: len(list(home.library.rglob("images/**/*.png"))) > 20)
        process.send_signal(number)
        process.wait(TEST_TIMEOUT)
    assert home.run("once").returncode == 0
    for name in names:
        assert home.finished(f"campaign/{name}")["result"] == "complete"
    check_library(home, simulator)
    assert not list(home.library.rglob(".*.part"))
