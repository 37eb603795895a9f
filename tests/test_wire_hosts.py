"""Where the whole program connects: nowhere inside that was not trusted, and to nobody else with the key."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from loopback import Server, in_own_network, trap
from studio import Home, served
from wire import PNG, MediaHost, Reply, answer

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

# Loopback, spelled in every way, at a port where nobody should come: {four} over IPv4, {six} over IPv6.
INSIDE = [
    "http://127.0.0.1:{four}/o.png",
    "https://127.0.0.1:{four}/o.png",
    "https://127.1:{four}/o.png",
    "https://2130706433:{four}/o.png",
    "https://0x7f000001:{four}/o.png",
    "https://0177.0.0.1:{four}/o.png",
    "https://127.0.0.1.:{four}/o.png",
    "https://localhost:{four}/o.png",
    "https://LOCALHOST.:{four}/o.png",
    "https://[::1]:{six}/o.png",
    "https://[::ffff:127.0.0.1]:{four}/o.png",
    "https://[64:ff9b::7f00:1]:{four}/o.png",
    "https://[::127.0.0.1]:{four}/o.png",
    "https://0.0.0.0:{four}/o.png",
    "https://169.254.169.254/latest/meta-data",
    "https://[fe80::1]:{six}/o.png",
    "https://user:word@127.0.0.1:{four}/o.png",
    "https://user@example.invalid/o.png",
    "//127.0.0.1:{four}/o.png",
    "ftp://127.0.0.1:{four}/o.png",
    "file:///etc/passwd",
]
REFUSED = {"host_refused", "bad_url"}


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator) -> Home:
    return trusting(Home(tmp_path, simulator), simulator)


def trusting(home: Home, simulator: Simulator, *more: str) -> Home:
    """Have the simulator's two hosts trusted, and `more`, and no other at this address."""
    hosts = [url.partition("://")[2].partition("/")[0] for url in (simulator.base_url, simulator.media_url)]
    home.environ["FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS"] = ",".join([*hosts, *more])
    return home


def outputs_of(home: Home, simulator: Simulator, outputs: Sequence[OutputSpec]) -> Any:
    """Get a run with these outputs and one good one; give what the sidecar says of the others."""
    simulator.add_run(
        "run_a", technique="t", outputs=[*outputs, OutputSpec("good", "imageUrl")], duration=0.1
    )
    done = home.run("get", "t/run_a")
    assert done.returncode == 3, done.stderr
    sidecar = home.sidecar("t/run_a")
    assert sidecar is not None
    *others, good = sidecar["outputs"]
    assert good["error"] is None
    return others


def check_refused(outputs: Any) -> None:
    """Hold that each was refused, and that a host which can be allowed is told together with the setting."""
    for output in outputs:
        assert output["path"] is None
        assert output["error"]["code"] in REFUSED, output
        if output["error"]["code"] == "host_refused":
            assert "network.trusted_private_hosts" in output["error"]["message"]


@pytest.mark.parametrize("proxied", [False, True])
def test_an_output_inside_is_refused_and_no_connection_made(
    home: Home, simulator: Simulator, *, proxied: bool
) -> None:
    with trap() as four, trap("::1") as six, trap() as proxy:
        ports = {"four": four.getsockname()[1], "six": six.getsockname()[1]}
        outputs = [
            OutputSpec(f"o{number}", "imageUrl", url=url.format(**ports)) for number, url in enumerate(INSIDE)
        ]
        # A proxy would connect where it is told to: it must not even hear of these.
        if proxied:
            home.environ["HTTPS_PROXY"] = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        check_refused(outputs_of(home, simulator, outputs))


def test_a_redirect_inside_is_refused_and_no_connection_made(home: Home, simulator: Simulator) -> None:
    with trap() as four, trap("::1") as six:
        ports = {"four": four.getsockname()[1], "six": six.getsockname()[1]}
        outputs = []
        for number, url in enumerate(INSIDE):
            do = Do(redirect=url.format(**ports))
            simulator.faults.add(Fault(do=do, match=Match(host="media", output=f"o{number}")))
            outputs.append(OutputSpec(f"o{number}", "imageUrl"))
        check_refused(outputs_of(home, simulator, outputs))


def test_a_host_that_is_not_on_the_list_is_refused_and_the_list_named(
    home: Home, simulator: Simulator
) -> None:
    home.environ["FLORADL_DOWNLOAD__MEDIA_HOSTS"] = "127.0.0.1"
    output = OutputSpec("o", "imageUrl", url="https://media.example.com/o.png?Signature=abc")
    (refused,) = outputs_of(home, simulator, [output])
    assert refused["error"]["code"] == "host_refused"
    assert "download.media_hosts" in refused["error"]["message"]
    assert refused["url"] == "https://media.example.com/o.png"
    assert "abc" not in str(home.sidecar("t/run_a"))


@pytest.mark.root
def test_private_addresses_that_are_there_are_not_connected_to(tmp_path: Path) -> None:
    inside = ["10.0.0.1", "192.168.7.7", "169.254.169.254", "100.64.0.1", "64:ff9b::a00:1", "fd00::1"]

    def work() -> None:
        simulator = Simulator()
        with ExitStack() as stack:
            stack.enter_context(served(simulator))
            for address in inside:
                stack.enter_context(trap(address, 443))
            home = trusting(Home(tmp_path, simulator), simulator)
            hosts = [f"[{address}]" if ":" in address else address for address in inside]
            hosts += ["[::ffff:10.0.0.1]", "167772161", "0x0a000001", "012.0.0.1", "10.1"]
            outputs = [
                OutputSpec(f"o{number}", "imageUrl", url=f"https://{host}/o.png")
                for number, host in enumerate(hosts)
            ]
            check_refused(outputs_of(home, simulator, outputs))

    in_own_network(work, *inside)


def test_a_sink_behind_a_redirect_gets_no_key(tmp_path: Path, simulator: Simulator) -> None:
    with MediaHost(lambda _: Reply(answer(PNG, "Content-Type: image/png"))) as sink:
        home = trusting(Home(tmp_path, simulator), simulator, f"127.0.0.1:{sink.port}")
        do = Do(redirect=sink.url("/away.png?Signature=abc"))
        simulator.faults.add(Fault(do=do, match=Match(host="media")))
        simulator.add_run("run_a", technique="t", outputs=[OutputSpec("o", "imageUrl")], duration=0.1)
        assert home.run("get", "t/run_a").returncode == 0
        (head,) = sink.heads
    assert home.files() == {"images/t/run_a-o.png": PNG}
    assert b"authorization" not in head.lower()
    assert simulator.key.encode() not in head
    assert b"referer" not in head.lower()
    assert "Signature" not in str(home.sidecar("t/run_a"))


@pytest.mark.parametrize("status", [302, 307])
def test_the_key_is_not_carried_along_a_redirect_of_the_api(
    tmp_path: Path, simulator: Simulator, status: int
) -> None:
    with Server() as sink:
        home = trusting(Home(tmp_path, simulator), simulator, f"127.0.0.1:{sink.port}")
        do = Do(redirect=f"http://127.0.0.1:{sink.port}/api/v1/runs/run_a", status=status)
        simulator.faults.add(Fault(do=do, match=Match(host="api"), times=2))
        simulator.add_run("run_a", technique="t", outputs=[OutputSpec("o", "imageUrl")], duration=0.1)
        assert home.run("get", "t/run_a").returncode == 0
        assert sink.connections == 0
