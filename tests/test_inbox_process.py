"""The watch folder of a running daemon, and what may be dropped into it, done to it, or lost on the way."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from studio import Home, check_library, served, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

WORDS = (OutputSpec("words", "text", text="Yes."),)
_NUMBERS = itertools.count()


class Running:
    """A daemon that runs while the tests of this module do."""

    def __init__(self, home: Home, simulator: Simulator, pid: int) -> None:
        self.home = home
        self.simulator = simulator
        self.pid = pid

    def rejected(self, name: str) -> str:
        """Wait until a file was rejected, and return why."""
        wait_until(lambda: not os.path.lexists(self.home.inbox / name))
        rejected = self.home.inbox / "rejected"
        found = {path.name: path for path in rejected.iterdir()}
        assert set(found) == {name, f"{name}.error.txt"}
        why = found[f"{name}.error.txt"].read_text()
        for path in found.values():
            path.unlink()
        return why

    def takes_a_good_job(self) -> None:
        run = self.simulator.add_run(
            f"run_good_{next(_NUMBERS)}", technique="good", duration=0, outputs=WORDS
        )
        self.home.drop(str(run), f"{run.run_id}.good")
        assert self.home.finished(str(run))["result"] == "complete"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    simulator = Simulator()
    with served(simulator):
        home = Home(tmp_path_factory.mktemp("running"), simulator)
        with home.daemon() as process:
            yield Running(home, simulator, process.pid)
            assert process.poll() is None
            assert home.run("status", "--check").returncode == 0


# What is no job


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    # A socket's path is short: it is made elsewhere, and moved in.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{folder}/s")
        shutil.move(f"{folder}/s", path)


def link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def holding(data: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(data)

    return make


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (fifo, "a FIFO"),
        (listening, "a socket"),
        (link, "a link"),
        (holding(b"run_a\n" * 350_000), "larger than 1 MiB"),
        (huge, "larger than 1 MiB"),
        (holding(b"run_\xff\n"), "not text in UTF-8"),
        (holding(b"\x89PNG\r\n\x1a\n" + bytes(300)), "not text in UTF-8"),
        (holding(b"run_a\0\n"), "not text"),
        (holding("run_a\n".encode("utf-16-le")), "not text"),
        (holding(b"\xff\xfer\0u\0"), "not a run id"),
        (holding(b"\x1b[2J\x1b[31mrun_a\n"), "not a run id"),
        (holding(b"PK\x03\x04"), "save it as CSV"),
        (holding(b"run_id,kinds\nrun_a,image\nrun_b,pictures\n"), "row 2 (line 3), column kinds"),
        (holding(b'{"run_id": "run_a"}\n{"run_id": "run_b"\n'), "line 2"),
        (holding(b"run_a\nrun_b x\n"), "line 2"),
    ],
)
def test_what_is_no_job_is_rejected_with_a_reason_and_the_next_one_is_taken(
    running: Running, make: Callable[[Path], None], why: str
) -> None:
    hidden = running.home.inbox / ".making"
    make(hidden)
    hidden.rename(running.home.inbox / "odd")
    assert why in running.rejected("odd")
    running.takes_a_good_job()


@pytest.mark.root
@pytest.mark.parametrize(
    "device", [(0o020000, 1, 3), (0o020000, 5, 0), (0o060000, 7, 0)], ids=["null", "tty", "loop"]
)
def test_a_device_is_rejected_and_not_opened(running: Running, device: tuple[int, int, int]) -> None:
    kind, major, minor = device
    name = f"device-{major}"
    try:
        os.mknod(running.home.inbox / name, kind | 0o600, os.makedev(major, minor))
    except PermissionError:
        pytest.skip("no device may be made here")
    assert "a device" in running.rejected(name)
    running.takes_a_good_job()


def test_folders_and_unfinished_names_are_left_alone(running: Running) -> None:
    inbox = running.home.inbox
    (inbox / "folder" / "deep").mkdir(parents=True)
    (inbox / "folder" / "job").write_text("run_in_a_folder")
    for name in (".hidden", "a.part", "a.tmp", "a~", "Thumbs.db", "a.crdownload", os.fsdecode(b"\xff.tmp")):
        (inbox / name).write_text("this is no run")
    running.takes_a_good_job()
    names = {path.name for path in inbox.iterdir()}
    assert names >= {"folder", ".hidden", "a.part", "a.tmp", "a~", "Thumbs.db", "a.crdownload"}
    assert not any(request.run_id == "run_in_a_folder" for request in running.simulator.requests)


# What costs more than its length


def filled(piece: str, head: str = "", tail: str = "") -> str:
    return head + piece * (((1 << 20) - len(head) - len(tail)) // len(piece)) + tail


def numbered(piece: str, head: str = "") -> str:
    """Repeat `piece` with a number for each `#`, up to a mebibyte."""
    pieces = (piece.replace("#", f"{number:x}") for number in itertools.count())
    text, left = [head], (1 << 20) - len(head)
    for part in pieces:
        left -= len(part.encode())
        if left < 0:
            return "".join(text)
        text.append(part)
    raise AssertionError("counting ended")


COSTLY = {
    "aliases": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 12)),
    "merge keys": "a0: &a0 {k: v}\n"
    + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 25)),
    "merge key": "run: run_a\n<<: {run: run_b}\n",
    "anchors": numbered("- &a# x\n"),
    "deep lists": filled("["),
    "deep mappings": filled("{a: "),
    "deep blocks": filled("- "),
    "deep keys": filled("? "),
    "deep JSON": "[" * 500_000 + "]" * 500_000,
    "deep JSON objects": '{"a":' * 150_000 + "1" + "}" * 150_000,
    "duplicate keys": "run: run_a\nrun: run_b\n",
    "the last of many keys twice": numbered("k#: 1\n")[: (1 << 20) - 20].rpartition("\n")[0] + "\nk0: 2\n",
    "directives": numbered("%TAG !#! x\n"),
    "directives of a second document": numbered("%TAG !#! x\n", "a: 1\n...\n"),
    "directives between other line ends": numbered("%TAG !#! x\r"),
    "tags": "!!python/object/apply:os.system [touch /tmp/x]\n",
    "documents": filled("---\n"),
    "empty lists": filled("[],", "[", "]"),
    "empty values": filled("-\n"),
    "a quote that never ends": filled("x", '- "'),
    "a key without end": filled("a", "? ", "\n: x"),
    "an unknown key without end": filled("runid", '{"', '": 1}'),
    "a comment in each line": filled("- x # y\n"),
    "a flow that never ends": numbered("k#: 1,", "{"),
    "a URL of many parts": filled("%41/", "http://x/"),
    "a bad line after many good ones": numbered("run_#\n")[: (1 << 20) - 10].rpartition("\n")[0] + "\nbad\n",
}  # fmt: skip


@pytest.mark.parametrize("name", list(COSTLY))
def test_a_costly_job_is_rejected_and_the_next_one_is_taken(running: Running, name: str) -> None:
    text = COSTLY[name]
    assert len(text.encode()) <= 1 << 20
    running.home.drop(text, "costly")
    assert len(running.rejected("costly")) < 1000
    running.takes_a_good_job()


# Names; the last one ends the watcher, which takes its time to come back


ODD_NAMES = (
    "\u202etxt.job",
    "new\nline",
    "\x1b[2J",
    "j" * 255,
    "-rf",
    "accepted.txt",
    os.fsdecode(b"job-\xff\xfe.txt"),
)


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: ascii(name[:9]))
def test_a_job_is_taken_or_rejected_by_its_content_whatever_it_is_called(running: Running, name: str) -> None:
    run = running.simulator.add_run(f"run_odd_{next(_NUMBERS)}", technique="odd", duration=0, outputs=WORDS)
    for text in (str(run), "this is no run"):
        hidden = running.home.inbox / ".making"
        hidden.write_text(text)
        hidden.rename(running.home.inbox / name)
        wait_until(lambda: not (running.home.inbox / name).exists())
    running.home.finished(str(run))
    rejected = running.home.inbox / "rejected"
    wait_until(lambda: len(list(rejected.iterdir())) == 2)
    (note,) = rejected.glob("*.error.txt")
    assert "line 1" in note.read_text()
    for path in rejected.iterdir():
        path.unlink()


# What events do not tell


@contextmanager
def small_event_queue(length: int) -> Iterator[None]:
    """Let inotify queues that are made meanwhile hold `length` events, where that may be set."""
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    before = limit.read_text()
    try:
        limit.write_text(str(length))
    except OSError:
        yield  # as it is: 10,000 files at once are more than a reader keeps up with
        return
    try:
        yield
    finally:
        limit.write_text(before)


def test_ten_thousand_files_at_once_are_all_taken_when_the_system_loses_most_events(
    home: Home, simulator: Simulator
) -> None:
    # Paused, so that nothing but the inbox is at work.
    simulator.faults.add(Fault(do=Do(status=401, code="invalid_api_key"), match=Match(host="api")))
    outside = home.path / "outside"
    outside.mkdir()
    for number in range(10_000):
        (outside / f"job-{number}").write_text(f"campaign/run_{number}\n")
    with ExitStack() as stack:
        with small_event_queue(32):
            stack.enter_context(home.daemon())
            home.drop("campaign/run_first")  # its watcher stands, with the small queue
            wait_until(lambda: home.events("jobs_accepted"))
        for path in outside.iterdir():
            path.rename(home.inbox / path.name)
        wait_until(lambda: home.status()["counts"]["waiting"] == 10_001)
        wait_until(lambda: not [path for path in home.inbox.iterdir() if path.is_file()])
    assert len(list((home.inbox / "accepted").iterdir())) == 10_001
    assert list((home.inbox / "rejected").iterdir()) == []


def accepted_runs(home: Home) -> list[int]:
    """Say of each taking how many runs it brought."""
    return [event["runs"] for event in home.events("jobs_accepted")]


def saved(home: Home, run: str, accepted: int) -> None:
    """Wait for a run's sidecar, and until so many job files are put away: either may be first."""
    home.finished(run)
    wait_until(lambda: len(accepted_runs(home)) >= accepted)


