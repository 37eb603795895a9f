"""The metrics in Prometheus' text format. Needs the extra `metrics`; imported only where it is installed."""

from __future__ import annotations

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


def render(figures: MetricsSnapshot, sums: Totals) -> bytes:
    """Write the figures in Prometheus' text format, with those of the process."""
    registry = CollectorRegistry()
    registry.register(_Families(figures, sums))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, figures: MetricsSnapshot, sums: Totals) -> None:
        self._figures = figures
        self._sums = sums

    def collect(self) -> Iterator[Metric]:
        figures, sums = self._figures, self._sums
        yield _gauge("floradl_info", "The version that runs.", "version", {__version__: 1})
        if figures.counts is not None:
            yield _gauge("floradl_runs", "Runs in the journal, by state.", "state", figures.counts)
        yield GaugeMetricFamily(
            "floradl_queue_age_seconds", "Since when the oldest open run waits.", value=figures.age
        )
        yield _gauge("floradl_disk_free_bytes", "Room on the disk of a folder.", "folder", figures.free)
        paused = {reason: reason is figures.paused for reason in PauseReason}
        yield _gauge("floradl_paused", "1 where nothing goes on for this reason.", "reason", paused)
        outputs = sums.outputs
        yield _counter("floradl_outputs", "Outputs saved since the start.", "kind", outputs.outputs)
        yield _counter("floradl_output_bytes", "Their bytes.", "kind", outputs.bytes)
        yield _counter(
            "floradl_api_answers",
            "Answers of FLORA's API; 429 is a throttle, none stands for no answer.",
            "status",
            sums.api,
        )
        yield _counter("floradl_webhooks", "Webhooks, by what became of them.", "result", sums.webhooks)
        yield _histogram(
            "floradl_detection_delay_seconds", "From a run's end at FLORA until it was noticed.", sums.delays
        )
        yield _histogram(
            "floradl_transfer_seconds", "From the request for an output until it is on disk.", outputs.seconds
        )


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
    buckets = [(_bound(bound), float(number)) for bound, number in histogram.cumulative()]
    family = HistogramMetricFamily(name, meaning)
    family.add_metric([], buckets, histogram.sum)
    return family


def _bound(value: float) -> str:
    return "+Inf" if value == float("inf") else str(float(value))
