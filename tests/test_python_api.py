from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from studio import TEST_TIMEOUT, Home, check_library, until, wait_until

import floradl
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

PICTURE = (OutputSpec("picture", "imageUrl", size=3000),)
SLOW = (OutputSpec("clip", "videoUrl", size=4_000_000, rate=400_000),)


class Program:
    """A program's arguments for `floradl.fetch`, and what stands in its library."""

    def __init__(self, home: Home, simulator: Simulator) -> None:
        self.home = home
        self.simulator = simulator
        self.library = home.library

    @property
    def how(self) -> dict[str, Any]:
        settings = {
            "home": str(self.home.path),
            "api.base_url": self.simulator.base_url,
            "network.trusted_private_hosts": "127.0.0.1",
            "download.min_free_space": "0",
            "poll.interval": "100ms",
        }
        return {"library": self.library, "api_key": self.simulator.key, "settings": settings}

    def add(self, run_id: str, **spec: Any) -> str:
        how: dict[str, Any] = {"technique": "campaign", "outputs": PICTURE, "duration": 0.1}
        return str(self.simulator.add_run(run_id, **how | spec))

    def parts(self) -> list[Path]:
        return [path for path in self.library.rglob(".run_*.part") if path.stat().st_size]


@pytest.fixture
def program(home: Home, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setenv("HOME", str(home.path / "no-home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return Program(home, simulator)


def no_session_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "floradl-fetch"]


@pytest.mark.anyio
async def test_fetch_yields_runs_as_they_end_with_absolute_paths(program: Program) -> None:
    slow, quick = program.add("run_slow", duration=1.5), program.add("run_quick")
    runs = [run async for run in floradl.fetch([slow, quick], **program.how)]
    assert [run.run_id for run in runs] == ["run_quick", "run_slow"]
    for run in runs:
        assert run.ok
        (file,) = run.files
        assert file.is_absolute()
        assert file.stat().st_size == run.outputs[0].bytes == 3000
        assert run.sidecar_path is not None
        assert run.sidecar == json.loads(run.sidecar_path.read_bytes())
    check_library(program.home, program.simulator)
    assert no_session_is_left()


def test_fetch_sync_blocks_until_the_next_run_ends(program: Program) -> None:
    runs = list(floradl.fetch_sync([program.add("run_a"), program.add("run_b")], **program.how))
    assert sorted(run.run_id for run in runs) == ["run_a", "run_b"]
    check_library(program.home, program.simulator)
    assert no_session_is_left()


def test_a_run_that_failed_is_a_value(program: Program) -> None:
    bad = program.add("run_bad", fail=("safety_blocked", "not this"))
    (run,) = floradl.fetch_sync(bad, **program.how)
    assert (run.ok, run.result, run.files) == (False, floradl.Result.FAILED, ())
    assert run.error is not None
    assert run.error.code is floradl.ErrorCode.SAFETY_BLOCKED


def test_a_run_that_is_there_already_is_yielded_without_a_download(program: Program) -> None:
    reference = program.add("run_a")
    (first,) = floradl.fetch_sync(reference, **program.how)
    before = first.files[0].stat()
    (again,) = floradl.fetch_sync([reference, "run_a"], **program.how)
    assert again == first
    assert again.files[0].stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.anyio
async def test_fetch_leaves_the_event_loop_to_others(program: Program) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    task = asyncio.create_task(other())
    async for _ in floradl.fetch(program.add("run_a", duration=0.3), **program.how):
        pass
    task.cancel()
    assert turns > 1


def test_fetch_works_in_several_threads_at_once(program: Program) -> None:
    references = [program.add(f"run_{number}") for number in range(4)]

    def one(reference: str) -> list[str]:
        async def collect() -> list[str]:
            return [run.run_id async for run in floradl.fetch(reference, **program.how)]

        return asyncio.run(collect())

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(one, references)] == [[f"run_{number}"] for number in range(4)]
    check_library(program.home, program.simulator)


@pytest.mark.anyio
async def test_cancelling_fetch_stops_the_work_and_keeps_part_files(program: Program) -> None:
    reference = program.add("run_a", outputs=SLOW, duration=0)
    stalls = Fault(match=Match(output="clip"), do=Do(stall_after=300_000), times=1)
    program.simulator.faults.add(stalls)

    async def collect() -> None:
        async with aclosing(floradl.fetch(reference, **program.how)) as runs:
            async for _ in runs:
                pass

    task = asyncio.create_task(collect())
    await until(lambda: any(part.stat().st_size for part in program.parts()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert no_session_is_left()
    (part,) = program.parts()
    kept = part.stat().st_size
    (run,) = [run async for run in floradl.fetch(reference, **program.how)]
    assert run.ok
    assert 0 < kept < 4_000_000
    assert not program.parts()
    check_library(program.home, program.simulator)


@pytest.mark.anyio
async def test_leaving_the_loop_early_stops_fetch(program: Program) -> None:
    references = [program.add("run_a"), program.add("run_slow", outputs=SLOW, duration=0)]
    async with aclosing(floradl.fetch(references, **program.how)) as runs:
        async for run in runs:
            assert run.run_id == "run_a"
            break
    assert no_session_is_left()


def test_an_error_of_the_program_stops_fetch_sync(program: Program) -> None:
    references = [program.add("run_a"), program.add("run_slow", outputs=SLOW, duration=0)]

    def consume() -> None:
        with closing(floradl.fetch_sync(references, **program.how)) as runs:
            for _ in runs:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    assert no_session_is_left()


def test_a_refused_key_is_an_error_at_once(program: Program) -> None:
    how = program.how | {"api_key": "sk_live_wrong"}
    with pytest.raises(floradl.ServicePausedError) as refused:
        list(floradl.fetch_sync(program.add("run_a"), **how))
    assert refused.value.reason is floradl.PauseReason.KEY_REFUSED
    assert "sk_live_wrong" not in str(refused.value)
    assert no_session_is_left()


def test_a_key_that_is_given_wins_over_that_of_the_environment(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORA_API_KEY", "sk_live_another")
    (run,) = floradl.fetch_sync(program.add("run_a"), **program.how)
    assert run.ok


@pytest.mark.parametrize(
    "references", ["not a run", ["run_a", "?"], [{"run": "nonsense"}], [{"action": "x"}], [3]]
)
def test_what_is_no_reference_is_an_error_at_the_call(program: Program, references: Any) -> None:
    with pytest.raises(floradl.ConfigError):
        floradl.fetch(references, **program.how)


def test_a_setting_that_is_none_is_told_with_the_nearest(program: Program) -> None:
    how = program.how | {"settings": {"download.rate_limt": "5MB"}}
    with pytest.raises(floradl.ConfigError, match=r"did you mean download\.rate_limit"):
        list(floradl.fetch_sync("run_a", **how))


def test_a_setting_that_is_wrong_names_the_argument_and_no_variable(program: Program) -> None:
    how = program.how | {"settings": {"output.template": "{lable}"}}
    with pytest.raises(floradl.ConfigError) as wrong:
        list(floradl.fetch_sync("run_a", **how))
    assert str(wrong.value).startswith("the argument settings: output.template: ")
    assert "FLORADL_" not in str(wrong.value)


def test_a_reference_may_be_a_mapping_as_in_a_job_file(program: Program) -> None:
    program.add("run_a")
    (run,) = floradl.fetch_sync({"run": "campaign/run_a", "label": "spring"}, **program.how)
    assert run.label == "spring"


def test_a_library_whose_disk_is_gone_is_an_error(program: Program) -> None:
    program.home.state.mkdir()
    assert list(floradl.fetch_sync(program.add("run_a"), **program.how))
    (program.library / ".floradl-library").unlink()
    with pytest.raises(floradl.ServicePausedError) as gone:
        list(floradl.fetch_sync(program.add("run_b"), **program.how))
    assert gone.value.reason is floradl.PauseReason.LIBRARY_MISSING


def test_a_state_folder_that_cannot_be_used_is_an_error(program: Program) -> None:
    (program.home.state / "library-seen").mkdir(parents=True)
    with pytest.raises(floradl.ConfigError, match=r"the state folder .* cannot be used"):
        list(floradl.fetch_sync(program.add("run_a"), **program.how))


def test_fetch_makes_no_home_of_floradl_where_there_is_none(program: Program) -> None:
    assert list(floradl.fetch_sync(program.add("run_a"), **program.how))
    assert sorted(os.listdir(program.home.path)) == ["library"]


def test_fetch_beside_a_daemon_does_no_harm(program: Program) -> None:
    references = [program.add(f"run_{number}", outputs=(*PICTURE, *SLOW[:0])) for number in range(20)]
    with program.home.daemon() as process:
        program.home.drop("\n".join(references))
        runs = list(floradl.fetch_sync(references, **program.how))
        for reference in references:
            program.home.finished(reference)
        wait_until(lambda: program.home.status()["counts"]["done"] == 20)
        assert process.poll() is None
    assert len(runs) == 20
    assert all(run.ok for run in runs)
    check_library(program.home, program.simulator)


def test_a_library_lists_its_runs_and_finds_one(program: Program) -> None:
    fetched = list(floradl.fetch_sync([program.add("run_b"), program.add("run_a")], **program.how))
    library = floradl.Library(program.library)
    assert sorted(library.runs(), key=lambda run: run.run_id) == sorted(fetched, key=lambda run: run.run_id)
    found = library.find("other/run_a")
    assert found is not None
    assert found.technique == "campaign"
    assert library.find("run_missing") is None
    with pytest.raises(floradl.ConfigError):
        library.find("nonsense")


def test_a_folder_that_is_no_library_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(floradl.ServicePausedError, match="floradl-library"):
        list(floradl.Library(tmp_path).runs())


def test_the_package_names_what_it_has() -> None:
    for name in floradl.__all__:
        assert getattr(floradl, name) is not None
    assert dir(floradl) == sorted(floradl.__all__)
    assert not hasattr(floradl, "nothing")


HOST = """
import gc, json, logging, os, signal, sys, threading
before = set(sys.modules)
import floradl
imported = set(sys.modules) - before
def state():
    return [
        sys.meta_path[:], [signal.getsignal(number) for number in signal.valid_signals() if number > 0],
        sys.excepthook, threading.excepthook, sys.unraisablehook, gc.isenabled(), gc.get_freeze_count(),
        logging.getLogger().handlers[:], logging.getLogger().level, os.getcwd(), os.umask(0o022),
        sorted(os.environ), sys.getswitchinterval(), threading.active_count(),
    ]
os.umask(0o022)
start = state()
how = json.loads(sys.argv[1])
files = [str(file) for run in floradl.fetch_sync(how.pop("references"), **how) for file in run.files]
for thread in threading.enumerate()[1:]:  # idle threads of its event loop, which were told to end
    thread.join(60)
import structlog
end = state()
print(json.dumps({
    "imported": sorted(imported), "files": files, "configured": structlog.is_configured(),
    "changed": [place for place, (one, other) in enumerate(zip(start, end)) if one != other],
}))
"""


def host(
    program: Program, references: Any, code: str = HOST, **popen: Any
) -> subprocess.CompletedProcess[str]:
    how = program.how | {"library": str(program.library), "references": references}
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps(how)],
        env={"PATH": os.environ["PATH"], "HOME": str(program.home.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * TEST_TIMEOUT,
        **popen,
    )


def test_fetch_leaves_a_program_as_it_was_and_prints_nothing(program: Program) -> None:
    """Signals, import hooks, collector, logging, threads: all are the program's."""
    done = host(program, [program.add("run_a"), program.add("run_bad", fail=("provider_error", "no"))])
    assert done.stderr == ""
    told: Mapping[str, Any] = json.loads(done.stdout)
    assert len(told["files"]) == 1
    assert not told["configured"]
    assert told["changed"] == []


def test_an_import_of_floradl_imports_nothing_else(program: Program) -> None:
    told = json.loads(host(program, [program.add("run_a")]).stdout)
    assert told["imported"] == ["floradl"]


def test_the_programs_logging_gets_events_without_secrets(program: Program) -> None:
    code = """
import json, logging, sys, floradl
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s", stream=sys.stdout)
how = json.loads(sys.argv[1])
for run in floradl.fetch_sync(how.pop("references"), **how): pass
"""
    done = host(program, [program.add("run_a")], code)
    lines = [line for line in done.stdout.splitlines() if line.startswith("floradl INFO ")]
    events = [json.loads(line.removeprefix("floradl INFO ")) for line in lines]
    assert {"run_completed", "run_finished"} <= {event["event"] for event in events}
    assert program.simulator.key not in done.stdout + done.stderr


LEFT = """
import asyncio, json, pathlib, sys, time, floradl
how = json.loads(sys.argv[1])
runs = floradl.fetch_sync(how.pop("references"), **how)
next(runs)
while not [part for part in pathlib.Path(how["library"]).rglob(".run_*.part") if part.stat().st_size]:
    time.sleep(0.01)
print("leaving", flush=True)
"""


def test_a_program_that_ends_ends_the_work(program: Program) -> None:
    references = [program.add("run_a"), program.add("run_slow", outputs=SLOW, duration=0)]
    done = host(program, references, LEFT)
    assert (done.returncode, done.stdout) == (0, "leaving\n"), done.stderr
    assert program.parts()


def test_an_interrupted_program_ends_the_work(program: Program) -> None:
    how = program.how | {"library": str(program.library)}
    how["references"] = [program.add("run_slow", outputs=SLOW, duration=0)]
    code = """
import json, signal, sys, floradl
signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts tests in the background has it ignored
how = json.loads(sys.argv[1])
list(floradl.fetch_sync(how.pop("references"), **how))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(how)], stderr=subprocess.PIPE, text=True
    )
    wait_until(program.parts)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=2 * TEST_TIMEOUT)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in told
    assert program.parts()


def test_an_output_that_was_left_out_says_why(program: Program) -> None:
    reference = program.add("run_a", outputs=(*PICTURE, OutputSpec("words", "text", text="Lower it.")))
    [run] = floradl.fetch_sync([{"run": reference, "kinds": ["image"]}], **program.how)
    assert run.ok
    assert [output.skipped for output in run.outputs] == [None, floradl.SkipReason.KIND]
    [run] = floradl.Library(program.library).runs()
    assert [output.skipped for output in run.outputs] == [None, floradl.SkipReason.KIND]
