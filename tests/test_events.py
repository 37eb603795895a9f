"""The event log: what happened, as lines of JSON that other programs read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from hooked import Hook, configure
from studio import Home, queue, wait_until

from floradl.models import QueuedRun, RunState
from floradl.queue.event_log import EventLog, EventReader, schema_path
from floradl.queue.folder import EVENT_FILES
from floradl.simulator import OutputSpec, Simulator

_SCHEMA = jsonschema.Draft202012Validator(json.loads(schema_path().read_bytes()))
RUN = QueuedRun(run_id="run_a", technique="campaign", state=RunState.DONE, queued_at=1.0)


def parsed(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        _SCHEMA.validate(event)
    return found


def events(home: Home, *arguments: str) -> list[dict[str, Any]]:
    done = home.run("events", *arguments)
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


def names(found: list[dict[str, Any]], run_id: str | None = None) -> list[str]:
    return [event["event"] for event in found if run_id is None or event["run_id"] == run_id]


def written(log: EventLog) -> None:
    anyio.run(log.aclose)


def read(state_dir: Path, since: float | None = None) -> list[dict[str, Any]]:
    reader = EventReader(state_dir, since)
    found = parsed(b"".join(reader.read()).decode())
    reader.close()
    return found


# --- what is recorded ---------------------------------------------------------------------------------------


def test_events_tell_a_runs_whole_way_and_survive_the_process(home: Home, simulator: Simulator) -> None:
    outputs = (OutputSpec("a", "imageUrl", size=3000), OutputSpec("words", "text"))
    queue(home, simulator, "run_a", outputs=outputs)
    assert home.run("once").returncode == 0
    found = events(home)
    assert names(found, "run_a")[0] == "run_accepted"
    assert names(found, "run_a")[1] == "run_completed"
    assert names(found, "run_a")[-1] == "run_finished"
    saved = {event["path"]: event for event in found if event["event"] == "output_saved"}
    assert saved.keys() == set(home.files())
    assert all(event["bytes"] == len(home.files()[path]) for path, event in saved.items())
    assert found[-1]["sidecar"] == "runs/campaign/run_a.json"
    assert (found[-1]["result"], found[-1]["files"], found[-1]["error"]) == ("complete", 2, None)


def test_a_daemon_records_events_of_two_lives_in_order(home: Home, simulator: Simulator) -> None:
    for name in ("run_a", "run_b"):
        with home.daemon():
            queue(home, simulator, name)
            home.finished(f"campaign/{name}")
            wait_until(lambda name=name: "run_finished" in names(events(home), name))  # type: ignore[misc]
    found = events(home)
    assert names(found, "run_a") == names(found, "run_b")
    assert [event["at"] for event in found] == sorted(event["at"] for event in found)


def test_a_failed_run_and_a_rejected_job_are_events(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", duration=0, fail=("safety_blocked", "It was refused."))
    home.drop("campaign/run_a\n", "a.txt")
    home.drop("no reference\n", "bad.txt")
    assert home.run("once").returncode == 3
    found = events(home)
    (finished,) = (event for event in found if event["event"] == "run_finished")
    assert (finished["result"], finished["error"]["code"]) == ("failed", "safety_blocked")
    (rejected,) = (event for event in found if event["event"] == "job_rejected")
    assert (rejected["run_id"], rejected["file"]) == (None, "bad.txt")
    assert "not a run id" in rejected["message"]


def test_a_pause_and_its_end_are_events(home: Home, simulator: Simulator) -> None:
    good, simulator.key = simulator.key, "sk_test_another"
    with home.daemon():
        queue(home, simulator, "run_a")
        wait_until(lambda: "paused" in names(events(home)))
        simulator.key = good
        wait_until(lambda: "resumed" in names(events(home)))
    found = [event for event in events(home) if event["event"] in {"paused", "resumed"}]
    assert [(event["event"], event["reason"]) for event in found] == [
        ("paused", "key_refused"),
        ("resumed", "key_refused"),
    ]


def test_a_hook_that_fails_is_an_event(home: Home, simulator: Simulator) -> None:
    hook = Hook(home, "exit 7")
    configure(home, hooks={"run_finished": hook.words})
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 3
    (failed,) = (event for event in events(home) if event["event"] == "hook_failed")
    assert (failed["run_id"], failed["hook"], failed["final"]) == ("run_a", "run_finished", False)
    assert failed["message"] == "it ended with exit code 7"


def test_a_missing_hook_and_a_failing_pause_hook_are_events(home: Home, simulator: Simulator) -> None:
    hook = Hook(home, "exit 7")
    configure(home, hooks={"run_finished": ["/nowhere/hook"], "paused": hook.words})
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 3
    with home.daemon(FLORA_API_KEY="sk_test_not_this_one"):
        queue(home, simulator, "run_b")
        wait_until(lambda: any(event.get("hook") == "paused" for event in events(home)))
    failed = {event["hook"]: event for event in events(home) if event["event"] == "hook_failed"}
    assert "/nowhere/hook" in failed["run_finished"]["message"]
    assert failed["paused"]["message"] == "it ended with exit code 7"


def test_no_secret_of_a_name_or_message_is_in_an_event(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.rejected("https://x.example/a?sig=topsecret", "Authorization: Bearer topsecret")
    log.rejected("turned \u202e", "steered \x9b31m")
    written(log)
    raw = (tmp_path / EVENT_FILES[0]).read_text()
    assert "topsecret" not in raw
    assert not {"\x9b", "\u202e"} & set(raw)
    assert read(tmp_path)[0]["file"] == "https://x.example/a?…"


def test_get_leaves_the_daemons_events_alone(home: Home, simulator: Simulator) -> None:
    assert home.run("get", str(simulator.add_run("run_a", duration=0))).returncode == 0
    assert events(home) == []


# --- the files ----------------------------------------------------------------------------------------------


def test_events_are_rotated_and_the_files_stay_bounded(tmp_path: Path) -> None:
    log = EventLog(tmp_path, largest=20_000)
    log.accepted(f"run_{number:06}" for number in range(5000))
    written(log)
    log.accepted(["run_last"])
    written(log)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(EVENT_FILES)
    kept = [event["run_id"] for event in read(tmp_path)]
    assert kept == [*(f"run_{number:06}" for number in range(5000 - len(kept) + 1, 5000)), "run_last"]


def test_a_follower_misses_nothing_where_files_are_rotated(tmp_path: Path) -> None:
    log, reader = EventLog(tmp_path, largest=3000), EventReader(tmp_path, None)
    seen: list[str] = []
    for number in range(40):
        log.accepted(f"run_{number:02}_{each}" for each in range(number % 7 + 1))
        log._write()
        if number % 2:
            seen += [event["run_id"] for event in parsed(b"".join(reader.read()).decode())]
    reader.close()
    assert seen == [f"run_{number:02}_{each}" for number in range(40) for each in range(number % 7 + 1)]


def test_a_line_cut_short_by_a_crash_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / EVENT_FILES[0]
    log = EventLog(tmp_path)
    log.accepted(["run_a"])
    written(log)
    with file.open("ab") as stream:
        stream.write(b'{"schema_version": 1, "at": "2026')
    log.accepted(["run_b"])
    written(log)
    assert [event["run_id"] for event in read(tmp_path)] == ["run_a", "run_b"]


def test_a_full_disk_costs_events_and_no_more(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    (tmp_path / EVENT_FILES[0]).mkdir()
    log.accepted(["run_a"])
    log._write()
    (tmp_path / EVENT_FILES[0]).rmdir()
    log.accepted(["run_b"])
    written(log)
    assert [event["run_id"] for event in read(tmp_path)] == ["run_b"]


def test_the_log_is_never_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    state = tmp_path / "state"
    state.mkdir()
    (state / EVENT_FILES[0]).symlink_to(outside)
    log = EventLog(state)
    log.accepted(["run_a"])
    written(log)
    assert outside.read_text() == ""


def test_since_leaves_out_what_was_before(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    log = EventLog(tmp_path, wall=lambda: now[0])
    for name in ("run_a", "run_b", "run_c"):
        log.accepted([name])
        now[0] += 60
    written(log)
    assert [event["run_id"] for event in read(tmp_path, 1_800_000_060.0)] == ["run_b", "run_c"]


# --- the command --------------------------------------------------------------------------------------------


def test_without_a_state_folder_there_are_no_events_and_that_is_fine(home: Home) -> None:
    assert events(home) == []


@pytest.mark.parametrize("word", ["yesterday", "7x"])
def test_a_since_that_is_no_time_is_a_usage_error(home: Home, word: str) -> None:
    done = home.run("events", "--since", word)
    assert done.returncode == 2
    assert "--since" in done.stderr


def followed(home: Home, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        home.command("events", "--follow", *arguments), env=home.environ, stdout=subprocess.PIPE, text=True
    )


def test_follow_shows_an_event_at_once_and_ends_with_its_reader(home: Home) -> None:
    home.state.mkdir()
    log = EventLog(home.state)
    log.accepted(["run_before"])
    log._write()
    process = followed(home)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["run_id"] == "run_before"
    log.accepted(["run_after"])
    log._write()
    assert json.loads(process.stdout.readline())["run_id"] == "run_after"
    process.stdout.close()
    assert process.wait(30) == 0


def test_follow_waits_for_a_daemon_that_is_not_there_yet(home: Home, simulator: Simulator) -> None:
    process = followed(home, "--since", "1h")
    try:
        queue(home, simulator, "run_a")
        assert home.run("once").returncode == 0
        assert process.stdout is not None
        kinds: list[str] = []
        while not kinds or kinds[-1] != "run_finished":
            kinds.append(json.loads(process.stdout.readline())["event"])
        assert kinds[0] == "run_accepted"
    finally:
        process.kill()
        process.communicate()


def test_an_event_that_comes_while_others_are_written_is_not_lost(tmp_path: Path) -> None:
    log: EventLog
    writes: list[Callable[[], None]] = []

    def wall() -> float:
        for write in writes:  # as the thread that writes may come in between
            write()
        return 1.0

    log = EventLog(tmp_path, wall=wall)
    log.accepted(["run_a"])
    writes.append(log._write)
    log.accepted(["run_b"])
    written(log)
    assert [event["run_id"] for event in read(tmp_path)] == ["run_a", "run_b"]


def seen(reader: EventReader) -> list[str]:
    return [json.loads(line)["run_id"] for line in reader.read()]


def test_a_reader_goes_on_where_one_of_another_process_was_also_over_a_rotation(tmp_path: Path) -> None:
    log, first = EventLog(tmp_path, largest=3000), EventReader(tmp_path, None)
    log.accepted(["run_a", "run_b"])
    log._write()
    assert seen(first) == ["run_a", "run_b"]
    position = first.position
    first.close()
    log.accepted([f"run_{number}" for number in range(60)])  # the file is rotated
    log._write()
    log.accepted(["run_last"])
    log._write()
    assert position is not None
    second = EventReader(tmp_path, None)
    assert second.go_to(position)
    assert seen(second) == [*(f"run_{number}" for number in range(60)), "run_last"]
    second.close()
    for name in EVENT_FILES:
        (tmp_path / name).unlink(missing_ok=True)
    assert not EventReader(tmp_path, None).go_to(position)
    written(log)


def test_a_reader_that_begins_at_the_end_sees_what_comes_and_knows_that_it_came(tmp_path: Path) -> None:
    log, reader = EventLog(tmp_path), EventReader(tmp_path, None)
    log.accepted(["run_before"])
    log._write()
    reader.go_to_end()
    assert not reader.has_more()
    log.accepted(["run_after"])
    log._write()
    assert reader.has_more()
    assert seen(reader) == ["run_after"]
    reader.close()
    written(log)
