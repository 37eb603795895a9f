"""Clients for the tests of connections and transports."""

from __future__ import annotations

from floradl.net.bandwidth import BandwidthLimiter
from floradl.net.client import ApiClient, MediaClient, open_client
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy

SITE = "site.example"
QUICK = PoolLimits(connect=20.0, read=20.0)


def resolve_to(*addresses: str) -> UrlPolicy:
    """Trust `SITE`, which is at these addresses."""
    return UrlPolicy([SITE], resolver=lambda _host, _port: addresses)


def client(
    url_policy: UrlPolicy,
    environ: dict[str, str] | None = None,
    limits: PoolLimits = QUICK,
    bandwidth: BandwidthLimiter | None = None,
) -> MediaClient:
    """Open a client that knows nothing of this machine's environment."""
    return open_client(
        url_policy, user_agent="floradl/test", limits=limits, environ=environ or {}, bandwidth=bandwidth
    )


def api_client(
    base_url: str,
    url_policy: UrlPolicy | None = None,
    environ: dict[str, str] | None = None,
    limits: PoolLimits | None = None,
) -> ApiClient:
    """Open a client for an API, at loopback where no policy says otherwise; as `client` else."""
    return ApiClient(
        url_policy or UrlPolicy(["127.0.0.1"]),
        base_url,
        user_agent="floradl/test",
        limits=limits,
        environ=environ or {},
    )
