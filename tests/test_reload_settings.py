"""Each setting that a running daemon takes over, seen by what the daemon then does."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from hooked import Hook, configure
from studio import Home, queue, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

PICTURE = OutputSpec("a", "imageUrl", size=5000)
SLOW = tuple(OutputSpec(f"o{number}", "imageUrl", size=400_000, rate=80_000) for number in range(6))
LINK = OutputSpec("words", "text", size=900)

Reread = Callable[..., list[str]]


@pytest.fixture
def reread(home: Home) -> Reread:
    """Write another configuration, send SIGHUP, and return the settings that are told to hold."""

    def again(process: subprocess.Popen[str], **sections: Any) -> list[str]:
        before = len(home.events("config_reloaded"))
        configure(home, **sections)
        process.send_signal(signal.SIGHUP)
        events = wait_until(lambda: e if len(e := home.events("config_reloaded")) > before else None)
        found: list[str] = events[before]["settings"]
        return found

    return again


def fetch(
    home: Home, simulator: Simulator, name: str, *outputs: OutputSpec, duration: float = 0.1
) -> dict[str, Any]:
    """Have a run fetched; returns its sidecar."""
    queue(home, simulator, name, outputs=outputs, duration=duration)
    return home.finished(f"campaign/{name}")


def code(sidecar: dict[str, Any]) -> str:
    """Return why its first output could not be had."""
    found: str = sidecar["outputs"][0]["error"]["code"]
    return found


def unset(home: Home, *names: str) -> None:
    for name in names:
        del home.environ[f"FLORADL_{name}"]


def test_the_key_of_another_file_is_used_at_once(home: Home, simulator: Simulator, reread: Reread) -> None:
    del home.environ["FLORA_API_KEY"]
    wrong, right = home.path / "wrong", home.path / "right"
    wrong.write_text("sk_live_not_this_one")
    right.write_text(simulator.key)
    configure(home, api={"key_file": str(wrong)})
    with home.daemon() as process:
        queue(home, simulator, "run_a")
        wait_until(lambda: home.status()["paused"])
        assert reread(process, api={"key_file": str(right)}) == ["api.key_file"]
        assert home.finished("campaign/run_a")["result"] == "complete"
        wrong.unlink()


def test_a_key_file_that_is_not_there_is_a_broken_configuration(home: Home, simulator: Simulator) -> None:
    del home.environ["FLORA_API_KEY"]
    (home.path / "right").write_text(simulator.key)
    configure(home, api={"key_file": "right"})
    with home.daemon() as process:
        configure(home, api={"key_file": "gone"}, download={"max_file_size": 1})
        process.send_signal(signal.SIGHUP)
        (broken,) = wait_until(lambda: home.events("config_broken"))
        assert "gone: this file does not exist" in broken["message"]
        assert fetch(home, simulator, "run_a", PICTURE)["result"] == "complete"


def test_concurrency_grows_under_transfers_that_are_under_way(
    home: Home, simulator: Simulator, reread: Reread
) -> None:
    configure(home, download={"concurrency": 1})
    simulator.add_run("run_a", technique="campaign", outputs=SLOW, duration=0.1)

    def at_once() -> int:
        return sum(len(run["outputs"]) for run in home.status()["runs"])

    with home.daemon() as process:
        home.drop("campaign/run_a")
        wait_until(at_once)
        assert at_once() == 1
        assert reread(process, download={"concurrency": 5}) == ["download.concurrency"]
        wait_until(lambda: at_once() == 5)


def test_concurrency_shrinks_once_those_under_way_are_done(
    home: Home, simulator: Simulator, reread: Reread
) -> None:
    with home.daemon() as process:
        fetch(home, simulator, "run_a", *(OutputSpec(f"o{n}", "imageUrl", size=9000) for n in range(20)))
        reread(process, download={"concurrency": 1})
        simulator.add_run("run_b", technique="campaign", outputs=SLOW, duration=0.1)
        home.drop("campaign/run_b", "b.txt")
        wait_until(lambda: simulator.asked("media", "run_b"))
        wait_until(lambda: home.status()["runs"][0]["outputs"])
        assert len(home.status()["runs"][0]["outputs"]) == 1
        assert len(simulator.asked("media", "run_b")) == 1


def test_another_cap_on_the_size_of_files_holds(home: Home, simulator: Simulator, reread: Reread) -> None:
    with home.daemon() as process:
        assert reread(process, download={"max_file_size": "1kB"}) == ["download.max_file_size"]
        (output,) = fetch(home, simulator, "run_a", PICTURE)["outputs"]
        assert output["skipped"] == {"reason": "too_large"}
        reread(process, download={"max_file_size": None})
        assert fetch(home, simulator, "run_b", PICTURE)["result"] == "complete"


def test_another_choice_of_outputs_holds(home: Home, simulator: Simulator, reread: Reread) -> None:
    def skipped(name: str) -> list[str | None]:
        outputs = fetch(home, simulator, name, PICTURE, OutputSpec("words", "text", text="Lower."))["outputs"]
        return [output["skipped"] and output["skipped"]["reason"] for output in outputs]

    with home.daemon() as process:
        assert reread(process, output={"kinds": ["text"]}) == ["output.kinds"]
        assert skipped("run_a") == ["kind", None]
        rules = [{"technique": "camp*", "output_id": "words", "skip": "true"}]
        assert reread(process, output={"kinds": ["text"], "rules": rules}) == ["output.rules"]
        assert skipped("run_b") == ["kind", "rule"]


def test_another_min_free_space_pauses_and_lifts_the_pause(
    home: Home, simulator: Simulator, reread: Reread
) -> None:
    unset(home, "DOWNLOAD__MIN_FREE_SPACE")
    configure(home, download={"min_free_space": "0"})
    with home.daemon() as process:
        assert reread(process, download={"min_free_space": "1000PB"}) == ["download.min_free_space"]
        queue(home, simulator, "run_a")
        wait_until(lambda: (home.status()["paused"] or {}).get("reason") == "disk_full")
        reread(process, download={"min_free_space": "0"})
        assert home.finished("campaign/run_a")["result"] == "complete"


def test_other_media_hosts_hold(home: Home, simulator: Simulator, reread: Reread) -> None:
    with home.daemon() as process:
        fetch(home, simulator, "run_a", PICTURE)
        assert reread(process, download={"media_hosts": ["*.example.com"]}) == ["download.media_hosts"]
        assert code(fetch(home, simulator, "run_b", PICTURE)) == "host_refused"
        reread(process, download={"media_hosts": ["*"]})
        assert fetch(home, simulator, "run_c", PICTURE)["result"] == "complete"


def test_other_hosts_of_texts_hold(home: Home, simulator: Simulator, reread: Reread) -> None:
    with home.daemon() as process:
        assert fetch(home, simulator, "run_a", LINK)["outputs"][0]["checked"] == ["inline"]
        assert reread(process, download={"text_url_hosts": ["127.0.0.1"]}) == ["download.text_url_hosts"]
        assert fetch(home, simulator, "run_b", LINK)["outputs"][0]["bytes"] == 900


def test_trust_in_a_private_host_comes_and_goes(home: Home, simulator: Simulator, reread: Reread) -> None:
    unset(home, "NETWORK__TRUSTED_PRIVATE_HOSTS")
    api = [urlsplit(simulator.base_url).netloc]  # the media have another port
    configure(home, network={"trusted_private_hosts": api})
    with home.daemon() as process:
        assert code(fetch(home, simulator, "run_a", PICTURE)) == "host_refused"
        everything = {"trusted_private_hosts": ["127.0.0.1"]}
        assert reread(process, network=everything) == ["network.trusted_private_hosts"]
        assert fetch(home, simulator, "run_b", PICTURE)["result"] == "complete"
        reread(process, network={"trusted_private_hosts": api})
        assert code(fetch(home, simulator, "run_c", PICTURE)) == "host_refused"


def test_another_interval_holds_for_runs_that_wait_already(
    home: Home, simulator: Simulator, reread: Reread
) -> None:
    unset(home, "POLL__INTERVAL")
    configure(home, poll={"interval": "1h"})
    with home.daemon() as process:
        simulator.faults.add(Fault(match=Match(run="run_a"), do=Do(set={"status": "running"}), times=1))
        queue(home, simulator, "run_a")
        wait_until(lambda: home.status()["counts"]["running"])
        assert reread(process, poll={"interval": "100ms"}) == ["poll.interval"]
        assert home.finished("campaign/run_a")["result"] == "complete"


def test_another_patience_holds_for_runs_that_wait_already(
    home: Home, simulator: Simulator, reread: Reread
) -> None:
    with home.daemon() as process:
        queue(home, simulator, "run_a", duration=3600)
        wait_until(lambda: home.status()["counts"]["running"])
        assert reread(process, poll={"give_up_after": "1s"}) == ["poll.give_up_after"]
        assert home.finished("campaign/run_a")["error"]["code"] == "gave_up"


def test_a_new_hook_is_told_of_what_ends_from_then_on(
    home: Home, simulator: Simulator, reread: Reread
) -> None:
    hook = Hook(home)
    with home.daemon() as process:
        fetch(home, simulator, "run_a", PICTURE)
        wait_until(lambda: home.status()["counts"]["done"])
        assert reread(process, hooks={"run_finished": hook.words}) == ["hooks.run_finished"]
        fetch(home, simulator, "run_b", PICTURE)
        hook.called()
        wait_until(lambda: home.events("hook_done"))
        assert reread(process) == ["hooks.run_finished"]
        fetch(home, simulator, "run_c", PICTURE)
        wait_until(lambda: home.status()["counts"]["done"] == 3)
        assert reread(process, hooks={"run_finished": hook.words}) == ["hooks.run_finished"]
        fetch(home, simulator, "run_d", PICTURE)
        hook.called(2)
    assert [call.given["run_id"] for call in hook.calls()] == ["run_b", "run_d"]


def test_a_new_hook_hears_of_a_pause_that_lasts(home: Home, simulator: Simulator, reread: Reread) -> None:
    hook = Hook(home)
    with home.daemon(FLORA_API_KEY="sk_live_not_this_one") as process:
        queue(home, simulator, "run_a")
        wait_until(lambda: home.status()["paused"])
        reread(process, hooks={"paused": hook.words})
        assert hook.called()[0].argument == "key_refused"


def test_a_hook_that_is_missing_is_told_when_it_is_configured(home: Home, reread: Reread) -> None:
    with home.daemon() as process:
        reread(process, hooks={"paused": ["/no/such/hook"]})
        assert "/no/such/hook" in wait_until(lambda: home.events("hook_missing"))[0]["message"]


def test_another_log_level_holds(home: Home, simulator: Simulator, reread: Reread) -> None:
    with home.daemon() as process:
        configure(home, log={"level": "error"})
        process.send_signal(signal.SIGHUP)
        # Nobody says that it holds: that is what was asked for. The next one says so for both.
        configure(home, log={"level": "error"}, download={"rate_limit": "1GB"})
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: home.status()["rate_limit"])
        fetch(home, simulator, "run_a", PICTURE)
        wait_until(lambda: home.status()["counts"]["done"])
        assert home.events("run_finished") == []
        assert reread(process, log={"level": "debug"}) == ["download.rate_limit", "log.level"]
        fetch(home, simulator, "run_b", PICTURE)
        wait_until(lambda: home.events("run_finished"))


def test_a_variable_that_wins_over_the_file_goes_on_winning(
    home: Home, simulator: Simulator, reread: Reread
) -> None:
    with home.daemon(FLORADL_DOWNLOAD__MAX_FILE_SIZE="1MB") as process:
        assert reread(process, download={"max_file_size": "1kB", "rate_limit": "5MB"}) == [
            "download.rate_limit"
        ]
        assert fetch(home, simulator, "run_a", PICTURE)["result"] == "complete"


def test_an_option_that_wins_over_the_file_goes_on_winning(home: Home, reread: Reread) -> None:
    with home.daemon("-v") as process:
        assert reread(process, log={"level": "error"}) == []


def test_what_needs_a_restart_is_named(home: Home, reread: Reread) -> None:
    with home.daemon() as process:
        download = {"stall_timeout": "5s", "rate_limit": "5MB"}
        assert reread(process, download=download, log={"format": "json"}) == ["download.rate_limit"]
        (later,) = wait_until(lambda: home.events("restart_needed"))
        assert later["settings"] == ["download.stall_timeout", "log.format"]
