"""Answers where the configuration says so: webhooks, health, figures. No trouble here stops the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import anyio
import structlog

from floradl.assembly import Works
from floradl.config.settings import Config
from floradl.config.webhook_secret import find_webhook_secrets
from floradl.errors import ConfigError
from floradl.listening import health, metrics, webhooks
from floradl.listening.figures import Meter, Sums
from floradl.listening.health import Health, Standing
from floradl.listening.http import Page, Site
from floradl.listening.listener import Listener
from floradl.listening.metrics import Metrics
from floradl.listening.webhooks import Webhooks
from floradl.net.endpoint import Endpoint
from floradl.redaction import Secret

_Pages: TypeAlias = dict[tuple[str, str], Page]
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def answering(config: Config, environ: Mapping[str, str], works: Works, standing: Standing) -> None:
    """Listen at `webhook.listen` and `metrics.listen`, once where they are the same; for ever.

    Returns at once where neither is set.
    """
    sites: dict[Endpoint, _Pages] = {}
    taken: Mapping[str, int] = {}
    async with anyio.create_task_group() as group:
        if (endpoint := config.webhook.listen) is not None:
            hooks = _webhooks(config, environ, works)
            taken = hooks.counts
            sites.setdefault(endpoint, {})["POST", webhooks.PATH] = hooks.take
            group.start_soon(hooks.serve)
        if (endpoint := config.metrics.listen) is not None:
            sites.setdefault(endpoint, {}).update(_figures(config, works, standing, taken))
        for endpoint, pages in sites.items():
            group.start_soon(Listener(endpoint, Site(pages, apart=health.PATHS)).serve)


def _webhooks(config: Config, environ: Mapping[str, str], works: Works) -> Webhooks:
    def secrets() -> tuple[Secret, ...]:
        return find_webhook_secrets(config, environ).secrets

    _warn_without_secret(config, environ)
    return Webhooks(secrets, works.journal, works.engine, everything=config.webhook.runs == "all")


def _figures(config: Config, works: Works, standing: Standing, taken: Mapping[str, int]) -> _Pages:
    if not metrics.installed():
        _log.warning("metrics_missing", message=metrics.MISSING)
    answers = Health(standing)
    sums = Sums(works.flora.answers, works.saver.tally, works.pipeline.delays, taken)
    meter = Meter(works.journal, {"library": config.output.dir, "state": config.state_dir})
    return {
        ("GET", health.ALIVE): answers.alive,
        ("GET", health.READY): answers.ready,
        ("GET", "/metrics"): Metrics(meter, sums, standing).page,
    }


def _warn_without_secret(config: Config, environ: Mapping[str, str]) -> None:
    try:
        if find_webhook_secrets(config, environ).secrets:
            return
        message = webhooks.MISSING
    except ConfigError as error:
        message = str(error)
    _log.warning("webhook_secret_missing", message=f"{message}; until then FLORA is asked to send them again")
