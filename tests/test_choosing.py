"""Outputs that are left out, through the program itself: once, retried, later listed, verified."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hooked import Hook, configure
from studio import TEST_TIMEOUT, Home, check_library, command, wait_until
from wire import Silent

from floradl.app import working
from floradl.config.load import Options, load_config
from floradl.models import Action, OutputKind, Reference, RunRequest
from floradl.queue.sqlite import SqliteQueue
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

PICTURE = OutputSpec("picture", "imageUrl", size=3000)
FILM = OutputSpec("film", "videoUrl", size=40_000)
WORDS = OutputSpec("words", "text", text="Lower the key light.")
ALL = (PICTURE, FILM, WORDS)


def add(simulator: Simulator, *names: str, outputs: Sequence[OutputSpec] = ALL) -> None:
    for name in names:
        simulator.add_run(name, technique="campaign", outputs=outputs, duration=0)


def skipped(sidecar: dict[str, Any] | None) -> dict[str, str | None]:
    """Return why each output was left out, by its id."""
    assert sidecar is not None
    return {
        output["output_id"]: output["skipped"] and output["skipped"]["reason"]
        for output in sidecar["outputs"]
    }


def test_kinds_that_are_not_wanted_are_left_out_and_the_run_is_complete(
    home: Home, simulator: Simulator
) -> None:
    add(simulator, "run_a")
    done = home.run("get", "campaign/run_a", FLORADL_OUTPUT__KINDS="image,text")
    assert done.returncode == 0
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert (sidecar["result"], sidecar["error"]) == ("complete", None)
    assert skipped(sidecar) == {"picture": None, "film": "kind", "words": None}
    assert [output["output_id"] for output in sidecar["outputs"]] == ["picture", "film", "words"]
    assert [output["path"] is None for output in sidecar["outputs"]] == [False, True, False]
    assert len(simulator.asked("media", "run_a")) == 1
    assert "1 left out" in done.stderr
    check_library(home, simulator)


def test_rules_choose_by_technique_and_by_output(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_a")
    simulator.add_run("run_b", technique="portraits", outputs=ALL, duration=0)
    rules = [{"technique": "camp*", "kinds": ["video"]}, {"output_id": "W*", "skip": "true"}]
    configure(home, output={"rules": rules})
    assert home.run("get", "campaign/run_a", "portraits/run_b").returncode == 0
    assert skipped(home.sidecar("campaign/run_a")) == {"picture": "kind", "film": None, "words": "kind"}
    assert skipped(home.sidecar("portraits/run_b")) == {"picture": None, "film": None, "words": "rule"}


def test_a_run_of_which_all_is_left_out_is_done_without_a_file(home: Home, simulator: Simulator) -> None:
    hook = Hook(home)
    configure(home, hooks={"run_finished": hook.words}, output={"kinds": ["audio"]})
    add(simulator, "run_a")
    home.drop("campaign/run_a")
    with home.daemon():
        sidecar = home.finished("campaign/run_a")
        wait_until(lambda: home.status()["counts"]["done"] == 1)
        assert hook.called()[0].given["result"] == "complete"
    assert sidecar["result"] == "complete"
    assert set(skipped(sidecar).values()) == {"kind"}
    assert home.files() == {}
    assert simulator.asked("media") == []
    verified = home.run("verify")
    assert (verified.returncode, "3 outputs left out" in verified.stdout) == (0, True)


@pytest.mark.parametrize("output", [PICTURE, FILM, WORDS, OutputSpec("link", "text", size=900)])
def test_what_is_over_the_largest_size_is_skipped_and_no_failure(
    home: Home, simulator: Simulator, output: OutputSpec
) -> None:
    add(simulator, "run_a", outputs=(output, OutputSpec("tiny", "text", text="Yes.")))
    home.environ["FLORADL_DOWNLOAD__TEXT_URL_HOSTS"] = "127.0.0.1"
    done = home.run("get", "campaign/run_a", FLORADL_DOWNLOAD__MAX_FILE_SIZE="10B")
    assert done.returncode == 0, done.stderr
    sidecar = home.sidecar("campaign/run_a")
    assert skipped(sidecar) == {output.output_id: "too_large", "tiny": None}
    assert sidecar is not None
    assert sidecar["result"] == "complete"
    assert sidecar["outputs"][0]["bytes"] == (output.size or len(output.text or ""))
    assert len(home.files()) == 1
    assert not list(home.library.rglob(".*.part"))


def test_a_fetched_text_that_is_left_out_keeps_its_signature_to_itself(
    home: Home, simulator: Simulator
) -> None:
    add(simulator, "run_a", outputs=(PICTURE, OutputSpec("link", "text", size=900)))
    assert home.run("get", "campaign/run_a", FLORADL_OUTPUT__KINDS="image").returncode == 0
    path = home.library / "runs" / "campaign" / "run_a.json"
    assert "?" not in path.read_text()


def test_an_output_that_fails_among_some_that_are_left_out_fails_the_run(
    home: Home, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(match=Match(host="media"), do=Do(status=451)))
    add(simulator, "run_a")
    assert home.run("get", "campaign/run_a", FLORADL_OUTPUT__KINDS="image").returncode == 3
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert (sidecar["result"], sidecar["error"]["code"]) == ("failed", "no_outputs")


def test_retry_fetches_what_was_left_out_and_is_wanted_now_and_nothing_else(
    home: Home, simulator: Simulator
) -> None:
    add(simulator, "run_a")
    home.drop("campaign/run_a")
    assert home.run("once", FLORADL_OUTPUT__KINDS="image").returncode == 0
    before = home.files()
    assert home.run("retry", "campaign/run_a").returncode == 0
    assert home.run("once", FLORADL_OUTPUT__KINDS="image,text").returncode == 0
    assert skipped(home.sidecar("campaign/run_a")) == {"picture": None, "film": "kind", "words": None}
    assert len(simulator.asked("media", "run_a")) == 1
    assert before.items() < home.files().items()
    check_library(home, simulator)


def test_retry_after_a_raise_of_the_largest_size_fetches_what_was_too_large(
    home: Home, simulator: Simulator
) -> None:
    add(simulator, "run_a")
    home.drop("campaign/run_a")
    assert home.run("once", FLORADL_DOWNLOAD__MAX_FILE_SIZE="10kB").returncode == 0
    assert skipped(home.sidecar("campaign/run_a"))["film"] == "too_large"
    assert home.run("retry", "campaign/run_a").returncode == 0
    assert home.run("once").returncode == 0
    assert set(skipped(home.sidecar("campaign/run_a")).values()) == {None}
    assert len(simulator.asked("media", "run_a")) == 3  # the picture once, the film twice
    check_library(home, simulator)


def test_retry_that_fails_leaves_the_sidecar_of_what_was_left_out(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_a")
    home.drop("campaign/run_a")
    assert home.run("once", FLORADL_OUTPUT__KINDS="audio").returncode == 0
    before = home.sidecar("campaign/run_a")
    simulator.faults.add(Fault(match=Match(host="api"), do=Do(status=400)))
    assert home.run("retry", "campaign/run_a").returncode == 0
    assert home.run("once").returncode == 3
    assert home.sidecar("campaign/run_a") == before


async def fetch(home: Home, request: RunRequest) -> None:
    """Download what is asked for, by a queue of its own, as `get` does."""
    config = load_config(Options(), home.environ)
    with SqliteQueue.in_memory() as queue:
        async with working(config, home.environ, queue, Silent()) as works:
            works.library.create()
            works.scheduler.enqueue(await queue.submit([request], time.time(), retry_failed=True))
            await works.scheduler.serve(until_idle=True)


@pytest.mark.anyio
@pytest.mark.parametrize("action", [Action.FETCH, Action.RETRY])
async def test_the_kinds_of_a_run_win_over_the_settings_and_bring_what_was_left_out(
    home: Home, simulator: Simulator, action: Action
) -> None:
    home.environ["FLORADL_OUTPUT__KINDS"] = "audio"
    add(simulator, "run_a")
    reference = Reference("run_a", "campaign")
    await fetch(home, RunRequest(reference, kinds=(OutputKind.IMAGE,)))
    assert skipped(home.sidecar("campaign/run_a")) == {"picture": None, "film": "kind", "words": "kind"}
    await fetch(home, RunRequest(reference, action=action, kinds=(OutputKind.TEXT, OutputKind.IMAGE)))
    assert skipped(home.sidecar("campaign/run_a")) == {"picture": None, "film": "kind", "words": None}
    assert len(simulator.asked("media", "run_a")) == 1
    asked = len(simulator.requests)
    await fetch(home, RunRequest(reference, kinds=(OutputKind.TEXT,)))
    assert len(simulator.requests) == asked
    check_library(home, simulator)


def test_what_was_left_out_is_not_fetched_where_the_run_is_only_named_again(
    home: Home, simulator: Simulator
) -> None:
    add(simulator, "run_a")
    assert home.run("get", "campaign/run_a", FLORADL_OUTPUT__KINDS="image").returncode == 0
    asked = len(simulator.requests)
    done = home.run("get", "campaign/run_a")
    assert (done.returncode, "already there" in done.stderr) == (0, True)
    assert len(simulator.requests) == asked


@pytest.mark.parametrize(
    ("last", "reason"), [(FILM, None), (OutputSpec("more", "text", text="Higher."), "kind")]
)
def test_an_output_that_flora_lists_later_is_chosen_too_and_what_was_left_out_stays_so(
    home: Home, simulator: Simulator, last: OutputSpec, reason: str | None
) -> None:
    outputs = (PICTURE, WORDS, last)
    created = simulator.now() - 60
    simulator.add_run("run_a", technique="campaign", outputs=outputs, duration=1, created=created)
    simulator.faults.add(Fault(match=Match(host="api"), do=Do(missing_field="outputs.2"), times=1))
    sync = {"FLORADL_SYNC__TECHNIQUE_RUNS": "true", "FLORADL_SYNC__INTERVAL": "5s"}
    with home.daemon(**sync, FLORADL_OUTPUT__KINDS="image,video"):
        assert skipped(home.finished("campaign/run_a")) == {"picture": None, "words": "kind"}
        wait_until(lambda: len(skipped(home.finished("campaign/run_a"))) == 3)
        wait_until(lambda: home.status()["counts"]["done"] == 1)
    expected = {"picture": None, "words": "kind", last.output_id: reason}
    assert skipped(home.sidecar("campaign/run_a")) == expected
    check_library(home, simulator)


def test_verify_counts_what_was_left_out_apart_and_finds_nothing_wrong(
    home: Home, simulator: Simulator
) -> None:
    add(simulator, "run_a", "run_b")
    assert home.run("get", "campaign/run_a", "campaign/run_b", FLORADL_OUTPUT__KINDS="image").returncode == 0
    for arguments in ([], ["--quick"], ["--repair", "--missing"], ["campaign/run_a", "campaign/run_b"]):
        done = home.run("verify", *arguments)
        assert done.returncode == 0
        assert "2 files of 2 runs verified" in done.stdout
        assert "; 4 outputs left out" in done.stdout
    report = json.loads(home.run("verify", "--json").stdout)
    assert (report["files"], report["skipped"], report["problems"]) == (2, 4, [])


def test_a_repair_of_what_is_too_large_by_now_says_so(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_a", outputs=(PICTURE,))
    assert home.run("get", "campaign/run_a").returncode == 0
    (path,) = home.files()
    (home.library / path).unlink()
    done = home.run("verify", "--repair", "--missing", FLORADL_DOWNLOAD__MAX_FILE_SIZE="1kB")
    assert done.returncode == 1
    assert "not mended" in done.stdout
    assert "download.max_file_size" in done.stdout


def test_a_plain_retry_after_one_of_a_kind_is_of_the_whole_run(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_a")
    home.environ["FLORADL_OUTPUT__KINDS"] = "image"
    home.drop("campaign/run_a")
    assert home.run("once").returncode == 0
    assert home.run("retry", "--kind", "text", "campaign/run_a").returncode == 0
    assert home.run("once").returncode == 0
    (picture,) = home.library.rglob("run_a-picture.png")
    picture.unlink()
    assert home.run("retry", "campaign/run_a").returncode == 0
    assert home.run("once").returncode == 0
    assert skipped(home.sidecar("campaign/run_a")) == {"picture": None, "film": "kind", "words": None}
    assert picture.exists()
    check_library(home, simulator)


def test_a_retry_of_a_kind_loses_no_file_that_the_sidecar_names(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_a")
    home.environ["FLORADL_OUTPUT__KINDS"] = "image"
    home.drop("campaign/run_a")
    assert home.run("once").returncode == 0
    (picture,) = home.library.rglob("run_a-picture.png")
    picture.unlink()
    assert home.run("retry", "--kind", "text", "campaign/run_a").returncode == 0
    assert home.run("once").returncode == 0
    assert skipped(home.sidecar("campaign/run_a")) == {"picture": None, "film": "kind", "words": None}
    check_library(home, simulator)


def test_processes_that_want_other_kinds_of_the_same_runs_lose_none_of_each_others_files(
    home: Home, simulator: Simulator
) -> None:
    names = [f"run_{number:02}" for number in range(20)]
    references = [f"campaign/{name}" for name in names]
    simulator.faults.add(Fault(match=Match(host="media"), do=Do(delay=0.1)))
    add(simulator, *names)
    with home.daemon():
        home.drop("\n".join(references))
        words = [command("get", *references, "--kind", kind) for kind in ("image", "text")]
        started = [subprocess.Popen(each, env=home.environ, stderr=subprocess.DEVNULL) for each in words]
        codes = [process.wait(TEST_TIMEOUT) for process in started]
        wait_until(lambda: home.status()["counts"]["done"] == len(names))
    assert codes == [0, 0]
    assert all(skipped(home.sidecar(reference))["picture"] is None for reference in references)
    check_library(home, simulator)
