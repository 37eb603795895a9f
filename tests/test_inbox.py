from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mounting import over
from studio import wait_until

from floradl.errors import ConfigError
from floradl.sources import file_ready, inbox as inbox_module
from floradl.sources.inbox import Inbox, Scan
from floradl.sources.scan import is_ignored, shown

DAY = 86400.0
SFTP_SERVERS = (Path("/usr/lib/openssh/sftp-server"), Path("/usr/libexec/openssh/sftp-server"))


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def wall() -> Clock:
    return Clock(time.time())


@pytest.fixture
def inbox(folder: Path, clock: Clock, wall: Clock) -> Inbox:
    made = Inbox(folder, keep=30 * DAY, wall=wall, monotonic=clock)
    made.prepare()
    return made


def runs(scan: Scan) -> list[str]:
    return [str(order.reference) for job in scan.jobs for order in job.orders]


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_finished_file_is_read_at_once_and_stays_until_it_is_accepted(inbox: Inbox, folder: Path) -> None:
    (folder / "job.txt").write_text("art/run_a\nrun_b\n")
    scan = inbox.scan()
    assert runs(scan) == ["art/run_a", "run_b"]
    assert (scan.rejected, scan.again_in, scan.more, scan.troubles) == ([], None, False, [])
    assert (folder / "job.txt").exists()
    assert inbox.accept(scan.jobs) == ()
    assert names(folder) == ["accepted", "rejected"]
    assert (folder / "accepted/job.txt").read_text() == "art/run_a\nrun_b\n"
    assert inbox.scan() == Scan()


def test_accepting_twice_is_safe(inbox: Inbox, folder: Path) -> None:
    (folder / "job").write_text("run_a")
    jobs = inbox.scan().jobs
    assert inbox.accept(jobs) == inbox.accept(jobs) == ()
    assert names(folder / "accepted") == ["job"]


def test_a_file_that_changed_since_it_was_read_is_read_again(inbox: Inbox, folder: Path) -> None:
    (folder / "job").write_text("run_a")
    jobs = inbox.scan().jobs
    (folder / "job").write_text("run_a\nrun_b")
    inbox.accept(jobs)
    assert runs(inbox.scan()) == ["run_a", "run_b"]


def test_a_bad_file_is_moved_beside_its_reason_and_queues_nothing(inbox: Inbox, folder: Path) -> None:
    (folder / "job.txt").write_text("run_a\nnonsense\n")
    scan = inbox.scan()
    assert scan.jobs == []
    [rejection] = scan.rejected
    assert rejection.name == "job.txt"
    assert rejection.message.startswith("line 2: 'nonsense' is not a run id")
    assert names(folder / "rejected") == ["job.txt", "job.txt.error.txt"]
    note = (folder / "rejected/job.txt.error.txt").read_text()
    assert rejection.message in note
    assert "nothing in it was queued" in note
    assert inbox.scan() == Scan()


def test_files_are_read_oldest_first(inbox: Inbox, folder: Path) -> None:
    for name, age in (("a", 1), ("b", 3), ("c", 2)):
        (folder / name).write_text(f"run_{name}")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    assert runs(inbox.scan()) == ["run_b", "run_c", "run_a"]


def test_a_file_that_is_still_open_is_left_alone(inbox: Inbox, folder: Path) -> None:
    # A truncated YAML list still parses, with half an id.
    script = f"f = open({str(folder / 'job.yaml')!r}, 'w'); f.write('- run_abc'); f.flush(); print(); input()"
    script += "; f.write('123\\n')"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout
        writer.stdout.readline()
        scan = inbox.scan()
        assert (scan.jobs, scan.rejected) == ([], [])
        assert scan.again_in
        writer.communicate(b"\n")
    assert runs(inbox.scan()) == ["run_abc123"]


def test_an_empty_file_is_a_job_by_its_name_after_two_seconds(
    inbox: Inbox, folder: Path, clock: Clock
) -> None:
    (folder / "run_abc123").touch()
    assert inbox.scan() == Scan(again_in=2.0)
    clock.now += 2
    assert runs(inbox.scan()) == ["run_abc123"]


def test_on_a_shared_mount_a_file_is_taken_after_two_seconds_of_quiet(
    inbox: Inbox, folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "tells_writers", lambda _: False)  # no network mount can be had here
    (folder / "job").write_text("- run_abc")
    assert inbox.scan().again_in == 2.0
    clock.now += 1.9
    (folder / "job").write_text("- run_abc123")
    assert inbox.scan().again_in == 2.0
    clock.now += 2.0
    assert runs(inbox.scan()) == ["run_abc123"]


