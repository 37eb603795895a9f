"""What a daemon serves over HTTP: webhooks, health and metrics, at the addresses of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import anyio

from floradl.app import App
from floradl.config.credentials import find_webhook_secrets
from floradl.config.settings import Config
from floradl.errors import ConfigError
from floradl.log import get_logger
from floradl.net.addresses import Endpoint
from floradl.redaction import Secret
from floradl.web import metrics, webhooks
from floradl.web.http import Page, Site
from floradl.web.metrics import Health, HealthState, MetricsCollector, MetricsPage, Totals
from floradl.web.server import WebServer
from floradl.web.webhooks import Webhooks

_Pages: TypeAlias = dict[tuple[str, str], Page]
_log = get_logger()


async def serve_endpoints(config: Config, environ: Mapping[str, str], app: App, health: HealthState) -> None:
    """Listen at `webhook.listen` and `metrics.listen`, once where they are the same; for ever.

    Returns at once where neither is set.
    """
    sites: dict[Endpoint, _Pages] = {}
    received: Mapping[str, int] = {}
    async with anyio.create_task_group() as group:
        if (endpoint := config.webhook.listen) is not None:
            receiver = _webhooks(config, environ, app)
            received = receiver.counts
            sites.setdefault(endpoint, {})["POST", webhooks.PATH] = receiver.take
            group.start_soon(receiver.serve)
        if (endpoint := config.metrics.listen) is not None:
            sites.setdefault(endpoint, {}).update(_health_pages(config, app, health, received))
        for endpoint, pages in sites.items():
            group.start_soon(WebServer(endpoint, Site(pages, apart=metrics.PATHS)).serve)


def _webhooks(config: Config, environ: Mapping[str, str], app: App) -> Webhooks:
    def secrets() -> tuple[Secret, ...]:
        return find_webhook_secrets(config, environ).secrets

    _warn_without_secret(config, environ)
    return Webhooks(secrets, app.queue, app.scheduler, everything=config.webhook.runs == "all")


def _health_pages(config: Config, app: App, health: HealthState, received: Mapping[str, int]) -> _Pages:
    if not metrics.installed():
        _log.warning("metrics_missing", message=metrics.MISSING)
    health_answers = Health(health)
    totals = Totals(app.flora.answers, app.saver.tally, app.reports.delays, received)
    places = {"library": config.output.dir, "state": config.state_dir}  # a bucket has no limit to measure
    folders = {name: place for name, place in places.items() if isinstance(place, Path)}
    collector = MetricsCollector(app.queue, folders)
    return {
        ("GET", metrics.ALIVE): health_answers.alive,
        ("GET", metrics.READY): health_answers.ready,
        ("GET", "/metrics"): MetricsPage(collector, totals, health).page,
    }


def _warn_without_secret(config: Config, environ: Mapping[str, str]) -> None:
    try:
        if find_webhook_secrets(config, environ).secrets:
            return
        message = webhooks.MISSING
    except ConfigError as error:
        message = str(error)
    _log.warning("webhook_secret_missing", message=f"{message}; until then FLORA will send them again")
