"""The main job where everything that macOS lacks is taken away, and each substitute by itself."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from studio import Home, check_library, command, queue, wait_until
from test_worker_pool import SETTINGS

from floradl import portability
from floradl.simulator import OutputSpec, Simulator
from floradl.workers.protocol import TO_WORKER, Channel, ChannelClosedError, WorkerSettings

LACKING = Path(__file__).parent / "lacking"
MIXED = (
    OutputSpec("picture", "imageUrl", size=30_000),
    OutputSpec("clip", "videoUrl", size=3_000_000),
    OutputSpec("words", "text", text="a poem"),
)


@pytest.fixture
def lacking(home: Home, tmp_path: Path) -> Home:
    """A home whose processes, workers included, run without what macOS lacks."""
    home.environ |= {"PYTHONPATH": str(LACKING), "LACKING_LOG": str(tmp_path / "lacking.log")}
    return home


def started(home: Home) -> list[str]:
    return Path(home.environ["LACKING_LOG"]).read_text().splitlines()


def test_the_calls_that_macos_lacks_are_taken_away(lacking: Home) -> None:
    """Else the tests below would show nothing."""
    code = """if True:
        import ctypes, errno, fcntl, os, pathlib, select, socket
        libc = ctypes.CDLL(None)
        of = {os: "posix_fadvise sched_getaffinity memfd_create waitid",
              libc: "renameat2 inotify_init1 prctl", socket: "SOCK_SEQPACKET",
              fcntl: "F_SETLEASE", select: "epoll", errno: "ENONET"}
        lack = [not hasattr(place, name) for place, names in of.items() for name in names.split()]
        lack.append(not pathlib.Path("/proc/self/status").exists())
        for open_it in (open, lambda path: os.open(path, os.O_RDONLY)):
            try:
                open_it("/proc/self/status")
                lack.append(False)
            except FileNotFoundError:
                pass
        print(lack, hasattr(libc, "waitid"))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], env=lacking.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{[True] * 12} True\n"


def test_get_downloads_where_linux_calls_are_missing(lacking: Home, simulator: Simulator) -> None:
    run = simulator.add_run("run_a", technique="campaign", outputs=MIXED, duration=0.2)
    done = lacking.run("get", str(run))
    assert done.returncode == 0, done.stderr
    check_library(lacking, simulator)
    assert len(lacking.files()) == 3
    if (os.cpu_count() or 1) > 1:
        assert any("floradl.workers" in line for line in started(lacking))


def test_once_works_the_inbox_off_where_linux_calls_are_missing(lacking: Home, simulator: Simulator) -> None:
    queue(lacking, simulator, "run_a", "run_b", outputs=MIXED)
    done = lacking.run("once")
    assert done.returncode == 0, done.stderr
    check_library(lacking, simulator)
    assert sorted(os.listdir(lacking.inbox / "accepted")) == ["run_a.txt"]


def test_the_daemon_takes_added_and_dropped_jobs_where_linux_calls_are_missing(
    lacking: Home, simulator: Simulator
) -> None:
    with lacking.daemon() as process:
        queue(lacking, simulator, "run_dropped", outputs=MIXED)
        run = simulator.add_run("run_added", technique="campaign", outputs=MIXED, duration=0.2)
        added = lacking.run("add", str(run))
        assert added.returncode == 0, added.stderr
        assert "no daemon is running" not in added.stderr
        for name in ("run_dropped", "run_added"):
            assert lacking.finished(f"campaign/{name}")["result"] == "complete"
        wait_until(lambda: lacking.status()["counts"]["done"] == 2)
        assert lacking.status()["daemon"]["alive"]
        process.terminate()
        assert process.wait() == 0
    check_library(lacking, simulator)


def test_verify_finds_a_damaged_file_where_linux_calls_are_missing(
    lacking: Home, simulator: Simulator
) -> None:
    run = simulator.add_run("run_a", technique="campaign", outputs=MIXED, duration=0)
    assert lacking.run("get", str(run)).returncode == 0
    assert lacking.run("verify").returncode == 0
    clip = next(lacking.library.rglob("*.mp4"))
    data = bytearray(clip.read_bytes())
    data[1000] ^= 1
    clip.write_bytes(data)
    done = lacking.run("verify", "--json")
    assert done.returncode == 1
    assert "damaged" in done.stdout


def test_a_hook_runs_where_linux_calls_are_missing(
    lacking: Home, simulator: Simulator, tmp_path: Path
) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\ncat > "{tmp_path}/told"\n')
    hook.chmod(0o755)
    queue(lacking, simulator, "run_a")
    done = lacking.run("once", FLORADL_HOOKS__RUN_FINISHED=f"{hook}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "told").read_text())["run_id"] == "run_a"


def test_check_says_what_is_weaker_where_linux_calls_are_missing(lacking: Home) -> None:
    done = lacking.run("check")
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("file leases", "link and unlink", "posix_fadvise", "network file systems"):
        assert any(what in line for line in done.stdout.splitlines() if line.startswith("warn  system")), what


def test_check_finds_nothing_weaker_on_linux(home: Home) -> None:
    assert "system" not in home.run("check").stdout
    assert portability.weaknesses() == ()


def test_a_rights_mask_that_the_system_does_not_show_holds_for_new_files(
    lacking: Home, simulator: Simulator
) -> None:
    """As where there is no /proc: 022 would let everybody read them."""
    run = simulator.add_run("run_a", technique="campaign", outputs=MIXED, duration=0)
    lacking.command = lambda *arguments: ["sh", "-c", 'umask 077; exec "$@"', "sh", *command(*arguments)]
    assert lacking.run("get", str(run)).returncode == 0
    assert {path.stat().st_mode & 0o777 for path in (lacking.library / "images").rglob("*.png")} == {0o600}


@pytest.fixture(params=["packets", "stream"])
def channels(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Channel, Channel]]:
    if request.param == "stream":
        monkeypatch.delattr(socket, "SOCK_SEQPACKET")
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


