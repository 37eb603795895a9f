"""Worker processes: when there are any, and that nothing is lost with them."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
from clients import client
from memory_library import MemoryLibrary
from studio import TEST_TIMEOUT, Home, wait_until
from wire import MP4, PNG, RUN, TRUSTED, Bench, Fetched, MediaHost, Reply, Request, answer, ranged, serving

from floradl.download.downloader import Downloader, DownloadLimits, DownloadStoppedError
from floradl.errors import (
    ErrorCode,
    ExpiredUrlError,
    PauseReason,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.fs.durable import PartBusyError
from floradl.library.folder import FolderLibrary
from floradl.models import AttemptNotes, RemoteOutput
from floradl.net.bandwidth import BandwidthLimiter, RateSchedule
from floradl.net.url_policy import UrlPolicy
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator, formats
from floradl.workers.pool import Machine, RemoteDownload, WorkerPool
from floradl.workers.process import WorkerProcess
from floradl.workers.protocol import (
    FROM_FETCH,
    TO_FETCH,
    Channel,
    ChannelClosedError,
    FetchDone,
    FetchFailed,
    FetchRequest,
    NotesChanged,
    OpenPart,
    Progress,
    SettingsApplied,
    WorkerSettings,
    error_of,
    failure_of,
)

ROOT = Path(__file__).parent.parent
LIMITS = DownloadLimits(None, 0, 60.0)
SETTINGS = WorkerSettings("floradl/test", 5.0, TRUSTED, ("*",), LIMITS, 16)
CLIP = formats.mp4("clip", "clip", 300_000).read()
BEGUN = 100_000  # bytes of it, of which 64 KiB are asked for again
HANG = Reply(answer(CLIP[:BEGUN], 'ETag: "clip"', length=len(CLIP)), "hang")


class Clock:
    """Seconds that the test puts forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shift:
    """A worker pool on a machine with so many cores, whose fetches go into a library."""

    def __init__(
        self, folder: Path, cores: int, environ: dict[str, str], bandwidth: BandwidthLimiter
    ) -> None:
        self.clock = Clock()
        self.bandwidth = bandwidth
        self._bench = Bench(folder)
        self.stop = threading.Event()
        self._client = client(UrlPolicy(TRUSTED), bandwidth=bandwidth)
        self.here = Downloader(self._client, UrlPolicy(TRUSTED), LIMITS, self.stop, bandwidth.active_clock)
        self.needs_core = False
        machine = Machine(cores, {**os.environ, **environ}, lambda: self.needs_core, self.clock)
        self.worker_pool = WorkerPool(self.here, bandwidth, SETTINGS, machine)
        self._bench.fetcher = self.worker_pool
        self._threads = ThreadPoolExecutor(32)

    def fetch(self, url: str, output_id: str = "o", type_: str = "videoUrl") -> Future[Fetched]:
        """Begin to fetch a clip, unless another type is said."""
        return self._threads.submit(self._bench.fetch, url, RemoteOutput(output_id, type_, url))

    @property
    def library(self) -> FolderLibrary:
        return self._bench.library

    def part(self) -> bytes | None:
        return self._bench.part()

    def close(self) -> None:
        self.stop.set()
        self._client.abort()
        self.worker_pool.close()
        self._threads.shutdown()
        self._client.close()


@pytest.fixture
def shift(tmp_path: Path) -> Iterator[Callable[..., Shift]]:
    """Make a shift, for two cores unless said; it ends with the test."""
    made: list[Shift] = []

    def make(
        cores: int = 2, environ: dict[str, str] | None = None, bandwidth: BandwidthLimiter | None = None
    ) -> Shift:
        made.append(Shift(tmp_path / "library", cores, environ or {}, bandwidth or BandwidthLimiter()))
        return made[-1]

    yield make
    for each in made:
        each.close()


