"""Files survive crashes, never follow a planted link, and never replace one another."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from floradl import portability
from floradl.fs import durable
from floradl.fs.durable import PartBusyError, PartFile, rename_noreplace, write_atomic
from floradl.fs.folders import FolderFd, exists, open_folder, open_regular, open_root
from floradl.fs.names import SafeName

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left_open")

PART = SafeName(".video.part")
FINAL = SafeName("video.mp4")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[FolderFd]:
    with open_root(tmp_path) as root:
        yield root


def names(*parts: str) -> tuple[SafeName, ...]:
    return tuple(SafeName(part) for part in parts)


def test_missing_folders_are_made(tmp_path: Path, folder: FolderFd) -> None:
    with open_folder(folder, names("images", "a")) as below:
        assert os.path.samestat(os.fstat(below), (tmp_path / "images/a").stat())


def test_a_folder_that_is_only_looked_for_is_not_made(tmp_path: Path, folder: FolderFd) -> None:
    with pytest.raises(FileNotFoundError), open_folder(folder, names("images", "a"), create=False):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("planted", ["images", "images/a"])
def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path: Path, folder: FolderFd, planted: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / planted).parent.mkdir(exist_ok=True)
    (tmp_path / planted).symlink_to(tmp_path / "outside")
    with (
        pytest.raises(OSError, match=r"directory|symbolic") as caught,
        open_folder(folder, names("images", "a")),
    ):
        pass
    assert caught.value.errno in {errno.ENOTDIR, errno.ELOOP}
    assert os.listdir(tmp_path / "outside") == []


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path, folder: FolderFd) -> None:
    (tmp_path / "images").touch()
    with pytest.raises(NotADirectoryError), open_folder(folder, names("images")):
        pass


def test_the_librarys_own_path_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "library").symlink_to("disk")
    with open_root(tmp_path / "library") as root:
        write_atomic(root, FINAL, b"x")
    assert (tmp_path / "disk/video.mp4").read_bytes() == b"x"


def test_a_part_file_is_private_until_it_is_published(tmp_path: Path, folder: FolderFd) -> None:
    with PartFile(folder, PART):
        assert (tmp_path / PART).stat().st_mode & 0o777 == 0o600


def test_a_published_file_has_the_mode_that_the_umask_gives(tmp_path: Path, folder: FolderFd) -> None:
    before = os.umask(0o027)
    portability.umask.cache_clear()  # a process of ours keeps the one that it was started with
    try:
        with PartFile(folder, PART) as part:
            part.sync(None)
            part.publish(FINAL)
    finally:
        os.umask(before)
        portability.umask.cache_clear()
    assert (tmp_path / FINAL).stat().st_mode & 0o777 == 0o640


def test_a_published_file_has_the_time_asked_for(tmp_path: Path, folder: FolderFd) -> None:
    with PartFile(folder, PART) as part:
        part.write(b"x")
        part.sync(1_700_000_000.25)
        part.publish(FINAL)
    assert (tmp_path / FINAL).stat().st_mtime == 1_700_000_000.25


@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_sync_that_has_begun_gives_the_same_mode_and_time(
    tmp_path: Path, folder: FolderFd, more: bytes
) -> None:
    with PartFile(folder, PART) as part:
        part.write(b"x")
        part.begin_sync(1_700_000_000.25, 0o644)
        part.write(more)
        part.sync(1_700_000_000.25, 0o644)
        part.publish(FINAL)
    found = (tmp_path / FINAL).stat()
    assert (found.st_mtime, found.st_mode & 0o777) == (1_700_000_000.25, 0o644)


def _begins_with(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(portability, "_sync_file_range", lambda: begin)


def test_what_the_disk_refuses_at_the_beginning_costs_the_part_file(
    tmp_path: Path, folder: FolderFd, monkeypatch: pytest.MonkeyPatch
) -> None:
    _begins_with(errno.EIO, monkeypatch)
    with PartFile(folder, PART) as part:
        part.write(b"x")
        with pytest.raises(OSError, match="Input/output"):
            part.begin_sync(None)
    assert os.listdir(tmp_path) == []


def test_what_the_disk_refuses_of_a_large_file_costs_the_part_file(
    tmp_path: Path, folder: FolderFd, monkeypatch: pytest.MonkeyPatch
) -> None:
    _begins_with(errno.EIO, monkeypatch)
    with PartFile(folder, PART) as part, pytest.raises(OSError, match="Input/output"):
        part.write(bytes(8 << 20))
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_cannot_begin_is_left_at_that(
    tmp_path: Path, folder: FolderFd, monkeypatch: pytest.MonkeyPatch
) -> None:
    _begins_with(errno.ENOSYS, monkeypatch)
    with PartFile(folder, PART) as part:
        part.write(b"x")
        part.begin_sync(None)
        part.sync(None)
        assert part.publish(FINAL)
    assert (tmp_path / FINAL).read_bytes() == b"x"


def test_what_a_crash_left_reserved_of_an_empty_file_counts_as_room(folder: FolderFd) -> None:
    size = 64 << 20
    first = PartFile(folder, PART)
    if not portability.reserve(first.fd, size):
        pytest.skip("this file system reserves nothing")
    os.close(first.fd)  # as a kill does: nothing is given back
    os.close(first._folder)
    with PartFile(folder, PART) as part:
        found = os.fstatvfs(part.fd)
        assert part.size == 0
        assert part.free_space() - found.f_bavail * found.f_frsize > size - (16 << 20)


def test_only_the_file_that_was_synced_gets_the_name(tmp_path: Path, folder: FolderFd) -> None:
    with PartFile(folder, PART) as part:
        part.write(b"whole")
        part.sync(None)
        (tmp_path / PART).unlink()  # as another user's process does with one that it may not open
        (tmp_path / PART).write_bytes(b"ha")
        with pytest.raises(PartBusyError):
            part.publish(FINAL)
    assert not (tmp_path / FINAL).exists()


def test_a_time_that_no_clock_shows_does_not_cost_the_file(tmp_path: Path, folder: FolderFd) -> None:
    with PartFile(folder, PART) as part:
        part.write(b"x")
        part.sync(1e300)
        assert part.publish(FINAL)
    assert (tmp_path / FINAL).read_bytes() == b"x"


def test_writing_goes_on_where_an_earlier_attempt_stopped(tmp_path: Path, folder: FolderFd) -> None:
    with PartFile(folder, PART) as part:
        part.write(b"abc")
    with PartFile(folder, PART) as part:
        assert part.size == 3
        part.truncate(2)
        part.write(memoryview(b"cd"))
        assert part.read(10, 1) == b"bcd"
    assert (tmp_path / PART).read_bytes() == b"abcd"


def test_no_hole_takes_the_place_of_bytes_that_are_gone(tmp_path: Path, folder: FolderFd) -> None:
    """Another process may have published or dropped what was to be continued."""
    with PartFile(folder, PART) as part, pytest.raises(PartBusyError):
        part.truncate(1000)
    assert (tmp_path / PART).read_bytes() == b""


def test_a_part_file_that_is_open_is_busy_for_others(folder: FolderFd) -> None:
    with PartFile(folder, PART), pytest.raises(PartBusyError):
        PartFile(folder, PART)


def test_a_part_file_is_free_again_once_it_is_closed(folder: FolderFd) -> None:
    with PartFile(folder, PART):
        pass
    with PartFile(folder, PART):
        pass


def test_a_part_file_that_another_process_writes_is_busy(tmp_path: Path, folder: FolderFd) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from floradl.fs.durable import PartFile\nfrom floradl.fs.folders import open_root\n"
        "with open_root(Path(sys.argv[1])) as root, PartFile(root, '.video.part'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(PartBusyError):
            PartFile(folder, PART)
        process.send_signal(signal.SIGKILL)
    with PartFile(folder, PART):  # the kernel drops the lock with the process
        pass


def test_closing_twice_closes_nobody_elses_file(folder: FolderFd) -> None:
    part = PartFile(folder, PART)
    part.__exit__()
    with open_root(Path("/")), open_root(Path("/")):  # take the numbers that became free
        part.__exit__()


def test_a_part_file_may_be_a_folder_that_was_moved(tmp_path: Path, folder: FolderFd) -> None:
    with open_folder(folder, names("images")) as before, PartFile(before, PART) as part:
        assert part.lies_in(before)
        (tmp_path / "images").rename(tmp_path / "archive")
        with open_folder(folder, names("images")) as after:
            assert not part.lies_in(after)


def plant(path: Path, kind: str, outside: Path) -> None:
    match kind:
        case "link":
            path.symlink_to(outside)
        case "dangling link":
            path.symlink_to(outside.with_name("nowhere"))
        case "hard link":
            path.hardlink_to(outside)
        case "fifo":
            os.mkfifo(path)
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "fifo"])
def test_whatever_is_planted_under_a_parts_name_is_replaced(
    tmp_path: Path, folder: FolderFd, kind: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    plant(tmp_path / PART, kind, outside)
    with PartFile(folder, PART) as part:
        part.write(b"new")
        part.sync(None)
        assert part.publish(FINAL)
    assert outside.read_bytes() == b"precious"
    assert (tmp_path / FINAL).read_bytes() == b"new"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_under_a_parts_name_is_an_error(tmp_path: Path, folder: FolderFd) -> None:
    (tmp_path / PART).mkdir()
    with pytest.raises(IsADirectoryError):
        PartFile(folder, PART)


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "fifo"])
def test_publishing_replaces_nothing(tmp_path: Path, folder: FolderFd, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    plant(tmp_path / FINAL, kind, outside)
    before = os.lstat(tmp_path / FINAL)
    with PartFile(folder, PART) as part:
        part.write(b"new")
        part.sync(None)
        assert not part.publish(FINAL)
    assert os.path.samestat(os.lstat(tmp_path / FINAL), before)
    assert (tmp_path / PART).read_bytes() == b"new"


def test_a_discarded_part_file_is_gone(tmp_path: Path, folder: FolderFd) -> None:
    with PartFile(folder, PART) as part:
        part.write(b"x")
        part.discard()
        part.discard()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("renames", ["renameat2", "link", "rename"])
def test_renaming_replaces_nothing_whatever_the_file_system_can(
    tmp_path: Path, folder: FolderFd, renames: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if renames != "renameat2":  # a C library without it, as musl's
        monkeypatch.setattr(durable, "rename_exclusive", lambda *_: errno.ENOSYS)
    if renames == "rename":  # and a file system without links, as FAT

        def no_link(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", no_link)
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    a, b, c = names("a", "b", "c")
    assert not rename_noreplace(folder, a, b)
    assert (tmp_path / "b").read_bytes() == b"b"
    assert rename_noreplace(folder, a, c)
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]
    assert (tmp_path / "c").read_bytes() == b"a"
    with pytest.raises(FileNotFoundError):
        rename_noreplace(folder, a, SafeName("d"))


def test_a_crash_between_link_and_unlink_costs_nothing(tmp_path: Path, folder: FolderFd) -> None:
    (tmp_path / FINAL).write_bytes(b"whole")
    (tmp_path / PART).hardlink_to(tmp_path / FINAL)
    with PartFile(folder, PART) as part:
        assert part.size == 0
        part.write(b"other")
    assert (tmp_path / FINAL).read_bytes() == b"whole"


def test_an_atomic_write_replaces_the_old_file(tmp_path: Path, folder: FolderFd) -> None:
    write_atomic(folder, FINAL, b"old and longer")
    write_atomic(folder, FINAL, b"new", mtime=1_700_000_000)
    assert (tmp_path / FINAL).read_bytes() == b"new"
    assert (tmp_path / FINAL).stat().st_mtime == 1_700_000_000
    assert os.listdir(tmp_path) == [FINAL]


def test_an_atomic_write_replaces_a_link_and_not_what_it_points_to(tmp_path: Path, folder: FolderFd) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    (tmp_path / FINAL).symlink_to("outside")
    write_atomic(folder, FINAL, b"new")
    assert (tmp_path / "outside").read_bytes() == b"precious"
    assert (tmp_path / FINAL).read_bytes() == b"new"
    assert not (tmp_path / FINAL).is_symlink()


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_half(tmp_path: Path, folder: FolderFd) -> None:
    write_atomic(folder, FINAL, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="large") as caught:
            write_atomic(folder, FINAL, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert (tmp_path / FINAL).read_bytes() == b"old"
    assert os.listdir(tmp_path) == [FINAL]


def test_what_reached_a_full_disk_is_continued_later(tmp_path: Path, folder: FolderFd) -> None:
    data = os.urandom(10_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with PartFile(folder, PART) as part, pytest.raises(OSError, match="large"):
            part.write(data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with PartFile(folder, PART) as part:
        assert part.size == 4096
        part.write(data[part.size :])
    assert (tmp_path / PART).read_bytes() == data


def test_a_file_that_could_not_be_put_on_disk_is_thrown_away(
    tmp_path: Path, folder: FolderFd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "the disk is dying")

    with PartFile(folder, PART) as part:
        part.write(b"x")
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="dying"):
            part.sync(None)
    assert os.listdir(tmp_path) == []


def test_a_file_is_opened_for_reading_where_there_is_one(folder: FolderFd) -> None:
    write_atomic(folder, FINAL, b"abcdef")
    file = open_regular(folder, FINAL)
    assert file is not None
    with file:
        assert file.read(4) == b"abcd"
        assert file.read() == b"ef"
    assert open_regular(folder, SafeName("none")) is None


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo"])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, folder: FolderFd, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    plant(tmp_path / FINAL, kind, outside)
    assert open_regular(folder, FINAL) is None


def test_sockets_and_folders_are_not_read(tmp_path: Path, folder: FolderFd) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/socket")
    (tmp_path / "folder").mkdir()
    assert open_regular(folder, SafeName("socket")) is None
    assert open_regular(folder, SafeName("folder")) is None


def test_a_dangling_link_exists(tmp_path: Path, folder: FolderFd) -> None:
    (tmp_path / FINAL).symlink_to("nowhere")
    assert exists(folder, FINAL)
    assert not exists(folder, PART)


def test_a_large_file_does_not_push_everything_else_out_of_memory(tmp_path: Path, folder: FolderFd) -> None:
    if shutil.which("fincore") is None:
        pytest.skip("needs fincore, of Debian's util-linux")
    piece = bytes(1 << 20)
    with PartFile(folder, PART) as part:
        for megabytes in range(96):
            part.write(piece)
            if megabytes % 8 == 7:
                os.fsync(part.fd)  # as a disk that keeps up
    told = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", tmp_path / PART],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(told.stdout) <= 48 << 20
    with (tmp_path / PART).open("rb") as whole:
        assert hashlib.file_digest(whole, "sha256").digest() == hashlib.sha256(bytes(96 << 20)).digest()


def reserving(folder: FolderFd, size: int) -> PartFile:
    part = PartFile(folder, PART)
    part.write(b"begun")
    part.reserve(size)
    if os.fstat(part.fd).st_blocks * 512 < size:
        part.__exit__()
        pytest.skip("this file system reserves nothing")
    return part


def test_reserved_room_counts_as_free_for_the_file_alone(
    folder: FolderFd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reserving(folder, 1 << 20) as part:
        left = os.fstatvfs(part.fd)
        monkeypatch.setattr(os, "fstatvfs", lambda _fd: left)
        allocated = os.fstat(part.fd).st_blocks * 512
        assert part.free_space() == left.f_bavail * left.f_frsize + allocated - len(b"begun")


def test_reserved_room_that_was_not_used_is_given_back_at_the_end_of_an_attempt(
    tmp_path: Path, folder: FolderFd
) -> None:
    with reserving(folder, 1 << 20):
        pass
    left = (tmp_path / PART).stat()
    assert (left.st_size, left.st_blocks * 512 <= 64 << 10) == (len(b"begun"), True)
    assert (tmp_path / PART).read_bytes() == b"begun"
