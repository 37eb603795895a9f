"""floradl as its user runs it: a process with a home folder, settings in the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.flora import Flora
from benchmarks.identity import HOST
from benchmarks.plan import BenchmarkError
from benchmarks.processes import Cost, measured, running, tail
from benchmarks.script import TECHNIQUE

_A_JOB = 10_000  # runs a job file: below the 1 MiB that the inbox takes
_TAKEN_OUT = (
    "FLORA",
    "PYTHONDONTWRITE",
    "XDG_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT",
)


def clean_environ() -> dict[str, str]:
    """Return the environment without what would lead a program elsewhere: proxies, other settings.

    Nor with what has Python compile each module at each start: an installed program is compiled.
    """
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(_TAKEN_OUT)}


class Home:
    """One user's floradl below `path`, with FLORA at `flora`; `settings` are environment variables.

    `python` is an interpreter that finds floradl.
    """

    def __init__(
        self,
        path: Path,
        flora: Flora,
        settings: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.path = path
        self._python = python
        self.library = path / "library"
        self.state = path / "state"
        self._inbox = path / "inbox"
        self.log = path / "floradl.log"
        path.mkdir(parents=True)
        self.environ = {
            **clean_environ(),
            "HOME": str(path),
            "FLORADL_HOME": str(path),
            "FLORA_BASE_URL": flora.base_url,
            "FLORA_API_KEY": flora.key,
            "FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS": HOST,
            "FLORADL_DOWNLOAD__MIN_FREE_SPACE": "0",
            **(settings or {}),
        }

    def drop(self, run_ids: Iterable[str], name: str = "job") -> None:
        """Put job files with these runs into the inbox."""
        self._inbox.mkdir(exist_ok=True)
        references = [f"{TECHNIQUE}/{run_id}\n" for run_id in run_ids]
        for start in range(0, len(references), _A_JOB):
            outside = self.path / "job.tmp"
            outside.write_text("".join(references[start : start + _A_JOB]))
            outside.rename(self._inbox / f"{name}-{start}.txt")

    def once(self, timeout: float = 1800.0) -> Cost:
        """Work off what the inbox holds. Raises `BenchmarkError` where that fails."""
        return self.measured("once", timeout=timeout)

    def measured(self, *arguments: str, timeout: float = 1800.0) -> Cost:
        """Run a command to its end; returns what it took. Raises `BenchmarkError` where it fails."""
        return measured(self._command(*arguments), self.environ, self.log, timeout)

    @contextmanager
    def working_off(self) -> Iterator[subprocess.Popen[bytes]]:
        """Have what the inbox holds worked off; ended with the block, if not before."""
        with running(self._command("once"), self.environ, self.log) as process:
            yield process

    def run(self, *arguments: str, stdin: str = "") -> tuple[str, float]:
        """Run a command to its end; returns what it printed, and the seconds it took."""
        begun = time.monotonic()
        done = subprocess.run(
            self._command(*arguments),
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise BenchmarkError(
                f"floradl {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}"
            )
        return done.stdout, time.monotonic() - begun

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the daemon while the block lasts, from the moment it says that it has started."""
        before = len(list(self.events("started")))
        with running(self._command("run"), self.environ, self.log) as process:
            self.wait(process, lambda: len(list(self.events("started"))) > before, 60)
            yield process

    def wait(
        self,
        process: subprocess.Popen[bytes],
        condition: Callable[[], bool],
        seconds: float,
        every: float = 0.02,
    ) -> None:
        """Wait until something is so, looking `every` so many seconds.

        Raises `BenchmarkError` when the daemon ends, or time is over.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"the daemon did not come so far: {tail(self.log)}")
            time.sleep(every)

    def events(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the daemon's log events of that name."""
        if not self.log.exists():
            return
        with self.log.open() as lines:
            for line in lines:
                if f'"{name}"' in line and line.endswith("}\n"):
                    event: dict[str, Any] = json.loads(line)
                    if event.get("event") == name:
                        yield event

    def taken(self) -> int:
        """Return how many runs the daemon has recorded."""
        return sum(event["runs"] for event in self.events("jobs_accepted"))

    def check_files(self, count: int, size: int) -> None:
        """Raise `BenchmarkError` unless the library holds so many files with so many bytes."""
        sizes = [
            path.stat().st_size
            for path in self.library.rglob("*")
            if path.suffix in {".png", ".mp4"} and path.is_file() and not path.name.startswith(".")
        ]
        if (len(sizes), sum(sizes)) != (count, size):
            raise BenchmarkError(
                f"floradl left {len(sizes)} files with {sum(sizes)} bytes instead of {count} with {size}"
            )

    def _command(self, *arguments: str) -> list[str]:
        return [self._python, "-P", "-m", "floradl", *arguments]  # not the one of the folder it begins in
