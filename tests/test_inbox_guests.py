"""What others who may write there can put into the watch folder: it costs that entry alone."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from mounting import mount, mounted, unanswered, unmount
from studio import Home, wait_until

from floradl.simulator import OutputSpec, Simulator
from floradl.sources.archive import accepted_orders
from floradl.sources.inbox import Inbox

WORDS = (OutputSpec("words", "text", text="Yes."),)
NOBODY = 65534


def fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))  # /dev/full


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def linked_folder(path: Path) -> None:
    path.symlink_to(path.parent)


def second_name(path: Path) -> None:
    outside = path.parents[2] / f"precious-{path.name}"
    outside.write_bytes(b"")
    path.hardlink_to(outside)


def folder(path: Path) -> None:
    path.mkdir()


def unreadable(path: Path) -> None:
    path.write_bytes(b"mine")
    path.chmod(0)


PLANTS: tuple[Callable[[Path], None], ...] = (
    fifo,
    plant_socket,
    device,
    dangling,
    linked_folder,
    second_name,
    folder,
    unreadable,
)
plants = pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    made = Inbox(tmp_path / "inbox", keep=0.0, wall=lambda: time.time() + 10)
    made.prepare()
    return made


@plants
@pytest.mark.parametrize("name", ["job", "job.error.txt"])
def test_whatever_stands_where_a_rejected_file_goes_is_left_alone(
    tmp_path: Path, inbox: Inbox, plant: Callable[[Path], None], name: str
) -> None:
    rejected = tmp_path / "inbox/rejected"
    plant(rejected / name)
    before = (rejected / name).lstat()
    (tmp_path / "inbox/job").write_text("nonsense")
    (tmp_path / "inbox/good").write_text("run_a")
    scan = inbox.scan()
    assert [rejection.name for rejection in scan.rejected] == ["job"]
    assert [job.name for job in scan.jobs] == ["good"]
    assert scan.troubles == []
    after = (rejected / name).lstat()
    assert (after.st_mode, after.st_ino, after.st_size) == (before.st_mode, before.st_ino, before.st_size)
    assert (rejected / "job-1").read_text() == "nonsense"
    assert "nonsense" in (rejected / "job-1.error.txt").read_text()


@plants
@pytest.mark.parametrize("place", ["accepted", "rejected"])
def test_whatever_lies_among_old_files_keeps_no_other_from_being_removed(
    tmp_path: Path, inbox: Inbox, plant: Callable[[Path], None], place: str
) -> None:
    plant(tmp_path / "inbox" / place / "a")
    for name in ("0", "b"):
        (tmp_path / "inbox" / place / name).write_text("run_b")
    assert inbox.sweep() == ()
    assert [path.name for path in (tmp_path / "inbox" / place).iterdir()] == (
        ["a"] if plant is folder else []
    )


@plants
@pytest.mark.usefixtures("inbox")
def test_whatever_lies_among_accepted_jobs_keeps_none_from_being_read_again(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    accepted = tmp_path / "inbox/accepted"
    plant(accepted / "0")
    plant(accepted / os.fsdecode(b"z\xff\n"))
    (accepted / "b").write_text("run_b")
    assert [order.reference.run_id for order in accepted_orders(tmp_path / "inbox")] == ["run_b"]


def test_a_second_name_of_somebody_elses_file_is_not_read_into_a_note(tmp_path: Path, inbox: Inbox) -> None:
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "inbox/job").hardlink_to(tmp_path / "secret")
    assert inbox.scan().again_in == 2.0
    clock = time.monotonic() + 2
    inbox._monotonic = lambda: clock
    [rejection] = inbox.scan().rejected
    assert "hard link" in rejection.message
    assert "s3cret" not in (tmp_path / "inbox/rejected/job.error.txt").read_text()


def test_a_file_whose_name_is_made_by_a_link_is_taken_once_the_other_name_is_gone(
    tmp_path: Path, inbox: Inbox
) -> None:
    (tmp_path / "upload").write_text("run_a")
    (tmp_path / "inbox/job").hardlink_to(tmp_path / "upload")
    assert inbox.scan().jobs == []
    (tmp_path / "upload").unlink()
    assert [job.name for job in inbox.scan().jobs] == ["job"]


def test_a_daemon_outlives_a_fifo_in_the_place_of_a_note(home: Home, simulator: Simulator) -> None:
    (home.inbox / "rejected").mkdir(parents=True)
    os.mkfifo(home.inbox / "rejected/bad.error.txt")
    simulator.add_run("run_a", technique="campaign", duration=0, outputs=WORDS)
    with home.daemon() as daemon:
        home.drop("nonsense", "bad")
        home.drop("campaign/run_a", "good")
        home.finished("campaign/run_a")
        wait_until((home.inbox / "rejected/bad-1.error.txt").exists)
        assert daemon.poll() is None


@pytest.mark.root
def test_another_users_mount_in_the_inbox_stops_nothing(home: Home, simulator: Simulator) -> None:
    home.inbox.mkdir()
    with ExitStack() as stack:
        for place in ("mine", "rejected/bad", "rejected/bad-1.error.txt", "accepted/good", "accepted/old"):
            stack.enter_context(unanswered(home.inbox / place, NOBODY))
        with pytest.raises(PermissionError):
            (home.inbox / "mine").lstat()
        simulator.add_run("run_a", technique="campaign", duration=0, outputs=WORDS)
        with home.daemon() as daemon:
            home.drop("nonsense", "bad")
            home.drop("campaign/run_a", "good")
            home.finished("campaign/run_a")
            wait_until((home.inbox / "rejected/bad-2.error.txt").exists)
            wait_until((home.inbox / "accepted/good-1").exists)
            assert daemon.poll() is None
        for path in home.state.iterdir():
            path.unlink()
        assert home.run("once").returncode == 0
        assert home.status()["counts"]["done"] == 1


@pytest.mark.root
def test_a_mount_whose_program_died_stops_nothing_in_the_inbox(home: Home, simulator: Simulator) -> None:
    home.inbox.mkdir()
    with unanswered(home.inbox / "dead", 0) as fd:
        os.close(fd)
        with pytest.raises(OSError, match="not connected"):
            (home.inbox / "dead").lstat()
        simulator.add_run("run_a", technique="campaign", duration=0, outputs=WORDS)
        home.drop("campaign/run_a", "good")
        assert home.run("once").returncode == 0
        assert home.sidecar("campaign/run_a") is not None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOTCONN, errno.ESTALE])
def test_a_name_that_cannot_be_looked_at_is_told_once_and_the_others_are_taken(
    tmp_path: Path, inbox: Inbox, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Entry:
        name = "bad"

        def is_dir(self, *, follow_symlinks: bool) -> bool:
            return follow_symlinks

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            assert not follow_symlinks
            raise OSError(number, os.strerror(number))

    @contextmanager
    def scandir(folder: Path) -> Iterator[list[object]]:
        with scan_folder(folder) as found:
            yield [Entry(), *found]

    scan_folder = os.scandir
    # A disk that fails so cannot be had.
    monkeypatch.setattr("floradl.sources.scan.os", SimpleNamespace(**vars(os) | {"scandir": scandir}))
    (tmp_path / "inbox/good").write_text("run_a")
    scan = inbox.scan()
    assert [job.name for job in scan.jobs] == ["good"]
    [trouble] = scan.troubles
    assert trouble.startswith(f"bad in the watch folder cannot be looked at: {os.strerror(number)}")
    assert inbox.troubles == (trouble,)
    assert inbox.scan().troubles == []
    assert inbox.sweep() == ()


@contextmanager
def immovable(path: Path) -> Iterator[None]:
    """Have a file that can be read and not moved: as another user's in a folder with the sticky bit."""
    with mounted(path.with_name(".mount"), "-t", "tmpfs", "floradl"), ExitStack() as stack:
        (path.with_name(".mount") / "job").write_text(path.read_text())
        mount("--bind", path.with_name(".mount") / "job", path)
        stack.callback(unmount, path, "-l")
        yield


