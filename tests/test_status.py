from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bystanders import holding, open_to_all
from queues import work_with, write_runs
from studio import Home

from floradl.commands.exits import Exit
from floradl.commands.status import status
from floradl.commands.watch import DaemonPicture
from floradl.config.load import Options, load_config
from floradl.config.settings import Config
from floradl.display.board import BoardView
from floradl.display.terminal import Pen, draw_view
from floradl.errors import ConfigError, ErrorCode, PauseReason
from floradl.models import QueuedRun, RunFailure, RunState
from floradl.queue import heartbeat
from floradl.queue.folder import FILE_NAME
from floradl.queue.heartbeat import LivePause, LiveRun, Snapshot, Transfer
from floradl.queue.reader import read_queue
from floradl.queue.sqlite import SqliteQueue
from floradl.sources.job_file import drop_job

_NOW = 1_800_000_000.0
_AS_NOBODY = """
import os, sys
from pathlib import Path
from floradl.commands.status import status
from floradl.config.load import Options, load_config
from floradl.errors import ConfigError
config = load_config(Options(home=Path(sys.argv[1])), {"HOME": "/"}, system_file=Path("/nowhere"))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    sys.exit(status(config, as_json=True, everything=False, check=False, stream=sys.stdout))
except ConfigError as error:
    print(error)
    sys.exit(2)
"""
_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configured(tmp_path)


def configured(home: Path) -> Config:
    config = load_config(Options(home=home), {"HOME": str(home)}, system_file=home / "none.yaml")
    config.state_dir.mkdir()
    return config


def queued(run_id: str, state: RunState = RunState.WAITING, **values: Any) -> QueuedRun:
    return QueuedRun(run_id=run_id, technique="campaign", state=state, queued_at=_NOW, **values)


def journal(config: Config, *runs: QueuedRun) -> None:
    """Write a journal that holds `runs`, the first one the oldest; it is closed as a daemon leaves it."""
    write_runs(config.state_dir, *runs, since=_NOW)


def working(config: Config, command: str = "run", *, since: float = _NOW) -> AbstractContextManager[int]:
    return holding(config.state_dir, since, command)


def snapshot(config: Config, pid: int, **values: Any) -> None:
    known = {"version": "1.2.3", "since": _NOW, "progress_at": _NOW}
    heartbeat.write(config.state_dir, msgspec.convert({"pid": pid, **known, **values}, Snapshot))


def told(config: Config, **options: Any) -> tuple[Exit, str]:
    """Ask a moment after `_NOW`."""
    stream = io.StringIO()
    chosen: dict[str, Any] = {"as_json": False, "everything": False, "check": False, "wall": lambda: _NOW + 5}
    code = status(config, stream=stream, **{**chosen, **options})
    return code, stream.getvalue()


def as_json(config: Config) -> dict[str, Any]:
    _, text = told(config, as_json=True)
    document: dict[str, Any] = json.loads(text)
    return document


