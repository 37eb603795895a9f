"""How `add`, `get` and `retry` take runs from files, and what their options say of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mounting import in_memory
from studio import PICTURE, Home, wait_until

from floradl.models import Action, OutputKind, Reference, RunRequest
from floradl.simulator import Simulator
from floradl.sources.job_file import parse_job

TABLE = "Run ID;Technique;Label;Kinds;Client\nrun_a;campaign;spring;image;ACME\nrun_b;;;;\n"
ROWS = (
    RunRequest(Reference("run_a", "campaign"), "spring", kinds=(OutputKind.IMAGE,), meta={"Client": "ACME"}),
    RunRequest(Reference("run_b")),
)
STARTED = {
    "run_id": "run_a",
    "type": "technique",
    "status": "pending",
    "estimated_seconds": 3,
    "poll_url": "https://app.flora.ai/api/v1/techniques/campaign/runs/run_a",
}


def put(home: Home, text: str, name: str = "runs.csv") -> str:
    path = home.path / name
    path.write_text(text)
    return str(path)


def jobs(home: Home) -> tuple[RunRequest, ...]:
    """Return what lies in the inbox, which nobody takes."""
    files = sorted(home.inbox.glob("*.txt")) if home.inbox.exists() else []
    return tuple(request for file in files for request in parse_job(file.read_bytes(), file.name))


def told(home: Home, *arguments: str, stdin: str = "") -> str:
    """Return what a wrong command line is told; nothing may be queued."""
    done = home.run(*arguments, stdin=stdin)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert jobs(home) == ()
    return done.stderr


def test_add_reads_a_table_from_a_file(home: Home) -> None:
    done = home.run("add", "-i", put(home, TABLE))
    assert (done.returncode, jobs(home)) == (0, ROWS)
    assert "put 2 runs into the inbox" in done.stderr


def test_add_reads_several_files_and_references_together(home: Home) -> None:
    first, second = put(home, "run_c\n", "c.txt"), put(home, "run_d\n", "d.txt")
    assert home.run("add", "run_e", "--input", first, "-i", second).returncode == 0
    assert {each.reference.run_id for each in jobs(home)} == {"run_c", "run_d", "run_e"}


def test_a_bad_row_of_a_table_queues_nothing_and_is_named_with_file_row_and_column(home: Home) -> None:
    rows = [f"run_{number};art" for number in range(1, 101)]
    rows[72] = "run_73;a b"
    path = put(home, "\n".join(["run_id;technique", *rows]))
    message = told(home, "add", "-i", path)
    assert f"{path}, row 73 (line 74), column technique: 'a b' is not a technique" in message
    assert f"{path}, row 73" in told(home, "get", "-i", path)


def test_a_bad_table_in_the_inbox_is_rejected_with_row_and_column(home: Home) -> None:
    home.drop("run_id,kinds\nrun_a,image\nrun_b,pictures\n", "runs.csv")
    assert home.run("once").returncode == 3
    note = (home.inbox / "rejected/runs.csv.error.txt").read_text()
    assert "row 2 (line 3), column kinds: 'pictures' is not a kind" in note
    assert home.status()["runs"] == []


def test_floras_answer_on_standard_input_is_downloaded_under_its_technique(
    home: Home, simulator: Simulator
) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE)
    assert home.run("get", "-i", "-", stdin=json.dumps(STARTED)).returncode == 0
    assert home.sidecar("campaign/run_a")


def test_floras_answers_dropped_into_the_inbox_are_downloaded_under_their_technique(
    home: Home, simulator: Simulator
) -> None:
    for name in ("run_a", "run_b"):
        simulator.add_run(name, technique="campaign", outputs=PICTURE)
    second = json.dumps(STARTED).replace("run_a", "run_b")
    home.drop(f"{json.dumps(STARTED)}\n{second}\n", "started.jsonl")
    assert home.run("once").returncode == 0
    assert home.sidecar("campaign/run_a")
    assert home.sidecar("campaign/run_b")


def test_get_reads_a_table_and_its_labels(home: Home, simulator: Simulator) -> None:
    for name in ("run_a", "run_b"):
        simulator.add_run(name, technique="campaign", outputs=PICTURE)
    table = "run,technique,label\nrun_a,campaign,spring\nrun_b,campaign,\n"
    assert home.run("get", "-i", put(home, table)).returncode == 0
    assert [(home.sidecar(f"campaign/{name}") or {})["label"] for name in ("run_a", "run_b")] == [
        "spring",
        None,
    ]


def test_get_gives_its_label_to_the_runs(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE)
    assert home.run("get", "campaign/run_a", "--label", "Été", "--meta", "shot=12").returncode == 0
    assert home.finished("campaign/run_a")["label"] == "Été"


def test_options_speak_of_all_runs_and_win_over_the_file(home: Home) -> None:
    given = ("--label", "autumn", "--meta", "Client=Other", "--meta", "take= 3 ", "--kind", "text,Video")
    assert home.run("add", "run_z", "-i", put(home, TABLE), *given).returncode == 0
    wish = ("autumn", (OutputKind.TEXT, OutputKind.VIDEO), {"Client": "Other", "take": "3"})
    found = {each.reference.run_id: (each.label, each.kinds, each.meta) for each in jobs(home)}
    assert found == {"run_a": wish, "run_b": wish, "run_z": wish}


def test_an_empty_value_takes_a_key_of_meta_away(home: Home) -> None:
    assert home.run("add", "-i", put(home, TABLE), "--meta", "Client=").returncode == 0
    assert [each.meta for each in jobs(home)] == [{}, {}]


def test_what_a_file_wants_done_with_a_run_is_done(home: Home) -> None:
    path = put(home, '{"run": "run_a", "action": "forget"}', "forget.json")
    assert home.run("add", "-i", path).returncode == 0
    assert jobs(home) == (RunRequest(Reference("run_a"), action=Action.FORGET),)


def test_retry_writes_the_kinds_into_the_job(home: Home) -> None:
    assert home.run("retry", "--kind", "text", "--kind", "audio", "campaign/run_a").returncode == 0
    kinds = (OutputKind.TEXT, OutputKind.AUDIO)
    assert jobs(home) == (RunRequest(Reference("run_a", "campaign"), action=Action.RETRY, kinds=kinds),)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "run_a", "--kind", "imgae"), "--kind: 'imgae' is not a kind: did you mean 'image'?"),
        (("retry", "run_a", "--kind", "7"), "it is one of image, video, audio, document, text, other"),
        (("get", "run_a", "--meta", "client"), "--meta: 'client' has no '='"),
        (("add", "run_a", "--meta", "=x"), "--meta: '' cannot be a key"),
        (("add", "-i", "/no/such/file"), "/no/such/file cannot be read: No such file"),
        (("get", "-i", "/"), "/ cannot be read: Is a directory"),
        (("add", "-i", "/dev/null"), "/dev/null names no run"),
        (("get",), "a file of runs with -i"),
        (("get", "-i", "-"), "standard input names no run"),
    ],
)
def test_a_wrong_option_is_told_and_queues_nothing(
    home: Home, arguments: tuple[str, ...], words: str
) -> None:
    assert words in told(home, *arguments)


@pytest.mark.parametrize("command", ["get", "add", "retry"])
def test_help_lists_the_kinds(home: Home, command: str) -> None:
    said = home.run(command, "--help").stdout
    assert all(kind in said for kind in OutputKind)


def test_a_bad_line_of_standard_input_is_named(home: Home) -> None:
    assert "standard input, line 2: 'run b' is not a run id" in told(home, "add", stdin="run_a\nrun b\n")


def test_a_workbook_is_told_to_be_saved_as_csv(home: Home) -> None:
    path = home.path / "runs.xlsx"
    path.write_bytes(b"PK\x03\x04\x14\0\x06\0")
    message = f"{path}: this is a spreadsheet program's own file (.xlsx or the like): save it as CSV"
    assert message in told(home, "add", "-i", str(path))


def test_a_file_in_place_of_a_reference_is_told_as_one(home: Home) -> None:
    assert "is a file, not a run: 'floradl add -i FILE'" in told(home, "add", put(home, TABLE))


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("forget", "run_a", "--label", "x"), None),
        (("once", "--kinds", "text"), None),
        (("get", "run_a", "--lable", "x"), "--label"),
        (("once", "--maxwait", "3m"), "--max-wait"),
    ],
)
def test_an_unknown_option_is_only_taken_for_one_that_is_near(
    home: Home, arguments: tuple[str, ...], near: str | None
) -> None:
    message = told(home, *arguments)
    assert "No such option" in message
    assert ("Did you mean" in message) == (near is not None)
    assert near is None or f"Did you mean '{near}'?" in message


def test_a_hundred_thousand_lines_are_queued_from_one_file(home: Home) -> None:
    path = put(home, "".join(f"run_{number}\n" for number in range(100_000)))
    with home.daemon():
        assert home.run("add", "-i", path).returncode == 0
        wait_until(lambda: sum(home.status()["counts"].values()) == 100_000)


@pytest.mark.root
def test_add_queues_nothing_where_the_disk_has_no_room_for_all(home: Home) -> None:
    path = put(home, "".join(f"run_{number:040}\n" for number in range(50_000)))
    with in_memory(home.inbox, "1m"):
        assert "nothing was queued: the watch folder" in told(home, "add", "-i", path)
        assert list(Path(home.inbox).iterdir()) == []
        assert home.run("add", "run_a").returncode == 0


def test_add_with_q_says_only_that_no_daemon_runs(home: Home) -> None:
    done = home.run("add", "-q", "run_a")
    assert done.stderr.startswith("floradl: no daemon is running")
    assert len(done.stderr.splitlines()) == 1


def test_retry_with_q_beside_a_daemon_says_nothing(home: Home) -> None:
    with home.daemon():
        assert home.run("retry", "-q", "run_a").stderr == ""


def test_of_a_run_that_is_named_twice_the_last_label_counts_and_that_is_said(
    home: Home, simulator: Simulator
) -> None:
    for name in ("run_a", "run_b"):
        simulator.add_run(name, technique="campaign", outputs=PICTURE, duration=0)
    rows = "run,label\ncampaign/run_a,spring\ncampaign/run_b,x\ncampaign/run_a,autumn\ncampaign/run_b,x\n"
    done = home.run("get", "-i", put(home, rows))
    assert done.returncode == 0
    assert "floradl: 1 run named again with another label: the last one counts\n" in done.stderr
    assert (home.sidecar("campaign/run_a") or {})["label"] == "autumn"


def test_of_labels_in_several_files_the_last_counts(home: Home) -> None:
    first, second = (
        put(home, "run,label\nrun_a,spring\n", "1.csv"),
        put(home, "run,label\nrun_a,autumn\n", "2.csv"),
    )
    done = home.run("add", "-i", first, "-i", second)
    assert "1 run named again with another label: the last one counts" in done.stderr
    assert [request.label for request in jobs(home)] == ["autumn"]


def test_a_label_of_the_command_line_keeps_no_key(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=0)
    assert home.run("get", "campaign/run_a", "--label", "of sk_live_0123456789abcdef").returncode == 0
    assert "0123456789abcdef" not in (home.library / "runs/campaign/run_a.json").read_text()


@pytest.mark.parametrize("command", ["add", "get", "retry", "forget", "wait", "status", "open", "verify"])
def test_several_references_joined_by_a_comma_are_no_run_id(home: Home, command: str) -> None:
    assert "this looks like several references" in told(home, command, "run_a,run_b")
    assert "this looks like a row of a table" in told(home, command, "run_a;campaign;spring")


def test_a_table_without_a_heading_is_refused_from_a_file_and_from_standard_input(home: Home) -> None:
    path = put(home, "run_a,campaign\n")
    for message in (
        told(home, "add", "-i", path),
        told(home, "get", "-i", path),
        told(home, "add", stdin="run_a,campaign\n"),
    ):
        assert "line 1: this looks like a row of a table without a heading" in message


def test_a_run_id_with_a_comma_in_it_can_be_queued_by_json(home: Home) -> None:
    assert home.run("add", stdin='{"run": "run_a,b"}').returncode == 0
    assert jobs(home) == (RunRequest(Reference("run_a,b")),)


def test_an_option_of_a_command_that_stands_before_it_is_told_where_it_belongs(home: Home) -> None:
    assert "--label belongs behind its command" in told(home, "--label", "spring", "add", "run_a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("retry",), "name a run, or --failed"),
        (("add",), "a file of runs with -i"),
        (("completion",), "name a shell: bash, zsh or fish"),
    ],
)
def test_a_command_without_anything_says_what_to_name(
    home: Home, arguments: tuple[str, ...], words: str
) -> None:
    assert words in told(home, *arguments)


def test_a_label_is_bounded_as_the_values_of_meta_are(home: Home) -> None:
    assert home.run("add", "run_a", "--label", "x" * 5000).returncode == 0
    [request] = jobs(home)
    assert request.label is not None
    assert len(request.label) == 1000
