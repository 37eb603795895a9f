from __future__ import annotations

import io
import os
import subprocess
import sys

import msgspec
import pytest
from studio import Home

from floradl.display import open_display
from floradl.display.plain import PlainDisplay, RunLine, gains
from floradl.errors import ErrorCode
from floradl.models import OutputKind, QueuedRun, RunFailure, RunState, SavedOutput
from floradl.runs.events import RunSummary
from floradl.simulator import Simulator

RUN = QueuedRun(run_id="run_1", technique="campaign", state=RunState.RUNNING, queued_at=0.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def at(progress: float, run: QueuedRun = RUN) -> QueuedRun:
    return msgspec.structs.replace(run, progress=progress)


def ended(state: RunState, message: str | None = None, run: QueuedRun = RUN) -> QueuedRun:
    error = None if message is None else RunFailure(ErrorCode.SAFETY_BLOCKED, message)
    return msgspec.structs.replace(run, state=state, error=error)


def downloading(number: int = 1) -> QueuedRun:
    return QueuedRun(run_id=f"run_{number}", technique="campaign", state=RunState.DOWNLOADING, queued_at=0.0)


def brought(*sizes: int | None) -> RunSummary:
    outputs = [
        SavedOutput(
            output_id=f"output_{index}",
            type="imageUrl",
            kind=OutputKind.IMAGE,
            path=None if size is None else f"images/campaign/run_1-output_{index}.png",
            bytes=size,
            error=RunFailure(ErrorCode.HTTP_ERROR, "answers 404") if size is None else None,
        )
        for index, size in enumerate(sizes)
    ]
    return RunSummary.of("runs/run_1.json", outputs)


def test_polls_that_change_little_are_not_repeated() -> None:
    stream = io.StringIO()
    with open_display(stream) as progress:
        for percent in (0, 10, 24, 26, 30, 50, 52):
            progress.run(at(percent), 2.0)
        progress.run(downloading(), None)
        progress.run(downloading(), None)
        assert stream.getvalue().splitlines() == [
            "campaign/run_1: running, 0 %",
            "campaign/run_1: running, 26 %",
            "campaign/run_1: running, 52 %",
            "campaign/run_1: downloading",
        ]


def test_a_finished_run_names_its_files() -> None:
    stream, clock = io.StringIO(), Clock()
    plain = PlainDisplay(stream, monotonic=clock)
    plain.run(downloading(), None)
    clock.now += 4.2
    plain.finished(ended(RunState.DONE), brought(12_000_000, 400_000))
    plain.close()
    assert stream.getvalue().splitlines()[1].split(", ") == [
        "campaign/run_1: done",
        "2 files",
        "12.4 MB",
        "4.2 s",
        "images/campaign/run_1-output_0.png",
        "images/campaign/run_1-output_1.png",
    ]


def test_a_finished_run_with_many_files_names_their_folder() -> None:
    stream = io.StringIO()
    PlainDisplay(stream).finished(ended(RunState.DONE), brought(*[1000] * 4))
    assert stream.getvalue() == "campaign/run_1: done, 4 files, 4 kB, images/campaign/\n"


def test_a_finished_run_without_a_file_names_its_sidecar() -> None:
    stream = io.StringIO()
    PlainDisplay(stream).finished(ended(RunState.DONE), brought())
    assert stream.getvalue().endswith(", runs/run_1.json\n")


def test_a_failed_run_tells_its_code_and_message() -> None:
    stream = io.StringIO()
    PlainDisplay(stream).finished(ended(RunState.FAILED, "the prompt was refused"), None)
    assert stream.getvalue() == "campaign/run_1: failed: safety_blocked: the prompt was refused\n"


def test_a_partial_run_tells_what_is_missing() -> None:
    stream = io.StringIO()
    run = ended(RunState.PARTIAL, "output_1: answers 404")
    PlainDisplay(stream).finished(run, brought(1000, None))
    assert (
        "partial, 1 of 2 files, 1 kB, images/campaign/run_1-output_0.png: safety_blocked: output_1"
        in stream.getvalue()
    )


def test_outputs_that_were_left_out_are_counted_apart() -> None:
    summary = RunSummary("runs/run_1.json", outputs=3, files=1, bytes=1000, skipped=2)
    assert gains(RunLine(ended(RunState.DONE), summary, None)) == "1 file, 1 kB, 2 left out"
    nothing = RunSummary("runs/run_1.json", outputs=2, files=0, bytes=0, skipped=2)
    assert gains(RunLine(ended(RunState.DONE), nothing, None)) == "2 left out"


def test_a_run_that_stood_in_the_library_is_said_to_be_there() -> None:
    stream = io.StringIO()
    PlainDisplay(stream).finished(ended(RunState.DONE), None)
    assert stream.getvalue() == "campaign/run_1: done, already there\n"


def test_a_run_that_ended_is_not_said_to_wait(home: Home, simulator: Simulator) -> None:
    run = str(simulator.add_run("run_a", duration=0))
    for words in ("downloading", "already there"):
        done = home.run("get", run)
        assert words in done.stderr
        assert ": waiting" not in done.stderr


def test_trouble_is_told_once_however_many_runs_meet_it() -> None:
    stream = io.StringIO()
    with open_display(stream) as progress:
        for number in range(100):
            progress.trouble(downloading(number), "cannot reach app.flora.ai", 5.0)
        progress.trouble(RUN, "app.flora.ai answers 503", 2.5)
        assert stream.getvalue().splitlines() == [
            "campaign/run_0: cannot reach app.flora.ai; next try in 5 s",
            "campaign/run_1: app.flora.ai answers 503; next try in 2.5 s",
        ]


def test_trouble_that_comes_back_after_a_while_is_told_again() -> None:
    stream, clock = io.StringIO(), Clock()
    plain = PlainDisplay(stream, monotonic=clock)
    for pause in (0, 200, 200, 400):
        clock.now += pause
        plain.trouble(RUN, "cannot reach app.flora.ai", 5.0)
    assert len(stream.getvalue().splitlines()) == 2


def test_the_last_line_sums_up_several_runs() -> None:
    stream = io.StringIO()
    with open_display(stream) as progress:
        progress.run(at(0, downloading(7)), 2.0)
        progress.finished(ended(RunState.DONE), brought(1_500_000))
        progress.finished(ended(RunState.FAILED, "refused"), None)
    assert stream.getvalue().splitlines()[-1] == "1 done, 1 failed, 1 not finished: 1 file, 1.5 MB in 0 s"


def test_quiet_leaves_failures_only() -> None:
    stream = io.StringIO()
    with open_display(stream, quiet=True) as progress:
        progress.run(RUN, 2.0)
        progress.trouble(RUN, "cannot reach app.flora.ai", 5.0)
        progress.finished(ended(RunState.DONE), brought(5))
        progress.finished(ended(RunState.FAILED, "refused"), None)
        progress.finished(ended(RunState.PARTIAL, "output_2: gone"), None)
    lines = stream.getvalue().splitlines()
    assert [line.split(":")[1] for line in lines] == [" failed", " partial"]


def test_plain_lines_hold_no_secret_and_no_character_that_steers() -> None:
    stream = io.StringIO()
    run = msgspec.structs.replace(RUN, run_id="run_\x1b[2J\u202e", label="sk_live_abcdefgh12345\nforged")
    with open_display(stream) as progress:
        progress.trouble(run, "https://media.flora.ai/a.png?sig=topsecret does not answer\r", 1.0)
        assert stream.getvalue().count("\n") == 1
        assert "topsecret" not in stream.getvalue()
        assert "sk_live_abc" not in stream.getvalue()
        assert stream.getvalue().strip().isprintable()
        assert "media.flora.ai/a.png" in stream.getvalue()


def test_what_the_stream_cannot_encode_is_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    PlainDisplay(stream).finished(ended(RunState.FAILED, "prompt « é » refused 画"), None)
    assert b"prompt \\xab \\xe9 \\xbb refused \\u753b" in raw.getvalue()


def test_a_stream_that_breaks_does_not_stop_the_work() -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w", buffering=1)
    with open_display(stream) as progress:
        progress.run(RUN, 2.0)
        progress.finished(ended(RunState.DONE), None)
    with pytest.raises(BrokenPipeError):
        stream.close()  # what Python kept back goes nowhere either


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with open_display(stream) as progress:
        progress.run(RUN, 2.0)
    assert stream.getvalue() == "campaign/run_1: running, 0 %\n"


def test_plain_lines_load_no_rich() -> None:
    code = (
        "import sys, io, floradl.display as d\n"
        "with d.open_display(io.StringIO()): pass\n"
        "sys.exit(any(name in sys.modules for name in ('rich', 'httpx', 'structlog')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