def times_gone(home: Home) -> int:
    return sum("is gone" in event["message"] for event in home.events("watching"))


def test_a_watch_folder_that_is_deleted_and_made_again_is_watched_again(
    home: Home, simulator: Simulator
) -> None:
    runs = [
        str(simulator.add_run(f"run_{n}", technique="campaign", duration=0, outputs=WORDS)) for n in range(4)
    ]
    with home.daemon():
        home.drop(runs[0])
        saved(home, runs[0], 1)
        for again, run in enumerate(runs[1:], 1):
            before = times_gone(home)
            shutil.rmtree(home.inbox)
            if again > 1:  # gone for so long that it is seen to be
                wait_until(lambda before=before: times_gone(home) > before)  # type: ignore[misc]
            home.drop(run)
            saved(home, run, again + 1)
    assert accepted_runs(home) == [1, 1, 1, 1]
    assert len([request for request in simulator.asked("api") if request.run_id]) == len(runs)
    check_library(home, simulator)


def test_a_watch_folder_that_is_replaced_by_another_is_watched_again(
    home: Home, simulator: Simulator
) -> None:
    runs = [
        str(simulator.add_run(f"run_{n}", technique="campaign", duration=0, outputs=WORDS)) for n in range(3)
    ]
    other = home.path / "other"
    other.mkdir()
    (other / "job").write_text(runs[1])
    with home.daemon():
        home.drop(runs[0])
        saved(home, runs[0], 1)
        home.inbox.rename(home.path / "moved-away")
        other.rename(home.inbox)
        saved(home, runs[1], 2)
        home.drop(runs[2])
        saved(home, runs[2], 3)
    assert accepted_runs(home) == [1, 1, 1]


