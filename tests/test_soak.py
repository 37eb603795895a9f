"""Runs without end while a tenth of all answers go wrong: nothing is lost, no byte is wrong, nothing grows.

A minute by default. `FLORADL_SOAK_SECONDS=600 FLORADL_SOAK_RUNS=5000` make it the long form, and `-s` shows
its figures.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct
from studio import TEST_TIMEOUT, Home, check_library, served, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator
from floradl.simulator.faults import FaultBook

SECONDS = float(os.environ.get("FLORADL_SOAK_SECONDS", "60"))
RUNS = int(os.environ.get("FLORADL_SOAK_RUNS", "300"))
SHARE = 0.1
MOST_OPEN = 200
SETTINGS = {
    "FLORADL_POLL__INTERVAL": "500ms",
    "FLORADL_DOWNLOAD__STALL_TIMEOUT": "3s",
}
API_FAULTS = (
    Do(reset=True),
    Do(delay=2),
    Do(status=500, code="internal_error"),
    Do(status=502, html=True),
    Do(status=503, code="service_unavailable", retry_after="1"),
    Do(status=404, code="not_found"),
    Do(status=409, code="conflict"),
    Do(cut_json="50%"),
    Do(cut_after="50%"),
    Do(reset_after="90%"),
    Do(wrong_type="outputs.url"),
    Do(missing_field="status"),
    Do(unknown_status="dreaming"),
    Do(camel_case=True),
    Do(set={"progress": "high"}),
    Do(html=True),
)
MEDIA_FAULTS = (
    Do(reset=True),
    Do(delay=2),
    Do(status=500),
    Do(status=503, retry_after="1"),
    Do(status=429),
    Do(status=404),
    Do(status=502, html=True),
    Do(redirect="{again}"),
    Do(expire=True),
    Do(cut_after="50%"),
    Do(cut_after="98%", framing="chunked"),
    Do(cut_after="98%", framing="close"),
    Do(reset_after="50%"),
    Do(stall_after="50%"),
    Do(drip=200),
    Do(wrong_length=10),
    Do(wrong_length=-10),
    Do(framing="close"),
    Do(cut_after="60%", ignore_range=True),
    Do(cut_after="60%", wrong_content_range=7),
    Do(cut_after="60%", weak_etag=True),
    Do(change_content=True, keep_etag=True),
    Do(corrupt=True),
    Do(gzip=True),
)


def faults() -> Iterator[Fault]:
    """Give rules of which one or another hits a tenth of the answers, each as often as the others."""
    for match, mix in ((Match(host="api"), API_FAULTS), (Match(host="media"), MEDIA_FAULTS)):
        # The first that applies wins, so each is left with what those before it let pass.
        each = SHARE / len(mix)
        for before, do in enumerate(mix):
            yield Fault(do=do, match=match, share=each / (1 - before * each))


class Sample(Struct, frozen=True):
    """What the daemon holds at a moment: bytes of memory, descriptors, threads."""

    memory: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return cls(
            int(status["VmRSS"].split()[0]) << 10,
            len(os.listdir(f"/proc/{pid}/fd")),
            int(status["Threads"]),
        )


class Feeder:
    """Makes up runs and drops them as job files, a few at a time."""

    def __init__(self, home: Home, simulator: Simulator) -> None:
        self.home = home
        self.simulator = simulator
        self.chance = random.Random(1)
        self.count = 0

    def drop(self, number: int) -> None:
        runs = [str(self._run()) for _ in range(number)]
        self.home.drop("\n".join(runs), f"job-{self.count}")

    def _run(self) -> object:
        chance = self.chance
        self.count += 1
        kinds = ["imageUrl", "videoUrl", "audioUrl", "documentUrl", "text"]
        outputs = [
            OutputSpec(f"o{n}", kind, size=chance.randrange(40_000, 120_000) if kind != "text" else None)
            for n, kind in enumerate(chance.choices(kinds, k=chance.randrange(1, 4)))
        ]
        technique = f"t{chance.randrange(20)}" if chance.random() < 0.9 else None
        return self.simulator.add_run(
            f"run_{self.count:06}", technique=technique, outputs=outputs, duration=chance.random() * 5
        )


def finished(home: Home) -> int:
    return sum(1 for _ in (home.library / "runs").glob("*/run_*.json"))


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_grows_while_a_tenth_of_all_answers_go_wrong(tmp_path: Path) -> None:
    # The API's 429 are true ones: one that strikes at random would teach the daemon a limit that is none.
    simulator = Simulator(faults=FaultBook(tuple(faults())), rate_limit=10, rate_burst=20)
    samples: list[Sample] = []
    with served(simulator):
        home = Home(tmp_path, simulator, **SETTINGS)
        feeder = Feeder(home, simulator)
        pace = max(RUNS / SECONDS, 5.0)
        with home.daemon() as process:
            started = time.monotonic()
            while (now := time.monotonic() - started) < SECONDS or feeder.count < RUNS:
                assert process.poll() is None
                room = MOST_OPEN - (feeder.count - finished(home))
                wanted = int(pace * now) - feeder.count
                if min(room, wanted) > 0:
                    feeder.drop(min(room, wanted, 20))
                samples.append(Sample.of(process.pid))
                time.sleep(0.25)  # the beat of the load, not a wait for anything
            fed = time.monotonic() - started
            wait_until(lambda: finished(home) == feeder.count, 180)
            wait_until(lambda: home.status()["counts"]["done"] == feeder.count)
            counts = home.status()["counts"]
            assert home.run("status", "--check").returncode == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(TEST_TIMEOUT) == 0
    tell(simulator, samples, feeder.count, fed, time.monotonic() - started)
    assert {state: number for state, number in counts.items() if number} == {"done": feeder.count}
    check_library(home, simulator)
    assert not list(home.library.rglob(".*.part"))
    assert list((home.inbox / "rejected").iterdir()) == []
    assert home.events("bug") == []
    assert (home.state / "journal.sqlite3").stat().st_size < (16 << 20)
    check_flat(samples)


def check_flat(samples: list[Sample]) -> None:
    """Compare the last quarter with the second one: the first is the warm-up.

    Descriptors and threads come and go with the load; what leaks raises the least of them.
    """
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    memory = [statistics.median(sample.memory for sample in part) for part in (early, late)]
    descriptors = [min(sample.descriptors for sample in part) for part in (early, late)]
    threads = [min(sample.threads for sample in part) for part in (early, late)]
    assert memory[1] - memory[0] < (8 << 20)
    assert descriptors[1] - descriptors[0] < 12
    assert threads[1] - threads[0] < 8
    assert max(sample.memory for sample in samples) < (150 << 20)
    assert max(sample.descriptors for sample in samples) < 200
    assert max(sample.threads for sample in samples) < 64


def tell(simulator: Simulator, samples: list[Sample], runs: int, fed: float, whole: float) -> None:
    """Print the figures of a soak."""
    statuses = Counter(f"{request.host} {request.status}" for request in simulator.requests)
    said = [f"\n{runs} runs in {fed:.0f} s, all done after {whole:.0f} s; {dict(sorted(statuses.items()))}"]
    said += [
        f"{sample.memory / 2**20:8.1f} MiB {sample.descriptors:4} descriptors {sample.threads:3} threads"
        for sample in samples[:: max(len(samples) // 12, 1)]
    ]
    sys.stdout.write("\n".join(said) + "\n")
