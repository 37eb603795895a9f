"""Told to stop in the middle of a transfer: a clean end in time, and nothing is fetched twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
from studio import TEST_TIMEOUT, Home, check_library, command, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

SIZE = 3_000_000
CLIP = OutputSpec("clip", "videoUrl", size=SIZE, rate=1_000_000)
RUN = "campaign/run_0"


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator) -> Home:
    home = Home(tmp_path, simulator)
    home.drop(RUN)
    return home


def arrived(home: Home) -> int:
    """Return how many bytes of the clip there are in its part file."""
    return sum(path.stat().st_size for path in home.library.rglob("videos/campaign/.*.part"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_keeps_what_arrived_and_the_next_start_goes_on_from_there(
    home: Home, simulator: Simulator, number: signal.Signals
) -> None:
    simulator.add_run("run_0", technique="campaign", outputs=[CLIP], duration=0)
    with home.daemon() as process:
        wait_until(lambda: arrived(home) > SIZE / 2)
        process.send_signal(number)
        assert process.wait(TEST_TIMEOUT) == 0
    part = arrived(home)
    assert part > SIZE / 2
    with home.daemon():
        assert home.finished(RUN)["result"] == "complete"
    first, second = simulator.asked("media", "run_0")
    assert (first.status, first.range) == (200, None)
    assert (second.status, second.range) == (206, f"bytes={part - 65_536}-")  # 64 KiB are compared
    assert simulator.counters.bytes_sent < 2 * SIZE
    check_library(home, simulator)
    assert not list(home.library.rglob(".*.part"))


def test_once_that_is_stopped_keeps_what_arrived_too(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_0", technique="campaign", outputs=[CLIP], duration=0)
    process = subprocess.Popen(command("once", "-q"), env=home.environ)
    wait_until(lambda: arrived(home) > SIZE / 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(TEST_TIMEOUT) == 130
    assert home.run("once").returncode == 0
    assert [request.status for request in simulator.asked("media", "run_0")] == [200, 206]
    check_library(home, simulator)


def test_a_stalled_transfer_does_not_hold_a_stop_up(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(do=Do(stall_after="50%"), match=Match(host="media"), times=1))
    simulator.add_run("run_0", technique="campaign", outputs=[CLIP], duration=0)
    with home.daemon() as process:
        wait_until(lambda: arrived(home) >= SIZE / 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
        assert len(home.events("stopped")) == 1  # by itself, before the deadline of a stop ended it
    assert home.run("once").returncode == 0
    assert simulator.asked("media", "run_0")[-1].status == 206
    check_library(home, simulator)


def test_an_answer_that_does_not_come_does_not_hold_a_stop_up(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        home.environ["FLORA_BASE_URL"] = f"http://127.0.0.1:{server.getsockname()[1]}/api/v1"
        with home.daemon() as process:
            connection, _ = server.accept()
            with connection:
                assert b"run_0" in connection.recv(4096)
                process.send_signal(signal.SIGTERM)
                assert process.wait(TEST_TIMEOUT) == 0


@pytest.fixture
def looking_up(
    home: Home, simulator: Simulator, request: pytest.FixtureRequest
) -> Iterator[subprocess.Popen[str]]:
    """A daemon, or its worker, that waits for the answer of a name server, for a minute at least."""
    there = OutputSpec("o", request.param, url="https://media.example.com/o")
    simulator.add_run("run_0", technique="campaign", outputs=[there], duration=0)
    silent = str(ip_address("127.53.0.0") + os.getpid())  # beside others who do the same, and one test each
    resolv = home.path / "resolv.conf"
    resolv.write_text(f"nameserver {silent}\noptions timeout:30 attempts:2\n")
    script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
    if subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", resolv, "true"], check=False
    ).returncode:
        pytest.skip("cannot mount here")
    in_its_own = ["unshare", "--mount", "sh", "-c", script, "sh", str(resolv), *command("run")]
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind((silent, 53))
        server.settimeout(20)
        process = subprocess.Popen(in_its_own, env=home.environ, stderr=subprocess.DEVNULL, text=True)
        try:
            assert b"example" in server.recv(4096)
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.root
@pytest.mark.parametrize("looking_up", ["imageUrl", "videoUrl"], ids=["here", "worker"], indirect=True)
def test_a_name_that_cannot_be_looked_up_does_not_hold_a_stop_up(
    looking_up: subprocess.Popen[str],
) -> None:
    looking_up.send_signal(signal.SIGTERM)
    assert looking_up.wait(TEST_TIMEOUT) == 0


@pytest.mark.root
@pytest.mark.parametrize("looking_up", ["imageUrl"], ids=["here"], indirect=True)
def test_a_second_signal_ends_a_look_up_at_once(looking_up: subprocess.Popen[str]) -> None:
    looking_up.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        looking_up.wait(0.5)
        pytest.skip("the first signal was enough")
    looking_up.send_signal(signal.SIGTERM)
    assert looking_up.wait(TEST_TIMEOUT) == 130  # the deadline of a stop ends it with 0
