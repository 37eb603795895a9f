"""Every setting once: its key, type, default and meaning. All else about settings derives from here.

`config.load` reads them; `config.docs` writes docs/settings.md and config.example.yaml from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, TypeAlias, get_type_hints

from msgspec import Struct

from floradl.config.locations import (
    BaseUrl,
    CommandLine,
    EngineUrl,
    HostList,
    LibraryPlace,
    ListenAddress,
    Location,
    Region,
    StoreEndpoint,
)
from floradl.config.types import (
    Choice,
    ChoiceList,
    Duration,
    Flag,
    FolderName,
    KindList,
    NameList,
    NameTemplate,
    RateLimit,
    RuleList,
    Setting,
    Size,
    Whole,
)
from floradl.fs.names import MIN_BYTES, PART_RESERVE
from floradl.library.selection import OutputRule
from floradl.models import OutputKind
from floradl.net.addresses import Endpoint
from floradl.net.bandwidth import RateSchedule
from floradl.units import LONGEST
from floradl.urls import BucketUrl

Key: TypeAlias = tuple[str, ...]
"""Where a setting stands: `("download", "concurrency")`."""

_MINUTE: Final = 60.0
_DAY: Final = 86_400.0
_YEAR: Final = 366 * _DAY
PREFIX: Final = "FLORADL_"
"""The beginning of the name of each environment variable."""

SQLITE: Final = "sqlite"
"""The queue's engine that one machine has for itself."""


class ApiSection(Struct, frozen=True, kw_only=True):
    """Where the API is, and with which key."""

    base_url: Annotated[
        str,
        Setting(
            BaseUrl(),
            "https://app.flora.ai/api/v1",
            "where the API is",
            ("FLORADL_BASE_URL", "FLORA_BASE_URL"),
        ),
    ]
    key_file: Annotated[
        Path | None,
        Setting(
            Location(),
            None,
            "a file that holds the API key and nothing else; or give the key itself in FLORA_API_KEY, as the "
            "systemd credential flora_api_key, or as /run/secrets/flora_api_key",
            ("FLORADL_API_KEY_FILE", "FLORA_API_KEY_FILE"),
        ),
    ]


class QueueSection(Struct, frozen=True, kw_only=True):
    """Where runs come from, and where they are kept. `keep` is in seconds."""

    watch_dir: Annotated[Path, Setting(Location("inbox"), None, "the watch folder: drop job files here")]
    file: Annotated[
        Path | None, Setting(Location(), None, "a YAML file of runs, yours: read and watched, never written")
    ]
    keep: Annotated[
        float, Setting(Duration(0, LONGEST), "30d", "how long accepted and rejected job files stay")
    ]
    max_open: Annotated[
        int,
        Setting(
            Whole(1, 10**9),
            "2000000",
            "how many runs may be open at a time: above it job files wait in the watch folder",
        ),
    ]
    engine: Annotated[
        str,
        Setting(
            EngineUrl(),
            SQLITE,
            "where the queue is kept: sqlite, in the state folder; or postgresql://USER@HOST/DB (with the "
            "extra `postgres`), for any number of machines that share it (docs/scale-out.md)",
        ),
    ]
    password_file: Annotated[
        Path | None,
        Setting(
            Location(),
            None,
            "a file that holds the password for the database of queue.engine and nothing else; without it "
            "PGPASSFILE or ~/.pgpass counts",
        ),
    ]


