"""What `floradl check` looks at where floradl listens: the addresses, the webhook secret, the extra."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing

from floradl.commands.check.finding import CheckResult, fail, ok, warn
from floradl.config.credentials import FoundSecrets, find_webhook_secrets
from floradl.config.settings import Config
from floradl.errors import ConfigError
from floradl.net.listen_address import Endpoint
from floradl.web import metrics, webhooks
from floradl.web.server import explained

_PATIENCE = 2.0  # seconds


def check_listening(config: Config, environ: Mapping[str, str], *, daemon: bool) -> Iterator[CheckResult]:
    """Look at it; nothing where floradl is to listen nowhere. `daemon`: one runs, and has the addresses."""
    places: dict[Endpoint, str] = {}
    for setting, endpoint in (
        ("webhook.listen", config.webhook.listen),
        ("metrics.listen", config.metrics.listen),
    ):
        if endpoint is not None:
            places[endpoint] = f"{places[endpoint]} and {setting}" if endpoint in places else setting
    for endpoint, setting in places.items():
        yield _answered(endpoint, setting) if daemon else _free(endpoint, setting)
    if config.webhook.listen is not None:
        yield _secret(config, environ)
    if config.metrics.listen is not None and not metrics.installed():
        yield warn("metrics", metrics.MISSING)


def _free(endpoint: Endpoint, setting: str) -> CheckResult:
    """Try whether it can be listened at; nobody is answered."""
    try:
        kind, *_, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with closing(socket.socket(kind, socket.SOCK_STREAM)) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen(1)
    except OSError as error:
        return fail(setting, explained(endpoint, error))
    return ok(setting, f"{endpoint} is free")


def _answered(endpoint: Endpoint, setting: str) -> CheckResult:
    """Ask whether it is floradl that answers there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(endpoint.host, endpoint.host)  # noqa: S104 - not bound
    try:
        with socket.create_connection((host, endpoint.port), _PATIENCE) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: floradl\r\n\r\n")
            said = connection.recv(4096)
    except OSError as error:
        reason = "nobody answers" if error.errno == errno.ECONNREFUSED else str(error.strerror or error)
        return fail(setting, f"the daemon does not listen at {endpoint} ({reason}): its log says why")
    if b"\r\nserver: floradl\r\n" not in said.lower():
        return fail(setting, explained(endpoint, OSError(errno.EADDRINUSE, "")))
    return ok(setting, f"the daemon listens at {endpoint}")


def _secret(config: Config, environ: Mapping[str, str]) -> CheckResult:
    try:
        found: FoundSecrets = find_webhook_secrets(config, environ)
    except ConfigError as error:
        return fail("webhook secret", str(error))
    if not found.secrets:
        return fail("webhook secret", webhooks.MISSING)
    if not all(secret.reveal().startswith("whsec_") for secret in found.secrets):
        return warn("webhook secret", f"what {found.place} holds does not start with whsec_, as FLORA's do")
    number = len(found.secrets)
    return ok("webhook secret", f"from {found.place}" + (f", {number} of them" if number > 1 else ""))
