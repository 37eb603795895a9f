"""Sends one message to one address, at once. Blocking; an error says what to do, and holds no URL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from importlib.util import find_spec
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx
import msgspec
from msgspec import Struct

from floradl.errors import FloradlError
from floradl.net.addresses import canonical_host
from floradl.net.client import open_client
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy
from floradl.notify.mail import send_mail
from floradl.notify.news import Message, encoded
from floradl.notify.targets import MailServer, Service, Target, Unusable, Webhook
from floradl.redaction import MASK, redact

USER_AGENT: Final = "floradl"
APPRISE_MISSING: Final = (
    "it takes Apprise, which is not installed: add the extra `notify`, see docs/notify.md"
)
_TIMEOUT: Final = 20.0  # seconds for each step
_SERVICE_TIME: Final = 60.0  # seconds for one of Apprise's, with the start of its process
_MOST_ANSWER: Final = 64 << 10  # bytes
_LONGEST_WAIT: Final = 3600.0
_SECRETS: Final = ("FLORA", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET")


class NotSentError(FloradlError):
    """A message was not taken, and why. `wait` is for how many seconds to wait at least."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(redact(message))
        self.wait = wait


class Outcome(msgspec.Struct):
    """What the process with Apprise answers."""

    ok: bool
    message: str


class Sender(Struct, frozen=True):
    """Sends. `policy` says whom it may connect to; `environ` has proxies and certificates."""

    policy: UrlPolicy
    environ: Mapping[str, str]

    def send(self, message: Message, target: Target) -> None:
        """Send it, within about a minute. Raises `NotSentError`."""
        if isinstance(target, Unusable):
            raise NotSentError(target.why)
        try:
            match target:
                case Webhook(_, url):
                    self._post(message, url.reveal())
                case MailServer():
                    send_mail(message, target, self.policy, self.environ)
                case Service():
                    _notify(message, target, self.environ)
        except NotSentError:
            raise
        # What the network, TLS, the URL policy and mail servers have to say.
        except (FloradlError, httpx.RequestError, httpx.InvalidURL, OSError, ValueError) as error:
            raise NotSentError(_without_host(str(error), target) or type(error).__name__) from None

    def _post(self, message: Message, url: str) -> None:
        limits = PoolLimits(connect=_TIMEOUT, read=_TIMEOUT, connections=1)
        with open_client(self.policy, user_agent=USER_AGENT, limits=limits, environ=self.environ) as client:
            request = httpx.Request(
                "POST",
                url,
                headers={"User-Agent": USER_AGENT, "Content-Type": "application/json; charset=utf-8"},
                content=encoded(message),
                extensions={"timeout": limits.timeouts()},
            )
            with closing(client.send(request, stream=True)) as answer:
                status = answer.status_code
                again = answer.headers.get("retry-after", "")
        if 200 <= status <= 299:
            return
        wait = min(float(again), _LONGEST_WAIT) if again.isdecimal() and len(again) < 10 else 0.0
        raise NotSentError(f"it answers HTTP {status}{_advice(status)}", wait)


def _advice(status: int) -> str:
    if 300 <= status <= 399:
        return ": it leads elsewhere, which is not followed; write the URL that it leads to"
    if status in {400, 422}:
        return (
            ": it does not take this JSON; docs/notify.md says what is sent, and Apprise knows many services"
        )
    if status in {401, 403, 404, 410}:
        return ": is the URL still right?"
    return ""


def has_apprise() -> bool:
    """Whether Apprise is installed."""
    return find_spec("apprise") is not None


def _notify(message: Message, target: Service, environ: Mapping[str, str]) -> None:
    """Have Apprise send it, in a process of its own, which ends with it: it is large, and logs URLs."""
    if not has_apprise():
        raise NotSentError(APPRISE_MISSING)
    asked = {"url": target.url.reveal(), "title": message.title, "body": message.text}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "floradl.notify.apprise_process"],
            input=msgspec.json.encode(asked),  # not an argument: those are for all to see
            env={name: value for name, value in environ.items() if not name.startswith(_SECRETS)} | _path(),
            capture_output=True,
            timeout=_SERVICE_TIME,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotSentError(f"the service did not answer within {_SERVICE_TIME:.0f} s") from None
    try:
        outcome = msgspec.json.decode(done.stdout, type=Outcome)
    except msgspec.MsgspecError:
        raise NotSentError(f"Apprise ended with exit code {done.returncode}") from None
    if not outcome.ok:
        raise NotSentError(_without(outcome.message, asked["url"]) or "the service did not take it")


def _without(text: str, url: str) -> str:
    """Return `text` without any part of `url`: a chat's number is nobody's business, either."""
    for part in re.split("[/?&=@:]+", url.partition("://")[2]):
        for each in {part, unquote(part)}:
            if each:
                text = re.sub(rf"(?<!\w){re.escape(each)}(?!\w)", MASK, text)
    return text


def _without_host(text: str, target: Target) -> str:
    """Return `text` without the host, and its port: all of a URL is a secret."""
    hosts: set[str] = set()
    match target:
        case Webhook(_, url):
            with suppress(ValueError, httpx.InvalidURL):
                parsed = httpx.URL(url.reveal())
                hosts = {urlsplit(url.reveal()).hostname or "", parsed.host, parsed.raw_host.decode("ascii")}
        case MailServer():
            hosts = {target.host}
    for host in tuple(hosts):
        with suppress(ValueError):
            hosts.add(canonical_host(host))
    for host in sorted(filter(None, hosts), key=len, reverse=True):
        named = rf"(?i)(?:\bhost )?'?(?<![\w.-])\[?{re.escape(host)}\]?(?::\d+)?(?![\w-])'?"
        text = re.sub(named, "its host", text)
    return text


def _path() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath)}
