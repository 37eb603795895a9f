"""Where the secret of FLORA's webhooks comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from floradl.config.credentials import RUN_SECRETS, conventional, read_text
from floradl.config.settings import Config
from floradl.errors import ConfigError
from floradl.redaction import Secret, remember

NAME: Final = "flora_webhook_secret"
"""The name of the systemd credential, and of the container secret."""

_VARIABLES = ("FLORADL_WEBHOOK_SECRET", "FLORA_WEBHOOK_SECRET")
_OWN_FILE = ("FLORADL_WEBHOOK__SECRET_FILE", "FLORADL_WEBHOOK_SECRET_FILE")
_WHAT = "webhook secret"
_MOST = 4096  # characters, as of a file
_VISIBLE = re.compile(r"[\x21-\x7e]+")


class FoundSecrets(NamedTuple):
    """The secrets, and the file or variable that they were found in; no secrets where there is none."""

    place: str
    secrets: tuple[Secret, ...]


def find_webhook_secrets(
    config: Config, environ: Mapping[str, str], *, run_secrets: Path = RUN_SECRETS
) -> FoundSecrets:
    """Find the webhook secrets; `redact` knows them from then on.

    They are taken from the first of these that is set: `FLORADL_WEBHOOK_SECRET` or `FLORA_WEBHOOK_SECRET`,
    `webhook.secret_file`, the systemd credential `flora_webhook_secret`, `run_secrets`/flora_webhook_secret.
    There may be several, one a line: while FLORA changes the secret both hold. Every call reads anew.

    Raises `ConfigError` where a file cannot be read, or holds something else; no message shows any of it.
    """
    named = any(environ.get(name, "").strip() for name in _OWN_FILE)
    for name in _VARIABLES[: 1 if named else 2]:  # a file that a FLORADL_… names wins over FLORA_…
        if text := environ.get(name, "").strip():
            return _found(f"the variable {name}", text)
    if config.webhook.secret_file is not None:
        try:
            return _found(str(config.webhook.secret_file), read_text(config.webhook.secret_file, _WHAT))
        except FileNotFoundError:
            raise ConfigError(
                f"{config.webhook.secret_file}: there is no such file, but webhook.secret_file names it"
            ) from None
    for file in conventional(NAME, environ, run_secrets):
        with suppress(FileNotFoundError):
            return _found(str(file), read_text(file, _WHAT))
    return FoundSecrets("", ())


def _found(place: str, text: str) -> FoundSecrets:
    if len(text) > _MOST:
        raise ConfigError(f"{place}: this is no {_WHAT}: it has {len(text)} characters")
    secrets = tuple(Secret(line.strip()) for line in text.split("\n") if line.strip())
    for secret in secrets:
        remember(secret)
    if not secrets:
        raise ConfigError(f"{place}: the file is empty, but the {_WHAT} belongs in it")
    if not all(_VISIBLE.fullmatch(secret.reveal()) for secret in secrets):
        raise ConfigError(
            f"{place}: this is no {_WHAT}: it holds spaces, control characters or letters that are not ASCII"
        )
    return FoundSecrets(place, secrets)
