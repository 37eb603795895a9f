"""`status REF`, `open` and `wait`: what became of single runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from studio import Home, queue, wait_until

from floradl.simulator import OutputSpec, Simulator

TWO = (OutputSpec("a", "imageUrl", size=3000), OutputSpec("words", "text"))


def asked(home: Home, *references: str, code: int = 0) -> list[dict[str, Any]]:
    done = home.run("status", "--json", *references)
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    runs: list[dict[str, Any]] = document["runs"]
    return runs


def test_status_of_a_done_run_names_its_files(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a", outputs=TWO)
    assert home.run("once").returncode == 0
    (run,) = asked(home, "run_a")
    assert (run["reference"], run["state"], run["result"]) == ("campaign/run_a", "done", "complete")
    assert set(run["files"]) == {str(home.library / path) for path in home.files()}
    assert run["sidecar"] == str(home.library / "runs/campaign/run_a.json")
    text = home.run("status", "run_a").stdout
    assert text.startswith("campaign/run_a  done\n")
    assert all(file in text for file in run["files"])


def test_status_knows_a_run_that_get_downloaded(home: Home, simulator: Simulator) -> None:
    run = str(simulator.add_run("run_a", outputs=TWO, duration=0))
    assert home.run("get", run).returncode == 0
    (found,) = asked(home, run)
    assert (found["state"], len(found["files"])) == ("done", 2)


def test_status_names_files_that_somebody_removed(home: Home, simulator: Simulator) -> None:
    run = str(simulator.add_run("run_a", outputs=TWO, duration=0))
    assert home.run("get", run).returncode == 0
    gone = home.library / next(path for path in home.files() if path.endswith(".png"))
    gone.unlink()
    (found,) = asked(home, run)
    assert found["missing"] == [str(gone)]
    assert f"{gone}  is not there any more" in home.run("status", run).stdout


def test_status_of_a_run_that_nobody_queued_is_exit_1(home: Home) -> None:
    (found,) = asked(home, "run_nobody", code=1)
    assert (found["state"], found["files"]) == (None, [])
    assert "neither queued nor in the library" in home.run("status", "run_nobody").stdout


def test_status_of_a_failed_run_says_why(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", duration=0, fail=("safety_blocked", "It was refused."))
    home.drop("campaign/run_a\n")
    assert home.run("once").returncode == 3
    assert "failed; safety_blocked: It was refused." in home.run("status", "campaign/run_a").stdout


def test_status_of_an_open_run_says_so_without_a_library(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a", duration=600)
    assert home.run("once", "--max-wait", "1s").returncode == 5
    (found,) = asked(home, "run_a")
    assert found["state"] in {"waiting", "running"}


@pytest.mark.parametrize("options", [("--watch", "--json"), ("--all", "--watch"), ("--all", "run_a")])
def test_options_of_status_that_exclude_each_other_are_a_usage_error(
    home: Home, options: tuple[str, ...]
) -> None:
    assert home.run("status", *options).returncode == 2


# --- wait ----------------------------------------------------------------------------------------


def test_wait_ends_when_each_run_has_ended(home: Home, simulator: Simulator) -> None:
    with home.daemon():
        queue(home, simulator, "run_a", "run_b", duration=1.0)
        done = home.run("wait", "run_a", "campaign/run_b", "--timeout", "60s")
        assert done.returncode == 0, done.stderr
        assert home.sidecar("campaign/run_a")
        assert home.sidecar("campaign/run_b")
    assert "run_a: done" in done.stderr
    assert home.run("wait", "run_a", "-q").stderr == ""  # it ended, so no daemon is needed


def test_wait_for_a_failed_run_is_exit_3(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", duration=0.2, fail=("safety_blocked", "It was refused."))
    with home.daemon():
        home.drop("campaign/run_a\n")
        done = home.run("wait", "run_a")
    assert done.returncode == 3
    assert "safety_blocked: It was refused." in done.stderr


def test_wait_whose_timeout_is_over_is_exit_5(home: Home, simulator: Simulator) -> None:
    with home.daemon():
        queue(home, simulator, "run_a", duration=600)
        done = home.run("wait", "run_a", "--timeout", "500ms")
    assert done.returncode == 5
    assert "--timeout is over, and run_a has not ended" in done.stderr


def test_wait_without_a_daemon_says_so(home: Home) -> None:
    home.drop("campaign/run_a\n")
    for run in ("run_a", "run_b"):
        done = home.run("wait", run)
        assert done.returncode == 5
        assert "no daemon is running" in done.stderr


def test_wait_for_a_run_that_nobody_queued_is_a_usage_error(home: Home) -> None:
    with home.daemon():
        done = home.run("wait", "run_nobody")
    assert done.returncode == 2
    assert "'floradl add run_nobody' queues it" in done.stderr


def test_wait_tells_a_refused_key_at_once(home: Home, simulator: Simulator) -> None:
    with home.daemon(FLORA_API_KEY="sk_test_not_this_one"):
        queue(home, simulator, "run_a")
        wait_until(lambda: home.status()["paused"])
        assert home.run("wait", "run_a").returncode == 4


def test_wait_for_a_retry_does_not_take_the_old_end_for_the_new(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 0
    assert home.run("retry", "run_a").returncode == 0
    done = home.run("wait", "run_a")
    assert done.returncode == 5
    assert "no daemon is running" in done.stderr


# --- open ----------------------------------------------------------------------------------------


def opener(home: Home, code: int = 0) -> dict[str, str]:
    folder = home.path / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / "xdg-open"
    program.write_text(f'#!/bin/sh\necho "$1" >>{home.path}/shown\nenv >>{home.path}/environ\nexit {code}\n')
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "DISPLAY": ":0"}


@pytest.fixture
def downloaded(home: Home, simulator: Simulator) -> Home:
    for name in ("run_a", "run_b"):
        assert home.run("get", str(simulator.add_run(name, outputs=TWO, duration=0))).returncode == 0
    return home


def test_open_gives_the_desktops_opener_each_file_and_no_key(downloaded: Home, simulator: Simulator) -> None:
    downloaded.environ |= opener(downloaded)
    done = downloaded.run("open", "run_a")
    assert (done.returncode, done.stdout) == (0, "")
    shown = Path(downloaded.path / "shown").read_text().split()
    assert set(shown) == {str(downloaded.library / path) for path in downloaded.files() if "run_a" in path}
    assert simulator.key not in (downloaded.path / "environ").read_text()


def test_open_last_is_the_run_that_was_downloaded_last(downloaded: Home) -> None:
    done = downloaded.run("open", "--last", DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 0
    expected = {str(downloaded.library / path) for path in downloaded.files() if "run_b" in path}
    assert set(done.stdout.splitlines()) == expected


def test_open_last_passes_over_a_failed_run(downloaded: Home, simulator: Simulator) -> None:
    run = str(simulator.add_run("run_c", duration=0, fail=("safety_blocked", "It was refused.")))
    assert downloaded.run("get", run).returncode == 3
    done = downloaded.run("open", "--last", DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert "run_b" in done.stdout


def test_open_last_passes_over_a_run_whose_files_are_gone(downloaded: Home) -> None:
    for path in downloaded.files():
        if "run_b" in path:
            (downloaded.library / path).unlink()
    done = downloaded.run("open", "--last", DISPLAY="", WAYLAND_DISPLAY="")
    assert (done.returncode, "run_a" in done.stdout) == (0, True)


def test_open_prints_the_paths_where_the_opener_fails(downloaded: Home) -> None:
    downloaded.environ |= opener(downloaded, code=4)
    done = downloaded.run("open", "run_a")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert "exit code 4" in done.stderr


def test_open_of_a_run_that_is_not_there_is_a_usage_error(home: Home) -> None:
    assert "--last" in home.run("open").stderr
    for arguments in (("run_nobody",), ("--last",)):
        done = home.run("open", *arguments)
        assert done.returncode == 2
        assert str(home.library) in done.stderr


def test_open_of_a_run_without_files_says_why(home: Home, simulator: Simulator) -> None:
    run = str(simulator.add_run("run_a", duration=0, fail=("safety_blocked", "It was refused.")))
    assert home.run("get", run).returncode == 3
    done = home.run("open", run)
    assert done.returncode == 2
    assert "It was refused." in done.stderr
