"""A simulated FLORA in a thread of its own, and floradl as a user runs it: a process with a home folder."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import anyio
import forked
import jsonschema
from structlog.testing import LogCapture

from floradl.library.sidecar import load_schema
from floradl.log import PROCESSORS
from floradl.simulator import OutputSpec, Simulator, serve

TEST_TIMEOUT = 120.0
"""Seconds until a test gives up on what must come: a guard against a hang, no limit of the product's."""

PICTURE = (OutputSpec("a", "imageUrl", size=3000),)
_VALIDATOR = jsonschema.Draft202012Validator(load_schema())


def queue(
    home: Home,
    simulator: Simulator,
    *names: str,
    outputs: Sequence[OutputSpec] = PICTURE,
    duration: float = 0.1,
) -> None:
    """Drop a job file with runs that take so many seconds."""
    for name in names:
        simulator.add_run(name, technique="campaign", outputs=outputs, duration=duration)
    home.drop("".join(f"campaign/{name}\n" for name in names), f"{names[0]}.txt")


def wait_until(condition: Callable[[], Any], seconds: float = TEST_TIMEOUT) -> Any:
    """Return the first true value of `condition`; fail where there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {condition}")
        pause.wait(0.02)


async def until(condition: Callable[[], object], seconds: float = TEST_TIMEOUT) -> None:
    """Wait for what has no event, in the same loop; raises `TimeoutError` where it does not come to hold."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - see above
            await anyio.sleep(0.005)


@contextmanager
def served(simulator: Simulator) -> Iterator[str]:
    """Serve `simulator` in a thread; gives the API's base URL."""
    ready: list[str] = []
    up, end = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        async with serve(simulator) as base_url:
            ready.append(base_url)
            up.set()
            await end.wait()

    def body() -> None:
        try:
            loop.run_until_complete(main())
        finally:
            up.set()
            loop.close()

    thread = threading.Thread(target=body, name="simulator")
    thread.start()
    up.wait()
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()


@contextmanager
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """Give the events that are logged in this process meanwhile, in place of writing them."""
    capture, before = LogCapture(), list(PROCESSORS)
    PROCESSORS[:] = [capture]
    try:
        yield capture.entries
    finally:
        PROCESSORS[:] = before


class Home:
    """One user's floradl: folders below `path`, settings in the environment."""

    def __init__(self, path: Path, simulator: Simulator | None = None, **settings: str) -> None:
        self.path = path
        self.inbox = path / "inbox"
        self.library = path / "library"
        self.state = path / "state"
        self.command = command
        """Gives the command line of `floradl`."""
        self.identity: dict[str, Any] = {}
        """As whom it runs, in the words of `subprocess`; as whoever runs the test where it is empty."""
        self.environ: dict[str, str] = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FLORA", "XDG"))},
            "HOME": str(path / "no-home"),
            "FLORADL_HOME": str(path),
            "FLORADL_DOWNLOAD__MIN_FREE_SPACE": "0",
            "FLORADL_POLL__INTERVAL": "100ms",
            **settings,
        }
        if simulator is not None:
            self.environ |= {
                "FLORA_BASE_URL": simulator.base_url,
                "FLORA_API_KEY": simulator.key,
                "FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS": "127.0.0.1",
            }

    def run(
        self, *arguments: str, stdin: str = "", timeout: float = 2 * TEST_TIMEOUT, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        environ = self.environ | settings
        if self._may_fork(environ):
            return forked.run(arguments, environ, stdin=stdin, timeout=timeout)
        return subprocess.run(
            self.command(*arguments),
            **self.identity,
            env=environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    @contextmanager
    def daemon(self, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
        """Run the daemon while the block lasts, from the moment it has started."""
        log = self.path / "daemon.log"
        start = len(self.events("started"))
        environ = self.environ | settings
        process: subprocess.Popen[str]
        with log.open("a") as stream:
            if self._may_fork(environ):
                process = forked.Forked(("run", *arguments), environ, stderr=stream)
            else:
                process = subprocess.Popen(
                    self.command("run", *arguments), **self.identity, env=environ, stderr=stream, text=True
                )
        try:
            wait_until(lambda: process.poll() is not None or len(self.events("started")) > start)
            yield process
        finally:
            process.kill()
            process.wait()

    def _may_fork(self, environ: Mapping[str, str]) -> bool:
        return self.command is command and not self.identity and forked.is_possible(environ)

    def take_over(self, worked: Path) -> Self:
        """Become a copy of the home `worked`, with all that it did."""
        shutil.copytree(worked, self.path, dirs_exist_ok=True)
        # The copy lies elsewhere, and is known there.
        (self.state / "library-seen").write_bytes(os.fsencode(self.library) + b"\n")
        return self

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the daemon's log events of that name."""
        try:
            lines = (self.path / "daemon.log").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event for event in found if event.get("event") == name]

    def drop(self, text: str, name: str = "job.txt") -> None:
        """Move a job file into the inbox."""
        self.inbox.mkdir(parents=True, exist_ok=True)
        outside = self.path / f"outside-{name}"
        outside.write_text(text)
        outside.rename(self.inbox / name)

    def status(self) -> dict[str, Any]:
        """Return what `status --json` says."""
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def sidecar(self, reference: str) -> dict[str, Any] | None:
        """Return a run's sidecar, held against the schema; None where there is none."""
        technique, slash, run_id = reference.rpartition("/")
        path = self.library / "runs" / (technique if slash else "_unknown") / f"{run_id}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        _VALIDATOR.validate(found)
        return found

    def finished(self, reference: str, seconds: float = TEST_TIMEOUT) -> dict[str, Any]:
        """Wait for a run's sidecar."""
        found: dict[str, Any] = wait_until(lambda: self.sidecar(reference), seconds)
        return found

    def files(self) -> dict[str, bytes]:
        """Return all files of the library but marker and sidecars, by path."""
        return {
            str(path.relative_to(self.library)): path.read_bytes()
            for path in sorted(self.library.rglob("*"))
            if path.is_file() and path.name != ".floradl-library" and path.suffix != ".json"
        }


def command(*arguments: str) -> list[str]:
    """Return the command line of `floradl`, as this Python has it."""
    return [sys.executable, "-m", "floradl", *arguments]


def peak_memory(pid: int) -> int:
    """Return the most memory that a process has had, in bytes; 0 once it is gone.

    `wait4` would count what its parent had at the fork.
    """
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def check_library(home: Home, simulator: Simulator) -> None:
    """Hold every file of the library against what the simulator serves: none lost, doubled or wrong."""
    named = set()
    for path in sorted(path for path in (home.library / "runs").rglob("*.json") if path.is_file()):
        sidecar: Mapping[str, Any] = json.loads(path.read_bytes())
        _VALIDATOR.validate(sidecar)
        for index, output in enumerate(sidecar["outputs"]):
            if output["path"] is None:
                continue
            assert output["path"] not in named
            named.add(output["path"])
            data = (home.library / output["path"]).read_bytes()
            if output["type"] == "text":
                assert data.decode() == output["text"]
            else:
                served_run = simulator.run(sidecar["run_id"])
                assert served_run is not None
                assert data == served_run.body(index).read()
    assert set(home.files()) == named