@pytest.mark.root
@pytest.mark.parametrize("program", ["bindfs", "mergerfs", "sshfs"])
def test_over_fuse_a_file_is_taken_after_two_seconds_of_quiet(
    folder: Path, clock: Clock, tmp_path: Path, program: str
) -> None:
    below, options = tmp_path / "below", ["-o", f"ssh_command={sys.executable} {tmp_path / 'ssh.py'}"]
    below.mkdir()
    server = next((path for path in SFTP_SERVERS if path.exists()), None)
    if program == "sshfs" and server is None:
        pytest.skip("there is no sftp-server")
    (tmp_path / "ssh.py").write_text(f"import os; os.execv({str(server)!r}, ['sftp-server'])")
    shown = [*options, f"host:{below}"] if program == "sshfs" else [below]
    with over(program, folder, *shown):
        inbox = Inbox(folder, keep=DAY, monotonic=clock)
        inbox.prepare()
        with (below / "job.yaml").open("w") as writer:
            writer.write("- run_abc")
            writer.flush()
            # A lease would be granted here, though somebody writes.
            scan = inbox.scan()
            assert (scan.jobs, scan.rejected, scan.again_in) == ([], [], 2.0)
            writer.write("123\n")
        clock.now += 2
        # FUSE remembers what it saw, for a second or twenty, until a file is opened.
        wait_until(lambda: (folder / "job.yaml").read_text() == "- run_abc123\n")
        assert inbox.scan().again_in == 2.0
        clock.now += 2
        assert runs(inbox.scan()) == ["run_abc123"]


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden", "a.tmp", "a.PART", "a.filepart", "a.crdownload", ".a.swp", "a.swp", "a.txt~"),
        *("Thumbs.db", "desktop.ini", ".DS_Store", "#a#", "~$a.docx", "Icon\r"),
        *("job.txt:Zone.Identifier", "job.txt\uf03aZone.Identifier", "Thumbs.db:encryptable"),
        *("job.txt:AFP_AfpInfo", "job.txt@SynoEAStream", "._job.txt", ".directory", "~syncthing~job.txt.tmp"),
        *("job.txt.1a2b3c4d.partial", "job.txt.!ut", "job.txt.!qB", "job.txt.!sync", "job.txt.aria2"),
        *("job.txt.download", "job.txt.temp", "job.txt.lftp-pget-status", "job.txt.sb-1a2b3c4d-AbCdEf"),
    ],
)
def test_hidden_files_partial_ones_and_litter_are_ignored(inbox: Inbox, folder: Path, name: str) -> None:
    (folder / name).write_text("run_a")
    assert inbox.scan() == Scan()
    assert (folder / name).exists()


@pytest.mark.parametrize(
    "name",
    [
        "Zone.Identifier",
        "job.partial.txt",
        "a.lnk",
        "a",
        "a.tmp.txt",
        "part",
        "run_a.parts",
        "a#",
        "x.DS_Store.txt",
    ],
)
def test_other_names_are_jobs(name: str) -> None:
    assert not is_ignored(name)


