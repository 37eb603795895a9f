"""A real daemon with a service manager's socket: what it says from its start to its end."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from managing import Ear, listening
from studio import TEST_TIMEOUT, Home, command, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

pytestmark = pytest.mark.usefixtures("simulator")


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    with listening(tmp_path) as ear:
        yield ear


def supervised(ear: Ear, watchdog: float = 3.0) -> dict[str, str]:
    return {"NOTIFY_SOCKET": ear.address, "WATCHDOG_USEC": str(int(watchdog * 1e6))}


def order(ear: Ear) -> list[str]:
    """Return in which order the things happened that happen once."""
    once = ("READY", "RELOADING", "STOPPING")
    return [key for message in ear.listen() for key in once if key in message]


def test_a_daemon_says_that_it_is_ready_works_and_stops(home: Home, simulator: Simulator, ear: Ear) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=[OutputSpec("clip", "imageUrl")], duration=0.1)
    with home.daemon(**supervised(ear)) as process:
        assert "Waiting for runs" in ear.heard[ear.wait_for("READY") - 1]["STATUS"]
        home.drop("campaign/run_a")
        assert home.finished("campaign/run_a")["result"] == "complete"
        ear.wait_for("STATUS", "1 finished since the start")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    assert order(ear) == ["READY", "STOPPING"]


def test_once_ready_it_takes_what_is_dropped_and_what_was_there_is_taken(
    home: Home, simulator: Simulator, ear: Ear
) -> None:
    simulator.add_run("run_a", technique="campaign", duration=3600)
    home.drop("campaign/run_a")
    with home.daemon(**supervised(ear)):
        ear.wait_for("READY")
        assert (home.inbox / "accepted" / "job.txt").exists()
        assert (home.library / ".floradl-library").exists()
        counts = home.status()["counts"]
        assert counts["waiting"] + counts["running"] == 1


def test_the_watchdog_hears_of_a_daemon_with_nothing_to_do(home: Home, ear: Ear) -> None:
    with home.daemon(**supervised(ear)):
        ready = ear.wait_for("READY")
        third = ready
        for _ in range(3):
            third = ear.wait_for("WATCHDOG", after=third)


def test_the_watchdog_hears_nothing_of_a_daemon_that_is_stopped(home: Home, ear: Ear) -> None:
    with home.daemon(**supervised(ear)) as process:
        ear.wait_for("WATCHDOG")
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        heard = len(ear.listen())
        with pytest.raises(AssertionError, match="not within"):
            ear.wait_for("WATCHDOG", after=heard, seconds=3)
        process.send_signal(signal.SIGCONT)
        ear.wait_for("WATCHDOG", after=heard)


def test_a_pause_is_told_and_does_not_starve_the_watchdog(home: Home, simulator: Simulator, ear: Ear) -> None:
    simulator.faults.add(Fault(do=Do(status=401), match=Match(host="api")))
    simulator.add_run("run_a", technique="campaign", duration=0)
    home.drop("campaign/run_a")
    with home.daemon(**supervised(ear)):
        paused = ear.wait_for("STATUS", "(key_refused)")
        ear.wait_for("WATCHDOG", after=paused)


def test_a_library_that_is_not_there_does_not_keep_it_from_being_ready(home: Home, ear: Ear) -> None:
    """It waits for the disk, and says so; whoever waits for its start need not."""
    with home.daemon(**supervised(ear)) as process:
        ear.wait_for("READY")
        process.send_signal(signal.SIGTERM)
        process.wait()
    (home.library / ".floradl-library").unlink()
    heard = len(ear.listen())
    home.drop("campaign/run_a")
    with home.daemon(**supervised(ear)):
        ear.wait_for("READY", after=heard)
        ear.wait_for("STATUS", "(library_missing)", after=heard)


def test_a_reload_is_announced_and_ended_and_a_broken_file_is_told(home: Home, ear: Ear) -> None:
    with home.daemon(**supervised(ear)) as process:
        ear.wait_for("READY")
        process.send_signal(signal.SIGHUP)
        ear.wait_for("READY", after=ear.wait_for("MONOTONIC_USEC"))
        (home.path / "config.yaml").write_text("download: {rate_limit: fast}")
        process.send_signal(signal.SIGHUP)
        ear.wait_for("STATUS", "rate_limit: 'fast' is not a size")
    assert order(ear)[:3] == ["READY", "RELOADING", "READY"]


def test_a_start_that_cannot_be_says_why_and_is_never_ready(home: Home, ear: Ear) -> None:
    settings = supervised(ear) | {"FLORADL_DOWNLOAD__CONCURRENCY": "none"}
    done = home.run("run", timeout=60, **settings)
    assert done.returncode == 2
    assert "concurrency" in done.stderr
    assert order(ear) == []


def test_a_start_that_ends_by_itself_tells_why(home: Home, ear: Ear) -> None:
    home.inbox.parent.mkdir(parents=True, exist_ok=True)
    home.inbox.write_text("a file where the inbox should be")
    assert home.run("run", timeout=60, **supervised(ear)).returncode == 2
    assert "the watch folder" in ear.listen()[-1]["STATUS"]


def test_a_socket_that_is_not_there_is_not_in_the_way(home: Home) -> None:
    with home.daemon(NOTIFY_SOCKET="/nowhere/notify", WATCHDOG_USEC="1000000") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    assert home.events("stopped")


def test_people_of_its_group_may_drop_jobs_but_the_state_is_the_daemon_s_alone(home: Home) -> None:
    before = command("run")
    script = 'umask 0002; exec "$@"'
    log = (home.path / "daemon.log").open("a")
    process = subprocess.Popen(["sh", "-c", script, "sh", *before], env=home.environ, stderr=log, text=True)
    try:
        wait_until(lambda: home.events("started"))
    finally:
        process.kill()
        process.wait()
        log.close()
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (home.inbox, home.library, home.state)}
    assert modes == {"inbox": "0o775", "library": "0o775", "state": "0o755"}
