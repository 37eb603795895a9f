"""`floradl move-library`: copies, checks, and has the old place count as moved; a kill costs nothing."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from studio import Home, queue, served, wait_until

from floradl.library.folder import MARKER
from floradl.simulator import Simulator


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    simulator = Simulator()
    with served(simulator):
        yield simulator


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator) -> Home:
    home = Home(tmp_path, simulator)
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 0
    return home


def test_a_library_is_moved_and_the_old_place_says_where_to(home: Home, simulator: Simulator) -> None:
    new = home.path / "new place"
    dry = home.run("move-library", str(new), "--dry-run")
    assert dry.stdout.startswith("2 files would be copied, ")
    assert not new.exists()
    done = home.run("move-library", str(new))
    assert done.returncode == 0
    assert f'output: {{dir: "{new}"}}' in done.stdout
    missing = home.run("verify")
    assert missing.returncode == 5
    assert f"was moved to {new}: set output.dir to that" in missing.stderr
    assert home.run("verify", FLORADL_OUTPUT__DIR=str(new)).returncode == 0
    queue(home, simulator, "run_b")
    assert home.run("once", FLORADL_OUTPUT__DIR=str(new)).returncode == 0  # no `library_other`
    assert (new / "runs/campaign/run_b.json").exists()


def test_a_place_with_other_files_is_refused(home: Home) -> None:
    new = home.path / "new"
    new.mkdir()
    (new / "mine.txt").write_text("mine")
    done = home.run("move-library", str(new))
    assert done.returncode == 2
    assert "has files already, such as mine.txt" in done.stderr
    assert home.run("move-library", str(home.library / "below")).returncode == 2
    assert home.run("verify").returncode == 0


def test_a_library_with_damage_stays_where_it_is(home: Home) -> None:
    (home.library / "images/campaign/run_a-a.png").write_bytes(b"cut")
    done = home.run("move-library", str(home.path / "new"))
    assert done.returncode == 1
    assert "failed      images/campaign/run_a-a.png: its bytes are not those" in done.stdout
    assert "stays the library" in done.stdout
    assert home.run("verify", "--repair").returncode == 0
    (home.library / "images/campaign/run_a-a.png.damaged").unlink()
    assert home.run("move-library", str(home.path / "new")).returncode == 0


def test_a_move_that_is_killed_is_finished_by_the_next(home: Home) -> None:
    new = home.path / "new"
    for number in range(200):
        (home.library / f"mine-{number}.txt").write_text(f"{number}")
    process = subprocess.Popen(
        home.command("move-library", str(new)), env=home.environ, stdout=subprocess.DEVNULL
    )
    wait_until(lambda: process.poll() is not None or (new / "mine-1.txt").exists())
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    if (home.library / MARKER).exists():  # otherwise it had ended, but for saying so
        assert home.run("verify").returncode == 0
        assert home.run("move-library", str(new)).returncode == 0
    assert len(list(new.glob("mine-*.txt"))) == 200
    assert home.run("verify", FLORADL_OUTPUT__DIR=str(new)).returncode == 0


def test_where_the_old_library_is_gone_no_one_is_sent_there(home: Home, simulator: Simulator) -> None:
    shutil.rmtree(home.library)
    queue(home, simulator, "run_b")
    done = home.run("once", FLORADL_OUTPUT__DIR=str(home.path / "other"))
    assert done.returncode == 5
    assert f"they were in {home.library}, which is no library any more" in done.stderr
    assert "touch" in done.stderr
