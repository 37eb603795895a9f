from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, strategies as st

import floradl.log
from floradl import redaction
from floradl.log import configure
from floradl.redaction import Secret


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    root, known = logging.getLogger(), list(redaction._known)
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    redaction._known[:] = known
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_its_keys() -> None:
    stream = io.StringIO()
    configure("info", "auto", stream)
    structlog.get_logger().info("run_finished", run="run_1", technique="x", duration=1.5, output=None)
    (line,) = _lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {
        "level": "info",
        "event": "run_finished",
        "run": "run_1",
        "technique": "x",
        "duration": 1.5,
        "output": None,
    }


def test_a_terminal_gets_a_line_for_people() -> None:
    stream = _Terminal()
    configure("info", "auto", stream)
    structlog.get_logger().info("run_finished", run="run_1", label="two words")
    line = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert re.fullmatch(r'\d\d:\d\d:\d\d info     run_finished run=run_1 label="two words"\n', line)


def test_no_colours_where_nobody_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    coloured, plain = _Terminal(), io.StringIO()
    configure("info", "console", coloured)
    structlog.get_logger().info("a")
    configure("info", "console", plain)
    structlog.get_logger().info("a")
    assert "\x1b" not in coloured.getvalue() + plain.getvalue()


def test_the_level_holds_for_loggers_made_before() -> None:
    stream = io.StringIO()
    log = structlog.get_logger()
    configure("warning", "json", stream)
    log.info("not_this")
    log.warning("this")
    configure("debug", "json", stream)
    log.debug("and_this")
    assert [line["event"] for line in _lines(stream)] == ["this", "and_this"]


def test_what_is_bound_to_the_context_stands_in_each_line() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    with structlog.contextvars.bound_contextvars(run="run_1"):
        structlog.get_logger().info("a")
    assert _lines(stream)[0]["run"] == "run_1"


def test_other_libraries_records_come_the_same_way() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("some.library").warning("GET %s", "https://x.example/y?sig=planted")
    (line,) = _lines(stream)
    assert line["event"] == "GET https://x.example/y?…"
    assert (line["level"], line["logger"]) == ("warning", "some.library")


@pytest.mark.parametrize("name", ["httpx", "httpcore.connection", "watchfiles.main", "asyncio"])
def test_talkative_libraries_speak_from_warning_on_even_at_debug(name: str) -> None:
    stream = io.StringIO()
    configure("debug", "json", stream)
    logging.getLogger(name).info("not this")
    logging.getLogger(name).warning("this")
    assert [line["event"] for line in _lines(stream)] == ["this"]


def _fail(text: str, _local: str) -> None:
    raise RuntimeError(f"{text} https://x.example/y?sig=planted")


def test_a_traceback_has_no_locals_and_no_secrets() -> None:
    stream = io.StringIO()
    configure("info", "json", stream, [Secret("sk-of-another-form")])
    log = structlog.get_logger()
    try:
        _fail("sk-of-another-form", "x" * 40)
    except RuntimeError:
        log.exception("bug", run="run_1")
    logging.getLogger("a").error("b", exc_info=RuntimeError("sk-of-another-form"))
    first, second = _lines(stream)
    assert first["exception"].startswith("Traceback")
    assert first["exception"].endswith("RuntimeError: *** https://x.example/y?…")
    assert "x" * 40 not in first["exception"]
    assert second["exception"].endswith("RuntimeError: ***")
    assert "sk-of-another-form" not in stream.getvalue()


_PLANTED = "QZplantedQZ/+="
_CARRIERS = [
    _PLANTED,
    _PLANTED.encode(),
    [_PLANTED],
    {"deep": ({"deeper": {_PLANTED}},)},
    {_PLANTED: 1},
    ValueError(_PLANTED),
    Secret(_PLANTED),
    f"https://x.example/y?sig={_PLANTED}",
]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("carrier", _CARRIERS, ids=repr)
def test_a_planted_key_is_in_no_line_whatever_carries_it(form: str, carrier: object) -> None:
    stream = io.StringIO()
    configure("info", form, stream, [Secret(_PLANTED)])
    log = structlog.get_logger()
    log.info("event", value=carrier)
    log.info(str(carrier))
    log.info("event %s", carrier)
    logging.getLogger("a").error("message %s", carrier)
    logging.getLogger("a").error("message", exc_info=ValueError(carrier))
    logging.getLogger("a").error("message", extra={"carrier": carrier}, stack_info=True)
    assert "QZplantedQZ" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) >= 6


