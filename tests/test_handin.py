from __future__ import annotations

import os
from pathlib import Path

import pytest

from floradl.errors import ConfigError
from floradl.incoming.handin import drop_job
from floradl.incoming.inbox import Inbox
from floradl.models import Reference


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
