"""The metrics in Prometheus' text format. Needs the extra `metrics`; imported only where it is installed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from floradl import __version__
from floradl.errors import PauseReason
from floradl.runs.events import Histogram
from floradl.web.metrics import MetricsSnapshot, Totals

_Name = TypeVar("_Name", bound=str)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def render(snapshot: MetricsSnapshot, totals: Totals) -> bytes:
    """Write the metrics in Prometheus' text format, with those of the process."""
    registry = CollectorRegistry()
    registry.register(_Families(snapshot, totals))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, snapshot: MetricsSnapshot, totals: Totals) -> None:
        self._snapshot = snapshot
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        now, totals, outputs = self._snapshot, self._totals, self._totals.outputs
        yield _gauge("floradl_info", "The version that runs.", "version", {__version__: 1})
        if now.counts is not None:
            yield _gauge("floradl_runs", "Runs in the journal, by state.", "state", now.counts)
        waits = "Since when the oldest open run waits."
        yield GaugeMetricFamily("floradl_queue_age_seconds", waits, value=now.age)
        yield _gauge("floradl_disk_free_bytes", "Room on the disk of a folder.", "folder", now.free)
        paused = {reason: reason is now.paused for reason in PauseReason}
        yield _gauge("floradl_paused", "1 where nothing goes on for this reason.", "reason", paused)
        yield _counter("floradl_outputs", "Outputs saved since the start.", "kind", outputs.outputs)
        yield _counter("floradl_output_bytes", "Their bytes.", "kind", outputs.bytes)
        charged = "What FLORA charged for runs saved since the start."
        yield CounterMetricFamily("floradl_charged_usd", charged, value=float(outputs.charged))
        answers = "Answers of FLORA's API; 429 is a throttle, none stands for no answer."
        yield _counter("floradl_api_answers", answers, "status", totals.api)
        yield _counter("floradl_webhooks", "Webhooks, by what became of them.", "result", totals.webhooks)
        delay = "From a run's end at FLORA until it was noticed."
        yield _histogram("floradl_detection_delay_seconds", delay, totals.delays)
        took = "From the request for an output until it is on disk."
        yield _histogram("floradl_transfer_seconds", took, outputs.seconds)


def _gauge(name: str, meaning: str, label: str, values: Mapping[_Name, float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _counter(name: str, meaning: str, label: str, values: Mapping[_Name, float]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([str(key)], value)
    return family


def _histogram(name: str, meaning: str, histogram: Histogram) -> Metric:
    buckets = [
        ("+Inf" if math.isinf(bound) else str(float(bound)), float(number))
        for bound, number in histogram.cumulative()
    ]
    family = HistogramMetricFamily(name, meaning)
    family.add_metric([], buckets, histogram.sum)
    return family
