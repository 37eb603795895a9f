"""Others at work beside a test: a process that holds a lock, a folder that every user may enter."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLD = """
import sys
from pathlib import Path
from floradl.queue import folder
state_dir, command, since = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
with folder.hold(state_dir, command, "1.2.3", since):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(state_dir: Path, since: float, command: str = "run") -> Iterator[int]:
    """Have another process hold the state folder's lock; yields its id."""
    arguments = [sys.executable, "-c", _HOLD, str(state_dir), command, str(since)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid


@contextmanager
def open_to_all() -> Iterator[Path]:
    """Give a folder that every user may enter; pytest's own is private."""
    folder = Path(tempfile.mkdtemp(prefix="floradl-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
