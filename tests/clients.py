"""Clients for the tests of connections and transports."""

from __future__ import annotations

from floradl.net.guard import Guard
from floradl.net.throttle import Throttle
from floradl.net.transport import Limits, MediaClient, open_client

SITE = "site.example"
QUICK = Limits(connect=2.0, read=2.0)


def resolve_to(*addresses: str) -> Guard:
    """Trust `SITE`, which is at these addresses."""
    return Guard([SITE], resolver=lambda _host, _port: addresses)


def client(
    guard: Guard,
    environ: dict[str, str] | None = None,
    limits: Limits = QUICK,
    throttle: Throttle | None = None,
) -> MediaClient:
    """Open a client that knows nothing of this machine's environment."""
    return open_client(
        guard, user_agent="floradl/test", limits=limits, environ=environ or {}, throttle=throttle
    )
