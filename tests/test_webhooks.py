"""FLORA's webhooks at the daemon: what it takes, what it refuses, and what comes of it."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from memory_queue import MemoryQueue
from ports import free_port
from studio import TEST_TIMEOUT, Home, served, wait_until

from floradl.clock import unix_seconds
from floradl.errors import ErrorCode
from floradl.models import QueuedRun, RunFailure, RunState
from floradl.queue.base import RunQueue
from floradl.queue.sqlite import SqliteQueue
from floradl.redaction import Secret
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator
from floradl.simulator.server import sign
from floradl.web.http import HttpRequest
from floradl.web.webhooks import Webhooks

SECRET = "whsec_planted_in_tests"
NOW = 1_800_000_000.0


def body(run_id: str = "run_a", webhook_id: str = "whd_1", status: str = "completed") -> bytes:
    data = {"run_id": run_id, "run_type": "technique", "workspace_id": "ws_1", "status": status}
    said = {
        "id": webhook_id,
        "type": f"run.{status}",
        "api_version": "2026-06-11",
        "created_at": 1,
        "data": data,
    }
    return json.dumps(said).encode()


def delivery(raw: bytes, *secrets: str, now: float = NOW) -> HttpRequest:
    headers = {"flora-signature": sign(raw, secrets or (SECRET,), now)}
    return HttpRequest("POST", "/webhook", headers, raw)


# By itself: a queue in memory, and somebody who would take the runs on


class Desk:
    """Webhooks at work; `hastened` are the runs that were passed on."""

    def __init__(self, queue: RunQueue | None = None, **changes: Any) -> None:
        self.queue = queue or MemoryQueue()
        self.hastened: list[str] = []
        self.counts: Counter[str] = Counter()
        self._secrets: Callable[[], tuple[Secret, ...]] = changes.get("secrets", lambda: (Secret(SECRET),))
        self._everything: bool = changes.get("everything", True)

    def poll_now(self, run_id: str, *, new: bool = False) -> None:
        del new
        self.hastened.append(run_id)

    def run(self, run_id: str = "run_a") -> QueuedRun | None:
        return anyio.run(self.queue.get, run_id)

    def state(self, run_id: str = "run_a") -> RunState | None:
        run = self.run(run_id)
        return run.state if run else None

    def put(self, state: RunState, failure: RunFailure | None = None) -> None:
        run = QueuedRun(run_id="run_a", technique="campaign", queued_at=1.0, state=state, error=failure)
        anyio.run(self.queue.update, run, 1.0)

    def take(self, *requests: HttpRequest, recording: bool = False) -> list[int]:
        """Start, give it all requests at once, and end; returns the statuses. `recording`: the queue too."""
        statuses: dict[int, int] = {}

        async def main() -> None:
            webhooks = Webhooks(
                self._secrets, self.queue, self, everything=self._everything, wall=lambda: NOW
            )

            async def one(number: int, request: HttpRequest) -> None:
                statuses[number] = (await webhooks.take(request)).status

            async with anyio.create_task_group() as serving:
                serving.start_soon(webhooks.serve)
                if recording:
                    serving.start_soon(self.queue.serve)
                async with anyio.create_task_group() as group:
                    for number, request in enumerate(requests):
                        group.start_soon(one, number, request)
                serving.cancel_scope.cancel()
            self.counts += webhooks.counts

        anyio.run(main)
        return [statuses[number] for number in range(len(requests))]


def test_a_run_that_nobody_queued_is_queued_and_hastened() -> None:
    desk = Desk()
    assert desk.take(delivery(body())) == [200]
    assert desk.state() is RunState.WAITING
    assert desk.hastened == ["run_a"]


def test_a_run_that_nobody_queued_is_let_be_where_only_queued_ones_are_wanted() -> None:
    desk = Desk(everything=False)
    assert desk.take(delivery(body())) == [200]
    assert desk.state() is None
    assert desk.hastened == []


def test_a_run_that_was_queued_is_hastened_and_keeps_its_technique() -> None:
    desk = Desk(everything=False)
    desk.put(RunState.RUNNING)
    assert desk.take(delivery(body())) == [200]
    assert desk.hastened == ["run_a"]
    run = desk.run("run_a")
    assert run is not None
    assert run.technique == "campaign"


def test_the_same_delivery_twice_is_taken_once_and_accepted_twice() -> None:
    desk = Desk()
    request = delivery(body())
    assert desk.take(request, request) == [200, 200]
    assert desk.hastened == ["run_a"]
    assert desk.counts == {"accepted": 1, "repeated": 1}


def test_a_late_attempt_is_taken_and_a_replay_of_it_only_answered() -> None:
    desk = Desk()
    late = delivery(body(), now=NOW - 370)
    assert desk.take(late) == [200]
    assert desk.hastened == ["run_a"]
    desk.put(RunState.FAILED, RunFailure(ErrorCode.GAVE_UP, "too long"))
    assert desk.take(late) == [200]
    assert desk.state() is RunState.FAILED
    assert desk.counts == {"accepted": 1, "repeated": 1}


@pytest.mark.parametrize("state", [RunState.DONE, RunState.FORGOTTEN])
def test_a_run_that_is_done_or_forgotten_stays_so(state: RunState) -> None:
    desk = Desk()
    desk.put(state)
    assert desk.take(delivery(body())) == [200]
    assert desk.state() is state
    assert desk.hastened == []


def test_a_run_that_was_given_up_here_is_tried_again_once_flora_has_it() -> None:
    desk = Desk()
    desk.put(RunState.FAILED, RunFailure(ErrorCode.GAVE_UP, "too long"))
    assert desk.take(delivery(body())) == [200]
    assert desk.state() is RunState.WAITING
    assert desk.hastened == ["run_a"]


def test_a_run_that_is_known_to_have_failed_is_not_asked_about_once_more() -> None:
    desk = Desk()
    desk.put(RunState.FAILED, RunFailure(ErrorCode.SAFETY_BLOCKED, "no"))
    assert desk.take(delivery(body(status="failed"))) == [200]
    assert desk.state() is RunState.FAILED


def test_what_is_not_floras_is_refused_and_leaves_nothing_behind() -> None:
    desk = Desk()
    forged = delivery(body(), "whsec_other")
    old = delivery(body(), now=NOW - 901)
    changed = HttpRequest("POST", "/webhook", delivery(body()).headers, body("run_b"))
    bare = HttpRequest("POST", "/webhook", {}, body())
    assert desk.take(forged, old, changed, bare) == [401] * 4
    assert anyio.run(desk.queue.counts).states == dict.fromkeys(RunState, 0)
    assert desk.take(delivery(body())) == [200]


def test_signed_words_that_are_no_webhook_are_refused() -> None:
    assert Desk().take(delivery(b"{}"), delivery(b"run_a")) == [400, 400]


def test_a_type_of_tomorrow_is_accepted_and_nothing_done() -> None:
    desk = Desk()
    assert desk.take(delivery(body(status="started"))) == [200]
    assert desk.state() is None


def test_without_a_secret_flora_is_asked_to_come_again() -> None:
    assert Desk(secrets=lambda: ()).take(delivery(body())) == [503]


def test_a_new_secret_counts_from_the_next_delivery_on() -> None:
    now = [Secret("whsec_old")]
    desk = Desk(secrets=lambda: tuple(now))
    assert desk.take(delivery(body(), "whsec_old")) == [200]
    now[:] = [Secret("whsec_new")]
    assert desk.take(delivery(body("run_b", "whd_2"), "whsec_old")) == [401]
    assert desk.take(delivery(body("run_b", "whd_2"), "whsec_new")) == [200]


@contextmanager
def on_disk(state_dir: Path) -> Iterator[SqliteQueue]:
    queue = SqliteQueue.open(state_dir)
    try:
        yield queue
    finally:
        queue.disconnect()


def test_what_cannot_be_recorded_in_time_is_refused_for_now(tmp_path: Path) -> None:
    with on_disk(tmp_path) as queue:  # and nobody serves it
        desk = Desk(queue)
        assert desk.take(delivery(body())) == [503]
        assert desk.hastened == []


def test_many_at_once_are_recorded_together(tmp_path: Path) -> None:
    commits: list[str] = []
    requests = [delivery(body(f"run_{number}", f"whd_{number}")) for number in range(100)]
    with on_disk(tmp_path) as queue:
        queue._db.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None)
        desk = Desk(queue)
        assert desk.take(*requests, recording=True) == [200] * 100
    assert len(desk.hastened) == 100
    assert len(commits) < 50


# As a process


@pytest.fixture
def flora() -> Iterator[Simulator]:
    """A FLORA that tries again soon."""
    simulator = Simulator(webhook_secrets=[SECRET], webhook_delays=(0.3, 0.6, 20.0))
    with served(simulator):
        yield simulator


@pytest.fixture
def listener(tmp_path: Path, flora: Simulator) -> Home:
    """A home whose daemon listens, asks FLORA by itself only rarely, and knows the secret from a file."""
    secret = tmp_path / "webhook-secret"
    secret.write_text(f"{SECRET}\n")
    return Home(
        tmp_path,
        flora,
        FLORADL_POLL__INTERVAL="1h",
        FLORADL_WEBHOOK__LISTEN=f"127.0.0.1:{free_port()}",
        FLORADL_WEBHOOK__SECRET_FILE=str(secret),
    )


def url(home: Home) -> str:
    return f"http://{home.environ['FLORADL_WEBHOOK__LISTEN']}/webhook"


def send(home: Home, raw: bytes) -> httpx.Response:
    headers = {"Flora-Signature": sign(raw, [SECRET], time.time())}
    with httpx.Client(trust_env=False) as client:
        return client.post(url(home), content=raw, headers=headers, timeout=TEST_TIMEOUT)


@contextmanager
def listening(home: Home) -> Iterator[subprocess.Popen[str]]:
    before = len(home.events("listening"))
    with home.daemon() as process:
        wait_until(lambda: len(home.events("listening")) > before)
        yield process


def test_a_run_that_nobody_queued_comes_home_when_flora_says_that_it_is_over(
    listener: Home, flora: Simulator
) -> None:
    with listening(listener):
        flora.add_run("run_a", technique="campaign", duration=0.5)
        flora.call_back("run_a", url(listener))
        assert listener.finished("campaign/run_a")["result"] == "complete"
    assert [attempt.status for attempt in flora.attempts] == [200]
    assert len(flora.asked("api", "run_a")) == 1


def test_a_queued_run_is_fetched_at_once_and_not_when_it_would_be_asked_about(
    listener: Home, flora: Simulator
) -> None:
    with listening(listener):
        flora.add_run("run_a", technique="campaign", duration=5.0)
        flora.call_back("run_a", url(listener))
        listener.drop("campaign/run_a")
        wait_until(lambda: listener.events("jobs_accepted"))
        wait_until(lambda: flora.asked("api", "run_a"))
        assert listener.finished("campaign/run_a")["result"] == "complete"  # the next question: in an hour
    assert listener.events("webhook_accepted")


def test_a_word_that_overtakes_the_answer_is_not_lost(listener: Home, flora: Simulator) -> None:
    # FLORA says "over" and still answers "running", twice.
    running = Do(set={"status": "running"})
    flora.faults.add(Fault(match=Match(run="run_a"), do=running, times=2))
    flora.add_run("run_a", technique="campaign", duration=0.1)
    with listening(listener):
        assert send(listener, body()).status_code == 200
        assert listener.finished("campaign/run_a")["result"] == "complete"


def test_what_comes_while_the_daemon_is_away_comes_again(listener: Home, flora: Simulator) -> None:
    flora.webhook_delays = (3.0, 3.0, 3.0)
    flora.add_run("run_a", technique="campaign", duration=0.1)
    flora.call_back("run_a", url(listener))
    wait_until(lambda: flora.attempts)
    with listening(listener):
        assert listener.finished("campaign/run_a")["result"] == "complete"
    assert (flora.attempts[0].status, flora.attempts[-1].status) == (0, 200)


def test_the_fourth_attempt_is_taken_with_the_signature_of_the_first(
    listener: Home, flora: Simulator
) -> None:
    flora.now = lambda: time.time() - 370
    flora.webhook_signing = "once"
    flora.add_run("run_a", technique="campaign", duration=0.1)
    with listening(listener):
        flora.call_back("run_a", url(listener))
        assert listener.finished("campaign/run_a")["result"] == "complete"
    assert [attempt.status for attempt in flora.attempts] == [200]


def test_a_delivery_is_known_after_a_crash(listener: Home, flora: Simulator) -> None:
    flora.add_run("run_a", technique="campaign", duration=0.1)
    with listening(listener) as process:
        assert send(listener, body()).status_code == 200
        listener.finished("campaign/run_a")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert listener.run("forget", "run_a").returncode == 0
    with listening(listener):
        assert send(listener, body()).status_code == 200
        with closing(sqlite3.connect(listener.state / "journal.sqlite3")) as db:
            assert db.execute("SELECT count(*) FROM deliveries").fetchone() == (1,)


def test_what_was_answered_with_200_is_fetched_after_a_crash_in_the_next_moment(
    listener: Home, flora: Simulator
) -> None:
    runs = [f"run_{number}" for number in range(20)]
    for run_id in runs:
        flora.add_run(run_id, technique="campaign", duration=0.1)
    with listening(listener) as process:
        for run_id in runs:
            assert send(listener, body(run_id, f"whd_{run_id}")).status_code == 200
        process.send_signal(signal.SIGKILL)
        process.wait()
    with listening(listener):
        for run_id in runs:
            assert listener.finished(f"campaign/{run_id}")["result"] == "complete"


def test_a_journal_that_cannot_be_written_makes_flora_come_again(listener: Home, flora: Simulator) -> None:
    flora.add_run("run_a", technique="campaign", duration=0.1)
    with listening(listener):
        with closing(sqlite3.connect(listener.state / "journal.sqlite3", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            assert send(listener, body()).status_code == 503  # while it is locked
            db.execute("ROLLBACK")
        wait_until(lambda: send(listener, body()).status_code == 200)
        assert listener.finished("campaign/run_a")["result"] == "complete"


def test_a_delivery_is_taken_while_downloads_fill_every_place(listener: Home, flora: Simulator) -> None:
    slow = [OutputSpec(f"o{number}", "videoUrl", size=5_000_000, rate=50_000) for number in range(40)]
    flora.add_run(
        "run_slow", technique="campaign", outputs=slow, duration=0
    )  # the next poll would be in an hour
    with listening(listener):
        listener.drop("campaign/run_slow")
        wait_until(lambda: flora.counters.open_media >= 12)
        assert send(listener, body("run_other")).status_code == 200


def test_deliveries_and_health_are_answered_while_hundreds_of_heads_never_end(
    listener: Home, flora: Simulator
) -> None:
    flora.add_run("run_a", technique="campaign", duration=0.1)
    place = listener.environ["FLORADL_WEBHOOK__LISTEN"]
    listener.environ["FLORADL_METRICS__LISTEN"] = place
    host, _, port = place.rpartition(":")
    with listening(listener), ExitStack() as held:
        for _ in range(300):
            one = held.enter_context(socket.create_connection((host, int(port)), 10))
            one.sendall(b"POST /webhook HTTP/1.1\r\nHost: x\r\nX: ")
        with httpx.Client(trust_env=False, base_url=f"http://{place}", timeout=TEST_TIMEOUT) as client:
            assert client.get("/healthz").status_code == 200
            assert send(listener, body()).status_code == 200
            assert client.get("/readyz").status_code == 200
        assert listener.finished("campaign/run_a")["result"] == "complete"


def test_a_port_that_is_taken_is_said_and_stops_no_download(listener: Home, flora: Simulator) -> None:
    flora.add_run("run_a", technique="campaign", duration=0)  # the next poll would be in an hour
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(listener.environ["FLORADL_WEBHOOK__LISTEN"].rpartition(":")[2])))
        taken.listen()
        with listener.daemon():
            listener.drop("campaign/run_a")
            assert listener.finished("campaign/run_a")["result"] == "complete"
            said = wait_until(lambda: listener.events("not_listening"))[0]
            assert "another program has it" in said["message"]
            taken.close()
            wait_until(lambda: listener.events("listening"))
            assert send(listener, body()).status_code == 200


def test_no_secret_and_no_signature_is_written_anywhere(listener: Home) -> None:
    with listening(listener):
        raw = body()
        header = sign(raw, [SECRET], time.time())
        with httpx.Client(trust_env=False, timeout=TEST_TIMEOUT) as client:
            client.post(url(listener), content=raw, headers={"Flora-Signature": header})
            client.post(url(listener), content=raw + b" ", headers={"Flora-Signature": header})
        wait_until(lambda: listener.events("webhook_refused"))
    files = [path for path in listener.path.rglob("*") if path.is_file() and path.name != "webhook-secret"]
    written = b"".join(path.read_bytes() for path in files)
    assert SECRET.encode() not in written
    assert header.partition("v1=")[2].encode() not in written


def test_a_technique_whose_ends_webhooks_tell_of_is_asked_about_less_often(
    listener: Home, flora: Simulator
) -> None:
    listener.environ["FLORADL_POLL__INTERVAL"] = "20s"

    def next_in(run_id: str) -> float:
        """Queue a run that goes on at first; return the seconds until the next question about it."""
        flora.faults.add(Fault(match=Match(run=run_id), do=Do(set={"status": "running"}), times=1))
        flora.add_run(run_id, technique="campaign", duration=0.1)
        listener.drop(f"campaign/{run_id}", f"{run_id}.txt")

        def planned() -> float | None:
            for run in listener.status()["runs"]:
                at = unix_seconds(run["next_at"]) if run["run_id"] == run_id else None
                if at is not None and at > asked + 1:  # before that: when it was to be asked first
                    return at
            return None

        asked: float = wait_until(lambda: flora.asked("api", run_id))[0].time
        at: float = wait_until(planned)
        return at - asked

    with listening(listener):
        usual = []
        for run_id in ("run_a", "run_b", "run_c"):
            usual.append(next_in(run_id))
            assert send(listener, body(run_id, f"whd_{run_id}")).status_code == 200
            assert listener.finished(f"campaign/{run_id}")["result"] == "complete"
        assert next_in("run_d") > 1.1 * max(usual)
