"""What `floradl check` asks the API: whether it is reachable, accepts the key, and has the same time.

Source: FLORA's OpenAPI document 1.6.0 (`GET /technique-runs`, the error envelope), RFC 9110 section 6.6.1
(`Date`) and 15.4 (redirects).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import httpx
import msgspec

from floradl.app import api_guard
from floradl.commands.check import CheckResult, fail, ok, warn
from floradl.commands.daemon_state import coarse
from floradl.config.credentials import FoundKey
from floradl.config.settings import Config
from floradl.downloads import USER_AGENT
from floradl.errors import ConfigError, PermanentError, TransientError
from floradl.flora.schema import error_body
from floradl.net.addresses import join_port
from floradl.net.client import ApiClient
from floradl.net.errors import CertificateError, ProxyRefusedError
from floradl.net.headers import date
from floradl.net.pool import PoolLimits
from floradl.net.proxies import Proxies
from floradl.net.url_policy import port_of

_NAME, _PROXY = "API", "proxy"
_TIMEOUT = 20.0  # seconds for everything
_MOST_BYTES = 4 * 1024 * 1024
_SKEW = 60.0
_BASE_URL = "is api.base_url (FLORA_BASE_URL) right? FLORA's ends in /api/v1"


class _Answer(msgspec.Struct, frozen=True):
    """What came back; `body` is None where it is no JSON object. `seconds` is how long that took."""

    status: int
    headers: httpx.Headers
    body: dict[str, Any] | None
    seconds: float
    at: float


async def ask_api(
    config: Config, environ: Mapping[str, str], key: FoundKey | None, wall: Callable[[], float]
) -> list[CheckResult]:
    """Ask the API for one run of its list, with the key if there is one. `wall` gives unix seconds."""
    try:
        proxy = Proxies(environ).of(httpx.URL(config.api.base_url))
    except ConfigError as error:
        return [fail(_PROXY, str(error))]
    found = []
    if proxy is not None:
        found.append(
            ok(_PROXY, f"requests to the API go through {join_port(proxy.url.host, port_of(proxy.url))}")
        )
    try:
        with anyio.fail_after(_TIMEOUT):
            answer = await _ask(config, environ, key, wall)
    except (ConfigError, PermanentError, TransientError) as error:
        return [*found, fail(_NAME, str(error))]
    except ProxyRefusedError as error:
        what, _, remedy = str(error).partition("; ")
        return [fail(_PROXY, what, remedy), fail(_NAME, "cannot be reached: the proxy is in the way")]
    except httpx.RequestError as error:
        return [*found, fail(_NAME, f"cannot be reached: {error}", _remedy(error, through_proxy=bool(proxy)))]
    except TimeoutError:
        return [*found, fail(_NAME, f"no whole answer within {_TIMEOUT:.0f} s", "try again later")]
    found.append(_judge(answer, key, config))
    found += _clock(answer)
    return found


async def _ask(
    config: Config, environ: Mapping[str, str], key: FoundKey | None, wall: Callable[[], float]
) -> _Answer:
    headers = {} if key is None else {"Authorization": f"Bearer {key.key.reveal()}"}
    limits = PoolLimits(read=_TIMEOUT, connections=1)
    with ApiClient(
        api_guard(config), config.api.base_url, user_agent=USER_AGENT, limits=limits, environ=environ
    ) as client:
        started = time.monotonic()
        answer = await client.get("technique-runs?limit=1", _MOST_BYTES, headers)
        at, seconds = wall(), time.monotonic() - started
    return _Answer(answer.status, answer.headers, _object(answer.body), seconds, at)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _judge(answer: _Answer, key: FoundKey | None, config: Config) -> CheckResult:
    url, status = config.api.base_url, answer.status
    took = f"{url} answers within {answer.seconds * 1000:.0f} ms"
    if status == httpx.codes.OK:
        return _judge_list(answer, f"{took}{' and takes the key' if key else ''}", url)
    if (reason := _reason(answer)) is None:
        return _judge_stranger(answer, url)
    if status == httpx.codes.UNAUTHORIZED:
        if key is None:
            return ok(_NAME, f"{took} (without a key nothing more can be asked)")
        remedy = "a workspace has one active key, made at FLORA; put it in place"
        return fail(_NAME, f"refuses the key from {key.place}: {reason}", remedy)
    if status == httpx.codes.PAYMENT_REQUIRED:
        return fail(_NAME, f"the workspace is out of credits: {reason}", "top it up")
    if status == httpx.codes.FORBIDDEN:
        needed = fail(_NAME, f"the key may not list runs, which sync needs: {reason}", "give it that right")
        spared = ok(_NAME, f"{took}; the key may not list runs, which floradl can do without")
        return needed if config.sync.kinds else spared
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return warn(_NAME, f"{took}, but takes no more requests just now: {reason}")
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return fail(_NAME, f"has trouble of its own: {reason}", "try again later")
    return fail(_NAME, f"{url} refuses to list runs: {reason}", _BASE_URL)


def _judge_list(answer: _Answer, took: str, url: str) -> CheckResult:
    if answer.body is not None and not answer.body.keys().isdisjoint({"technique_runs", "techniqueRuns"}):
        return ok(_NAME, took)
    what = "with a web page" if _is_html(answer) else "in a form that is not FLORA's"
    return fail(_NAME, f"{url} answers {what}", _BASE_URL)


def _judge_stranger(answer: _Answer, url: str) -> CheckResult:
    if httpx.codes.is_redirect(answer.status):
        target = httpx.URL(url).join(answer.headers.get("location", ""))  # the client refused what is no URL
        where = f"{target.scheme}://{target.host}"
        return fail(_NAME, f"{url} sends its readers to {where} (HTTP {answer.status})", _BASE_URL)
    what = "with a web page" if _is_html(answer) else "in a form that is not FLORA's"
    if answer.status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
        remedy = "a proxy on the way wants a name and a password: NAME:PASSWORD@HOST:PORT in HTTPS_PROXY"
        return fail(_NAME, f"{url} answers 407 {what}", remedy)
    if answer.status == httpx.codes.NETWORK_AUTHENTICATION_REQUIRED:
        return fail(_NAME, f"{url} answers 511 {what}: this network wants a login first", "log in")
    if answer.status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return fail(_NAME, f"{url} has trouble (HTTP {answer.status}, {what})", "try again later")
    remedy = f"{_BASE_URL}; a proxy or a portal may answer in its place"
    return fail(_NAME, f"{url} answers {answer.status} {what}", remedy)


def _is_html(answer: _Answer) -> bool:
    return "html" in answer.headers.get("content-type", "")


def _reason(answer: _Answer) -> str | None:
    """Return the message of FLORA's error envelope, with the id for its support; None for another's."""
    if (reason := error_body(answer.body)) is None:
        return None
    request_id = answer.headers.get("request-id")
    about = f" (request-id {request_id})" if request_id else ""
    return f"HTTP {answer.status} {reason.code}: {reason.message[:300]}{about}"


def _clock(answer: _Answer) -> list[CheckResult]:
    if (theirs := date(answer.headers)) is None:
        return []
    ahead = answer.at - theirs
    if abs(ahead) <= _SKEW:
        return [ok("clock", "agrees with the API's")]
    message = f"this machine's clock is {coarse(ahead)} {'ahead of' if ahead > 0 else 'behind'} the API's"
    return [
        warn("clock", message, "set it by NTP (timedatectl set-ntp true): signed URLs run out by the clock")
    ]


def _remedy(error: httpx.RequestError, *, through_proxy: bool) -> str | None:
    if isinstance(error, CertificateError):  # its message has the remedy
        return None
    if through_proxy:
        return "is the proxy right (HTTPS_PROXY, NO_PROXY), and up?"
    return "is this machine online, api.base_url right, and does it need a proxy (HTTPS_PROXY)?"