@pytest.mark.root
def test_a_file_that_cannot_be_moved_is_acted_on_once_though_floradl_starts_again(
    home: Home, simulator: Simulator
) -> None:
    simulator.add_run("run_a", technique="campaign", duration=0, outputs=WORDS)
    home.drop("- {run: campaign/run_a, action: retry}", "again")
    home.drop("nonsense", "bad")
    with immovable(home.inbox / "again"), immovable(home.inbox / "bad"):
        assert home.run("once").returncode == 3
        asked = len(simulator.asked("api"))
        done = home.run("once")
        assert (done.returncode, len(simulator.asked("api"))) == (0, asked)
        assert "2 job files done with, but could not be moved away" in home.run("status").stdout
        with home.daemon():
            troubles = wait_until(lambda: home.status()["inbox"]["troubles"])
            assert any("again is done with, but cannot be moved" in trouble for trouble in troubles)
            assert any(
                "bad was rejected (line 1: 'nonsense' is not a run id" in trouble for trouble in troubles
            )
            assert "not acted on again unless it changes" in home.run("status").stdout
        assert len(simulator.asked("api")) == asked
        (home.inbox / "again").write_text("# once more\n- {run: campaign/run_a, action: retry}")
        assert home.run("once").returncode == 0
        assert len(simulator.asked("api")) > asked
    assert home.run("once").returncode == 3  # what was below the mount is a file of its own


@pytest.mark.root
def test_another_users_file_in_a_sticky_folder_is_named_with_its_remedy(tmp_path: Path, inbox: Inbox) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o777 == 0o700:  # those that pytest made for itself
            path.chmod(0o755)
    for folder in ("inbox", "inbox/accepted", "inbox/rejected"):
        (tmp_path / folder).chmod(0o1777)
    (tmp_path / "inbox/job").write_text("run_a")
    os.seteuid(NOBODY)
    try:
        assert inbox.scan().again_in == 2.0  # a lease on somebody else's file tells nothing
        inbox._monotonic = lambda: time.monotonic() + 2
        scan = inbox.scan()
        [trouble] = inbox.accept(scan.jobs)
        assert inbox.scan().jobs == []
    finally:
        os.seteuid(0)
    assert "sticky bit" in trouble
    assert inbox.troubles == (trouble,)
    assert inbox.forgettable() == ()


@pytest.mark.root
def test_another_users_mounts_upon_the_inboxs_own_folders_stop_nothing_at_a_start(
    home: Home, simulator: Simulator
) -> None:
    home.inbox.mkdir()
    with unanswered(home.inbox / "accepted", NOBODY), unanswered(home.inbox / "rejected", NOBODY):
        for name in ("run_a", "run_b"):
            simulator.add_run(name, technique="campaign", duration=0, outputs=WORDS)
            home.drop(f"campaign/{name}", name)
            assert home.run("once").returncode == 0
            assert home.sidecar(f"campaign/{name}") is not None
        home.drop("nonsense", "bad")
        assert home.run("once").returncode == 3
        assert home.run("once").returncode == 0  # what was refused is told once
        assert "3 job files done with, but could not be moved away" in home.run("status").stdout
    assert home.run("once").returncode == 0
    assert sorted(os.listdir(home.inbox / "accepted")) == ["run_a", "run_b"]
    assert sorted(os.listdir(home.inbox / "rejected")) == ["bad", "bad.error.txt"]
