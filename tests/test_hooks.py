"""Hooks of runs that end, as a daemon runs them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from hooked import Hook, configure
from studio import TEST_TIMEOUT, Home, queue, wait_until

from floradl.simulator import OutputSpec, Simulator

WORDS = (OutputSpec("words", "text", text="Lower."),)


@pytest.fixture
def hook(home: Home) -> Hook:
    """A hook for runs that end, configured."""
    hook = Hook(home)
    configure(home, hooks={"run_finished": hook.words})
    return hook


def test_a_run_that_ended_is_told_with_its_sidecar(home: Home, simulator: Simulator, hook: Hook) -> None:
    with home.daemon():
        queue(home, simulator, "run_a")
        call = hook.called()[0]
        wait_until(lambda: home.events("hook_done"))
    sidecar = home.library / "runs" / "campaign" / "run_a.json"
    assert call.argument == str(sidecar)
    assert call.given == json.loads(sidecar.read_text())
    assert call.cwd == str(home.library)  # that paths in the sidecar are relative to
    assert len(hook.calls()) == 1


def test_a_run_that_failed_at_flora_is_told_too(home: Home, simulator: Simulator, hook: Hook) -> None:
    simulator.add_run("run_a", technique="campaign", duration=0.1, fail=("safety_blocked", "no"))
    with home.daemon():
        home.drop("campaign/run_a")
        assert hook.called()[0].given["result"] == "failed"


def test_no_key_and_no_other_secret_is_in_its_environment(
    home: Home, simulator: Simulator, hook: Hook
) -> None:
    with home.daemon(MY_TOKEN="hush-hush", FLORA_API_KEY_FILE="", TZ="UTC"):
        queue(home, simulator, "run_a")
        environ = hook.called()[0].environ
    assert simulator.key not in environ
    assert "hush-hush" not in environ
    assert "FLORADL_EVENT=run_finished" in environ
    assert "TZ=UTC" in environ
    assert f"HOME={home.path / 'no-home'}" in environ


def test_what_it_writes_is_in_the_log_without_the_key(home: Home, simulator: Simulator, hook: Hook) -> None:
    hook.write(f"echo hello; echo 'Authorization: Bearer {simulator.key}' >&2")
    with home.daemon():
        queue(home, simulator, "run_a")
        done = wait_until(lambda: home.events("hook_done"))[0]
    assert done["output"].startswith("hello\n")
    assert simulator.key not in (home.path / "daemon.log").read_text()


def test_one_that_fails_is_tried_again_and_told_once(home: Home, simulator: Simulator, hook: Hook) -> None:
    hook.write(f'echo x >>"{home.path}/tries"; [ $(wc -l <"{home.path}/tries") -ge 3 ] || exit 7')
    with home.daemon():
        queue(home, simulator, "run_a")
        hook.called()
        wait_until(lambda: home.events("hook_done"))
        (failed,) = home.events("hook_failed")
    assert failed["message"] == "it ended with exit code 7"
    assert len(hook.calls()) == 1


def test_one_that_hangs_holds_no_download_up_and_is_ended(home: Home, simulator: Simulator) -> None:
    hook = Hook(home, 'echo "$$" >>"$1/pids"; sleep 100')
    configure(home, hooks={"run_finished": hook.words, "timeout": "2s"})
    names = [f"run_{number}" for number in range(12)]
    with home.daemon():
        queue(home, simulator, *names)
        for name in names:
            home.finished(f"campaign/{name}")
        pids = home.path / "calls" / "pids"
        wait_until(pids.exists)
        alive = [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists()]
        assert len(alive) <= 4  # so many at once
        failed = wait_until(lambda: home.events("hook_failed"))
        assert "hooks.timeout" in failed[0]["message"]


def test_what_is_not_told_yet_is_told_after_a_crash(home: Home, simulator: Simulator, hook: Hook) -> None:
    hook.write("exit 1")
    with home.daemon():
        queue(home, simulator, "run_a", "run_b")
        wait_until(lambda: len(home.events("hook_failed")) == 2)
    hook.write()
    with home.daemon():
        told = {call.given["run_id"] for call in hook.called(2)}
    assert told == {"run_a", "run_b"}


def test_a_run_that_somebody_else_fetched_meanwhile_is_told(
    home: Home, simulator: Simulator, hook: Hook
) -> None:
    with home.daemon(FLORA_API_KEY="sk_live_not_this_one"):
        queue(home, simulator, "run_a")
        wait_until(lambda: home.status()["paused"])
        assert home.run("get", "campaign/run_a").returncode == 0
        assert hook.called()[0].given["result"] == "complete"


def test_what_ended_before_there_was_a_hook_is_not_told(home: Home, simulator: Simulator) -> None:
    with home.daemon():
        queue(home, simulator, "run_old")
        home.finished("campaign/run_old")
        wait_until(lambda: home.status()["counts"]["done"])
    hook = Hook(home)
    configure(home, hooks={"run_finished": hook.words})
    with home.daemon():
        home.drop("campaign/run_old", "again.txt")
        queue(home, simulator, "run_new")
        hook.called()
        wait_until(lambda: home.events("hook_done"))
    assert [call.given["run_id"] for call in hook.calls()] == ["run_new"]


def test_what_the_library_holds_from_long_ago_is_not_told(
    home: Home, simulator: Simulator, hook: Hook
) -> None:
    with home.daemon():
        queue(home, simulator, "run_a")
        hook.called()
        wait_until(lambda: home.events("hook_done"))
    for path in home.state.iterdir():
        path.unlink()
    with home.daemon():  # it is recalled as done
        home.drop("run_a", "again.txt")
        queue(home, simulator, "run_b")
        hook.called(2)
    assert [call.given["run_id"] for call in hook.calls()] == ["run_a", "run_b"]


def test_a_run_that_is_fetched_anew_is_told_anew(home: Home, simulator: Simulator, hook: Hook) -> None:
    with home.daemon():
        queue(home, simulator, "run_a")
        hook.called()
        wait_until(lambda: home.events("hook_done"))
        assert home.run("retry", "campaign/run_a").returncode == 0
        hook.called(2)


def test_a_program_that_is_missing_is_told_once_and_waited_for(home: Home, simulator: Simulator) -> None:
    hook = Hook(home)
    configure(home, hooks={"run_finished": hook.words})
    hook.file.unlink()
    names = [f"run_{number}" for number in range(6)]
    with home.daemon():
        queue(home, simulator, *names)
        for name in names:
            home.finished(f"campaign/{name}")
        wait_until(lambda: len(home.events("hook_missing")) == 2)  # at the start, and where it was wanted
        assert str(hook.file) in home.events("hook_missing")[1]["message"]
        check = home.run("check").stdout
        assert f"warn  hooks: hooks.run_finished: there is no '{hook.file}'" in check
        hook.write()
        assert {call.given["run_id"] for call in hook.called(6)} == set(names)
        assert len(home.events("hook_missing")) == 2
        assert len(home.events("hook_found")) == 1


def test_a_stop_gives_it_time_to_end(home: Home, simulator: Simulator, hook: Hook) -> None:
    hook.write(f'touch "{home.path}/begun"; sleep 2')
    with home.daemon() as process:
        queue(home, simulator, "run_a")
        wait_until((home.path / "begun").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    assert len(hook.calls()) == 1
    with home.daemon():
        queue(home, simulator, "run_b")
        hook.called(2)
    assert [call.given["run_id"] for call in hook.calls()] == ["run_a", "run_b"]


def test_a_stop_ends_one_that_takes_too_long_and_the_next_start_tells_again(
    home: Home, simulator: Simulator, hook: Hook
) -> None:
    hook.write(f'trap "" TERM; echo $$ >"{home.path}/begun"; sleep 100')
    with home.daemon() as process:
        queue(home, simulator, "run_a")
        pid = int(wait_until(lambda: (home.path / "begun").exists() and (home.path / "begun").read_text()))
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
        assert time.monotonic() - started > 3
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    hook.write()
    with home.daemon():
        hook.called()


def test_the_library_of_a_hook_that_waits_may_be_away(home: Home, simulator: Simulator, hook: Hook) -> None:
    hook.write("exit 1")
    with home.daemon():
        queue(home, simulator, "run_a")
        wait_until(lambda: home.events("hook_failed"))
        home.library.rename(home.path / "away")
        hook.write()
        queue(home, simulator, "run_b")
        wait_until(lambda: home.status()["paused"])
    (home.path / "away").rename(home.library)
    with home.daemon():
        assert {call.given["run_id"] for call in hook.called(2)} == {"run_a", "run_b"}


def test_a_sidecar_that_was_thrown_away_is_not_waited_for(
    home: Home, simulator: Simulator, hook: Hook
) -> None:
    hook.write("exit 1")
    with home.daemon():
        queue(home, simulator, "run_a")
        wait_until(lambda: home.events("hook_failed"))
        (home.library / "runs" / "campaign" / "run_a.json").unlink()
        dropped = wait_until(lambda: home.events("hook_dropped"))
    assert dropped[0]["message"] == "runs/campaign/run_a.json is not there any more"


def test_once_tells_of_what_it_fetched(home: Home, simulator: Simulator, hook: Hook) -> None:
    queue(home, simulator, "run_a", "run_b")
    assert home.run("once").returncode == 0
    assert {call.given["run_id"] for call in hook.calls()} == {"run_a", "run_b"}


def test_once_leaves_what_fails_to_the_next_one(home: Home, simulator: Simulator, hook: Hook) -> None:
    hook.write("exit 7")
    queue(home, simulator, "run_a")
    done = home.run("once")
    assert done.returncode == 3
    assert "hook run_finished failed for run_a: it ended with exit code 7; it is tried" in done.stderr
    hook.write()
    assert home.run("once").returncode == 0
    assert len(hook.calls()) == 1


def test_the_hook_of_another_home_hears_nothing(home: Home, simulator: Simulator, tmp_path: Path) -> None:
    hook = Hook(home)
    configure(home, hooks={"run_finished": hook.words})
    other = Home(tmp_path / "other", simulator)
    other.path.mkdir()
    queue(other, simulator, "run_a")
    assert other.run("once").returncode == 0
    assert hook.calls() == []


def given_up(home: Home) -> None:
    """Let the hook's next try be its last: a day of tries is over."""
    with closing(sqlite3.connect(home.state / "journal.sqlite3")) as journal, journal:
        journal.execute("UPDATE announcements SET tries = 35")


