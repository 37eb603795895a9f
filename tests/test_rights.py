"""A folder that floradl may not use is told with the numbers that mend it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bystanders import open_to_all

pytestmark = pytest.mark.root

# What it imports is read before the rights are gone: a checkout may be open to root alone.
_AS_ANOTHER = """
import os, sys
from pathlib import Path
import anyio, anyio._backends._asyncio, encodings.idna
from floradl.service.daemon import build_inbox
from floradl.errors import ConfigError
from floradl.service.opening import opened
from floradl.config.load import Options, load_config
config = load_config(Options(home=Path(sys.argv[1])), {"HOME": "/"}, system_file=Path("/nowhere"))
os.setgroups([]); os.setgid(4322); os.setuid(4321)
async def start():
    build_inbox(config)
    async with opened(config, "run"):
        pass
try:
    anyio.run(start)
except ConfigError as error:
    print(error)
"""


def start(home: Path) -> str:
    """Start as user 4321 of group 4322; return what is said."""
    command = [sys.executable, "-c", _AS_ANOTHER, str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_home_of_somebody_else_is_told() -> None:
    with open_to_all() as home:
        told = start(home)
        assert told.startswith(
            f"the watch folder {home}/inbox cannot be made: {home} (0:0, mode 755) is not open"
        )
        assert "to this user (4321:4322): give this user the right to it (chown)" in told


def test_a_watch_folder_of_somebody_else_is_told() -> None:
    with open_to_all() as home:
        (home / "inbox/accepted").mkdir(parents=True)
        assert f"{home}/inbox (0:0, mode 755) is not open to this user (4321:4322)" in start(home)


def test_a_journal_left_by_another_user_is_told() -> None:
    with open_to_all() as home:
        for name in ("inbox", "state"):
            (home / name).mkdir()
            os.chown(home / name, 4321, 4322)
        (home / "state/lock").touch(0o644)
        told = start(home)
        assert told.startswith(
            f"the state folder {home}/state cannot be used: {home}/state/lock (0:0, mode 644)"
        )
        assert "run floradl as its owner" in told
