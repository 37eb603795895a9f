"""Runs that only `get` downloaded: the queue does not know them, their sidecars in the library do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from studio import Home

from floradl.simulator import OutputSpec, Simulator

TWO = (OutputSpec("a", "imageUrl", size=3000), OutputSpec("words", "text"))
BY_LABEL: dict[str, Any] = {"FLORADL_OUTPUT__TEMPLATE": "{label}/{meta.client}/{run_id}-{output_id}"}
TOLD = ("--label", "spring", "--meta", "client=ACME")
REFUSED = ("safety_blocked", "It was refused.")


def add(simulator: Simulator, name: str, **said: Any) -> str:
    return str(simulator.add_run(name, technique="campaign", outputs=TWO, duration=0, **said))


def done(home: Home, *arguments: str, code: int = 0, **settings: Any) -> str:
    """Run a command that ends so; return what it says on standard error."""
    ended = home.run(*arguments, **settings)
    assert ended.returncode == code, ended.stderr
    return ended.stderr


def get_beside_a_journal(home: Home, simulator: Simulator) -> str:
    """Download `run_b` by `get`, with label and meta, where a queue stands that does not know it."""
    done(home, "add", add(simulator, "run_a"))
    done(home, "once")
    add(simulator, "run_b")
    done(home, "get", "campaign/run_b", *TOLD, **BY_LABEL)
    return "campaign/run_b"


def said(sidecar: Mapping[str, Any] | None) -> tuple[str | None, dict[str, str], str | None]:
    assert sidecar is not None
    return sidecar["label"], sidecar["meta"], sidecar["technique"]


def test_retry_keeps_label_and_meta_of_a_run_that_the_queue_does_not_know(
    home: Home, simulator: Simulator
) -> None:
    run = get_beside_a_journal(home, simulator)
    done(home, "retry", run)
    done(home, "once", **BY_LABEL)
    assert said(home.sidecar(run)) == ("spring", {"client": "ACME"}, "campaign")


def test_retry_plans_paths_by_the_label_of_the_earlier_sidecar(home: Home, simulator: Simulator) -> None:
    run = get_beside_a_journal(home, simulator)
    before = {path for path in home.files() if "run_b" in path}
    done(home, "retry", run)
    done(home, "once", **BY_LABEL)
    assert {path for path in home.files() if "run_b" in path} == before


def test_a_daemon_keeps_the_label_of_the_earlier_sidecar_too(home: Home, simulator: Simulator) -> None:
    run = get_beside_a_journal(home, simulator)
    with home.daemon(**BY_LABEL):
        done(home, "retry", run)
        done(home, "wait", run)
    assert said(home.sidecar(run)) == ("spring", {"client": "ACME"}, "campaign")


def test_a_bare_id_that_is_retried_stays_under_its_technique(home: Home, simulator: Simulator) -> None:
    run = get_beside_a_journal(home, simulator)
    done(home, "retry", "run_b")
    done(home, "once")
    assert said(home.sidecar(run))[2] == "campaign"
    assert home.sidecar("run_b") is None


def test_get_of_a_failed_run_again_keeps_its_label(home: Home, simulator: Simulator) -> None:
    run = add(simulator, "run_a", fail=REFUSED)
    done(home, "get", run, *TOLD, code=3)
    done(home, "get", run, code=3)
    assert said(home.sidecar(run))[:2] == ("spring", {"client": "ACME"})


def test_a_label_that_the_retry_knows_wins_over_the_earlier_sidecar(home: Home, simulator: Simulator) -> None:
    run = add(simulator, "run_a", fail=REFUSED)
    done(home, "get", run, *TOLD, code=3)
    done(home, "get", run, "--label", "autumn", code=3)
    assert said(home.sidecar(run))[:2] == ("autumn", {"client": "ACME"})


def test_repair_places_missing_files_by_label_and_meta_of_the_sidecar(
    home: Home, simulator: Simulator
) -> None:
    run = add(simulator, "run_a")
    done(home, "get", run, *TOLD, **BY_LABEL)
    before = home.files()
    for path in before:
        (home.library / path).unlink()
    done(home, "verify", "--repair", "--missing", **BY_LABEL)
    assert home.files() == before


# What failed


def test_retry_failed_takes_runs_that_only_get_tried(home: Home, simulator: Simulator) -> None:
    done(home, "get", add(simulator, "run_a", fail=REFUSED), code=3)
    assert "put 1 run into the inbox" in done(home, "retry", "--failed")
    assert '"run":"run_a"' in "".join(path.read_text() for path in home.inbox.iterdir() if path.is_file())


def test_retry_failed_leaves_a_run_that_was_forgotten(home: Home, simulator: Simulator) -> None:
    done(home, "get", add(simulator, "run_a", fail=REFUSED), code=3)
    done(home, "forget", "run_a")
    done(home, "once")
    assert "no run failed" in done(home, "retry", "--failed")


def test_retry_failed_counts_a_run_once_that_queue_and_library_know(home: Home, simulator: Simulator) -> None:
    done(home, "add", add(simulator, "run_a", fail=REFUSED))
    done(home, "once", code=3)
    assert "put 1 run into the inbox" in done(home, "retry", "--failed")


def test_get_names_the_command_that_tries_its_failed_runs_again(home: Home, simulator: Simulator) -> None:
    run = add(simulator, "run_a", fail=REFUSED)
    assert f"'floradl get {run}'" in done(home, "get", run, add(simulator, "run_b"), code=3)


def test_get_names_retry_where_many_runs_failed(home: Home, simulator: Simulator) -> None:
    runs = [add(simulator, f"run_{number}", fail=REFUSED) for number in range(6)]
    assert "'floradl retry --failed'" in done(home, "get", *runs, code=3)


# What is gone


def test_get_json_names_files_that_are_gone_as_missing(home: Home, simulator: Simulator) -> None:
    run = add(simulator, "run_a")
    done(home, "get", run)
    gone, left = sorted(home.files())
    (home.library / gone).unlink()
    again = home.run("get", "--json", run)
    assert again.returncode == 3
    line = json.loads(again.stdout)
    assert (line["files"], line["missing"]) == ([str(home.library / left)], [str(home.library / gone)])


def test_get_print_path_names_no_file_that_is_gone_and_says_what_brings_it_back(
    home: Home, simulator: Simulator
) -> None:
    run = add(simulator, "run_a")
    done(home, "get", run)
    for path in home.files():
        (home.library / path).unlink()
    again = home.run("get", "--print", "path", run)
    assert (again.returncode, again.stdout) == (3, "")
    assert f"floradl verify --repair --missing {run}" in again.stderr


def test_once_json_names_files_that_are_gone_as_missing(home: Home, simulator: Simulator) -> None:
    run = get_beside_a_journal(home, simulator)
    for path in home.files():
        (home.library / path).unlink()
    done(home, "add", run)
    again = home.run("once", "--json")
    assert again.returncode == 3
    assert len(json.loads(again.stdout)["missing"]) == 2


# What is stored, and what is unknown


def test_get_of_a_done_run_shows_the_label_that_is_stored(home: Home, simulator: Simulator) -> None:
    run = add(simulator, "run_a")
    done(home, "get", run, "--label", "one")
    again = done(home, "get", run, "--label", "two")
    assert "(one): done, already there" in again
    assert "two" not in again.replace("(one)", "")


@pytest.mark.parametrize("command", ["retry", "forget"])
def test_a_job_for_a_run_that_is_not_known_says_so(home: Home, command: str) -> None:
    words = done(home, command, "run_typo")
    assert "run_typo is not known here yet" in words
    what = "1 run to be forgotten" if command == "forget" else "1 run"
    assert f"put {what} into the inbox" in words


@pytest.mark.parametrize("command", ["retry", "forget"])
def test_a_job_for_a_run_in_the_library_alone_says_nothing(
    home: Home, simulator: Simulator, command: str
) -> None:
    run = add(simulator, "run_a")
    done(home, "get", run)
    assert "not known" not in done(home, command, run)