@given(text=st.text(st.characters()), form=st.sampled_from(["json", "console"]))
def test_no_value_forges_a_line_or_steers_the_terminal(text: str, form: str) -> None:
    stream = io.StringIO()
    configure("info", form, stream)
    structlog.get_logger().info("event", value=text, nested=[text], **{f"k{text}": 1})
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].replace("\x7f", "").isprintable()
    line.encode()


def test_a_value_cannot_pretend_to_be_another_key() -> None:
    stream = io.StringIO()
    configure("info", "console", stream)
    structlog.get_logger().info("event", value='x" run="run_2')
    assert stream.getvalue().endswith('event value="x\\" run=\\"run_2"\n')


def test_each_line_of_a_traceback_is_marked_on_the_console() -> None:
    stream = io.StringIO()
    configure("info", "console", stream)
    error = ValueError("first\n12:00:00 info     forged\x1b[2J")
    structlog.get_logger().error("event", exc_info=error)
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("event")
    assert all(line.startswith("    | ") for line in rest)
    assert rest[-1] == "    | 12:00:00 info     forged\\x1b[2J"


def test_an_object_that_cannot_be_shown_does_not_stop_the_work() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    stream = io.StringIO()
    logging.getLogger().handlers.clear()  # pytest's own, which raises
    configure("info", "json", stream)
    structlog.get_logger().info("event", value=Broken())
    logging.getLogger("a").error("%d", "no number")
    first, second = _lines(stream)
    assert first["value"] == "<unprintable Broken>"
    assert (second["event"], second["error"]) == ("log_line_lost", "TypeError")


def test_setting_up_twice_writes_each_line_once() -> None:
    stream = io.StringIO()
    configure("info", "json", io.StringIO())
    configure("info", "json", stream)
    structlog.get_logger().info("event")
    assert len(_lines(stream)) == 1


def test_a_replaced_stderr_is_followed(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    before, sys.stderr = sys.stderr, io.StringIO()
    try:
        structlog.get_logger().info("to_the_progress_display")
        assert "to_the_progress_display" in sys.stderr.getvalue()
    finally:
        sys.stderr = before
    assert capsys.readouterr().err == ""


_TALKER = """
import sys, structlog
import floradl.log
from floradl.log import configure
configure("info", "auto")
log = structlog.get_logger()
for number in range(3):
    log.info("event", number=number)
print("done")
"""


def test_work_goes_on_when_nobody_reads_the_log_any_more() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TALKER], check=False, stdout=subprocess.PIPE, stderr=writer, text=True
        )
    finally:
        os.close(writer)
    assert (done.stdout, done.returncode) == ("done\n", 0)


def test_work_goes_on_without_any_stderr() -> None:
    code = "import sys; sys.stderr = None\n" + _TALKER
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("done\n", 0)


def test_a_real_terminal_is_known_for_one() -> None:
    control, terminal = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", _TALKER], check=True, stdout=subprocess.PIPE, stderr=terminal)
        shown = os.read(control, 65_536).decode()
    finally:
        os.close(control)
        os.close(terminal)
    assert "event" in shown
    assert "{" not in shown


def test_stdout_is_left_to_results() -> None:
    done = subprocess.run([sys.executable, "-c", _TALKER], check=True, capture_output=True, text=True)
    assert done.stdout == "done\n"
    assert [json.loads(line)["number"] for line in done.stderr.splitlines()] == [0, 1, 2]


def test_a_chained_exception_is_redacted_in_all_its_parts() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    try:
        try:
            _fail("http://u:planted@x.example/", "")
        except RuntimeError as error:
            raise LookupError from error
    except LookupError:
        structlog.get_logger().exception("bug")
        assert "planted" in traceback.format_exc()
    assert "u:planted" not in stream.getvalue()


def test_every_module_takes_its_logger_from_floradl_log() -> None:
    """That of `structlog.get_logger` prints to stdout in a program that only imports floradl."""
    package = Path(floradl.log.__file__).parent
    sources = [path for path in package.rglob("*.py") if path.name != "log.py"]
    assert not [path for path in sources if "structlog.get_logger" in path.read_text()]
