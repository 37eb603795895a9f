"""`floradl simulate` prints where it is and with which key, and serves until it is told to stop."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from studio import TEST_TIMEOUT

from floradl.commands.demo import simulate
from floradl.errors import ConfigError

_CALL = """
import sys
from pathlib import Path
from floradl.commands.demo import simulate
sys.exit(simulate({}))
"""


@contextmanager
def simulating(arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _CALL.format(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def client(first: str) -> httpx.Client:
    found = re.fullmatch(
        r"FLORA_BASE_URL=(http://127\.0\.0\.1:\d+/api/v1) FLORA_API_KEY=(sk_test_\w+)"
        r" FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS=127\.0\.0\.1\n",
        first,
    )
    assert found is not None
    return httpx.Client(
        base_url=found[1],
        headers={"Authorization": f"Bearer {found[2]}"},
        trust_env=False,
        timeout=TEST_TIMEOUT,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_line_is_all_that_is_needed_and_a_signal_ends_it_well(number: signal.Signals) -> None:
    with simulating("port=0, speed=1, rate_limit=None, scenario=None") as (process, first):
        with client(first) as api:
            body = {"mode": "async", "inputs": []}
            assert api.post("/techniques/campaign/runs", json=body).json()["status"] == "pending"
        process.send_signal(number)
        rest, hints = process.communicate(timeout=TEST_TIMEOUT)
        assert process.returncode == 0
        assert rest == ""
        assert "curl" in hints
        assert "campaign" in hints


def test_a_scenario_and_a_rate_limit_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(
        "rate_burst: 2\nruns: [{run: run_a, duration: 0}]\nfaults: [{times: 1, do: {status: 503}}]\n"
    )
    with simulating(f"port=0, speed=1, rate_limit=0.001, scenario=Path({str(path)!r})") as (_process, first):
        with client(first) as api:
            statuses = [api.get("/runs/run_a").status_code for _request in range(4)]
        assert statuses == [503, 200, 200, 429]


def test_a_port_that_is_taken_is_said_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .*--port"):
            simulate(port=port, speed=1, rate_limit=None, scenario=None)


def test_a_missing_aiohttp_is_said_in_words(tmp_path: Path) -> None:
    # An installation without the extra: the import fails as it does there.
    (tmp_path / "aiohttp.py").write_text(
        "raise ModuleNotFoundError('No module named aiohttp', name='aiohttp')\n"
    )
    call = _CALL.format("port=0, speed=1, rate_limit=None, scenario=None")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{call}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ConfigError: the simulator needs aiohttp" in done.stderr
    assert "the extra `simulator`, see docs/simulator.md" in done.stderr


def test_importing_the_command_pulls_in_nothing_heavy() -> None:
    code = "import sys, floradl.commands.demo; print('aiohttp' in sys.modules, 'httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
