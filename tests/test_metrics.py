"""Health and figures, as a supervisor and Prometheus see them."""

from __future__ import annotations

import math
from pathlib import Path

import httpx
import pytest
from msgspec import convert
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families
from studio import Home, wait_until

from floradl.errors import PauseReason
from floradl.models import OutputKind, RemoteRun, RunState
from floradl.polling.durations import detection_delay
from floradl.runs.events import Histogram, OutputCounters
from floradl.simulator import OutputSpec, Simulator
from floradl.web.http import HttpRequest
from floradl.web.metrics import Health, HealthState, MetricsSnapshot, Totals
from floradl.web.prometheus import render

Samples = dict[tuple[str, str], float]
GET = HttpRequest("GET", "/")


def samples(text: str) -> Samples:
    """Return each sample by its name and the value of its one label."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sums() -> Totals:
    return Totals(api={}, outputs=OutputCounters(), delays=Histogram(1, 2), webhooks={})


# Figures


def test_a_histogram_counts_up_to_and_with_each_bound() -> None:
    histogram = Histogram(2, 1)
    for value in (0.5, 1, 1.5, 99):
        histogram.add(value)
    assert histogram.cumulative() == [(1, 2), (2, 3), (math.inf, 4)]
    assert histogram.sum == 102


def test_prometheus_reads_what_was_counted() -> None:
    counted = sums()
    counted.outputs.saved(OutputKind.IMAGE, 500, 0.2)
    counted.outputs.saved(OutputKind.TEXT, 20, None)
    counted.outputs.charge(0.1)
    counted.outputs.charge(0.2)
    counted.outputs.charge(None)
    counted.delays.add(1.5)
    told = Totals({"200": 7, "429": 2, "none": 1}, counted.outputs, counted.delays, {"accepted": 3})
    found = samples(
        render(
            MetricsSnapshot(PauseReason.CREDITS, {RunState.DONE: 4}, 12.5, {"library": 10**12}), told
        ).decode()
    )
    assert found["floradl_runs", "done"] == 4
    assert found["floradl_queue_age_seconds", ""] == 12.5
    assert found["floradl_disk_free_bytes", "library"] == 10**12
    assert found["floradl_paused", "credits"] == 1
    assert found["floradl_paused", "disk_full"] == 0
    assert found["floradl_outputs_total", "image"] == 1
    assert found["floradl_output_bytes_total", "image"] == 500
    assert found["floradl_outputs_total", "text"] == 1
    assert found["floradl_charged_usd_total", ""] == 0.3
    assert found["floradl_api_answers_total", "429"] == 2
    assert found["floradl_webhooks_total", "accepted"] == 3
    assert found["floradl_transfer_seconds_count", ""] == 1
    assert found["floradl_detection_delay_seconds_sum", ""] == 1.5
    assert found["process_resident_memory_bytes", ""] > 1e6


def test_what_could_not_be_told_in_time_is_missing() -> None:
    found = samples(render(MetricsSnapshot(None), sums()).decode())
    assert not [name for name, _ in found if name in {"floradl_runs", "floradl_disk_free_bytes"}]


@pytest.mark.parametrize(
    ("run", "delay"),
    [
        ({"created_at": 100.0, "completed_at": 150.0, "age": 53.0}, 3.0),  # by FLORA's clock, not by ours
        ({"created_at": 100.0, "completed_at": 996.0}, 4.0),
        ({"created_at": 100.0, "completed_at": 1200.0}, 0.0),  # their clock is ahead
        ({"created_at": 100.0, "completed_at": 150.0}, 10.0),  # over long before it was queued
        ({"created_at": 100.0}, None),
    ],
)
def test_the_delay_counts_from_the_end_of_a_run_or_from_when_it_was_queued(
    run: dict[str, float], delay: float | None
) -> None:
    answer = convert({"run_id": "run_a", "status": "completed", "progress": 100, "raw": {}, **run}, RemoteRun)
    assert detection_delay(answer, queued_at=990.0, now=1000.0) == delay


# Health


@pytest.mark.anyio
async def test_alive_is_who_made_progress_in_the_last_two_minutes() -> None:
    for quiet, status in ((0.0, 200), (119.0, 200), (121.0, 503)):
        standing = HealthState(progress_at=lambda: 1000.0, paused=lambda: None, started=lambda: True)
        health = Health(standing, wall=lambda quiet=quiet: 1000.0 + quiet)  # type: ignore[misc]
        assert (await health.alive(GET)).status == status


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("started", "reason", "status", "said"),
    [
        (False, None, 503, b"starting\n"),
        (True, PauseReason.KEY_REFUSED, 503, b"paused: key_refused\n"),
        (True, None, 200, b"ready\n"),
    ],
)
async def test_ready_is_who_has_started_and_is_not_paused(
    started: bool,  # noqa: FBT001 - of the table
    reason: PauseReason | None,
    status: int,
    said: bytes,
) -> None:
    standing = HealthState(progress_at=lambda: 0.0, paused=lambda: reason, started=lambda: started)
    answer = await Health(standing).ready(GET)
    assert (answer.status, answer.body) == (status, said)


# As a process


@pytest.fixture
def watched(home: Home) -> Home:
    """A home whose daemon answers at `metrics.listen`."""
    home.environ["FLORADL_METRICS__LISTEN"] = f"127.0.0.1:{free_port()}"
    return home


def ask(home: Home, path: str) -> httpx.Response:
    with httpx.Client(trust_env=False) as client:
        return client.get(f"http://{home.environ['FLORADL_METRICS__LISTEN']}{path}", timeout=10)


def test_the_daemon_tells_what_it_did(watched: Home, simulator: Simulator) -> None:
    outputs = [OutputSpec("a", "imageUrl", size=3000), OutputSpec("b", "text", text="words")]
    simulator.add_run("run_a", technique="campaign", outputs=outputs, duration=0.1)
    with watched.daemon():
        wait_until(lambda: watched.events("listening"))
        watched.drop("campaign/run_a")
        watched.finished("campaign/run_a")
        answer = wait_until(
            lambda: (
                found
                if samples((found := ask(watched, "/metrics")).text).get(("floradl_runs", "done"))
                else None
            )
        )
        found = samples(answer.text)
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert found["floradl_output_bytes_total", "image"] == 3000
        assert found["floradl_output_bytes_total", "text"] == 5
        assert found["floradl_api_answers_total", "200"] >= 1
        assert found["floradl_detection_delay_seconds_count", ""] == 1
        assert found["floradl_transfer_seconds_count", ""] == 1
        assert found["floradl_disk_free_bytes", "library"] > 0
        assert ask(watched, "/healthz").status_code == 200
        assert ask(watched, "/readyz").text == "ready\n"
        assert ask(watched, "/webhook").status_code == 404
        assert simulator.key not in answer.text
        assert "run_a" not in answer.text
        assert str(watched.path) not in answer.text


def test_what_a_run_cost_is_charged_once_though_it_is_downloaded_again(
    watched: Home, simulator: Simulator
) -> None:
    outputs = [OutputSpec("a", "imageUrl", size=3000)]
    simulator.add_run("run_a", technique="campaign", outputs=outputs, duration=0.1)

    def found() -> Samples:
        return samples(ask(watched, "/metrics").text)

    with watched.daemon():
        wait_until(lambda: watched.events("listening"))
        assert found()["floradl_charged_usd_total", ""] == 0
        watched.drop("campaign/run_a")
        wait_until(lambda: found()["floradl_charged_usd_total", ""])
        cost = watched.finished("campaign/run_a")["run"]["charged_cost"]
        assert cost > 0
        assert found()["floradl_charged_usd_total", ""] == cost
        assert watched.run("retry", "campaign/run_a").returncode == 0
        wait_until(lambda: found()["floradl_outputs_total", "image"] == 2)
        wait_until(lambda: len(watched.events("run_finished")) == 2)
        assert found()["floradl_charged_usd_total", ""] == cost


def test_a_pause_makes_it_unready_and_not_dead(watched: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", duration=0.1)
    with watched.daemon(FLORA_API_KEY="sk_test_wrong"):
        wait_until(lambda: watched.events("listening"))
        watched.drop("campaign/run_a")
        unready = wait_until(lambda: found if "paused" in (found := ask(watched, "/readyz")).text else None)
        assert (unready.status_code, unready.text) == (503, "paused: key_refused\n")
        assert samples(ask(watched, "/metrics").text)["floradl_paused", "key_refused"] == 1
        assert ask(watched, "/healthz").status_code == 200


def test_without_the_extra_it_says_what_to_install_and_health_is_answered(
    watched: Home, tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys; sys.modules['prometheus_client'] = None\n")
    with watched.daemon(PYTHONPATH=str(hidden)):
        wait_until(lambda: watched.events("listening"))
        assert "the extra `metrics`" in watched.events("metrics_missing")[0]["message"]
        refused = ask(watched, "/metrics")
        assert (refused.status_code, "the extra `metrics`" in refused.text) == (503, True)
        assert ask(watched, "/healthz").status_code == 200
        assert ask(watched, "/readyz").status_code == 200


def test_one_address_for_both_is_one_listener(watched: Home) -> None:
    address = watched.environ["FLORADL_METRICS__LISTEN"]
    with watched.daemon(FLORADL_WEBHOOK__LISTEN=address):
        wait_until(lambda: watched.events("listening"))
        assert ask(watched, "/webhook").status_code == 405
        assert ask(watched, "/healthz").status_code == 200
        assert [event["address"] for event in watched.events("listening")] == [address]
        assert "webhook secret" in watched.events("webhook_secret_missing")[0]["message"]
