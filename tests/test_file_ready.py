from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from floradl.fs.folders import NotRegularFileError
from floradl.sources import file_ready
from floradl.sources.file_ready import FileState, SettleTimes, Stamp

STAMP = Stamp(1, 2, 3, 4)
LEASE_THEN_WRITE = """
import os, subprocess, sys
from floradl.fs.folders import NotRegularFileError
from floradl.sources import file_ready
path = sys.argv[1]
write = "import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK), b'!')"
writer = [sys.executable, "-c", write, path]
fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
assert file_ready._lease(fd) is file_ready.FileState.FREE
held = subprocess.run(writer, capture_output=True, text=True)
assert "BlockingIOError" in held.stderr, held
assert os.read(fd, 9) == b"run_a"
os.close(fd)
subprocess.run(writer, check=True)
"""


def read(path: Path) -> file_ready.Reading:
    return file_ready.read(path, follow=False, leases=True)


def test_a_file_that_nobody_writes_is_free_and_read(tmp_path: Path) -> None:
    path = tmp_path / "job"
    path.write_bytes(b"run_a\n")
    assert read(path) == (FileState.FREE, Stamp.of(path.stat()), b"run_a\n")


def test_a_file_that_another_process_has_open_for_writing_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "job"
    script = f"f = open({str(path)!r}, 'w'); f.write('run_a'); f.flush(); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout
        writer.stdout.readline()
        assert read(path)[::2] == (FileState.WRITING, None)
        writer.communicate(b"\n")
    assert read(path)[::2] == (FileState.FREE, b"run_a")


def test_a_file_that_is_only_open_for_reading_is_free(tmp_path: Path) -> None:
    path = tmp_path / "job"
    path.write_bytes(b"run_a")
    with path.open("rb"):
        assert read(path).state is FileState.FREE


def test_without_leases_nothing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "job"
    path.write_bytes(b"run_a")
    assert file_ready.read(path, follow=False, leases=False)[::2] == (FileState.UNKNOWN, b"run_a")


def test_a_writer_who_comes_while_we_read_is_held_back_and_does_not_end_us(tmp_path: Path) -> None:
    path = tmp_path / "job"
    path.write_bytes(b"run_a")
    # In a process of its own, for the signal of a broken lease would end it.
    done = subprocess.run([sys.executable, "-c", LEASE_THEN_WRITE, path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == b"run_a!"


def test_the_lease_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "job"
    path.write_bytes(b"run_a")
    read(path)
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # refused while a lease stands
    os.close(fd)


def test_somebody_elses_write_lease_is_called_back_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "job"
    path.write_bytes(b"run_a")
    script = (
        "import fcntl, os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])\n"
        f"fd = os.open({str(path)!r}, os.O_RDWR)\n"
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print(flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(BlockingIOError):
            read(path)
        holder.communicate(b"\n")


def test_a_file_over_a_mebibyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "job"
    path.write_bytes(b"x" * file_ready.MAX_BYTES)
    assert read(path).data == b"x" * file_ready.MAX_BYTES
    path.write_bytes(b"x" * (file_ready.MAX_BYTES + 1))
    assert read(path).data is None


def test_a_link_is_not_followed_unless_wanted(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"run_a")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(NotRegularFileError):
        read(tmp_path / "link")
    assert file_ready.read(tmp_path / "link", follow=True, leases=True).data == b"run_a"


def test_a_fifo_without_a_writer_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotRegularFileError):
        read(tmp_path / "fifo")


def test_a_folder_and_a_socket_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotRegularFileError):
        read(tmp_path)
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(NotRegularFileError):
            read(tmp_path / "socket")


def test_a_free_file_is_taken_at_once() -> None:
    assert SettleTimes().wait("a", STAMP, FileState.FREE, 0.0) == 0


@pytest.mark.parametrize(
    ("stamp", "standing"), [(STAMP, FileState.UNKNOWN), (STAMP._replace(size=0), FileState.FREE)]
)
def test_an_untold_or_empty_file_is_taken_after_two_seconds_of_quiet(
    stamp: Stamp, standing: FileState
) -> None:
    deadlines = SettleTimes()
    assert deadlines.wait("a", stamp, standing, 10.0) == 2.0
    assert deadlines.wait("a", stamp, standing, 11.5) == 0.5
    assert deadlines.wait("a", stamp, standing, 12.0) == 0.0


@pytest.mark.parametrize("change", [{"mtime_ns": 9}, {"size": 9}, {"ino": 9}, {"dev": 9}])
def test_any_change_begins_the_quiet_anew(change: dict[str, int]) -> None:
    deadlines = SettleTimes()
    deadlines.wait("a", STAMP, FileState.UNKNOWN, 10.0)
    changed = STAMP._replace(**change)
    assert deadlines.wait("a", changed, FileState.UNKNOWN, 11.9) == 2.0
    assert deadlines.wait("a", changed, FileState.UNKNOWN, 13.8) == pytest.approx(0.1)


def test_a_file_being_written_is_looked_at_ever_less_often() -> None:
    deadlines = SettleTimes()
    assert [deadlines.wait("a", STAMP, FileState.WRITING, now) for now in (0.0, 0.2, 4.0, 400.0)] == [
        *(0.1, 0.1, 1.0, 2.0)
    ]


def test_an_empty_files_quiet_begins_when_its_writer_leaves() -> None:
    deadlines, empty = SettleTimes(), STAMP._replace(size=0)
    deadlines.wait("a", empty, FileState.WRITING, 0.0)
    deadlines.wait("a", empty, FileState.WRITING, 5.0)
    assert deadlines.wait("a", empty, FileState.FREE, 5.5) == 1.5


def test_files_that_are_gone_are_forgotten() -> None:
    deadlines = SettleTimes()
    deadlines.wait("a", STAMP, FileState.UNKNOWN, 0.0)
    deadlines.keep({"b"})
    assert deadlines.wait("a", STAMP, FileState.UNKNOWN, 9.0) == 2.0


@pytest.mark.root
def test_a_lease_tells_on_tmpfs_and_overlayfs(tmp_path: Path) -> None:
    for name in ("tmp", "lower", "over"):
        (tmp_path / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "floradl", tmp_path / "tmp"], check=True)
    try:
        (tmp_path / "tmp/upper").mkdir()
        (tmp_path / "tmp/work").mkdir()
        layers = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/tmp/upper,workdir={tmp_path}/tmp/work"
        subprocess.run(["mount", "-t", "overlay", "floradl", "-o", layers, tmp_path / "over"], check=True)
        try:
            for path in (tmp_path / "tmp/job", tmp_path / "over/job"):
                path.write_bytes(b"run_a")
                assert read(path).state is FileState.FREE
                with path.open("ab"):
                    assert read(path).state is FileState.WRITING
        finally:
            subprocess.run(["umount", tmp_path / "over"], check=True)
    finally:
        subprocess.run(["umount", tmp_path / "tmp"], check=True)


@pytest.mark.root
def test_somebody_elses_file_is_untold(tmp_path: Path) -> None:
    path = tmp_path / "job"
    path.write_bytes(b"run_a")
    fd = os.open(path, os.O_RDONLY)
    os.seteuid(65534)
    try:
        assert file_ready._lease(fd) is FileState.UNKNOWN
    finally:
        os.seteuid(0)
        os.close(fd)
