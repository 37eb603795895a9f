"""Where messages go: one URL a line of a file. All of a URL is a secret, and known to `redact` from then on.

An address is named by its line and its scheme alone, in logs and messages.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Final, TypeAlias
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from msgspec import Struct

from floradl.errors import ConfigError
from floradl.redaction import Secret, remember

_MOST: Final = 50
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}(?=://)", re.IGNORECASE)
_MAILBOX = re.compile(r"[^\s@<>,;\"'\\\x00-\x1f\x7f]{1,64}@[^\s@<>,;\"'\\\x00-\x1f\x7f]{1,255}")
_PORTS: Final = {"smtps": 465, "smtp": 587}
_TOKEN = re.compile(r"(?=.*(?:[0-9]|[a-z][A-Z]|[A-Z][a-z])).{8,}", re.DOTALL)
"""What is no word: it holds a digit, or capitals in its middle."""


class Webhook(Struct, frozen=True):
    """A web address that takes JSON. `name` is what it is called."""

    name: str
    url: Secret


class MailServer(Struct, frozen=True):
    """A mail server, from whom, and to whom. `is_tls`: from the first byte on; no `user`: no login."""

    name: str
    host: str
    port: int
    is_tls: bool
    user: str
    password: Secret
    sender: str
    recipients: tuple[str, ...]


class Service(Struct, frozen=True):
    """One of the services that Apprise knows."""

    name: str
    url: Secret


class Unusable(Struct, frozen=True):
    """A line that names no address, and why; the others are used."""

    name: str
    why: str


Target: TypeAlias = Webhook | MailServer | Service | Unusable


def read_targets(text: str, place: str) -> tuple[Target, ...]:
    """Read the lines of `place`: empty ones and those that begin with # mean nothing.

    What is said of a line repeats nothing of it. Raises `ConfigError` where there are too many.
    """
    targets = tuple(_targets(text))
    if len(targets) > _MOST:
        raise ConfigError(f"{place}: at most {_MOST} URLs")
    return targets


def _targets(text: str) -> Iterator[Target]:
    for number, line in enumerate(text.splitlines(), 1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        remember(Secret(url))
        try:
            yield _target(url, number)
        except ValueError as error:
            yield Unusable(f"line {number}", str(error))


def _target(url: str, number: int) -> Target:
    found = _SCHEME.match(url)
    if found is None or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("this is not a URL: write https://…, smtps://… or one of Apprise's, one a line")
    scheme = found[0].lower()
    name = f"line {number} ({scheme})"
    try:
        parts = urlsplit(url)
        # To Apprise what follows the colon may be a part of a token.
        _ = parts.port if scheme in {"https", "http", *_PORTS} else None
    except ValueError:
        raise ValueError("this is not a URL: the port must be a number, and [ ] must match") from None
    _remember_parts(parts)
    if scheme in {"https", "http"}:
        if parts.username is not None:
            raise ValueError("a user and password in a web address are not sent: use a URL with a token")
        if not parts.hostname:
            raise ValueError("the URL names no host")
        return Webhook(name, Secret(url.partition("#")[0]))
    if scheme in _PORTS:
        return _mail_server(parts, scheme, name)
    return Service(name, Secret(url))


def _remember_parts(parts: SplitResult) -> None:
    """Have `redact` hide what an error could quote of a URL and that looks like a secret.

    A word is left alone: it would be hidden wherever it is written. In some URLs even the host is a token.
    """
    said = [parts.password or ""]
    if parts.scheme not in _PORTS:
        said += [parts.path, *parts.path.split("/"), *re.split("[&=]", parts.query), parts.username or ""]
    if parts.scheme not in {"https", "http", *_PORTS}:
        said += [parts.netloc, *re.split("[@:]", parts.netloc)]
    for text in said:
        for each in {text, unquote(text)}:
            if each in {parts.password, unquote(parts.password or "")} or _TOKEN.fullmatch(each):
                remember(Secret(each))


def _mail_server(parts: SplitResult, scheme: str, name: str) -> MailServer:
    if not parts.hostname:
        raise ValueError("the URL names no mail server: docs/notify.md shows how it is written")
    user = unquote(parts.username or "")
    password = unquote(parts.password or "")
    if re.search(r"[\x00-\x1f\x7f]", user + password):
        raise ValueError("the user or password holds a control character")
    asked = parse_qs(parts.query)
    if unknown := asked.keys() - {"to", "from"}:
        raise ValueError(f"{len(unknown)} parameters that mail does not know: to= and from= alone")
    own = user if _MAILBOX.fullmatch(user) else ""
    recipients = tuple(
        mailbox.strip() for value in asked.get("to", [own]) for mailbox in value.split(",") if mailbox.strip()
    )
    sender = asked.get("from", [own or f"floradl@{_host_name()}"])[-1].strip()
    if not recipients:
        raise ValueError("the URL does not say to whom: it lacks a parameter to=ME@EXAMPLE.COM")
    if not all(map(_MAILBOX.fullmatch, (*recipients, sender))):
        raise ValueError("to= and from= are mail addresses like me@example.com, several with commas")
    port = parts.port or _PORTS[scheme]
    return MailServer(
        name, parts.hostname, port, scheme == "smtps", user, Secret(password), sender, recipients
    )


def _host_name() -> str:
    name = socket.gethostname()
    return name if re.fullmatch(r"[A-Za-z0-9.-]{1,255}", name) else "localhost"
