"""The whole job, as a user sees it: real processes, a real folder, a simulated FLORA over real HTTP."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from studio import TEST_TIMEOUT, Home, check_library, command, peak_memory, wait_until

from floradl.queue.reader import read_queue
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

KINDS = (
    OutputSpec("picture", "imageUrl"),
    OutputSpec("clip", "videoUrl"),
    OutputSpec("sound", "audioUrl"),
    OutputSpec("paper", "documentUrl"),
    OutputSpec("words", "text", text="Bring the horizon down a little."),
    OutputSpec(
        "shape", "modelUrl", body=b"glTF\x02\x00\x00\x00\x0c\x00\x00\x00", content_type="model/gltf-binary"
    ),
)


def test_a_dropped_job_ends_in_files_of_every_kind_and_a_sidecar(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_all", technique="campaign", outputs=KINDS, duration=0.3)
    with home.daemon():
        home.drop("campaign/run_all\n")
        sidecar = home.finished("campaign/run_all")
    assert sidecar["result"] == "complete"
    assert [output["path"] for output in sidecar["outputs"]] == [
        "images/campaign/run_all-picture.png",
        "videos/campaign/run_all-clip.mp4",
        "audio/campaign/run_all-sound.wav",
        "documents/campaign/run_all-paper.pdf",
        "text/campaign/run_all-words.txt",
        "other/campaign/run_all-shape.glb",
    ]
    assert {output["integrity"] for output in sidecar["outputs"]} == {"verified"}
    assert sidecar["outputs"][4]["text"] == "Bring the horizon down a little."
    assert sidecar["run"]["progress"] == 100
    check_library(home, simulator)


def test_files_get_the_time_when_the_run_completed(home: Home, simulator: Simulator) -> None:
    simulator.add_run(
        "run_a", technique="campaign", outputs=KINDS[:1], duration=1, created=simulator.now() - 9000
    )
    assert home.run("get", "campaign/run_a").returncode == 0
    mtime = (home.library / "images/campaign/run_a-picture.png").stat().st_mtime
    assert simulator.now() - 9100 < mtime < simulator.now() - 8900


def test_a_bare_run_id_goes_through_its_own_endpoint(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_gen", technique=None, outputs=KINDS[:1], duration=0.1)
    assert home.run("get", "run_gen").returncode == 0
    assert home.sidecar("run_gen") is not None
    assert {request.path for request in simulator.asked("api", "run_gen")} == {"/api/v1/runs/run_gen"}


def test_a_failed_run_leaves_a_sidecar_that_says_why(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_bad", technique="campaign", duration=0.1, fail=("safety_blocked", "Not this."))
    done = home.run("get", "campaign/run_bad")
    assert done.returncode == 3
    sidecar = home.sidecar("campaign/run_bad")
    assert sidecar is not None
    assert (sidecar["result"], sidecar["error"]) == (
        "failed",
        {"code": "safety_blocked", "message": "Not this."},
    )


def test_a_run_that_is_done_is_not_fetched_twice(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=KINDS[:1], duration=0.1)
    assert home.run("get", "campaign/run_a").returncode == 0
    before = len(simulator.requests)
    assert home.run("get", "campaign/run_a").returncode == 0
    assert home.run("get", "run_a").returncode == 0
    home.drop("run_a")
    assert home.run("once").returncode == 0
    assert len(simulator.requests) == before


def test_a_run_that_failed_is_tried_again_when_it_is_dropped_again(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_bad", technique="campaign", duration=0.1, fail=("model_timeout", "Late."))
    for name in ("one", "two"):
        home.drop("campaign/run_bad", name)
        assert home.run("once").returncode == 3
    assert len(simulator.asked("api", "run_bad")) >= 2


def test_retry_fetches_a_done_run_anew_and_adopts_the_same_bytes(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=KINDS[:1], duration=0.1)
    home.drop("campaign/run_a")
    assert home.run("once").returncode == 0
    assert home.run("retry", "campaign/run_a").returncode == 0
    assert home.run("once").returncode == 0
    assert len(simulator.asked("media", "run_a")) == 2
    check_library(home, simulator)
    assert len(home.files()) == 1


def test_retry_after_another_template_leaves_nothing_twice(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=KINDS[:1], duration=0.1)
    assert home.run("get", "campaign/run_a").returncode == 0
    before = home.files()
    home.environ["FLORADL_OUTPUT__TEMPLATE"] = "elsewhere/{run_id}{ext}"
    assert home.run("retry", "campaign/run_a").returncode == 0
    assert home.run("once").returncode == 0
    assert home.files() == before
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert len(sidecar["outputs"]) == 1
    assert home.run("relayout").returncode == 0
    assert list(home.files()) == ["elsewhere/run_a.png"]


def test_equal_texts_under_one_name_are_a_file_for_each_run(home: Home, simulator: Simulator) -> None:
    home.environ["FLORADL_OUTPUT__TEMPLATE"] = "{folder}/{technique}{ext}"
    for name in ("run_a", "run_b"):
        outputs = [OutputSpec("words", "text", text="yes")]
        simulator.add_run(name, technique="campaign", outputs=outputs, duration=0.1)
        assert home.run("get", f"campaign/{name}").returncode == 0
    check_library(home, simulator)
    assert list(home.files()) == ["text/campaign-2.txt", "text/campaign.txt"]


def saved_files(home: Home) -> dict[str, tuple[str, str]]:
    with read_queue(home.state) as queue:
        return queue.saved_files() if queue is not None else {}


def test_a_file_of_a_run_that_goes_on_in_the_daemon_is_not_shared(home: Home, simulator: Simulator) -> None:
    home.environ["FLORADL_OUTPUT__TEMPLATE"] = "{folder}/{technique}{ext}"
    yes = OutputSpec("words", "text", text="yes")
    simulator.add_run("run_a", technique="campaign", outputs=[yes, OutputSpec("b", "videoUrl")], duration=0.1)
    simulator.add_run("run_b", technique="campaign", outputs=[yes], duration=0.1)
    simulator.faults.add(Fault(match=Match(output="b"), do=Do(stall_after="50%")))
    home.drop("campaign/run_a")
    with home.daemon():
        assert wait_until(lambda: saved_files(home)) == {"text/campaign.txt": ("run_a", "words")}
        assert home.run("get", "campaign/run_b").returncode == 0
    sidecar = home.sidecar("campaign/run_b")
    assert sidecar is not None
    assert sidecar["outputs"][0]["path"] == "text/campaign-2.txt"


def test_a_forgotten_run_is_not_brought_back(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=KINDS[:1], duration=0.1)
    home.drop("campaign/run_a")
    assert home.run("once").returncode == 0
    assert "put 1 run to be forgotten into the inbox" in home.run("forget", "run_a").stderr
    (home.library / "images/campaign/run_a-picture.png").unlink()
    home.drop("campaign/run_a", "again.txt")
    assert home.run("once").returncode == 0
    assert home.files() == {}
    assert home.status()["counts"]["forgotten"] == 1


def test_add_reads_references_from_standard_input(home: Home, simulator: Simulator) -> None:
    for name in ("run_a", "run_b"):
        simulator.add_run(name, technique="campaign", outputs=KINDS[4:5], duration=0.1)
    done = home.run("add", stdin="campaign/run_a\n# a comment\n\ncampaign/run_b\n")
    assert (done.returncode, done.stdout) == (0, "")
    assert home.run("once").returncode == 0
    assert len(home.files()) == 2


def test_a_bad_job_file_queues_nothing_and_says_where(home: Home) -> None:
    home.drop("campaign/run_a\nthis is no run\n", "mixed.txt")
    assert home.run("once").returncode == 3
    reason = (home.inbox / "rejected" / "mixed.txt.error.txt").read_text()
    assert "line 2" in reason
    assert sum(home.status()["counts"].values()) == 0


def test_the_queue_file_is_read_and_left_as_it_is(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=KINDS[4:5], duration=0.1)
    queue = home.path / "queue.yaml"
    queue.write_text("runs:\n  - {technique: campaign, run: run_a, label: spring}\n")
    stamp = queue.stat().st_mtime_ns
    assert home.run("once", FLORADL_QUEUE__FILE=str(queue)).returncode == 0
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["label"] == "spring"
    assert queue.stat().st_mtime_ns == stamp


def test_a_second_daemon_says_who_holds_the_state_folder(home: Home) -> None:
    with home.daemon() as first:
        second = home.run("once")
        assert second.returncode == 5
        assert f"process {first.pid}" in second.stderr


def test_the_daemon_stops_cleanly_and_goes_on_after_a_restart(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_slow", technique="campaign", outputs=KINDS[:1], duration=5)
    with home.daemon() as process:
        home.drop("campaign/run_slow")
        wait_until(lambda: home.status()["counts"]["running"])  # asked about, and the answer recorded
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    assert home.status()["counts"]["running"] == 1
    with home.daemon():
        assert home.finished("campaign/run_slow")["result"] == "complete"


def test_a_refused_key_ends_get_at_once_with_4(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", duration=0.1)
    done = home.run("get", "campaign/run_a", FLORA_API_KEY="sk_test_wrong")
    assert done.returncode == 4
    assert "key" in done.stderr
    assert "sk_test_wrong" not in done.stderr


def test_no_key_at_all_is_said(home: Home) -> None:
    done = home.run("get", "campaign/run_a", FLORA_API_KEY="")
    assert done.returncode == 4
    assert "FLORA_API_KEY" in done.stderr


@pytest.mark.parametrize("key", ["sk_test_wrong", ""])
@pytest.mark.parametrize("command", ["get", "once"])
def test_a_key_that_does_not_serve_is_said_in_one_line(
    home: Home, simulator: Simulator, command: str, key: str
) -> None:
    simulator.add_run("run_a", technique="campaign", duration=0.1)
    home.drop("campaign/run_a")
    done = home.run(command, *["campaign/run_a"][: command == "get"], FLORA_API_KEY=key)
    assert done.returncode == 4
    assert [line for line in done.stderr.splitlines() if "key" in line] == [
        line for line in done.stderr.splitlines() if line.startswith("floradl: ")
    ]
    assert done.stderr.count("floradl: ") == 1


def test_max_wait_ends_once_with_5_and_keeps_the_run(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_long", technique="campaign", duration=600)
    home.drop("campaign/run_long")
    assert home.run("once", "--max-wait", "1s").returncode == 5
    counts = home.status()["counts"]
    assert counts["waiting"] + counts["running"] == 1


def test_an_interrupted_get_ends_with_130_and_says_how_it_goes_on(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_long", technique="campaign", duration=600)
    process = subprocess.Popen(
        command("get", "--json", "campaign/run_long"), env=home.environ, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: simulator.asked("api", "run_long"))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=TEST_TIMEOUT)[1]
    assert process.returncode == 130
    assert said.endswith("floradl: interrupted; the same command goes on where it stopped\n")


def test_get_beside_a_daemon_does_no_harm(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=KINDS, duration=0.5)
    with home.daemon():
        home.drop("campaign/run_a")
        assert home.run("get", "campaign/run_a").returncode == 0
        wait_until(lambda: home.status()["counts"]["done"] == 1)
    check_library(home, simulator)
    assert len(home.files()) == len(KINDS)
    assert not list(home.library.rglob(".*.part"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("get", "no run"), "run id"),
        (("get",), "REF"),
        (("once", "--max-wait", "soon"), "--max-wait"),
        (("frobnicate",), "frobnicate"),
        (("--config", "/no/such/file.yaml", "status"), "/no/such/file.yaml"),
    ],
)
def test_a_wrong_command_line_is_told_with_2(home: Home, arguments: tuple[str, ...], words: str) -> None:
    done = home.run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_no_command_at_all_prints_the_help_once(home: Home) -> None:
    done = home.run()
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: floradl [OPTIONS]")
    assert done.stderr.count("Usage:") == 1


def test_a_broken_config_names_file_line_key_and_what_is_right(home: Home) -> None:
    (home.path / "config.yaml").write_text("download:\n  concurency: 4\n")
    done = home.run("status")
    assert done.returncode == 2
    for words in ("config.yaml", "line 2", "concurency", "concurrency"):
        assert words in done.stderr


def test_common_options_stand_before_or_after_the_command(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for arguments in (("--home", str(other), "status", "--json"), ("status", "--json", "--home", str(other))):
        assert home.run(*arguments).returncode == 0
    assert home.run("--version").stdout.startswith("floradl ")


def test_help_needs_no_heavy_import(home: Home) -> None:
    script = (
        "import sys; sys.argv = ['floradl', '--help']\n"
        "from floradl.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [*command()[:1], "-c", script], env=home.environ, capture_output=True, text=True, check=True
    )
    heavy = {"httpx", "structlog", "watchfiles", "aiohttp", "rich", "anyio", "yaml"}
    assert heavy.isdisjoint(done.stderr.split())
    assert "floradl.cli" in done.stderr.split()


def test_five_hundred_runs_come_home_whole_in_little_memory(home: Home, simulator: Simulator) -> None:
    outputs = [OutputSpec(f"o{number}", "imageUrl", size=100_000) for number in range(3)]
    references = [
        simulator.add_run(f"run_{number:03}", technique=f"t{number % 7}", outputs=outputs, duration=1.0)
        for number in range(500)
    ]
    home.drop("\n".join(map(str, references)))
    process = subprocess.Popen(command("once", "-q"), env=home.environ)
    most = 0
    while process.poll() is None:
        most = max(most, peak_memory(process.pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    assert process.returncode == 0
    assert len(home.files()) == 1500
    check_library(home, simulator)
    assert home.status()["counts"]["done"] == 500
    assert 0 < most <= 120 << 20


def test_status_is_json_of_the_documented_shape(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_long", technique="campaign", duration=600)
    with home.daemon():
        home.drop("campaign/run_long")
        wait_until(lambda: simulator.asked("api", "run_long"))
        status = wait_until(lambda: home.status() if home.status()["counts"]["running"] else None)
        assert home.run("status", "--check").returncode == 0
    assert status["schema_version"] == 1
    assert status["daemon"]["alive"]
    assert json.dumps(status["paused"]) == "null"
    assert home.run("status", "--check").returncode == 1


def test_once_says_which_job_file_was_rejected_and_why(home: Home) -> None:
    home.inbox.mkdir(exist_ok=True)
    (home.inbox / "job.txt").write_text("run_a\nnonsense\n")
    done = home.run("once")
    assert done.returncode == 3
    assert "job.txt was rejected: line 2: 'nonsense' is not a run id" in done.stderr
    assert "see inbox/rejected/job.txt.error.txt" in done.stderr