class SyncSection(Struct, frozen=True, kw_only=True):
    """Which runs of the account's history are queued. Times are in seconds."""

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
            "how far back the first look goes; from then on each continues where the last one ended",
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
            "not affected",
        ),
    ]
    interval: Annotated[float, Setting(Duration(5, _DAY), "1m", "how often the history is read")]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The lists to look at, as FLORA calls them."""
        wanted = {"technique_runs": self.technique_runs, "generations": self.generations}
        return tuple(kind for kind, is_wanted in wanted.items() if is_wanted)


class FoldersSection(Struct, frozen=True, kw_only=True):
    """The folder of each kind of output, in the library."""

    image: Annotated[str, Setting(FolderName(), "images", "the folder of images")]
    video: Annotated[str, Setting(FolderName(), "videos", "the folder of videos")]
    audio: Annotated[str, Setting(FolderName(), "audio", "the folder of sound")]
    document: Annotated[str, Setting(FolderName(), "documents", "the folder of documents")]
    text: Annotated[str, Setting(FolderName(), "text", "the folder of texts")]
    other: Annotated[
        str, Setting(FolderName(), "other", "the folder of types that this version does not know")
    ]

    def by_kind(self) -> Mapping[OutputKind, str]:
        """Return the folder of each kind."""
        return {kind: getattr(self, kind.value) for kind in OutputKind}


class OutputSection(Struct, frozen=True, kw_only=True):
    """What the library looks like."""

    dir: Annotated[
        Path | BucketUrl,
        Setting(
            LibraryPlace("library"),
            None,
            "the library: where files go, a folder, or (with the extra `cloud`) a place in an object store: "
            "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX (docs/buckets.md)",
        ),
    ]
    endpoint: Annotated[
        str | None,
        Setting(
            StoreEndpoint(),
            None,
            "where the object store of output.dir is, for one that is not Amazon's, Google's or Microsoft's "
            "own, like https://minio.example.com:9000",
        ),
    ]
    region: Annotated[
        str | None,
        Setting(
            Region(),
            None,
            "the region of the bucket, like eu-central-1; null for that of AWS_REGION, else us-east-1",
        ),
    ]
    instance_credentials: Annotated[
        bool,
        Setting(
            Flag(),
            "false",
            "ask the machine's metadata address for the bucket's credentials where nothing else has them",
        ),
    ]
    template: Annotated[
        str,
        Setting(
            NameTemplate(),
            "{folder}/{technique}/{run_id}-{output_id}{ext}",
            "the path of a file in the library; fields: folder kind type technique run_id output_id index "
            "label date year month day created project project_id workspace technique_id technique_name "
            "model meta.KEY stem ext (docs/library.md; floradl check --template shows examples)",
        ),
    ]
    folders: FoldersSection
    kinds: Annotated[
        tuple[OutputKind, ...],
        Setting(
            KindList("kind", "image, video"),
            (),
            "the kinds of outputs to download, like [image, video], of image, video, audio, document, text "
            "and other; [] for all",
        ),
    ]
    rules: Annotated[
        tuple[OutputRule, ...],
        Setting(
            RuleList(),
            (),
            "other kinds, or none, for some outputs; the first rule that matches counts: "
            '[{technique: "camera-*", kinds: [video]}, {output_id: "draft_*", skip: true}]',
        ),
    ]
    mtime: Annotated[
        str,
        Setting(
            Choice(("completed", "now")),
            "completed",
            "the time that files get: when the run completed, or now (when they were downloaded)",
        ),
    ]
    xmp: Annotated[
        bool,
        Setting(
            Flag(),
            "false",
            "write NAME.EXT.xmp beside each file, for photo managers: label, technique, project, texts, date "
            "(docs/library.md)",
        ),
    ]
    max_name_bytes: Annotated[
        int,
        Setting(
            Whole(MIN_BYTES + PART_RESERVE, 255),
            "255",
            "the longest file name; 143 on encrypted Synology shares",
        ),
    ]


def _keep(what: str) -> Setting:
    return Setting(
        Duration(1, LONGEST, nullable=True),
        None,
        f"how long the daemon keeps {what}, counted from the download, like 90d; null for ever",
    )


class KeepSection(Struct, frozen=True, kw_only=True):
    """How long files of each kind are kept, in seconds; None for ever."""

    image: Annotated[float | None, _keep("images")]
    video: Annotated[float | None, _keep("videos")]
    audio: Annotated[float | None, _keep("sound")]
    document: Annotated[float | None, _keep("documents")]
    text: Annotated[float | None, _keep("texts")]
    other: Annotated[float | None, _keep("files of other types")]

    def by_kind(self) -> Mapping[OutputKind, float]:
        """Return for how long those kinds are kept that are not kept for ever."""
        found = ((kind, getattr(self, kind.value)) for kind in OutputKind)
        return {kind: seconds for kind, seconds in found if seconds is not None}


class LibrarySection(Struct, frozen=True, kw_only=True):
    """What becomes of files later."""

    keep: KeepSection


class PollSection(Struct, frozen=True, kw_only=True):
    """How often runs are polled, and for how long; in seconds."""

    interval: Annotated[
        float, Setting(Duration(0.1, 60 * _MINUTE), "2s", "the shortest time between two polls of a run")
    ]
    give_up_after: Annotated[
        float,
        Setting(
            Duration(1, 10 * _YEAR),
            "24h",
            'how long a run may take, since the first answer "not finished"; pauses and outages do not count',
        ),
    ]


class DownloadSection(Struct, frozen=True, kw_only=True):
    """How outputs are fetched. `stall_timeout` is in seconds, sizes are in bytes."""

    concurrency: Annotated[int, Setting(Whole(1, 256), "16", "how many downloads at once")]
    stall_timeout: Annotated[
        float,
        Setting(
            Duration(0.1, 60 * _MINUTE),
            "30s",
            "a transfer under 1 KiB/s for this long is given up, and tried again",
        ),
    ]
    rate_limit: Annotated[
        RateSchedule | None,
        Setting(
            RateLimit(),
            None,
            "bytes a second, all transfers together, like 10MB; or by the local time of day, unlimited "
            'outside: [{from: "09:00", to: "18:00", rate: 2MB}]; null for no limit; changes apply without a '
            "restart",
        ),
    ]
    max_file_size: Annotated[
        int | None,
        Setting(Size(least=1, nullable=True), None, "a larger output is left out; null for no limit"),
    ]
    min_free_space: Annotated[
        int, Setting(Size(), "1GiB", "below it downloads pause, and resume by themselves")
    ]
    media_hosts: Annotated[
        tuple[str, ...],
        Setting(
            HostList(),
            ("*",),
            'hosts that files may come from, like ["*.flora.ai", "storage.googleapis.com"]; trusted ones '
            "must match too",
        ),
    ]
    text_url_hosts: Annotated[
        tuple[str, ...],
        Setting(
            HostList(),
            (
                *("*.flora.ai", "storage.googleapis.com", "*.storage.googleapis.com"),
                *("*.amazonaws.com", "*.imagekit.io"),
            ),
            "a text output that is nothing but a URL at one of these is fetched; any other text is the text",
        ),
    ]


class WebhookSection(Struct, frozen=True, kw_only=True):
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


class MetricsSection(Struct, frozen=True, kw_only=True):
    """Where health and metrics are served."""

    listen: Annotated[
        Endpoint | None,
        Setting(
            ListenAddress(),
            None,
            "answer /healthz, /readyz and (with the extra `metrics`) /metrics here, like 127.0.0.1:9187; may "
            "be the address of webhook.listen; null for not at all",
        ),
    ]


class WebSection(Struct, frozen=True, kw_only=True):
    """Where the daemon shows the library."""

    listen: Annotated[
        Endpoint | None,
        Setting(
            ListenAddress(),
            None,
            "show the gallery of the library here (with the extra `web`), like 127.0.0.1:8788; an address "
            "that other machines reach needs web.token_file; null for not at all",
        ),
    ]
    token_file: Annotated[
        Path | None,
        Setting(
            Location(),
            None,
            "a file that holds a token of 16 characters or more, without which the gallery then shows "
            "nothing; with it, its buttons can have runs retried, forgotten and removed",
        ),
    ]
    thumbnail_space: Annotated[
        int,
        Setting(
            Size(),
            "2GiB",
            "how much of the disk the gallery's thumbnails may take; those not looked at for longest go "
            "first",
        ),
    ]


class NetworkSection(Struct, frozen=True, kw_only=True):
    """What may be reached inside your own network."""

    trusted_private_hosts: Annotated[
        tuple[str, ...],
        Setting(
            HostList(any_host=False),
            (),
            "hosts (or host:port) that may be plain http or at a private address, for API and media",
        ),
    ]


class HooksSection(Struct, frozen=True, kw_only=True):
    """Programs of the user that are run when something happened. `timeout` is in seconds."""

    run_finished: Annotated[
        tuple[str, ...],
        Setting(
            CommandLine(),
            (),
            "a program and its arguments, run for each run that ended, with its sidecar's path as last "
            "argument and its JSON on stdin; [] for none",
        ),
    ]
    paused: Annotated[
        tuple[str, ...],
        Setting(
            CommandLine(),
            (),
            "a program and its arguments, run when the daemon pauses, and each day while that lasts, with "
            "the reason as last argument and JSON on stdin; [] for none",
        ),
    ]
    timeout: Annotated[
        float,
        Setting(Duration(1, 3600), "1m", "how long a hook may take before it is ended, and tried again"),
    ]


class NotifySection(Struct, frozen=True, kw_only=True):
    """What people are told, and where."""

    urls_file: Annotated[
        Path | None,
        Setting(
            Location(),
            None,
            "a file of URLs to send messages to, one a line: https://… (gets JSON), smtps://… (mail), and "
            "all that Apprise knows (with the extra `notify`); or give it as the systemd credential "
            "notify_urls, or as /run/secrets/notify_urls; docs/notify.md",
        ),
    ]
    on: Annotated[
        tuple[str, ...],
        Setting(
            ChoiceList(("paused", "failed", "rejected", "hook_failed", "daily")),
            ("paused", "failed", "rejected", "hook_failed"),
            "what to tell: paused (and when it goes on), failed (runs, and incomplete ones), rejected (job "
            "files), hook_failed, daily (what the day before brought, at 8 in the morning)",
        ),
    ]


class LogSection(Struct, frozen=True, kw_only=True):
    """What is logged, and how."""

    level: Annotated[
        str,
        Setting(
            Choice(("debug", "info", "warning", "error", "critical")), "info", "debug, info, warning or error"
        ),
    ]
    format: Annotated[
        str,
        Setting(
            Choice(("auto", "console", "json")),
            "auto",
            "console, json, or auto: console on a terminal, JSON lines otherwise",
        ),
    ]

    @property
    def quiet(self) -> bool:
        """Whether only failures are shown."""
        return self.level in {"error", "critical"}


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration, checked. Paths are absolute; `file` is where it was read, None for nowhere."""

    home: Annotated[Path, Setting(Location(), "~/flora", "HOME: the other folders default to places in it")]
    api: ApiSection
    queue: QueueSection
    sync: SyncSection
    output: OutputSection
    state_dir: Annotated[
        Path,
        Setting(
            Location("state"),
            None,
            "the queue (journal.sqlite3) and the lock; refused on a network file system",
        ),
    ]
    library: LibrarySection
    poll: PollSection
    download: DownloadSection
    webhook: WebhookSection
    metrics: MetricsSection
    web: WebSection
    network: NetworkSection
    hooks: HooksSection
    notify: NotifySection
    log: LogSection
    file: Path | None = None