@contextmanager
def hanging(shift: Shift, count: int, type_: str) -> Iterator[list[Future[Fetched]]]:
    """Have so many transfers under way at once, which do not go on."""
    body = MP4 if type_ == "videoUrl" else PNG
    reply = Reply(answer(body[:1000], length=len(body)), "hang")
    with MediaHost(serving(reply)) as host:
        futures = []
        for nth in range(count):
            futures.append(shift.fetch(host.url(f"/{nth}"), f"o{nth}", type_))
            wait_until(partial(_asked, host, nth))
        yield futures
        shift.close()
    for future in futures:
        assert future.exception(TEST_TIMEOUT) is not None


def _asked(host: MediaHost, times: int) -> bool:
    return len(host.requests) > times


def gone(pid: int) -> bool:
    """Whether a process is no more, or a zombie at most."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_few_small_files_are_fetched_here(shift: Callable[..., Shift]) -> None:
    team = shift()
    with hanging(team, 3, "imageUrl"):
        assert team.worker_pool.pids == []


def test_a_clip_is_fetched_by_a_worker(shift: Callable[..., Shift]) -> None:
    team = shift()
    with MediaHost(serving(Reply(answer(MP4, 'ETag: "clip"')))) as host:
        assert team.fetch(host.url("/o.mp4")).result(TEST_TIMEOUT).data == MP4
    assert len(team.worker_pool.pids) == 1


def test_many_small_files_at_once_bring_workers(shift: Callable[..., Shift]) -> None:
    team = shift()
    with hanging(team, 3, "imageUrl"), MediaHost(serving(Reply(answer(PNG), "keep"))) as host:

        def crowded() -> bool:
            more = [team.fetch(host.url(), f"p{nth}", "imageUrl") for nth in range(20)]
            assert all(each.result(TEST_TIMEOUT).data == PNG for each in more)
            return len(team.worker_pool.pids) == 2

        wait_until(crowded)


@pytest.mark.parametrize(("needs_core", "workers"), [(False, 2), (True, 1)])
def test_there_is_a_worker_for_each_core_but_the_one_that_this_process_needs(
    shift: Callable[..., Shift], *, needs_core: bool, workers: int
) -> None:
    team = shift()
    team.needs_core = needs_core
    with hanging(team, 6, "videoUrl"):
        assert len(team.worker_pool.pids) == workers


def test_a_machine_with_one_core_has_no_workers(shift: Callable[..., Shift]) -> None:
    team = shift(cores=1)
    with hanging(team, 6, "videoUrl"):
        assert team.worker_pool.pids == []


def test_a_worker_that_is_killed_costs_one_attempt_and_the_next_goes_on_where_it_was(
    shift: Callable[..., Shift],
) -> None:
    team = shift()

    def reply(request: Request) -> Reply:
        return HANG if request.start is None else Reply(ranged(CLIP, request.start, 'ETag: "clip"'))

    with MediaHost(reply) as host:
        first = team.fetch(host.url("/o.mp4"))
        wait_until(lambda: len(team.part() or b"") == BEGUN)
        os.kill(team.worker_pool.pids[0], signal.SIGKILL)
        assert isinstance(first.exception(TEST_TIMEOUT), TransientError)
        assert team.fetch(host.url("/o.mp4")).result(TEST_TIMEOUT).data == CLIP
        assert [request.start for request in host.requests] == [None, BEGUN - 65_536]


def test_where_no_worker_comes_up_all_is_fetched_here(shift: Callable[..., Shift]) -> None:
    team = shift(environ={"PYTHONHOME": "/nowhere"})
    with MediaHost(serving(Reply(answer(MP4), "keep"))) as host:
        for nth in range(5):
            assert team.fetch(host.url("/o.mp4"), f"o{nth}").result(TEST_TIMEOUT).data == MP4


def test_after_three_that_did_not_come_up_no_more_are_tried_for_ten_minutes(
    shift: Callable[..., Shift], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    # What a Python imports first of all, if there is one.
    (tmp_path / "sitecustomize.py").write_text(f"open({str(count)!r}, 'a').write('.')\nraise SystemExit(1)")
    team = shift(environ={"PYTHONPATH": str(tmp_path)})
    with MediaHost(serving(Reply(answer(MP4), "keep"))) as host:
        for nth in range(6):
            team.fetch(host.url("/o.mp4"), f"o{nth}").result(TEST_TIMEOUT)
        assert count.read_text() == "..."
        team.clock.now += 601
        team.fetch(host.url("/o.mp4"), "last").result(TEST_TIMEOUT)
        assert count.read_text() == "...."


def test_a_worker_of_another_version_gets_no_request(shift: Callable[..., Shift], tmp_path: Path) -> None:
    # As where floradl was upgraded under a daemon that runs.
    (tmp_path / "sitecustomize.py").write_text("import floradl; floradl.__version__ = '99'")
    team = shift(environ={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    with MediaHost(serving(Reply(answer(MP4), "keep"))) as host:
        for nth in range(2):
            assert team.fetch(host.url("/o.mp4"), f"o{nth}").result(TEST_TIMEOUT).data == MP4
    assert team.worker_pool.pids == []


def test_a_halt_ends_a_workers_transfer_at_once_and_keeps_its_part(shift: Callable[..., Shift]) -> None:
    team = shift()
    with MediaHost(serving(HANG)) as host:
        transfer = team.fetch(host.url("/o.mp4"))
        wait_until(lambda: len(team.part() or b"") == BEGUN)
        team.worker_pool.halt()
        assert isinstance(transfer.exception(TEST_TIMEOUT), DownloadStoppedError)
        assert team.part() == CLIP[:BEGUN]


def test_workers_are_gone_once_the_pool_is_closed(shift: Callable[..., Shift]) -> None:
    team = shift()
    with hanging(team, 4, "videoUrl"):
        pids = team.worker_pool.pids
        assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_workers_end_after_a_minute_with_nothing_to_download(shift: Callable[..., Shift]) -> None:
    team = shift()
    with MediaHost(serving(Reply(answer(MP4), "keep"))) as host:
        team.fetch(host.url("/o.mp4")).result(TEST_TIMEOUT)
        (pid,) = team.worker_pool.pids
        team.clock.now += 59
        team.worker_pool.tend()
        assert team.worker_pool.pids == [pid]
        team.clock.now += 1
        team.worker_pool.tend()
        assert team.worker_pool.pids == []
        assert gone(pid)
        assert team.fetch(host.url("/o.mp4"), "next").result(TEST_TIMEOUT).data == MP4


def test_a_worker_that_downloads_for_an_hour_is_not_ended(shift: Callable[..., Shift]) -> None:
    team = shift()
    with hanging(team, 1, "videoUrl"):
        team.clock.now += 3600
        team.worker_pool.tend()
        assert len(team.worker_pool.pids) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_is_meant_for_the_daemon_does_not_end_a_worker(
    shift: Callable[..., Shift], number: signal.Signals
) -> None:
    team = shift()
    with MediaHost(serving(Reply(answer(MP4), "keep"))) as host:
        team.fetch(host.url("/o.mp4")).result(TEST_TIMEOUT)
        (pid,) = team.worker_pool.pids
        os.kill(pid, number)
        assert team.fetch(host.url("/o.mp4"), "next").result(TEST_TIMEOUT).data == MP4
        assert team.worker_pool.pids == [pid]


def test_a_worker_knows_no_key(shift: Callable[..., Shift]) -> None:
    secrets = {"FLORA_API_KEY": "sk_live_x", "FLORADL_WEBHOOK__SECRET": "whsec_x", "NOTIFY_SOCKET": "/x"}
    secrets |= {"AWS_SECRET_ACCESS_KEY": "planted", "AZURE_STORAGE_KEY": "planted"}
    team = shift(environ=secrets | {"CREDENTIALS_DIRECTORY": "/creds"})
    with hanging(team, 1, "videoUrl"):
        environ = Path(f"/proc/{team.worker_pool.pids[0]}/environ").read_bytes()
        assert b"PATH=" in environ
        assert not any(word in environ for word in (b"FLORA", b"CREDENTIALS", b"NOTIFY"))


def test_a_worker_inherits_no_file_but_its_channel(shift: Callable[..., Shift], tmp_path: Path) -> None:
    team = shift()
    with (tmp_path / "secret").open("w") as held, hanging(team, 1, "videoUrl"):
        os.set_inheritable(held.fileno(), True)
        links = [str(link.readlink()) for link in Path(f"/proc/{team.worker_pool.pids[0]}/fd").iterdir()]
        assert str(tmp_path / "secret") not in links


def test_workers_and_the_daemon_together_stay_within_the_rate_limit(shift: Callable[..., Shift]) -> None:
    rate = 2_000_000
    body = MP4 + bytes(400_000)
    team = shift(bandwidth=BandwidthLimiter(RateSchedule.always(rate)))
    with MediaHost(serving(Reply(answer(body)))) as host, MediaHost(serving(Reply(answer(PNG)))) as small:
        began = time.monotonic()
        transfers = [team.fetch(host.url("/o.mp4"), f"o{nth}") for nth in range(5)]
        wait_until(lambda: len(team.worker_pool.pids) == 2)
        here = [team.fetch(small.url(), f"p{nth}", "imageUrl") for nth in range(2)]
        assert all(each.result(TEST_TIMEOUT).data == PNG for each in here)
        assert all(each.result(TEST_TIMEOUT).data == body for each in transfers)
    total = 5 * len(body) + 2 * len(PNG)
    assert time.monotonic() - began > total / rate - 0.1  # a tenth of a second may be saved up


def test_a_rate_limit_that_is_set_later_holds_for_a_workers_transfer_under_way(
    shift: Callable[..., Shift],
) -> None:
    rate = 3_000_000
    rest = bytes(3_000_000)
    set_now = threading.Event()
    team = shift()

    class Halves(MediaHost):
        def _send(self, connection: socket.socket, reply: Reply) -> None:
            connection.sendall(reply.data[: -len(rest)])
            assert set_now.wait(TEST_TIMEOUT)
            connection.sendall(rest)

    with Halves(serving(Reply(answer(MP4 + rest)))) as host:
        transfer = team.fetch(host.url("/o.mp4"))
        wait_until(team.part)
        team.bandwidth.change(RateSchedule.always(rate))
        team.worker_pool.change(SETTINGS)
        (worker,) = team.worker_pool._workers
        wait_until(lambda: 1 < worker.rate < rate)
        began = time.monotonic()
        set_now.set()
        assert transfer.result(TEST_TIMEOUT).data == MP4 + rest
    assert time.monotonic() - began > len(rest) / rate - 0.15  # a tenth saved up, and a turn under way


def test_bandwidth_that_a_worker_does_not_use_goes_to_another(shift: Callable[..., Shift]) -> None:
    rate = 1_000_000
    team = shift(bandwidth=BandwidthLimiter(RateSchedule.always(rate)))
    with hanging(team, 2, "videoUrl"), MediaHost(serving(Reply(answer(bytes(50_000_000))))) as host:
        team.fetch(host.url("/o.mp4"), "large")
        wait_until(lambda: len(team.worker_pool.pids) == 2)
        idle, busy = team.worker_pool._workers

        def moved() -> bool:
            team.worker_pool.tend()
            return idle.rate < 0.1 * rate and busy.rate > 0.8 * rate

        wait_until(moved)


def test_a_rate_limit_costs_no_message_per_read(
    shift: Callable[..., Shift], monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[object] = []
    receive = Channel.receive

    def counted(channel: Channel, decoder: msgspec.msgpack.Decoder[object]) -> tuple[object, int | None]:
        message, fd = receive(channel, decoder)
        received.append(message)
        return message, fd

    monkeypatch.setattr(Channel, "receive", counted)
    body = MP4 + bytes(400_000)
    team = shift(bandwidth=BandwidthLimiter(RateSchedule.always(400_000)))  # 20 turns a second
    began = time.monotonic()
    with MediaHost(serving(Reply(answer(body, 'ETag: "clip"')))) as host:
        assert team.fetch(host.url("/o.mp4")).result(TEST_TIMEOUT).data == body
    kinds = Counter(type(message) for message in received)
    assert kinds.pop(Progress) <= 5 * (time.monotonic() - began) + 1
    assert kinds == {SettingsApplied: 2, OpenPart: 1, FetchDone: 1}


def test_a_host_that_is_forbidden_later_is_forbidden_to_workers_too(shift: Callable[..., Shift]) -> None:
    team = shift()
    with MediaHost(serving(Reply(answer(MP4), "keep"))) as host:
        team.fetch(host.url("/o.mp4")).result(TEST_TIMEOUT)
        team.worker_pool.change(msgspec.structs.replace(SETTINGS, media_hosts=("elsewhere.example",)))
        error = team.fetch(host.url("/o.mp4"), "next").exception(TEST_TIMEOUT)
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.HOST_REFUSED
        assert len(host.requests) == 1


def test_a_full_disk_that_a_worker_finds_pauses(shift: Callable[..., Shift]) -> None:
    team = shift()
    limits = DownloadLimits(None, 1 << 60, 60.0)
    team.worker_pool.change(msgspec.structs.replace(SETTINGS, limits=limits))
    with MediaHost(serving(Reply(answer(MP4)))) as host:
        error = team.fetch(host.url("/o.mp4")).exception(TEST_TIMEOUT)
    assert isinstance(error, ServicePausedError)
    assert error.reason is PauseReason.DISK_FULL


def test_a_part_file_that_cannot_be_opened_is_the_same_error_as_here(shift: Callable[..., Shift]) -> None:
    team = shift()
    with MediaHost(serving(Reply(answer(MP4), "keep"))) as host:
        output = RemoteOutput("o", "videoUrl", host.url("/o.mp4"))
        with team.library.destination(RUN, output, 1, None).open(""):  # as another process would have it
            error = team.fetch(output.url).exception(TEST_TIMEOUT)
            pids = team.worker_pool.pids
        assert isinstance(error, TransientError)
        assert "another floradl writes the same file" in str(error)
        assert team.fetch(output.url).result(TEST_TIMEOUT).data == MP4
        assert team.worker_pool.pids == pids


@pytest.mark.parametrize("url", ["https://127.0.0.1/\ud800", "https://127.0.0.1/" + "x" * 200_000])
def test_a_url_that_fits_into_no_message_is_judged_here(shift: Callable[..., Shift], url: str) -> None:
    team = shift()
    error = team.fetch(url).exception(TEST_TIMEOUT)
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.BAD_URL


class PlayedWorker(WorkerProcess):
    """A worker whose side of a transfer's channel the test plays, in a thread."""

    def __init__(self, play: Callable[[Channel], None]) -> None:
        self._play = play

    @contextmanager
    def transfer(self, request: FetchRequest) -> Iterator[Channel]:  # noqa: ARG002
        channel, theirs = Channel.pair()

        def run() -> None:
            with theirs:
                self._play(Channel(theirs))

        threading.Thread(target=run).start()
        with closing(channel):
            yield channel


