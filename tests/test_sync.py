"""Runs that were started anywhere come home: the account's history is read, by a daemon and by hand."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bystanders import holding
from studio import Home, check_library, wait_until

from floradl.commands.submit import service_environ
from floradl.config.credentials import find_api_key
from floradl.config.load import Options, load_config
from floradl.config.settings import Config
from floradl.errors import ServicePausedError
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator
from floradl.simulator.runs import RunKind, ScriptedRun

WORDS = (OutputSpec("words", "text", text="Grown."),)
QUICK = {"FLORADL_SYNC__TECHNIQUE_RUNS": "true", "FLORADL_SYNC__INTERVAL": "5s"}
DAY = 86_400.0


def start(
    simulator: Simulator, run_id: str, *, age: float = 10.0, duration: float = 0.1, **more: Any
) -> None:
    """Start a run as a colleague would."""
    technique = simulator.add_technique(more.pop("technique", "campaign"))
    simulator.add(
        ScriptedRun(
            run_id=run_id,
            kind=RunKind.TECHNIQUE,
            technique=technique,
            outputs=WORDS,
            created=simulator.now() - age,
            duration=duration,
            **more,
        )
    )


def lists(simulator: Simulator) -> list[str]:
    return [record.query for record in simulator.asked("api") if record.path.endswith("technique-runs")]


def looked(simulator: Simulator, times: int = 1) -> None:
    """Wait until the list was read so often again."""
    before = len(lists(simulator))
    wait_until(lambda: len(lists(simulator)) >= before + times)


def handed_in(home: Home) -> list[str]:
    return sorted(line for job in home.inbox.glob("add-*.txt") for line in job.read_text().splitlines())


def test_what_the_history_lists_comes_home_without_being_queued(home: Home, simulator: Simulator) -> None:
    start(simulator, "run_done")
    start(simulator, "run_under_way", age=0.0, duration=3.0)
    start(simulator, "run_old", age=8 * DAY)
    simulator.add_run("run_generation", technique=None, outputs=WORDS, duration=0.1)
    with home.daemon(**QUICK):
        home.finished("campaign/run_done")
        home.finished("campaign/run_under_way")
        start(simulator, "run_later")  # over at once: a list that showed it at work would have it polled
        home.finished("campaign/run_later")
        wait_until(lambda: home.status()["counts"]["done"] == 3)
    check_library(home, simulator)
    # What the list said stands for an answer: nothing that was finished was asked about again.
    assert simulator.asked("api", "run_done") == []
    assert simulator.asked("api", "run_later") == []


def test_generations_are_a_list_of_their_own(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_generation", technique=None, outputs=WORDS, duration=0.1)
    start(simulator, "run_technique")
    with home.daemon(FLORADL_SYNC__GENERATIONS="true"):
        home.finished("run_generation")
    assert home.sidecar("campaign/run_technique") is None
    assert lists(simulator) == []


def test_without_the_setting_nobody_looks(home: Home, simulator: Simulator) -> None:
    start(simulator, "run_a")
    simulator.add_run("run_queued", technique="campaign", outputs=WORDS, duration=0.1)
    with home.daemon():
        home.drop("campaign/run_queued\n")
        home.finished("campaign/run_queued")
    assert lists(simulator) == []


def test_a_backlog_of_many_pages_comes_home_whole_and_is_read_twice(home: Home, simulator: Simulator) -> None:
    simulator.page_limit = 10
    for number in range(45):
        start(simulator, f"run_{number}", age=100.0 + number)
    with home.daemon(**QUICK):
        wait_until(lambda: home.status()["counts"]["done"] == 45)
        wait_until(lambda: marks(home.state))
    check_library(home, simulator)
    assert [event["runs"] for event in home.events("history_queued")] == [10, 10, 10, 10, 5]
    assert len([query for query in lists(simulator) if "cursor" in query]) >= 8


def marks(state: Path) -> list[tuple[str, str, float]]:
    with sqlite3.connect(f"file:{state}/journal.sqlite3?mode=ro", uri=True) as db:
        found = db.execute("SELECT kind, workspace, mark FROM synced").fetchall()
    db.close()
    return found


def test_a_daemon_that_was_away_goes_on_where_it_ended(home: Home, simulator: Simulator) -> None:
    start(simulator, "run_a", age=10 * DAY)
    with home.daemon(**QUICK, FLORADL_SYNC__SINCE="30d"):
        home.finished("campaign/run_a")
        wait_until(lambda: marks(home.state))
    start(simulator, "run_meanwhile", age=5 * DAY)
    with home.daemon(**QUICK, FLORADL_SYNC__SINCE="1h"):
        home.finished("campaign/run_meanwhile")


def test_another_workspace_is_looked_at_from_its_own_beginning(home: Home, simulator: Simulator) -> None:
    start(simulator, "run_a", age=0.0)
    with home.daemon(**QUICK):
        home.finished("campaign/run_a")
        wait_until(lambda: marks(home.state))
    for number in range(3):
        start(simulator, f"run_other{number}", age=2 * DAY + number, workspace_id="ws_other")
    simulator._runs.pop("run_a")
    simulator._order[:] = [each for each in simulator._order if each[2] != "run_a"]
    with home.daemon(**QUICK):
        for number in range(3):
            home.finished(f"campaign/run_other{number}")


def test_what_is_forgotten_stays_forgotten_and_what_failed_failed(home: Home, simulator: Simulator) -> None:
    start(simulator, "run_unwanted")
    start(simulator, "run_broken", fail=("safety_blocked", "No."))
    home.drop("{run: run_unwanted, action: forget}", "forget.yaml")
    home.drop("campaign/run_broken\n")
    assert home.run("once").returncode == 3
    with home.daemon(**QUICK):
        looked(simulator, 2)
        counts = home.status()["counts"]
    assert (counts["forgotten"], counts["failed"], counts["done"]) == (1, 1, 0)


def test_only_the_projects_and_techniques_that_are_named_are_synced(home: Home, simulator: Simulator) -> None:
    start(simulator, "run_a", project_id="prj_a")
    start(simulator, "run_b", project_id="prj_b")
    start(simulator, "run_c", project_id="prj_a", technique="camera-move")
    with home.daemon(**QUICK, FLORADL_SYNC__PROJECTS="prj_a", FLORADL_SYNC__TECHNIQUES="campaign"):
        wait_until(lambda: home.status()["counts"]["done"])
        looked(simulator)
        assert home.status()["counts"]["done"] == 1


def test_a_technique_that_flora_does_not_know_is_told_and_downloads_go_on(
    home: Home, simulator: Simulator
) -> None:
    simulator.add_run("run_queued", technique="campaign", outputs=WORDS, duration=0.1)
    with home.daemon(**QUICK, FLORADL_SYNC__TECHNIQUES="no-such"):
        wait_until(lambda: home.status()["hints"])
        assert "the technique 'no-such'" in home.status()["hints"][0]
        assert "hint     the account's history cannot be read" in home.run("status").stdout
        assert "warn  hint: " in home.run("check").stdout
        home.drop("campaign/run_queued\n")
        home.finished("campaign/run_queued")
        assert len(home.events("sync_trouble")) == 1


def test_a_refused_key_pauses_a_daemon_that_has_nothing_else_to_ask(home: Home, simulator: Simulator) -> None:
    key = home.path / "key"
    key.write_text("sk_test_revoked")
    key.chmod(0o600)
    del home.environ["FLORA_API_KEY"]
    start(simulator, "run_a")
    with home.daemon(**QUICK, FLORA_API_KEY_FILE=str(key)):
        wait_until(lambda: (home.status()["paused"] or {}).get("reason") == "key_refused")
        key.write_text(simulator.key)
        home.finished("campaign/run_a")
        wait_until(lambda: home.status()["paused"] is None)
        assert len(home.events("paused")) == len(home.events("resumed")) == 1


def test_a_run_that_is_queued_in_such_a_pause_lifts_it_when_it_can(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(match=Match(path="*technique-runs*"), do=Do(status=401, code="unauthorized")))
    simulator.add_run("run_queued", technique="campaign", outputs=WORDS, duration=0.1)
    with home.daemon(FLORADL_SYNC__TECHNIQUE_RUNS="true"):
        wait_until(lambda: home.status()["paused"])
        home.drop("campaign/run_queued\n")
        home.finished("campaign/run_queued")
        wait_until(lambda: home.status()["paused"] is None)


def test_a_list_that_the_key_may_not_read_is_a_hint(home: Home, simulator: Simulator) -> None:
    simulator.listing = False
    with home.daemon(**QUICK):
        assert "403" in wait_until(lambda: home.status()["hints"])[0]
        assert home.status()["paused"] is None
        assert len(lists(simulator)) == 1


def test_once_looks_at_the_history_first(home: Home, simulator: Simulator) -> None:
    home.environ |= QUICK
    start(simulator, "run_a")
    assert home.run("once").returncode == 0
    assert home.sidecar("campaign/run_a") is not None
    home.environ["FLORA_API_KEY"] = "sk_test_revoked"
    assert home.run("once").returncode == 4


# By hand


def test_sync_hands_in_what_is_not_known_yet(home: Home, simulator: Simulator) -> None:
    start(simulator, "run_a")
    start(simulator, "run_b", age=20 * DAY)
    start(simulator, "run_c", age=40 * DAY)
    simulator.add_run("run_generation", technique=None, outputs=WORDS, duration=0.1)
    home.drop("campaign/run_a\n")
    assert home.run("once").returncode == 0
    done = home.run("sync", "--since", "30d")
    assert done.returncode == 0, done.stderr
    assert "the account lists 3 runs, 1 of them known already" in done.stderr
    assert "put 2 runs into the inbox" in done.stderr
    assert handed_in(home) == ["campaign/run_b", "run_generation"]
    assert home.run("once").returncode == 0
    assert home.status()["counts"]["done"] == 3
    again = home.run("sync", "--since", "30d")
    assert "the account lists 3 runs, 3 of them known already" in again.stderr
    assert handed_in(home) == []


def test_sync_goes_as_far_back_as_the_settings_say_and_reads_what_they_name(
    home: Home, simulator: Simulator
) -> None:
    home.environ |= QUICK
    start(simulator, "run_a", age=3 * DAY)
    start(simulator, "run_b", age=9 * DAY)
    simulator.add_run("run_generation", technique=None, outputs=WORDS, duration=0.1)
    assert home.run("sync").returncode == 0
    assert handed_in(home) == ["campaign/run_a"]


@pytest.mark.parametrize(("status", "code"), [(401, 4), (400, 2)])
def test_sync_that_is_refused_hands_in_nothing(
    home: Home, simulator: Simulator, status: int, code: int
) -> None:
    start(simulator, "run_a")
    simulator.faults.add(Fault(match=Match(host="api"), do=Do(status=status, code="some_code")))
    done = home.run("sync")
    assert done.returncode == code
    assert "some_code" in done.stderr
    assert handed_in(home) == []


def test_sync_with_a_moment_that_is_none_is_a_usage_error(home: Home) -> None:
    done = home.run("sync", "--since", "soon")
    assert done.returncode == 2
    assert "--since: 'soon' is neither a duration" in done.stderr


def test_json_says_what_a_person_should_look_into(home: Home) -> None:
    assert json.loads(home.run("status", "--json").stdout)["hints"] == []


def test_what_the_history_lists_later_of_a_done_run_is_saved_too(home: Home, simulator: Simulator) -> None:
    pictures = tuple(OutputSpec(name, "imageUrl", size=3000) for name in ("a", "b"))
    created = simulator.now() - 60
    simulator.add_run("run_a", technique="campaign", outputs=pictures, duration=1, created=created)
    first = Fault(match=Match(host="api"), do=Do(missing_field="outputs.1"), times=1)
    simulator.faults.add(first)
    with home.daemon(**QUICK):
        assert len(home.finished("campaign/run_a")["outputs"]) == 1
        wait_until(lambda: len(home.finished("campaign/run_a")["outputs"]) == 2)
        looked(simulator)
        assert home.events("outputs_added") != []
    check_library(home, simulator)
    assert [record.output_id for record in simulator.asked("media")] == ["a", "b"]


def test_by_hand_what_has_more_outputs_than_before_is_fetched_anew(home: Home, simulator: Simulator) -> None:
    pictures = tuple(OutputSpec(name, "imageUrl", size=3000) for name in ("a", "b"))
    created = simulator.now() - 60
    simulator.add_run("run_a", technique="campaign", outputs=pictures, duration=1, created=created)
    simulator.faults.add(Fault(match=Match(host="api"), do=Do(missing_field="outputs.1"), times=1))
    home.drop("campaign/run_a")
    assert home.run("once").returncode == 0
    done = home.run("sync")
    assert "1 of these with more outputs than before" in done.stderr
    assert home.run("once").returncode == 0
    assert len(home.finished("campaign/run_a")["outputs"]) == 2
    check_library(home, simulator)
    assert handed_in(home) == []
    home.run("sync")
    assert handed_in(home) == []


def test_by_hand_what_is_forgotten_stays_so_though_it_has_more_outputs(
    home: Home, simulator: Simulator
) -> None:
    pictures = tuple(OutputSpec(name, "imageUrl", size=3000) for name in ("a", "b"))
    created = simulator.now() - 60
    simulator.add_run("run_a", technique="campaign", outputs=pictures, duration=1, created=created)
    simulator.faults.add(Fault(match=Match(host="api"), do=Do(missing_field="outputs.1"), times=1))
    home.drop("campaign/run_a")
    assert home.run("once").returncode == 0
    home.run("forget", "campaign/run_a")
    assert home.run("once").returncode == 0
    assert "more outputs" not in home.run("sync").stderr
    assert handed_in(home) == []


@pytest.fixture
def served_by_unit(tmp_path: Path) -> Iterator[tuple[Config, Path, Path]]:
    """A daemon at work in the unit floradl.service: its settings, what stands for /proc, its credentials."""
    config = load_config(Options(home=tmp_path), {"HOME": str(tmp_path)}, system_file=tmp_path / "none")
    config.state_dir.mkdir()
    credentials = tmp_path / "credentials"
    (credentials / "floradl.service").mkdir(parents=True)
    with holding(config.state_dir, 1.0) as pid:
        cgroup = tmp_path / "proc" / str(pid) / "cgroup"
        cgroup.parent.mkdir(parents=True)
        cgroup.write_text("0::/system.slice/floradl.service\n")
        yield config, tmp_path / "proc", credentials


def test_sync_beside_a_service_takes_the_key_of_its_unit(served_by_unit: tuple[Config, Path, Path]) -> None:
    config, proc, credentials = served_by_unit
    (credentials / "floradl.service" / "flora_api_key").write_text("sk_test_0123456789")
    found = find_api_key(config, service_environ(config, {}, None, proc, credentials))
    assert found is not None
    assert found.key.reveal() == "sk_test_0123456789"
    own = {"FLORA_API_KEY": "sk_test_mine"}
    assert service_environ(config, own, None, proc, credentials) is own


def test_sync_that_may_not_read_the_units_key_says_the_command_that_may(
    served_by_unit: tuple[Config, Path, Path],
) -> None:
    config, proc, credentials = served_by_unit
    with pytest.raises(ServicePausedError) as caught:
        service_environ(config, {}, "30d", proc, credentials)
    assert f"sudo floradl --home {config.home} sync --since 30d" in str(caught.value)


def test_sync_beside_a_daemon_of_a_session_asks_no_unit(
    served_by_unit: tuple[Config, Path, Path],
) -> None:
    config, proc, credentials = served_by_unit
    (cgroup,) = proc.glob("*/cgroup")
    cgroup.write_text("0::/user.slice/user-1000.slice/session-2.scope\n")
    assert service_environ(config, {}, None, proc, credentials) == {}