def test_a_message_and_its_file_arrive_together(channels: tuple[Channel, Channel], tmp_path: Path) -> None:
    ours, other = channels
    (tmp_path / "file").write_bytes(b"the bytes")
    with (tmp_path / "file").open("rb") as file:
        ours.send(SETTINGS)
        ours.send(SETTINGS, file.fileno())
    assert other.receive(TO_WORKER) == (SETTINGS, None)
    message, fd = other.receive(TO_WORKER)
    assert message == SETTINGS
    assert fd is not None
    try:
        assert os.read(fd, 100) == b"the bytes"
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_messages_of_several_threads_arrive_whole(channels: tuple[Channel, Channel]) -> None:
    ours, other = channels
    sent = [WorkerSettings(str(number) * 20_000, 1.0, (), (), SETTINGS.limits, number) for number in range(8)]
    threads = [threading.Thread(target=ours.send, args=(message,)) for message in sent]
    for thread in threads:
        thread.start()
    received = [other.receive(TO_WORKER)[0] for _ in sent]
    for thread in threads:
        thread.join()
    assert sorted(received, key=lambda each: each.connections) == sent  # type: ignore[union-attr]


def test_a_channel_whose_other_end_is_gone_is_closed(channels: tuple[Channel, Channel]) -> None:
    ours, other = channels
    ours.close()
    with pytest.raises(ChannelClosedError):
        other.receive(TO_WORKER)


def test_a_stream_that_ends_within_a_message_is_closed() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall((1000).to_bytes(4, "big") + b"half")
    with pytest.raises(ChannelClosedError):
        Channel(theirs).receive(TO_WORKER)
    theirs.close()


def test_a_message_that_is_longer_than_any_of_ours_closes_a_stream() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall((1 << 30).to_bytes(4, "big"))
    with pytest.raises(ChannelClosedError):
        Channel(theirs).receive(TO_WORKER)
    ours.close()
    theirs.close()


class FullSync:
    """macOS's F_FULLFSYNC, which `refused` says is not for this file system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refused: int | None = None) -> None:
        self.synced: list[int] = []
        self.refused = refused
        monkeypatch.setattr(portability, "_full_sync", 51)
        monkeypatch.setattr(fcntl, "fcntl", self)

    def __call__(self, fd: int, order: int) -> int:
        assert order == 51
        if self.refused is not None:
            raise OSError(self.refused, os.strerror(self.refused))
        self.synced.append(fd)
        return 0


def test_a_flush_goes_through_the_drives_cache_on_macos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FullSync(monkeypatch)
    with (tmp_path / "file").open("wb") as file:
        portability.flush(file.fileno())
        assert full.synced == [file.fileno()]


def test_a_flush_is_an_fsync_where_the_file_system_has_no_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullSync(monkeypatch, errno.ENOTSUP)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "file").open("wb") as file:
        portability.flush(file.fileno())
        assert synced == [file.fileno()]


def test_a_flush_that_fails_is_no_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has dropped the pages, and would report success."""
    FullSync(monkeypatch, errno.EIO)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="Input/output"):
        portability.flush(file.fileno())


def test_the_end_of_a_child_is_awaited_without_reaping_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portability, "_waitid", None)
    process = subprocess.Popen(["sh", "-c", "exit 7"])
    portability.wait_until_exited(process.pid)
    assert process.wait() == 7
    with pytest.raises(ChildProcessError):
        portability.wait_until_exited(process.pid)


def test_the_file_system_of_macos_is_the_name_in_its_statfs(monkeypatch: pytest.MonkeyPatch) -> None:
    def statfs(_: bytes, space: ctypes.Array[ctypes.c_char]) -> int:
        # f_bsize, f_iosize, five counts, f_fsid, f_owner, f_type, f_flags, f_fssubtype; then the name
        ctypes.memmove(space, bytes(4 * 2 + 8 * 5 + 8 + 4 * 4) + b"smbfs\0junk", 82)
        return 0

    monkeypatch.setattr(portability, "_function", lambda *_: statfs)
    assert portability.filesystem_by_statfs(Path("/Volumes/studio")) == "smbfs"


def test_a_file_of_no_name_begins_at_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portability, "_memfd", None)
    fd = portability.unnamed_file(b"what a hook is told")
    try:
        assert os.read(fd, 100) == b"what a hook is told"
    finally:
        os.close(fd)