def played(shift: Shift, play: Callable[[Channel], None]) -> BaseException:
    """Return the error of a download by a worker that does what `play` does and then ends."""
    destination = shift.library.destination(RUN, RemoteOutput("o", "videoUrl", "https://x/"), 1, None)
    with pytest.raises((ChannelClosedError, TransientError)) as caught:
        RemoteDownload(destination, lambda _received, _total: None).run(PlayedWorker(play), "https://x/")
    return caught.value


def _wrote(channel: Channel) -> None:
    channel.send(OpenPart("0badcafe"))
    fd = channel.receive(TO_FETCH)[1]
    assert fd is not None
    os.write(fd, CLIP)
    os.close(fd)


def _notes(shift: Shift) -> AttemptNotes:
    return shift.library.destination(RUN, RemoteOutput("o", "videoUrl", "https://x/"), 1, None).notes


def test_a_note_of_a_worker_that_is_killed_right_after_is_kept(shift: Callable[..., Shift]) -> None:
    team = shift()
    noted = AttemptNotes("0badcafe", {"md5": b"x"}, 1)

    def play(channel: Channel) -> None:
        channel.send(NotesChanged(noted))
        _wrote(channel)

    assert isinstance(played(team, play), ChannelClosedError)
    assert _notes(team) == noted
    assert team.part() == CLIP


