"""One daemon works with a state folder, and others can see which."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from bystanders import holding, open_to_all

from floradl.errors import LockedError
from floradl.queue import folder
from floradl.queue.folder import Holder


def test_a_lock_that_another_process_holds_is_refused_by_its_name(tmp_path: Path) -> None:
    with (
        holding(tmp_path, since=5.0) as pid,
        pytest.raises(LockedError) as caught,
        folder.hold(tmp_path, "once", "1.0", 6.0),
    ):
        pass
    assert f"floradl run (process {pid} on {socket.gethostname()})" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_holder_is_told(tmp_path: Path) -> None:
    with holding(tmp_path, since=5.0) as pid:
        assert folder.holder(tmp_path) == Holder(pid, socket.gethostname(), "run", "1.2.3", 5.0)


def test_nobody_holds_a_lock_that_was_given_back(tmp_path: Path) -> None:
    assert folder.holder(tmp_path) is None
    with folder.hold(tmp_path, "run", "1.0", 1.0):
        assert folder.holder(tmp_path) is not None
    assert folder.holder(tmp_path) is None


def test_the_lock_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    with holding(tmp_path, since=5.0) as pid:
        os.kill(pid, signal.SIGKILL)
    assert folder.holder(tmp_path) is None
    with folder.hold(tmp_path, "run", "1.0", 1.0):
        pass


def test_a_lock_that_was_refused_is_to_be_had_later(tmp_path: Path) -> None:
    with holding(tmp_path, since=5.0), pytest.raises(LockedError), folder.hold(tmp_path, "run", "1.0", 1.0):
        pass
    with folder.hold(tmp_path, "run", "1.0", 1.0):
        pass


def test_looking_does_not_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    """A health check looks every few seconds, also while the daemon starts anew."""
    (tmp_path / "lock").touch()
    code = (
        "import sys\nfrom pathlib import Path\nfrom floradl.queue import folder\n"
        "print('looking', flush=True)\nwhile True: folder.holder(Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"looking\n"
            for _ in range(1000):
                with folder.hold(tmp_path, "run", "1.0", 1.0):
                    pass
        finally:
            process.kill()


def test_of_many_that_start_at_once_one_holds_the_lock(tmp_path: Path) -> None:
    held: list[bool] = []
    together = threading.Barrier(8)
    done = threading.Barrier(8)

    def start() -> None:
        together.wait()
        try:
            with folder.hold(tmp_path, "run", "1.0", 1.0):
                held.append(True)
                done.wait()
        except LockedError:
            done.wait()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [True]


def test_a_lock_file_with_nonsense_in_it_is_still_a_lock(tmp_path: Path) -> None:
    with folder.hold(tmp_path, "run", "1.0", 1.0):
        (tmp_path / "lock").write_bytes(b'{"pid": "\xff')
        with (
            pytest.raises(LockedError, match="another process already works"),
            folder.hold(tmp_path, "x", "1", 1),
        ):
            pass
        holder = folder.holder(tmp_path)
        assert holder is not None
        assert holder.pid == 0


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"), folder.hold(tmp_path, "run", "1.0", 1.0):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.root
def test_another_user_sees_who_holds_the_lock() -> None:
    with open_to_all() as state, holding(state, since=5.0) as pid:
        os.seteuid(65534)
        try:
            holder = folder.holder(state)
        finally:
            os.seteuid(0)
        assert holder is not None
        assert holder.pid == pid


@pytest.mark.root
def test_who_may_not_look_is_told_so() -> None:
    with open_to_all() as state, holding(state, since=5.0):
        state.chmod(0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                folder.holder(state)
        finally:
            os.seteuid(0)
