"""Connects notifications with the daemon: their settings, the hosts they may reach, the events they read."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread

from floradl.app import App
from floradl.config.credentials import read_notify_urls
from floradl.config.settings import Config
from floradl.daemon.hooks import pause_with_certainty
from floradl.errors import ConfigError, FloradlError
from floradl.net.url_policy import UrlPolicy
from floradl.wakeups import Signal

if TYPE_CHECKING:
    from floradl.notify.notifier import Notifier, NotifyOptions
    from floradl.notify.targets import Target
    from floradl.queue.heartbeat import LivePause

_REMEDY = "it is in notify.urls_file"
_LARGEST_SIDECAR = 64 << 20  # bytes


def notify_targets(config: Config, environ: Mapping[str, str]) -> tuple[Target, ...]:
    """Return the addresses of messages, read anew at each call; empty without a file. Blocking.

    Raises `ConfigError`, without a URL.
    """
    from floradl.notify.targets import read_targets  # noqa: PLC0415 - few have any

    found = read_notify_urls(config, environ)
    return () if found is None else read_targets(*found)


def check_targets(config: Config, environ: Mapping[str, str]) -> None:
    """Raise `ConfigError`, without a URL, where a line names no address, or as `notify_targets`. Blocking."""
    if (found := read_notify_urls(config, environ)) is None:
        return
    from floradl.notify.targets import Unusable, read_targets  # noqa: PLC0415 - as above

    for each in read_targets(*found):
        if isinstance(each, Unusable):
            raise ConfigError(f"{found[1]}, {each.name}: {each.why}")


def notify_options(config: Config, environ: Mapping[str, str]) -> NotifyOptions:
    """Return what is told, and where to."""
    from floradl.notify.news import Topic  # noqa: PLC0415 - as above
    from floradl.notify.notifier import NotifyOptions  # noqa: PLC0415 - as above

    place = f"{config.home} on {socket.gethostname()}"
    return NotifyOptions(
        frozenset(map(Topic, config.notify.on)), partial(notify_targets, config, environ), place
    )


def notify_policy(config: Config) -> UrlPolicy:
    """Return the policy for hosts of messages: any public one, and private ones that are trusted."""
    return UrlPolicy(config.network.trusted_private_hosts, remedy=_REMEDY)


class Notifications:
    """The daemon's notifications. `serve` must be running; `paused` gives the current pause.

    Without an address nothing is loaded.
    """

    def __init__(
        self, config: Config, environ: Mapping[str, str], app: App, paused: Callable[[], LivePause | None]
    ) -> None:
        self._config = config
        self._environ = environ
        self._app = app
        self._paused = paused
        self._policy = notify_policy(config)
        self._changed = Signal()
        self._notifier: Notifier | None = None

    @property
    def troubles(self) -> tuple[str, ...]:
        """What keeps messages from being sent, for people."""
        return self._notifier.troubles if self._notifier is not None else ()

    def change(self, config: Config) -> None:
        """Let another configuration hold from now on."""
        self._config = config
        self._policy.change(config.network.trusted_private_hosts, ("*",))
        if self._notifier is not None:
            self._notifier.change(notify_options(config, self._environ))
        self._changed.set()

    async def serve(self) -> None:
        """Tell people, for ever."""
        while True:
            changed = self._changed.next()
            if await to_thread.run_sync(self._is_named):
                break
            await changed.wait()
        self._notifier = notifier = self._build()
        await notifier.serve()

    def _is_named(self) -> bool:
        try:
            return read_notify_urls(self._config, self._environ) is not None
        except ConfigError:  # which is reported, and may pass
            return True

    def _build(self) -> Notifier:
        from floradl.notify.daily import sum_up  # noqa: PLC0415 - few are told
        from floradl.notify.notifier import Doors, Notifier  # noqa: PLC0415 - as above
        from floradl.notify.sending import Sender  # noqa: PLC0415 - as above

        state_dir = self._config.state_dir
        doors = Doors(
            pause=pause_with_certainty(self._app, self._paused),
            send=Sender(self._policy, self._environ).send,
            report=lambda first, until: sum_up(state_dir, first, until, partial(_cost, self._app)),
        )
        return Notifier(state_dir, notify_options(self._config, self._environ), doors)


def _cost(app: App, sidecar: str) -> float | None:
    """Return what the run of a sidecar cost, in USD; None where that is not known. Blocking."""
    from floradl.index.document import read_document  # noqa: PLC0415 - once a day

    try:
        file = app.library.open_file(sidecar)
        if file is None:
            return None
        with file:
            document = read_document(file.read(_LARGEST_SIDECAR))
    except (FloradlError, OSError, ValueError):
        return None
    return document.cost if document is not None else None
