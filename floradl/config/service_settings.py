"""The settings of what a service does beside its queue: the account's history, webhooks, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from msgspec import Struct

from floradl.config.name_list import NameList
from floradl.config.setting_types import Choice, Duration, Flag, ListenAddress, Location, Setting
from floradl.config.units import LONGEST
from floradl.net.endpoint import Endpoint

_DAY: Final = 86_400.0


class Sync(Struct, frozen=True, kw_only=True):
    """What is taken from the account's history, without anybody queueing it. Times are in seconds."""

    technique_runs: Annotated[
        bool, Setting(Flag(), "false", "queue every technique run that the account's history lists")
    ]
    generations: Annotated[
        bool, Setting(Flag(), "false", "queue every generation that the account's history lists")
    ]
    since: Annotated[
        float,
        Setting(
            Duration(0, LONGEST),
            "7d",
            "how far back the first look goes; from then on it goes on where the last one ended",
        ),
    ]
    projects: Annotated[
        tuple[str, ...],
        Setting(NameList("project id", "prj_abc123"), (), "only runs of these projects; [] for all"),
    ]
    techniques: Annotated[
        tuple[str, ...],
        Setting(
            NameList("technique", "art-directors-critique"),
            (),
            "only runs of these techniques (slugs or tech_… ids); [] for all; generations have none, and are "
            "not touched by it",
        ),
    ]
    interval: Annotated[float, Setting(Duration(5, _DAY), "1m", "how often the history is looked at")]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The lists to look at, as FLORA calls them."""
        wanted = {"technique_runs": self.technique_runs, "generations": self.generations}
        return tuple(kind for kind, is_wanted in wanted.items() if is_wanted)


class Webhook(Struct, frozen=True, kw_only=True):
    """Where FLORA's webhooks are taken."""

    listen: Annotated[
        Endpoint | None,
        Setting(
            ListenAddress(),
            None,
            "take FLORA's webhooks here, at the path /webhook, like 127.0.0.1:8787, behind a reverse proxy "
            "that speaks https; null for not at all",
        ),
    ]
    secret_file: Annotated[
        Path | None,
        Setting(
            Location(),
            None,
            "a file that holds the webhook secret (whsec_…), while it is changed both, one a line; or give "
            "it in FLORA_WEBHOOK_SECRET, as the systemd credential flora_webhook_secret, or as "
            "/run/secrets/flora_webhook_secret",
            ("FLORADL_WEBHOOK_SECRET_FILE", "FLORA_WEBHOOK_SECRET_FILE"),
        ),
    ]
    runs: Annotated[
        str,
        Setting(
            Choice(("all", "queued")),
            "all",
            "which runs a webhook fetches: all, or only those that were queued by other means",
        ),
    ]


class Metrics(Struct, frozen=True, kw_only=True):
    """Where others see how it goes."""

    listen: Annotated[
        Endpoint | None,
        Setting(
            ListenAddress(),
            None,
            "answer /healthz, /readyz and (with the extra `metrics`) /metrics here, like 127.0.0.1:9187; may "
            "be the address of webhook.listen; null for not at all",
        ),
    ]