def test_a_hook_that_failed_for_good_is_seen_and_tried_no_more(
    home: Home, simulator: Simulator, hook: Hook
) -> None:
    hook.write("exit 7")
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 3
    assert "run_finished failed for 1 run, and is tried again" in home.run("status").stdout
    assert home.status()["hooks"] == {"retried": 1, "given_up": 0}
    given_up(home)
    assert home.run("once").returncode == 3
    assert "run_finished failed for good for run_a" in home.run("status").stdout
    assert "run_finished failed for good for run_a" in home.run("check").stdout
    assert home.status()["hooks"] == {"retried": 0, "given_up": 1}
    final = [
        json.loads(line)["final"] for line in home.run("events").stdout.splitlines() if "hook_failed" in line
    ]
    assert final == [False, True]
    hook.write()
    assert home.run("once").returncode == 0
    assert hook.calls() == []


def test_a_retry_reports_a_run_that_the_hook_was_given_up_for(
    home: Home, simulator: Simulator, hook: Hook
) -> None:
    hook.write("exit 7")
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 3
    given_up(home)
    assert home.run("once").returncode == 3
    hook.write()
    assert home.run("retry", "run_a").returncode == 0
    assert home.run("once").returncode == 0
    assert len(hook.calls()) == 1
    assert home.status()["hooks"] == {"retried": 0, "given_up": 0}