@cache
def settings() -> Mapping[Key, Setting]:
    """Return every setting by its key, in the order of the file."""
    return MappingProxyType(dict(_settings_of(Config, ())))


@cache
def sections() -> Mapping[Key, type[Struct]]:
    """Return every section by its key: `()` is the whole, and parents come before children."""
    return MappingProxyType(dict(_sections_of(Config, ())))


def fields(section: type[Struct]) -> Mapping[str, Setting | type[Struct]]:
    """Return a section's own settings and sections by name."""
    found: dict[str, Setting | type[Struct]] = {}
    for name, hint in get_type_hints(section, include_extras=True).items():
        if isinstance(hint, type) and issubclass(hint, Struct):
            found[name] = hint
        else:
            for mark in getattr(hint, "__metadata__", ()):
                if isinstance(mark, Setting):
                    found[name] = mark
    return found


def _settings_of(section: type[Struct], key: Key) -> Iterator[tuple[Key, Setting]]:
    for name, field in fields(section).items():
        if isinstance(field, Setting):
            yield (*key, name), field
        else:
            yield from _settings_of(field, (*key, name))


def _sections_of(section: type[Struct], key: Key) -> Iterator[tuple[Key, type[Struct]]]:
    yield key, section
    for name, field in fields(section).items():
        if not isinstance(field, Setting):
            yield from _sections_of(field, (*key, name))


def variable(key: Key) -> str:
    """Return the environment variable of a key: `FLORADL_DOWNLOAD__CONCURRENCY`."""
    return PREFIX + "__".join(key).upper()