@pytest.mark.root
def test_a_watch_folder_that_is_unmounted_and_mounted_again_is_watched_again(
    home: Home, simulator: Simulator
) -> None:
    runs = [
        str(simulator.add_run(f"run_{n}", technique="campaign", duration=0, outputs=WORDS)) for n in range(4)
    ]
    disk = home.path / "disk"
    disk.mkdir()
    home.inbox.mkdir()
    with mounted("tmpfs", disk), ExitStack() as stack:
        (disk / "inbox").mkdir()
        first = ExitStack()
        first.enter_context(mounted(str(disk / "inbox"), home.inbox))
        stack.push(first)
        with home.daemon():
            (home.inbox / "first").write_text(runs[0])
            saved(home, runs[0], 1)
            first.close()
            # What comes into the folder below the mount point is a job as well.
            home.drop(runs[1])
            saved(home, runs[1], 2)
            (disk / "inbox" / "job").write_text(runs[2])
            stack.enter_context(mounted(str(disk / "inbox"), home.inbox))
            saved(home, runs[2], 3)
            (home.inbox / "late").write_text(runs[3])
            saved(home, runs[3], 4)
        assert sorted(path.name for path in (home.inbox / "accepted").iterdir()) == ["first", "job", "late"]
    assert accepted_runs(home) == [1, 1, 1, 1]


@contextmanager
def mounted(what: str, where: Path) -> Iterator[None]:
    kind = ["-t", what, what] if what == "tmpfs" else ["--bind", what]
    if subprocess.run(["mount", *kind, str(where)], check=False).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield
    finally:
        # Whoever looks at it at this instant keeps it busy.
        wait_until(lambda: subprocess.run(["umount", str(where)], check=False).returncode == 0)


def test_a_file_that_is_written_slowly_in_place_is_taken_once_and_whole(
    home: Home, simulator: Simulator
) -> None:
    runs = [
        str(simulator.add_run(f"run_{n}", technique="campaign", duration=0, outputs=WORDS)) for n in range(6)
    ]
    text = "".join(f"{run}\n" for run in runs)
    with home.daemon():
        with (home.inbox / "slow.txt").open("w") as slow:
            for start in range(0, len(text), 7):  # mostly within a reference, where half of it is one too
                slow.write(text[start : start + 7])
                slow.flush()
                # Another file's end says that the daemon has looked meanwhile.
                beat = str(
                    simulator.add_run(f"run_beat_{start}", technique="beat", duration=0, outputs=WORDS)
                )
                home.drop(beat, f"beat-{start}")
                home.finished(beat)
                assert (home.inbox / "slow.txt").exists()
        for run in runs:
            home.finished(run)
    assert not any(request.status == 404 for request in simulator.requests)
    assert list((home.inbox / "rejected").iterdir()) == []
    check_library(home, simulator)
