from __future__ import annotations

import os
import pwd
import time
from pathlib import Path

import pytest

from floradl.errors import ConfigError
from floradl.models import Reference
from floradl.sources.inbox import Inbox
from floradl.sources.job_file import drop_job, sweep


def test_a_dropped_job_is_whole_and_is_taken_by_the_next_scan(tmp_path: Path) -> None:
    path = drop_job(tmp_path / "inbox", "run_a\n")
    assert path.read_text() == "run_a\n"
    assert os.listdir(tmp_path / "inbox") == [path.name]
    [job] = Inbox(tmp_path / "inbox", keep=1).scan().jobs
    assert job.orders[0].reference == Reference("run_a")


def test_dropped_jobs_never_share_a_name(tmp_path: Path) -> None:
    assert len({drop_job(tmp_path, "run_a") for _ in range(50)}) == 50


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "inbox").write_text("a file")
    with pytest.raises(ConfigError, match=r"nothing was queued.*queue\.watch_dir"):
        drop_job(tmp_path / "inbox", "run_a")


@pytest.mark.root
@pytest.mark.parametrize("by_group", [True, False])
def test_a_job_handed_in_under_a_narrow_umask_may_be_read_by_the_daemon(
    tmp_path: Path, *, by_group: bool
) -> None:
    inbox, daemon = tmp_path / "inbox", pwd.getpwnam("nobody")
    inbox.mkdir()
    os.chown(inbox, daemon.pw_uid, daemon.pw_gid if by_group else 0)
    inbox.chmod(0o2770)
    before = os.umask(0o077)
    try:
        path = drop_job(inbox, "run_a\n", daemon.pw_uid)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == (0o640 if by_group else 0o644)
    assert drop_job(inbox, "run_a\n", os.geteuid()).stat().st_mode & 0o777 == 0o666 & ~before


def test_a_leftover_that_is_no_file_keeps_no_other_from_being_swept(tmp_path: Path) -> None:
    (tmp_path / ".add-a.txt.tmp").mkdir()
    (tmp_path / ".add-b.txt.tmp").touch()
    sweep(tmp_path, time.time() + 1)
    assert os.listdir(tmp_path) == [".add-a.txt.tmp"]