def test_a_file_that_a_worker_found_wrong_is_not_continued_when_it_is_killed_right_after(
    shift: Callable[..., Shift],
) -> None:
    # The next attempt would see the same bytes again, and take the checksum to be what is wrong.
    team = shift()
    noted = AttemptNotes(disagreed="0" * 64)

    def play(channel: Channel) -> None:
        _wrote(channel)
        channel.send(NotesChanged(noted))

    assert isinstance(played(team, play), ChannelClosedError)
    assert _notes(team) == noted
    assert team.part() is None


@pytest.mark.parametrize("discard", [True, False])
def test_a_failed_transfer_says_whether_its_part_file_is_to_be_discarded(
    shift: Callable[..., Shift], *, discard: bool
) -> None:
    team = shift()

    def play(channel: Channel) -> None:
        _wrote(channel)
        channel.send(FetchFailed("transient", "broken", "damaged", discard=discard))

    assert str(played(team, play)) == "broken"
    assert team.part() == (None if discard else CLIP)


@pytest.mark.parametrize(
    "error",
    [
        ExpiredUrlError("it ran out"),
        TransientError("later", ErrorCode.DAMAGED, retry_after=2.5),
        TransientError("later"),
        PermanentError("never", ErrorCode.TOO_LARGE),
        ServicePausedError("full", PauseReason.DISK_FULL),
        DownloadStoppedError(),
        PartBusyError("the part file"),
        OSError(28, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_means_the_same_on_both_sides_of_a_channel(error: Exception) -> None:
    sent = msgspec.msgpack.encode(failure_of(error))
    came = error_of(FROM_FETCH.decode(sent))  # type: ignore[arg-type]
    assert type(came) is type(error)
    assert str(came) == str(error)
    assert _marks(came) == _marks(error)


def _marks(error: Exception) -> Sequence[object]:
    return [getattr(error, name, None) for name in ("code", "reason", "retry_after", "errno")]


def test_a_bug_in_a_worker_is_reported_with_its_traceback() -> None:
    with pytest.raises(ValueError, match="unsupported") as caught:
        hashlib.new("no such thing")
    came = error_of(failure_of(caught.value))
    assert isinstance(came, RuntimeError)
    assert "hashlib.new" in "".join(came.__notes__)


def workers_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in lists for child in text.split()]


def test_a_daemon_that_is_killed_leaves_no_worker_behind(home: Home, simulator: Simulator) -> None:
    clip = OutputSpec("clip", "videoUrl", size=3_000_000, rate=1000)
    simulator.add_run("run_0", technique="campaign", outputs=[clip], duration=0)
    home.drop("campaign/run_0")
    with home.daemon() as process:
        (worker,) = wait_until(lambda: workers_of(process.pid))
        wait_until(lambda: simulator.asked("media"))
        process.kill()
        process.wait()
        wait_until(lambda: gone(worker))


def test_a_worker_that_is_killed_fails_no_run(home: Home, simulator: Simulator) -> None:
    clip = OutputSpec("clip", "videoUrl", size=3_000_000)
    simulator.add_run("run_0", technique="campaign", outputs=[clip], duration=0)
    simulator.faults.add(Fault(do=Do(stall_after=1_000_000), match=Match(host="media"), times=1))
    home.drop("campaign/run_0")
    with home.daemon() as process:
        (worker,) = wait_until(lambda: workers_of(process.pid))
        wait_until(lambda: simulator.asked("media"))
        os.kill(worker, signal.SIGKILL)
        assert home.finished("campaign/run_0")["result"] == "complete"


def test_what_has_no_descriptor_is_downloaded_in_this_process(shift: Callable[..., Shift]) -> None:
    team, library = shift(), MemoryLibrary()
    with MediaHost(serving(Reply(answer(MP4)))) as host:
        output = RemoteOutput("o", "videoUrl", host.url())
        destination = library.destination(RUN, output, 1, None)
        with team.worker_pool.fetch(host.url(), destination, lambda _received, _total: None) as received:
            path = destination.publish(received.sink, received.finding.ext, received.finding.sha256, None)
    assert team.worker_pool.pids == []  # a clip goes to a worker otherwise
    file = library.open_file(path)
    assert file is not None
    with file:
        assert file.read() == MP4