def refusal(config: Config, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        told(config, **options)
    return str(caught.value)


# --- json -------------------------------------------------------------------------------------------------


def test_without_any_state_there_is_nothing_and_that_is_fine(config: Config) -> None:
    config.state_dir.rmdir()
    code, text = told(config)
    assert code is Exit.OK
    assert "nothing queued yet" in text
    assert as_json(config) == {
        "schema_version": 1,
        "home": str(config.home),
        "daemon": {"alive": False, "pid": None, "version": None, "since": None, "progress_at": None},
        "daemons": [],
        "paused": None,
        "queue_file_error": None,
        "hints": [],
        "inbox": {"held": None, "troubles": [], "rejected": 0},
        "hooks": {"retried": 0, "given_up": 0},
        "rate_limit": None,
        "counts": dict.fromkeys(
            ["waiting", "running", "downloading", "done", "partial", "failed", "forgotten"], 0
        ),
        "runs": [],
    }
    assert not config.state_dir.exists()


def test_json_tells_the_journal_and_what_the_daemon_is_at(config: Config) -> None:
    journal(config, queued("run_a", RunState.RUNNING, progress=30.0), queued("run_b", RunState.DOWNLOADING))
    with working(config) as pid:
        transfer = Transfer("output_1", 1_048_576, 20_971_520)
        runs = (LiveRun("run_a", 40.0, _NOW + 2), LiveRun("run_b", 100.0, None, (transfer,)))
        snapshot(config, pid, runs=runs)
        document = as_json(config)
    assert document["daemon"] == {
        "alive": True,
        "pid": pid,
        "version": "1.2.3",
        "since": "2027-01-15T08:00:00.000Z",
        "progress_at": "2027-01-15T08:00:00.000Z",
    }
    assert document["counts"]["running"] == document["counts"]["downloading"] == 1
    assert document["runs"] == [
        {
            "reference": "campaign/run_b",
            "run_id": "run_b",
            "state": "downloading",
            "progress": 100,
            "next_at": None,
            "error": None,
            "outputs": [{"output_id": "output_1", "bytes": 1_048_576, "total": 20_971_520}],
        },
        {
            "reference": "campaign/run_a",
            "run_id": "run_a",
            "state": "running",
            "progress": 40,
            "next_at": "2027-01-15T08:00:02.000Z",
            "error": None,
            "outputs": [],
        },
    ]


def test_runs_are_those_not_finished_and_then_those_that_failed_last(config: Config) -> None:
    failure = RunFailure(ErrorCode.SAFETY_BLOCKED, "refused")
    journal(
        config,
        queued("run_old", RunState.FAILED, error=failure),
        queued("run_done", RunState.DONE),
        queued("run_gone", RunState.FORGOTTEN),
        queued("run_part", RunState.PARTIAL),
        queued("run_new", RunState.FAILED),
        queued("run_1"),
        queued("run_2"),
    )
    runs = as_json(config)["runs"]
    assert [run["run_id"] for run in runs] == ["run_1", "run_2", "run_new", "run_part", "run_old"]
    assert runs[-1]["error"] == {"code": "safety_blocked", "message": "refused"}


def test_a_thousand_runs_are_told_and_failures_are_not_crowded_out(config: Config) -> None:
    waiting = [queued(f"run_w{number}") for number in range(1100)]
    journal(config, *[queued(f"run_f{number}", RunState.FAILED) for number in range(150)], *waiting)
    document = as_json(config)
    assert document["counts"]["waiting"] == 1100
    states = [run["state"] for run in document["runs"]]
    assert (states.count("waiting"), states.count("failed")) == (900, 100)
    assert document["runs"][0]["run_id"] == "run_w0"
    assert document["runs"][-100]["run_id"] == "run_f149"


def test_all_tells_each_run_on_a_line_of_its_own(config: Config) -> None:
    ids = [f"run_{number:04}" for number in range(2001)]
    journal(config, *[queued(run_id, RunState.DONE) for run_id in ids])
    code, text = told(config, everything=True)
    assert code is Exit.OK
    assert [json.loads(line)["run_id"] for line in text.splitlines()] == ids


def test_a_pause_is_told_with_its_reason(config: Config) -> None:
    with working(config) as pid:
        snapshot(config, pid, paused=LivePause(PauseReason.KEY_REFUSED, "the key is refused", _NOW))
        assert as_json(config)["paused"] == {
            "reason": "key_refused",
            "message": "the key is refused",
            "since": "2027-01-15T08:00:00.000Z",
        }
        _, text = told(config)
    assert "paused   for 5s (key_refused): the key is refused" in text


def test_what_a_dead_daemon_wrote_last_is_not_told(config: Config) -> None:
    pause = LivePause(PauseReason.CREDITS, "no credits", _NOW)
    snapshot(config, 4711, paused=pause)
    document = as_json(config)
    assert document["paused"] is None
    assert document["daemon"]["alive"] is False


def test_a_snapshot_of_an_earlier_daemon_with_the_same_process_id_is_not_told(config: Config) -> None:
    with working(config) as pid:
        snapshot(config, pid, since=_NOW - 3600, paused=LivePause(PauseReason.CREDITS, "no credits", _NOW))
        assert as_json(config)["paused"] is None


def test_a_run_that_finished_since_the_snapshot_is_no_longer_under_way(config: Config) -> None:
    journal(config, queued("run_a", RunState.FAILED, progress=100.0))
    with working(config) as pid:
        transfer = Transfer("output_1", 1, 2)
        snapshot(config, pid, runs=(LiveRun("run_a", 40.0, _NOW, (transfer,)),))
        run = as_json(config)["runs"][0]
    assert (run["progress"], run["next_at"], run["outputs"]) == (100, None, [])


def test_no_secret_and_no_query_of_a_url_is_told(config: Config) -> None:
    failure = RunFailure(
        ErrorCode.HTTP_ERROR, "https://media.example/a.png?sig=planted failed for sk_live_planted1"
    )
    journal(config, queued("run_a", RunState.FAILED, error=failure))
    for options in ({}, {"as_json": True}, {"everything": True}):
        assert "planted" not in told(config, **options)[1]


# --- for people -------------------------------------------------------------------------------------------


def test_a_person_reads_counts_progress_and_the_command_to_retry(config: Config) -> None:
    journal(
        config,
        queued("run_d", RunState.DONE),
        queued("run_f", RunState.FAILED, error=RunFailure(ErrorCode.SAFETY_BLOCKED, "refused")),
        queued("run_r", RunState.RUNNING, progress=20.0),
        queued("run_w", error=RunFailure(ErrorCode.NETWORK, "no connection")),
        queued("run_x"),
    )
    with working(config) as pid:
        transfer = Transfer("output_1", 1_000_000, 4_000_000)
        runs = (LiveRun("run_r", 25.0, None, (transfer,)), LiveRun("run_w", 0.0, _NOW + 35))
        snapshot(config, pid, runs=runs)
        _, text = told(config)
    assert text.splitlines()[2:] == [
        "runs     2 waiting, 1 running, 1 done, 1 failed",
        "",
        "Not finished",
        "  campaign/run_r  running 25 %",
        "    output_1  1 MB of 4 MB (25 %)",
        "  campaign/run_w  waiting, next look in 30s; network: no connection",
        "",
        "Failed last",
        "  campaign/run_f  safety_blocked: refused",
        "  try again: floradl retry campaign/run_f, or all of them: floradl retry --failed",
    ]
    assert f"(process {pid} on " in text.splitlines()[1]


def test_a_broken_queue_file_is_told(config: Config) -> None:
    with working(config) as pid:
        snapshot(config, pid, queue_file_error="the queue file /q.yaml is broken: line 3")
        assert "the queue file /q.yaml is broken: line 3" in told(config)[1]
        assert as_json(config)["queue_file_error"] == "the queue file /q.yaml is broken: line 3"


def test_the_cap_that_holds_now_is_told(config: Config) -> None:
    with working(config) as pid:
        snapshot(config, pid, rate_limit=2_000_000)
        assert "limit    2 MB a second, all transfers together" in told(config)[1]
        assert as_json(config)["rate_limit"] == 2_000_000


def test_with_nobody_at_work_a_person_is_told_how_to_start(config: Config) -> None:
    journal(config, queued("run_a"))
    assert "start a daemon with 'floradl run'" in told(config)[1]


def test_job_files_handed_in_before_the_first_start_are_told(config: Config) -> None:
    drop_job(config.queue.watch_dir, "run_a\n")
    assert f"1 job file in {config.queue.watch_dir} not taken yet" in told(config)[1]


def test_job_files_that_wait_or_were_refused_are_told(config: Config) -> None:
    (config.queue.watch_dir / "rejected").mkdir(parents=True)
    (config.queue.watch_dir / "job.txt").write_text("run_a\n")
    (config.queue.watch_dir / ".hidden").touch()
    (config.queue.watch_dir / "rejected/bad.txt").touch()
    (config.queue.watch_dir / "rejected/bad.txt.error.txt").touch()
    os.mkfifo(config.queue.watch_dir / "rejected/planted.error.txt")
    text = told(config)[1]
    assert f"1 job file in {config.queue.watch_dir} not taken yet" in text
    assert "1 job file refused" in text
    assert "nothing queued yet" not in text


def test_names_cannot_write_to_the_terminal(config: Config) -> None:
    journal(config, queued("run_\x9b2J\u202e", RunState.RUNNING))
    assert "\x9b" not in told(config)[1]
    assert r"run_\x9b2J\u202e" in told(config)[1]


def test_a_terminal_that_knows_few_letters_gets_what_it_can_show(config: Config) -> None:
    journal(config, queued("run_ü", RunState.RUNNING))
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", write_through=True) as stream:
        status(config, as_json=False, everything=False, check=False, stream=stream)
        assert b"campaign/run_?" in raw.getvalue()


# --- health -----------------------------------------------------------------------------------------------


def test_a_check_finds_that_no_daemon_is_alive(config: Config) -> None:
    code, text = told(config, check=True)
    assert code is Exit.FOUND
    assert text == "no daemon is running: start it with 'floradl run'\n"


def test_a_check_is_content_with_a_daemon_that_makes_progress(config: Config) -> None:
    with working(config) as pid:
        snapshot(config, pid)
        code, text = told(config, check=True)
    assert code is Exit.OK
    assert "is alive, last seen well 5s ago" in text
    assert text.count("\n") == 1


def test_a_check_finds_a_daemon_that_makes_no_progress(config: Config) -> None:
    with working(config) as pid:
        snapshot(config, pid, progress_at=_NOW - 600)
        code, text = told(config, check=True)
    assert code is Exit.FOUND
    assert "made no progress for 10m5s: see its log" in text


def test_a_check_finds_a_daemon_whose_clock_was_put_back(config: Config) -> None:
    with working(config) as pid:
        snapshot(config, pid, progress_at=_NOW + 86_400)
        assert told(config, check=True)[0] is Exit.FOUND


def test_a_check_gives_a_daemon_two_minutes_for_its_first_word(config: Config) -> None:
    with working(config):
        assert told(config, check=True)[0] is Exit.OK
        assert told(config, check=True, wall=lambda: _NOW + 121)[0] is Exit.FOUND


def test_once_is_no_daemon(config: Config) -> None:
    with working(config, "once"):
        code, text = told(config, check=True)
        assert as_json(config)["daemon"]["alive"] is False
        assert "floradl once (process " in told(config)[1]
    assert code is Exit.FOUND
    assert "but no daemon" in text


def test_a_check_beside_json_leaves_the_json_whole(config: Config) -> None:
    code, text = told(config, check=True, as_json=True)
    assert code is Exit.FOUND
    assert json.loads(text)["schema_version"] == 1


def test_looking_is_not_in_a_starting_daemon_s_way(config: Config) -> None:
    told(config)
    with working(config):
        pass


# --- trouble ----------------------------------------------------------------------------------------------


def test_a_damaged_journal_is_told_in_words(config: Config) -> None:
    (config.state_dir / FILE_NAME).write_bytes(b"no database at all" * 100)
    assert "the journal is damaged" in refusal(config)
    assert "the journal is damaged" in refusal(config, everything=True)


def test_a_journal_with_its_middle_overwritten_is_told_in_words(config: Config) -> None:
    journal(config, *[queued(f"run_{number}", RunState.DONE) for number in range(1000)])
    path = config.state_dir / FILE_NAME
    data = bytearray(path.read_bytes())
    data[4096:-4096] = b"\xaa" * (len(data) - 8192)
    path.write_bytes(data)
    assert "the journal is damaged" in refusal(config, everything=True)


def test_a_journal_of_a_newer_floradl_is_told_in_words(config: Config) -> None:
    import sqlite3  # noqa: PLC0415 - only here is the file's inside touched

    journal(config, queued("run_a"))
    with sqlite3.connect(config.state_dir / FILE_NAME) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    assert "written by a newer floradl" in refusal(config)


def test_a_damaged_snapshot_costs_no_answer(config: Config) -> None:
    (config.state_dir / heartbeat.FILE_NAME).write_bytes(b'{"pid": "\xff')
    with working(config) as pid:
        document = as_json(config)
    assert document["daemon"]["pid"] == pid
    assert document["daemon"]["progress_at"] is None


def test_a_daemon_that_was_killed_leaves_a_journal_that_can_be_read(config: Config) -> None:
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from queues import work_with
from test_status import queued
async def be_killed(queue):
    await queue.update(queued("run_a"), 1.0)
    os._exit(9)
work_with(Path({str(config.state_dir)!r}), be_killed)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert (config.state_dir / f"{FILE_NAME}-wal").stat().st_size > 0
    assert as_json(config)["counts"]["waiting"] == 1


@pytest.fixture
def public_home() -> Iterator[Path]:
    with open_to_all() as folder:
        yield folder


def as_nobody(home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _AS_NOBODY, str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@_root
def test_another_user_who_may_read_is_answered_beside_a_daemon_and_without(public_home: Path) -> None:
    config = configured(public_home)
    journal(config, queued("run_a"))
    assert json.loads(as_nobody(public_home).stdout)["counts"]["waiting"] == 1

    async def look(queue: SqliteQueue) -> Any:
        await queue.update(queued("run_b"), 1.0)
        with working(config) as pid:
            snapshot(config, pid)
            return json.loads(as_nobody(public_home).stdout)

    document = work_with(config.state_dir, look)
    assert document["counts"]["waiting"] == 2
    assert document["daemon"]["alive"] is True


@_root
@pytest.mark.parametrize("private", ["", "lock", FILE_NAME, heartbeat.FILE_NAME])
def test_another_user_who_may_not_read_is_told_plainly(public_home: Path, private: str) -> None:
    config = configured(public_home)
    journal(config, queued("run_a"))
    with working(config) as pid:
        snapshot(config, pid)
        (config.state_dir / private).chmod(0o700)
        answer = as_nobody(public_home)
    assert answer.returncode == 2
    assert "this user may not read floradl's state: ask as the user that floradl runs as" in answer.stdout
    assert str(config.state_dir / private) in answer.stdout
    assert answer.stderr == ""


@_root
def test_another_user_s_look_leaves_nothing_behind(public_home: Path) -> None:
    config = configured(public_home)
    config.state_dir.chmod(0o777)
    journal(config, queued("run_a"))
    before = sorted(os.listdir(config.state_dir))
    as_nobody(public_home)
    assert sorted(os.listdir(config.state_dir)) == before


# --- cost -------------------------------------------------------------------------------------------------


def test_status_loads_nothing_heavy() -> None:
    script = "import sys, floradl.config.load, floradl.commands.status; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    heavy = {"httpx", "httpcore", "structlog", "watchfiles", "rich", "aiohttp", "anyio", "asyncio"}
    assert heavy.isdisjoint(loaded.split())


def test_what_programs_ask_loads_even_less(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from floradl.cli import main\n"
        "sys.argv = ['floradl', '--home', sys.argv[1], 'status', '--json']\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)\n"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env={"HOME": str(tmp_path)})
    assert json.loads(done.stdout)["runs"] == []
    heavy = {"yaml", "hashlib", "socket", "ssl", "floradl.sources"}
    assert heavy.isdisjoint(done.stderr.split())


def test_of_many_runs_only_those_told_are_read(config: Config) -> None:
    journal(config, *[queued(f"run_{number}") for number in range(5000)])
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with read_queue(config.state_dir) as queue:
        assert queue is not None
        queue._db.set_progress_handler(count, 100)  # is called after each hundred steps of SQLite's machine
        assert len(queue.unfinished(10)) == 10
    assert steps < 20


def test_a_reader_who_goes_away_is_no_bug(config: Config) -> None:
    journal(config, *(queued(f"run_{number:06}") for number in range(20_000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "floradl", "status", "--all", "--home", str(config.home)],
        env={"PATH": "/usr/bin", "HOME": "/nowhere"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), told) == (0, b"")


def test_the_watched_picture_has_a_bar_with_the_rate_of_each_transfer(config: Config) -> None:
    run = queued("run_a", RunState.DOWNLOADING)
    journal(config, run, queued("run_b", RunState.DONE), queued("run_c"))
    picture = DaemonPicture(config)
    with working(config) as pid:
        for second, received in enumerate((1_000_000, 3_000_000)):
            live = LiveRun("run_a", 100.0, None, (Transfer("film", received, 10_000_000),))
            snapshot(config, pid, progress_at=_NOW + second, runs=[msgspec.to_builtins(live)])
            picture.look(_NOW + second)
    *_, view = (part for part in picture.lines(_NOW + 2)(30) if isinstance(part, BoardView))
    lines = [line.plain for line in draw_view(Pen(120, "utf-8", colour=True), view, None)]
    assert "campaign/run_a" in lines[0]
    assert lines[1].split()[-5:] == ["3.0/10.0", "MB", "2.0", "MB/s", "0:04"]
    assert lines[2].split(" · ")[:3] == ["  1 done", "1 downloading", "1 waiting"]


def test_a_job_file_that_was_refused_has_a_line_in_status_and_check(home: Home) -> None:
    home.drop("no reference at all\n", "bad.txt")
    assert home.run("once").returncode == 3
    assert "1 job file refused" in home.run("status").stdout
    assert home.status()["inbox"]["rejected"] == 1
    assert "1 job file refused" in home.run("check").stdout