def test_folders_are_ignored(inbox: Inbox, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/job").write_text("run_a")
    assert inbox.scan() == Scan()
    assert (folder / "sub/job").exists()


def test_links_are_refused_and_not_followed(inbox: Inbox, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    (folder / "job").symlink_to(tmp_path / "secret")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "to-folder").symlink_to(tmp_path)
    scan = inbox.scan()
    assert scan.jobs == []
    assert {rejection.message for rejection in scan.rejected} == {"this is a link: drop the file itself"}
    assert len(scan.rejected) == 3
    assert (folder / "rejected/job").is_symlink()
    assert (tmp_path / "secret").read_text() == "s3cret"
    assert "s3cret" not in (folder / "rejected/job.error.txt").read_text()


def test_fifos_and_sockets_are_refused(inbox: Inbox, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "fifo")
    monkeypatch.chdir(folder)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        messages = {rejection.name: rejection.message for rejection in inbox.scan().rejected}
    assert messages == {
        "fifo": "this is a FIFO: drop the file itself",
        "socket": "this is a socket: drop the file itself",
    }
    assert stat.S_ISFIFO((folder / "rejected/fifo").lstat().st_mode)


def test_a_file_over_a_mebibyte_is_refused(inbox: Inbox, folder: Path) -> None:
    (folder / "large").write_bytes(b"#" * (file_ready.MAX_BYTES + 1))
    [rejection] = inbox.scan().rejected
    assert "larger than 1 MiB" in rejection.message
    assert names(folder / "rejected") == ["large", "large.error.txt"]


def test_names_that_are_not_utf_8_work(inbox: Inbox, folder: Path) -> None:
    for name, content in ((b"good\xff", "run_a"), (b"bad\xff", "nonsense")):
        (folder / os.fsdecode(name)).write_text(content)
    scan = inbox.scan()
    inbox.accept(scan.jobs)
    assert runs(scan) == ["run_a"]
    assert scan.rejected[0].name == r"'bad\udcff'"
    assert os.listdir(os.fsencode(folder / "accepted")) == [b"good\xff"]
    assert sorted(os.listdir(os.fsencode(folder / "rejected"))) == [b"bad\xff", b"bad\xff.error.txt"]


def test_a_name_with_control_characters_is_shown_escaped() -> None:
    assert shown("a\x1b[31m\n") == r"'a\x1b[31m\n'"
    assert shown("grün.txt") == "grün.txt"


def test_ten_thousand_files_are_worked_off_in_batches(inbox: Inbox, folder: Path) -> None:
    for number in range(10_000):
        (folder / f"job{number}").write_text(f"run_{number}")
    found: set[str] = set()
    scans = 0
    more = True
    while more:
        scan = inbox.scan(limit=3000)
        assert len(scan.jobs) <= 3000
        found.update(runs(scan))
        inbox.accept(scan.jobs)
        scans, more = scans + 1, scan.more
    assert scans == 4
    assert found == {f"run_{number}" for number in range(10_000)}
    assert names(folder) == ["accepted", "rejected"]
    assert len(names(folder / "accepted")) == 10_000


def test_large_files_make_smaller_batches(inbox: Inbox, folder: Path) -> None:
    for number in range(12):
        (folder / f"job{number}").write_bytes(b"run_a #" + b"x" * (file_ready.MAX_BYTES // 16 - 7))
    scan = inbox.scan()
    assert scan.more
    assert len(scan.jobs) == 4  # what was read is in memory at once


def test_a_file_dropped_again_under_its_name_overwrites_nothing(inbox: Inbox, folder: Path) -> None:
    for number in range(3):
        (folder / "job.txt").write_text(f"run_{number}")
        inbox.accept(inbox.scan().jobs)
    assert names(folder / "accepted") == ["job-1.txt", "job-2.txt", "job.txt"]


def test_a_file_that_cannot_be_moved_is_not_acted_on_twice(inbox: Inbox, folder: Path) -> None:
    shutil.rmtree(folder / "accepted")
    (folder / "accepted").write_text("in the way\n")
    (folder / "job").write_text("run_a")
    scan = inbox.scan()
    assert [job.name for job in scan.jobs] == ["job"]
    [trouble] = inbox.accept(scan.jobs)
    assert "cannot be moved" in trouble
    assert runs(inbox.scan()) == []
    assert inbox.accept(scan.jobs) == ()  # said once
    (folder / "accepted").unlink()
    assert runs(inbox.scan()) == []
    assert names(folder / "accepted") == ["job"]


def test_a_missing_watch_folder_is_said_and_is_not_made(inbox: Inbox, folder: Path) -> None:
    shutil.rmtree(folder)
    [trouble] = inbox.scan().troubles
    assert str(folder) in trouble
    assert not folder.exists()
    inbox.sweep()


def test_folders_for_what_was_read_are_made_again(inbox: Inbox, folder: Path) -> None:
    shutil.rmtree(folder / "accepted")
    (folder / "job").write_text("run_a")
    assert inbox.accept(inbox.scan().jobs) == ()
    assert names(folder / "accepted") == ["job"]


def test_a_watch_folder_that_cannot_be_made_is_a_configuration_error(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot be made.*queue\.watch_dir"):
        Inbox(folder, keep=1).prepare()


def test_the_queue_file_is_no_job(folder: Path) -> None:
    inbox = Inbox(folder, keep=1, queue_file=folder / "queue.yaml")
    inbox.prepare()
    (folder / "queue.yaml").write_text("- run_a")
    assert inbox.scan() == Scan()


def test_what_was_put_away_is_removed_after_its_time(inbox: Inbox, folder: Path, wall: Clock) -> None:
    (folder / "good").write_text("run_a")
    os.utime(folder / "good", (0, 0))  # when it was written does not count
    (folder / "bad").write_text("nonsense")
    (folder / "link").symlink_to("nowhere")
    inbox.accept(inbox.scan().jobs)
    (folder / "accepted/sub").mkdir()
    wall.now += 29 * DAY
    assert inbox.sweep() == ()
    assert names(folder / "accepted") == ["good", "sub"]
    wall.now += 2 * DAY
    assert inbox.sweep() == ()
    assert names(folder / "accepted") == ["sub"]
    assert names(folder / "rejected") == []


@pytest.mark.root
def test_a_file_that_cannot_be_read_is_refused_after_two_seconds(
    inbox: Inbox, folder: Path, clock: Clock, tmp_path: Path
) -> None:
    (folder / "job").write_text("run_a")
    (folder / "job").chmod(0)
    for path in (folder, folder / "rejected"):
        os.chown(path, 65534, -1)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o777 == 0o700:  # those that pytest made for itself
            path.chmod(0o755)
    os.seteuid(65534)
    try:
        assert inbox.scan().again_in == 2.0
        clock.now += 2
        [rejection] = inbox.scan().rejected
    finally:
        os.seteuid(0)
    assert rejection.message == "this file cannot be read: Permission denied"
