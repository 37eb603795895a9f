"""What goes to the service manager's socket, and that nothing about it is ever in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from managing import listening

from floradl.daemon.systemd import ServiceManager


def test_a_message_is_lines_of_key_and_value(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        assert ServiceManager.of({"NOTIFY_SOCKET": ear.address}).notify(READY=1, STATUS="all is well")
        assert ear.listen() == [{"READY": "1", "STATUS": "all is well"}]


def test_an_abstract_address_is_understood() -> None:
    with listening() as ear:
        assert ServiceManager.of({"NOTIFY_SOCKET": ear.address}).notify(READY=1)
        assert ear.listen() == [{"READY": "1"}]


def test_a_value_cannot_add_a_line_of_its_own(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        ServiceManager(ear.address).notify(STATUS="a name\nMAINPID=1\rX=1\0")
        assert ear.listen() == [{"STATUS": "a name MAINPID=1 X=1 "}]


def test_a_value_that_is_no_unicode_is_sent_all_the_same(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        assert ServiceManager(ear.address).notify(STATUS="caf\udce9")
        assert ear.listen() == [{"STATUS": "caf?"}]


@pytest.mark.parametrize("address", ["", "@", "/", "relative/socket", "vsock:2:1234"])
def test_an_address_that_is_none_means_that_nobody_listens(address: str) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert not manager.notify(READY=1)
    assert not manager.listens
    assert manager.watchdog is None


def test_no_variable_means_that_nobody_listens() -> None:
    assert not ServiceManager.of({}).listens
    assert not ServiceManager.of({}).notify(READY=1)


@pytest.mark.parametrize("address", ["/nowhere/notify", "@floradl-nobody-listens-here", "/" + "x" * 300])
def test_a_socket_that_is_not_there_is_no_failure(address: str) -> None:
    assert not ServiceManager(address).notify(READY=1)


def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        manager = ServiceManager(ear.address)
        took = 0
        while manager.notify(WATCHDOG=1) and took < 100_000:  # until its queue is full
            took += 1
        assert took < 100_000
        assert len(ear.listen()) == took
        assert manager.notify(WATCHDOG=1)


def test_no_descriptor_is_left_over(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        before = set(Path("/proc/self/fd").iterdir())
        for address in (ear.address, "/nowhere/notify"):
            ServiceManager(address).notify(READY=1)
        assert set(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("120000000", "", 120.0),
        ("1500000", "77", 1.5),
        ("1500000", "78", None),  # it was meant for somebody else, who passed its environment on
        ("0", "", None),
        ("soon", "", None),
        ("-5", "", None),
        ("٣", "", None),
        ("", "", None),
    ],
)
def test_the_watchdog_s_time_is_that_of_this_process(usec: str, pid: str, seconds: float | None) -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert ServiceManager.of(environ, 77).watchdog == seconds
