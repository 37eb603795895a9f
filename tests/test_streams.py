"""Standard streams that are closed, full or unread, and users without a home: work is done all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from studio import TEST_TIMEOUT, Home, check_library, command, queue

from floradl.simulator import Simulator

CLOSED = "<&- >&- 2>&-"
FULL = "</dev/null >/dev/full 2>/dev/full"
UNREAD = "2>&1 | true"


def shell(home: Home, redirected: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command with its streams redirected by a shell, as people do."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$@" {redirected}', "bash", *command(*arguments)],
        env=home.environ | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def make_library(home: Home) -> None:
    home.library.mkdir()
    (home.library / ".floradl-library").touch()


@pytest.mark.parametrize("redirected", [CLOSED, FULL, UNREAD])
@pytest.mark.parametrize("arguments", [("once",), ("get", "campaign/run_a")])
def test_work_is_done_whatever_becomes_of_the_streams(
    home: Home, simulator: Simulator, redirected: str, arguments: tuple[str, ...]
) -> None:
    queue(home, simulator, "run_a")
    assert shell(home, redirected, *arguments).returncode == 0
    assert home.sidecar("campaign/run_a")
    check_library(home, simulator)


def test_with_closed_streams_a_daemon_writes_its_log_into_no_file_of_its_own(
    home: Home, simulator: Simulator
) -> None:
    """The next file that is opened would get the descriptor of stderr: the journal, or a download."""
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" {CLOSED}', "bash", *command("run", "-v")], env=home.environ
    )
    try:
        queue(home, simulator, "run_a", "run_b")
        home.finished("campaign/run_a")
        home.finished("campaign/run_b")
        held = {str(Path(f"/proc/{process.pid}/fd/{fd}").readlink()) for fd in range(3)}
        assert held == {os.devnull}
        process.terminate()
        assert process.wait(TEST_TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
    check_library(home, simulator)
    files = [path for path in home.path.rglob("*") if path.is_file()]
    assert not [path for path in files if b'"level":"info"' in path.read_bytes()]
    assert "ok    journal" in home.run("check").stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("status",), ("status", "--json"), ("check",), ("verify",)])
def test_an_answer_that_does_not_fit_is_told_and_is_no_bug(
    home: Home, arguments: tuple[str, ...], unbuffered: str
) -> None:
    make_library(home)
    done = shell(home, ">/dev/full", *arguments, PYTHONUNBUFFERED=unbuffered)
    assert "standard output cannot be written: No space left on device" in done.stderr
    assert "bug" not in done.stderr
    assert done.returncode in {1, 5}


@pytest.mark.parametrize("arguments", [("status",), ("status", "--json"), ("status", "--all"), ("verify",)])
def test_an_answer_that_nobody_reads_or_can_read_is_no_fault(home: Home, arguments: tuple[str, ...]) -> None:
    make_library(home)
    assert shell(home, CLOSED, *arguments).returncode == 0
    assert shell(home, UNREAD, *arguments).returncode == 0


def test_jobs_are_handed_in_though_nobody_can_be_told(home: Home) -> None:
    for number, redirected in enumerate((CLOSED, "2>/dev/full", UNREAD)):
        assert shell(home, redirected, "add", f"campaign/run_{number}").returncode == 0
    assert len(list(home.inbox.iterdir())) == 3


def test_a_closed_standard_input_names_no_run(home: Home) -> None:
    done = shell(home, "<&-", "add", "-")
    assert done.returncode == 2
    assert "standard input names no run" in done.stderr


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Hold an answer against what a wrong set-up gets: one sentence, and exit code 2."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception Group" not in done.stderr
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("arguments", [("get", "run_a"), ("once",), ("run",), ("add", "run_a"), ("status",)])
def test_a_home_that_is_a_file_is_told_in_a_sentence(home: Home, arguments: tuple[str, ...]) -> None:
    place = home.path / "file"
    place.write_text("")
    refused(home.run(*arguments, FLORADL_HOME=str(place)), str(place), "Not a directory")


@pytest.mark.parametrize("name", ["FLORADL_STATE_DIR", "FLORADL_QUEUE__WATCH_DIR"])
@pytest.mark.parametrize("arguments", [("once",), ("run",)])
def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(
    home: Home, name: str, arguments: tuple[str, ...]
) -> None:
    (home.path / "dangling").symlink_to("/nonexistent/place")
    home.environ[name] = str(home.path / "dangling")
    refused(home.run(*arguments), "dangling")


def test_get_says_in_a_sentence_that_its_state_folder_cannot_be_made(home: Home) -> None:
    (home.path / "dangling").symlink_to("/nonexistent/place")
    refused(home.run("get", "run_a", FLORADL_STATE_DIR=str(home.path / "dangling")), "dangling")


def as_nobody(home: Home, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user that no list knows."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv")
    somebody = [setpriv, "--reuid", "12345", "--clear-groups"]
    if subprocess.run([*somebody, "test", "-x", Path(__file__).parent], check=False).returncode:
        pytest.skip("needs a checkout that other users can reach")
    environ = {**home.environ, **settings}
    return subprocess.run(
        [*somebody, *command(*arguments)],
        env={name: value for name, value in environ.items() if value},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.root
@pytest.mark.parametrize("arguments", [("status",), ("once",), ("add", "run_a"), ("check",)])
def test_a_user_without_a_home_is_told_to_name_one(home: Home, arguments: tuple[str, ...]) -> None:
    refused(as_nobody(home, *arguments, HOME="", FLORADL_HOME=""), "write the whole path")


@pytest.mark.root
def test_a_user_without_a_home_or_an_entry_works_where_a_home_is_named(
    home: Home, simulator: Simulator
) -> None:
    place = Path("/tmp") / f"floradl-nobody-{os.getpid()}"  # others have no way into pytest's own
    place.mkdir()
    try:
        shutil.chown(place, 12345)
        simulator.add_run("run_a", technique="campaign", duration=0.1)
        done = as_nobody(home, "get", "campaign/run_a", HOME="", FLORADL_HOME=str(place))
        assert done.returncode == 0, done.stderr
        assert (place / "library/runs/campaign/run_a.json").exists()
        assert "user 12345" not in as_nobody(home, "check", HOME="", FLORADL_HOME=str(place)).stderr
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("arguments", [("status",), ("--help",), ("check",)])
def test_a_bare_environment_is_enough(home: Home, arguments: tuple[str, ...]) -> None:
    environ = {"FLORADL_HOME": str(home.path), "COLUMNS": "0", "LC_ALL": "C"}
    done = subprocess.run(command(*arguments), env=environ, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}
    assert "bug" not in done.stderr


def test_no_message_names_an_install_from_a_registry() -> None:
    """The name is not ours there."""
    package = Path(__file__).parent.parent / "floradl"
    texts = {path: path.read_text() for path in package.rglob("*.py")}
    assert not [path for path, text in texts.items() if "pip install" in text or "floradl[" in text]
