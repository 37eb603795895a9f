"""A silence that was asked for is no hang: the daemon is well, and says until when."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import pytest
from studio import Home, queue, wait_until

from floradl.simulator import Do, Fault, Match, Simulator

_HOUR = Do(status=503, retry_after="3600")


def ahead(run: dict[str, Any]) -> float:
    """Return in how many seconds a run is looked at next, as `status --json` has it."""
    if run["next_at"] is None:
        return 0.0
    return dt.datetime.fromisoformat(run["next_at"]).timestamp() - time.time()


def waits_an_hour(home: Home) -> dict[str, Any]:
    """Wait until the one run's next look is an hour away; return what `status --json` says."""

    def told() -> dict[str, Any] | None:
        status = home.status()
        return status if [1 for run in status["runs"] if 3300 < ahead(run) < 5500] else None

    found: dict[str, Any] = wait_until(told)
    return found


@pytest.mark.parametrize("status", [429, 503])
def test_an_hour_of_silence_that_flora_asks_for_is_told_and_is_no_hang(
    home: Home, simulator: Simulator, status: int
) -> None:
    simulator.faults.add(Fault(match=Match(host="api"), do=Do(status=status, retry_after="3600")))
    with home.daemon():
        queue(home, simulator, "run_a")
        (hint,) = waits_an_hour(home)["hints"]
        assert hint.startswith("FLORA asked to be left alone until ")
        assert hint in home.run("status").stdout
        assert home.run("status", "--check").returncode == 0
        # One that comes later has to wait for it, too.
        queue(home, simulator, "run_b")
        wait_until(lambda: [run for run in home.status()["runs"] if ahead(run) > 3300][1:])


def test_an_hour_of_silence_that_a_media_host_asks_for_is_told_and_is_no_hang(
    home: Home, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(match=Match(host="media"), do=_HOUR))
    with home.daemon():
        queue(home, simulator, "run_a")
        (hint,) = waits_an_hour(home)["hints"]
        assert hint.startswith("127.0.0.1 asked to be left alone until ")
        assert home.run("status", "--check").returncode == 0


def test_a_poll_interval_of_an_hour_is_told_and_is_no_hang(home: Home, simulator: Simulator) -> None:
    with home.daemon(FLORADL_POLL__INTERVAL="60m"):
        queue(home, simulator, "run_a", duration=86_400)
        assert waits_an_hour(home)["hints"] == []
        assert home.run("status", "--check").returncode == 0
