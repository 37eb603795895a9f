"""`floradl prune` and `library.keep`: files go, their sidecars stay; only `retry` brings files back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from mounting import in_memory
from studio import Home, check_library, queue, served, wait_until

from floradl.clock import unix_seconds
from floradl.simulator import OutputSpec, Simulator

OUTPUTS = (OutputSpec("a", "imageUrl", size=4000), OutputSpec("b", "videoUrl", size=40_000))
FILM, PICTURE = "videos/campaign/run_a-b.mp4", "images/campaign/run_a-a.png"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    simulator = Simulator()
    with served(simulator):
        yield simulator


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator) -> Home:
    home = Home(tmp_path, simulator)
    queue(home, simulator, "run_a", outputs=OUTPUTS)
    assert home.run("once").returncode == 0
    return home


def removed(home: Home) -> bool:
    """Say whether the film is removed; sidecar and files agree on that."""
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    film = sidecar["outputs"][1]
    assert sidecar["result"] == "complete"
    assert len(film["sha256"]) == 64
    assert (
        (film["path"] is None) == (film["removed"] is not None) == ((home.library / FILM).exists() is False)
    )
    return film["removed"] is not None


def test_nothing_but_a_retry_brings_back_what_was_pruned(home: Home, simulator: Simulator) -> None:
    dry = home.run("prune", "--kind", "video", "--older-than", "0", "--dry-run")
    assert f"would remove  {FILM} (40 kB" in dry.stdout
    assert not removed(home)
    done = home.run("prune", "--kind", "video", "--older-than", "0")
    assert (done.returncode, done.stdout) == (0, "1 file removed, 40 kB\n")
    assert removed(home)
    verified = home.run("verify", "--repair", "--missing")
    assert verified.returncode == 0
    assert "1 output removed on purpose" in verified.stdout
    assert home.run("relayout").returncode == 0
    home.drop("campaign/run_a\n", "again.txt")
    assert home.run("once").returncode == 0
    assert removed(home)
    shutil.rmtree(home.state)
    assert home.run("once").returncode == 0
    assert home.run("get", "campaign/run_a").returncode == 0
    assert removed(home)
    stamp = (home.library / PICTURE).stat().st_ino
    assert home.run("retry", "campaign/run_a").returncode == 0
    assert home.run("once").returncode == 0
    assert not removed(home)
    assert (home.library / PICTURE).stat().st_ino == stamp
    check_library(home, simulator)


def test_options_of_prune_that_make_no_sense_are_refused(home: Home) -> None:
    for arguments, said in (
        (("--kind", "film", "--older-than", "1d"), "'film' is not a kind"),
        (("--kind", "video", "--older-than", "90"), "has no unit"),
        (("--kind", "video", "--older-than", "1d", "--keep-free", "5"), None),
        (("--older-than", "1d"), "--kind"),
    ):
        done = home.run("prune", *arguments)
        assert done.returncode == (0 if said is None else 2)
        assert said is None or said in done.stderr


def test_prune_gets_along_with_a_daemon_and_relayout_does_not(home: Home) -> None:
    with home.daemon():
        done = home.run("relayout")
        assert done.returncode == 5
        assert "already works with" in done.stderr
        assert home.run("move-library", str(home.path / "new")).returncode == 5
        assert home.run("relayout", "--dry-run").returncode == 0
        assert home.run("prune", "--kind", "video", "--older-than", "0").returncode == 0
        assert removed(home)


def _is_past(moment: float) -> bool:
    return time.time() > moment


@pytest.mark.root
def test_a_daemon_prunes_by_its_rules_before_a_full_disk_pauses_it(
    tmp_path: Path, simulator: Simulator
) -> None:
    film = (OutputSpec("b", "videoUrl", size=1_500_000),)
    rules = {"FLORADL_LIBRARY__KEEP__VIDEO": "2s", "FLORADL_DOWNLOAD__MIN_FREE_SPACE": "1MB"}
    with in_memory(tmp_path / "library", "8m"):
        home = Home(tmp_path, simulator, **rules)
        with home.daemon():
            for number in range(5):
                if number == 4:  # there is no room for a fifth
                    first = home.finished("campaign/run_0")["times"]["finished_at"]
                    due = (unix_seconds(first) or 0.0) + 2
                    wait_until(partial(_is_past, due))
                queue(home, simulator, f"run_{number}", outputs=film)
                home.finished(f"campaign/run_{number}")
            assert home.events("files_pruned")
            assert not home.events("paused")
        outputs = [home.finished(f"campaign/run_{number}")["outputs"][0] for number in range(5)]
        assert outputs[0]["removed"]["reason"] == "kept_long"
        assert outputs[4]["path"] is not None  # the newest is kept
        assert home.run("verify").returncode == 0
