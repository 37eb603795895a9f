"""`floradl gallery` and `web.listen` as a user runs them: processes, a home folder, a browser's requests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from galleries import Shelf
from ports import free_port
from studio import TEST_TIMEOUT, Home, queue, wait_until

from floradl.commands.library_index import SavedSidecars
from floradl.models import QueuedRun, RunState
from floradl.queue.event_log import EventLog
from floradl.simulator import Simulator

TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture
def plain(tmp_path: Path) -> Home:
    """A home without a FLORA."""
    return Home(tmp_path)


def asked(port: int, path: str = "/api/status", **headers: str) -> Any:
    """Return what the gallery says, once it does."""

    def ask() -> httpx.Response | None:
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers, trust_env=False)
        return None

    return wait_until(ask)


@contextmanager
def gallery(home: Home, *arguments: str, **settings: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run the command while the block lasts; gives its port."""
    port = free_port()
    line = home.command("gallery", "--listen", f"127.0.0.1:{port}", *arguments)
    with subprocess.Popen(line, env=home.environ | settings, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield port, process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_command_shows_the_library_and_ends_on_a_signal(
    home: Home, simulator: Simulator, number: signal.Signals
) -> None:
    queue(home, simulator, "run_a", "run_b")
    assert home.run("once").returncode == 0
    with gallery(home) as (port, process):
        wait_until(lambda: asked(port).json()["indexing"] is None)
        outputs = asked(port, "/api/outputs").json()["outputs"]
        assert {output["run_id"] for output in outputs} == {"run_a", "run_b"}
        picture = asked(port, outputs[0]["url"])
        assert len(picture.content) == 3000
        process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stderr is not None
        said = process.stderr.read()
        assert f"http://127.0.0.1:{port}/" in said
        assert "Traceback" not in said
    assert (home.state / "index.sqlite3").exists()


def test_it_shows_runs_that_a_daemon_saves_and_those_that_fail(home: Home, simulator: Simulator) -> None:
    with home.daemon(), gallery(home) as (port, _):
        assert asked(port).json()["daemon"] is True
        queue(home, simulator, "run_new")
        wait_until(lambda: asked(port, "/api/outputs").json()["total"] == 1)
        simulator.add_run("run_bad", technique="campaign", fail=("safety_blocked", "No."), duration=0.1)
        home.drop("campaign/run_bad\n", "bad.txt")
        (failed,) = wait_until(lambda: asked(port).json()["failed"])
        assert (failed["run_id"], failed["error"]["code"]) == ("run_bad", "safety_blocked")


def test_a_pause_is_shown_with_its_reason_and_remedy(home: Home, simulator: Simulator) -> None:
    simulator.key = "sk_live_another"
    with home.daemon(), gallery(home) as (port, _):
        queue(home, simulator, "run_a")
        paused = wait_until(lambda: asked(port).json()["paused"])
    assert paused["reason"] == "key_refused"
    assert "key" in paused["message"]
    assert "floradl check" in paused["remedy"]


def test_an_empty_home_has_an_empty_gallery(plain: Home) -> None:
    with gallery(plain) as (port, _):
        status = asked(port).json()
        assert (status["daemon"], status["running"], status["failed"]) == (False, [], [])
        assert asked(port, "/api/view").json()["total"] == 0


def test_a_gallery_that_starts_sees_a_sidecar_that_was_edited_in_place_before(plain: Home) -> None:
    plain.state.mkdir()
    shelf = Shelf(plain.library)
    shelf.put("run_a", label="spring")
    long_ago = time.time_ns() - 10**10
    os.utime(shelf.sidecar("run_a").parent, ns=(long_ago, long_ago))
    assert plain.run("find", "spring", "--paths").stdout
    sidecar = shelf.sidecar("run_a")
    with sidecar.open("r+") as file:
        edited = file.read().replace("spring", "summer")
        file.seek(0)
        file.write(edited)
    with gallery(plain) as (port, _):
        wait_until(lambda: asked(port).json()["indexing"] is None)
        assert asked(port, "/api/outputs?q=summer").json()["total"] == 1


def test_an_index_that_turns_out_to_be_damaged_is_made_anew_while_it_is_shown(plain: Home) -> None:
    plain.state.mkdir()
    shelf = Shelf(plain.library)
    for nth in range(100):
        shelf.put(f"run_{nth}", label=f"label {nth} " * 30)
    with shelf.indexed():
        pass
    file = plain.state / "index.sqlite3"
    data = file.read_bytes()
    file.write_bytes(data[:8192] + os.urandom(len(data) - 8192))
    with gallery(plain) as (port, _):
        wait_until(lambda: asked(port, "/api/view").json().get("total") == 100)


def test_a_port_that_is_taken_is_said_with_what_to_do(plain: Home) -> None:
    with gallery(plain) as (port, _):
        asked(port)
        done = plain.run("gallery", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert "is taken" in done.stderr
    assert "--listen" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--listen", "0.0.0.0:8788"), "web.token_file"),
        (("--listen", "8788"), "127.0.0.1:8788"),
        (("--listen", "x"), "--listen"),
    ],
)
def test_an_address_that_cannot_be_served_is_refused(
    plain: Home, arguments: tuple[str, ...], word: str
) -> None:
    done = plain.run("gallery", *arguments)
    assert done.returncode == 2
    assert word in done.stderr


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "PIL"])
def test_without_the_extra_it_says_how_to_get_it(plain: Home, tmp_path: Path, missing: str) -> None:
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('none', name='{missing}')")
    done = plain.run("gallery", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert f"needs {missing}" in done.stderr
    assert "the extra `web`" in done.stderr


def token_file(home: Home) -> str:
    file = home.path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return str(file)


def test_with_a_token_nothing_is_shown_without_it_and_buttons_drop_jobs(
    home: Home, simulator: Simulator
) -> None:
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 0
    with gallery(home, FLORADL_WEB__TOKEN_FILE=token_file(home)) as (port, process):
        assert asked(port).status_code == 401
        own = {"Authorization": f"Bearer {TOKEN}"}
        wait_until(lambda: asked(port, **own).json()["indexing"] is None)
        done = httpx.post(
            f"http://127.0.0.1:{port}/api/runs/run_a/retry",
            headers=own,
            trust_env=False,
            timeout=TEST_TIMEOUT,
        )
        assert done.status_code == 202
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert TOKEN not in process.stderr.read()
    (job,) = (path for path in home.inbox.iterdir() if path.is_file())
    assert "retry" in job.read_text()
    assert "run_a" in job.read_text()


def test_the_button_of_a_run_removes_its_files_at_once(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 0
    with gallery(home, FLORADL_WEB__TOKEN_FILE=token_file(home)) as (port, _):
        own = {"Authorization": f"Bearer {TOKEN}"}
        wait_until(lambda: asked(port, **own).json()["indexing"] is None)
        url = f"http://127.0.0.1:{port}/api/runs/run_a/prune"
        assert httpx.post(url, headers=own, trust_env=False, timeout=TEST_TIMEOUT).status_code == 202
    assert home.files() == {}
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["outputs"][0]["removed"]["reason"] == "pruned"
    assert home.run("verify").returncode == 0


@pytest.mark.parametrize(
    ("content", "word"), [("short", "16"), ("", "16"), ("with some spaces in it", "gallery token")]
)
def test_a_token_that_could_be_guessed_is_refused_and_not_shown(plain: Home, content: str, word: str) -> None:
    file = Path(token_file(plain))
    file.write_text(content)
    done = plain.run("gallery", FLORADL_WEB__TOKEN_FILE=str(file))
    assert done.returncode == 2
    assert word in done.stderr
    assert not content or content not in done.stderr


def child_of(pid: int) -> int:
    """Return the process of the daemon's gallery, once there is one."""

    def look() -> int | None:
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError, IndexError):
                line = place.joinpath("cmdline").read_bytes().split(b"\0")
                parent = int(place.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid and b"gallery" in line:
                    return int(place.name)
        return None

    found: int = wait_until(look)
    return found


def test_the_daemon_shows_the_gallery_by_a_process_without_the_key_that_ends_with_it(
    home: Home, simulator: Simulator
) -> None:
    port = free_port()
    home.command = lambda *arguments: [*Home(home.path).command(*arguments)]  # a process of its own
    with home.daemon(FLORADL_WEB__LISTEN=f"127.0.0.1:{port}") as daemon:
        queue(home, simulator, "run_a")
        wait_until(lambda: asked(port, "/api/outputs").json()["total"] == 1)
        child = child_of(daemon.pid)
        environ = Path(f"/proc/{child}/environ").read_bytes()
        assert simulator.key.encode() not in environ
        assert b"FLORA_API_KEY" not in environ
        os.kill(child, signal.SIGKILL)  # it is started again
        wait_until(lambda: asked(port).json()["daemon"])
        again = child_of(daemon.pid)
        daemon.kill()
        daemon.wait()
        wait_until(
            lambda: (
                not Path(f"/proc/{again}/cmdline").exists() or not Path(f"/proc/{again}/cmdline").read_bytes()
            )
        )
    assert json.loads((home.path / "daemon.log").read_text().splitlines()[0])["event"]
    assert home.events("gallery_ended")


@pytest.mark.anyio
async def test_of_the_daemons_events_a_gallery_takes_the_sidecars_that_were_written_since(
    tmp_path: Path,
) -> None:
    run = QueuedRun(run_id="run_a", technique="campaign", state=RunState.DONE, queued_at=1.0)
    log = EventLog(tmp_path)
    async with aclosing(log):
        with closing(SavedSidecars(tmp_path, time.time())) as saved:
            log.accepted(["run_a"])
            log.finished(run, "runs/campaign/run_a.json", 1, 5)
            log.finished(run, None, 0, 0)
            assert saved() == []
            log._write()
            assert saved() == ["runs/campaign/run_a.json"]
            assert saved() == []
