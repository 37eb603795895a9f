"""Where the API key and the webhook secret come from, and who else may read their files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from floradl.config.settings import Config
from floradl.errors import ConfigError
from floradl.fs.mounts import filesystem
from floradl.fs.permissions import group_name, open_unexposed
from floradl.redaction import Secret, remember

NAME: Final = "flora_api_key"
WEBHOOK_CREDENTIAL: Final = "flora_webhook_secret"
NOTIFY_CREDENTIAL: Final = "notify_urls"
"""The names of the systemd credentials, and of the container secrets."""

RUN_SECRETS: Final = Path("/run/secrets")
_KEY, _WEBHOOK, _TOKEN = "API key", "webhook secret", "gallery token"
_PASSWORD = "queue's password"  # noqa: S105 - what it is called
_SHORTEST_TOKEN = 16
_MOST_BYTES = 4096
_URLS, _MOST_URLS = "list of URLs", 64 << 10
_NO_CREDENTIAL = (
    f"the systemd credential {NAME} is empty: put the API key into the file that LoadCredential={NAME}:FILE "
    f"of the unit names (mostly /etc/floradl/{NAME}), and start it again"
)
_READ_EVERY: Final = 1.0  # seconds
_Stamp: TypeAlias = tuple[int, ...] | None
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_OWN_FILE = ("FLORADL_API__KEY_FILE", "FLORADL_API_KEY_FILE")
_VARIABLES = ("FLORADL_WEBHOOK_SECRET", "FLORA_WEBHOOK_SECRET")
_OWN_SECRET_FILE = ("FLORADL_WEBHOOK__SECRET_FILE", "FLORADL_WEBHOOK_SECRET_FILE")


def exposure(file: Path, environ: Mapping[str, str]) -> str | None:
    """Return who else may read a key's file, None where nobody may; blocking.

    The mode of a systemd credential, or of a container's secret (one in memory, or below /run/secrets), is
    not its user's. A file of somebody else's that only the group may read is how a service is given its key.
    """
    theirs = [given.parent for given in conventional(file.name, environ, RUN_SECRETS)]
    try:
        status = file.stat()
        ways = [above.stat().st_mode for above in file.parents]
    except OSError:
        return None
    if any(file.is_relative_to(each) for each in theirs) or filesystem(file) == "tmpfs":
        return None
    if status.st_mode & stat.S_IROTH and all(mode & stat.S_IXOTH for mode in ways):
        return f"{file} can be read by every user of this machine"
    through = all(mode & (stat.S_IXOTH | stat.S_IXGRP) for mode in ways)
    if status.st_mode & stat.S_IRGRP and through and status.st_uid == os.geteuid():
        return f"{file} can be read by the group {group_name(status.st_gid)}"
    return None


class FoundKey(NamedTuple):
    """An API key, and the file or variable that it was found in first; `file` is None for a variable."""

    place: str
    key: Secret
    file: Path | None = None


def read_api_key(
    config: Config, environ: Mapping[str, str], *, run_secrets: Path = RUN_SECRETS
) -> Secret | None:
    """Return the API key alone: see `find_api_key`."""
    found = find_api_key(config, environ, run_secrets=run_secrets)
    return found.key if found else None


def find_api_key(
    config: Config, environ: Mapping[str, str], *, run_secrets: Path = RUN_SECRETS
) -> FoundKey | None:
    """Find the API key, None where there is none, anew at each call; `redact` knows it from then on.

    It is in `FLORADL_API_KEY` or `FLORA_API_KEY`, `api.key_file`, the systemd credential
    `$CREDENTIALS_DIRECTORY/flora_api_key`, or `run_secrets`/flora_api_key; `FLORADL_…` wins over `FLORA_…`.
    Raises `ConfigError`, without the key, where two differ, or one that was named is unreadable or not a key.
    """
    texts: list[tuple[str | Path, str]] = [*_from_variables(environ), *_from_key_file(config, environ)]
    unreadable: ConfigError | None = None
    for file in conventional(NAME, environ, run_secrets):
        try:
            texts.append((file, _read_given(file, run_secrets)))
        except FileNotFoundError:
            pass
        except ConfigError as error:  # others may have put it there: it counts only where no other has a key
            unreadable = error
    keys = [(str(place), _api_key(text, str(place))) for place, text in texts]
    if not keys and unreadable is not None:
        raise unreadable
    for place, key in keys[1:]:
        if key != keys[0][1]:
            raise ConfigError(f"{keys[0][0]} and {place} hold different API keys: keep one of them")
    if not keys:
        return None
    first = texts[0][0]
    return FoundKey(*keys[0], first if isinstance(first, Path) else None)


class KeyReader:
    """Reads the API key for each request; its files only where stat shows a change, or a second went by.

    The second is for what stat does not show: who else may write the folders above, and a share that answers
    from a cache. `monotonic` gives seconds.
    """

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        monotonic: Callable[[], float],
        *,
        run_secrets: Path = RUN_SECRETS,
    ) -> None:
        self._environ = environ
        self._monotonic = monotonic
        self._run_secrets = run_secrets
        self._last: tuple[float, list[_Stamp], Secret | None] | None = None
        self.change(config)

    def change(self, config: Config) -> None:
        """Read it as `config` says from now on."""
        self._config = config
        named = () if config.api.key_file is None else (config.api.key_file,)
        self._files = [*map(str, named), *map(str, conventional(NAME, self._environ, self._run_secrets))]
        self.forget()

    def forget(self) -> None:
        """Read it anew at the next call, whatever stat shows."""
        self._last = None

    def read(self) -> Secret | None:
        """Return the key, None where there is none. Raises `ConfigError`, see `find_api_key`."""
        last, now, stamps = self._last, self._monotonic(), [_stamp(file) for file in self._files]
        if last is not None and now - last[0] < _READ_EVERY and stamps == last[1]:
            return last[2]
        secret = read_api_key(self._config, self._environ, run_secrets=self._run_secrets)
        self._last = (now, stamps, secret)
        return secret


def _stamp(file: str) -> _Stamp:
    """Return what changes with a file's content, its owner and mode; None where it is not there."""
    try:
        found = os.stat(file)  # noqa: PTH116 - for each request
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _from_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    own, floras = environ.get("FLORADL_API_KEY", ""), environ.get("FLORA_API_KEY", "")
    if own.strip():
        yield "the variable FLORADL_API_KEY", own
    elif floras.strip() and not _own_file(environ):
        yield "the variable FLORA_API_KEY", floras


def _from_key_file(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    file = config.api.key_file
    from_flora = bool(environ.get("FLORA_API_KEY_FILE", "").strip()) and not _own_file(environ)
    if file is None or (from_flora and environ.get("FLORADL_API_KEY", "").strip()):
        return
    yield file, _read_named(file, _KEY, "api.key_file")


def _own_file(environ: Mapping[str, str]) -> bool:
    return any(environ.get(name, "").strip() for name in _OWN_FILE)


def conventional(name: str, environ: Mapping[str, str], run_secrets: Path) -> Iterator[Path]:
    """Yield the files where a service manager or container puts the secret of that name: systemd's first."""
    if folder := environ.get("CREDENTIALS_DIRECTORY", "").strip():
        yield Path(folder, name)
    yield run_secrets / name


def _read_given(file: Path, run_secrets: Path) -> str:
    text = read_text(file, _KEY)
    # A unit gives an empty credential where it has no key's file.
    if file.parent != run_secrets and not text.strip():
        raise ConfigError(_NO_CREDENTIAL)
    return text


def _read_named(file: Path, what: str, setting: str, most: int = _MOST_BYTES) -> str:
    try:
        return read_text(file, what, most)
    except FileNotFoundError:
        raise ConfigError(f"{file}: this file does not exist, but {setting} names it") from None


def read_text(file: Path, what: str, most: int = _MOST_BYTES) -> str:
    """Read a file of `most` bytes that holds `what` ("API key"). Raises `FileNotFoundError`, `ConfigError`.

    One that others could write or replace is not read: theirs would be another account, or another's secret.
    """
    try:
        with os.fdopen(open_unexposed(file, what), "rb") as stream:
            data = stream.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError from None
    except IsADirectoryError:
        raise ConfigError(
            f"{file}: this is a folder, not a file with the {what} (Docker makes one where the file to "
            "mount does not exist)"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{file}: the {what}'s file cannot be read: {error.strerror}; give the user that floradl runs "
            "as the right to it, and to the folders above"
        ) from error
    if len(data) > most:
        raise ConfigError(f"{file}: this file holds no valid {what}: it holds more than {most} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: this file holds no valid {what}: it is not plain text") from None


def _api_key(text: str, place: str) -> Secret:
    text = text.strip()
    if not text:
        raise ConfigError(f"{place}: it is empty, but the API key belongs in it")
    secret = _secret(text, place, f"an {_KEY}")
    if text.startswith(("FLORA_API_KEY=", "FLORADL_API_KEY=")):
        raise ConfigError(f"{place}: holds the variable's name too: the key alone belongs there")
    if text[0] in "\"'" or text[-1] in "\"'":
        raise ConfigError(f"{place}: the API key is in quotes: take them away")
    return secret


def given_api_key(text: str, place: str) -> Secret:
    """Check a key that `place` gave; `redact` knows it from then on. Raises `ConfigError` without the key."""
    return _api_key(text, place)


def _secret(text: str, place: str, what: str) -> Secret:
    """Check a key or secret, and remember it. Raises `ConfigError` that does not show it."""
    if len(text) > _MOST_BYTES:  # of a variable; it is never sent, so no message is searched for it
        raise ConfigError(f"{place}: this is not {what}: it has {len(text)} characters")
    secret = Secret(text)
    remember(secret)
    # RFC 9110 section 5.5: a field value may hold more, but no key does, and a line end would forge a header.
    if not _VISIBLE.fullmatch(text):
        raise ConfigError(
            f"{place}: this is not {what}: it holds spaces, line ends, control characters or letters that "
            "are not ASCII"
        )
    return secret


def read_web_token(config: Config) -> Secret | None:
    """Return the gallery's token, None where `web.token_file` names none; `redact` knows it from then on.

    Raises `ConfigError`, without the token, where it is unreadable, too short or no token.
    """
    if (file := config.web.token_file) is None:
        return None
    text = _read_named(file, _TOKEN, "web.token_file").strip()
    if len(text) < _SHORTEST_TOKEN:
        raise ConfigError(
            f"{file}: the {_TOKEN} has {len(text)} characters, but it takes {_SHORTEST_TOKEN} at least "
            "to keep others from guessing it: make one with 'openssl rand -hex 16'"
        )
    return _secret(text, str(file), f"a {_TOKEN}")


def read_queue_password(config: Config) -> Secret | None:
    """Return the password of the queue's database, None where `queue.password_file` names none.

    `redact` knows it from then on. Raises `ConfigError`, without the password, where it is unreadable.
    """
    if (file := config.queue.password_file) is None:
        return None
    text = _read_named(file, _PASSWORD, "queue.password_file").strip("\r\n")
    if not text:
        raise ConfigError(f"{file}: it is empty, but the {_PASSWORD} belongs in it")
    secret = Secret(text)
    remember(secret)
    return secret


def read_notify_urls(
    config: Config, environ: Mapping[str, str], *, run_secrets: Path = RUN_SECRETS
) -> tuple[str, str] | None:
    """Return the text with the URLs that messages go to, and where it is from; None where there is none.

    It is in `notify.urls_file`, the systemd credential `notify_urls`, or `run_secrets`/notify_urls. Raises
    `ConfigError`, without any of it, where that is unreadable.
    """
    if (file := config.notify.urls_file) is not None:
        return _read_named(file, _URLS, "notify.urls_file", _MOST_URLS), str(file)
    for file in conventional(NOTIFY_CREDENTIAL, environ, run_secrets):
        with suppress(FileNotFoundError):
            if (text := read_text(file, _URLS, _MOST_URLS)).strip():  # a unit gives an empty one for none
                return text, str(file)
    return None


class FoundSecrets(NamedTuple):
    """The secrets, and the file or variable that they were found in; no secrets where there is none."""

    place: str
    secrets: tuple[Secret, ...]


def find_webhook_secrets(
    config: Config, environ: Mapping[str, str], *, run_secrets: Path = RUN_SECRETS
) -> FoundSecrets:
    """Find the webhook secrets, anew at each call; `redact` knows them from then on.

    They are in the first of `FLORADL_WEBHOOK_SECRET`, `FLORA_WEBHOOK_SECRET`, `webhook.secret_file`, the
    systemd credential `flora_webhook_secret`, `run_secrets`/flora_webhook_secret; one a line: two while FLORA
    changes them. Raises `ConfigError`, without any of it, where a file is unreadable or holds something else.
    """
    named = any(environ.get(name, "").strip() for name in _OWN_SECRET_FILE)
    for name in _VARIABLES[: 1 if named else 2]:  # a file that a FLORADL_… names wins over FLORA_…
        if text := environ.get(name, "").strip():
            return _found(f"the variable {name}", text)
    if (file := config.webhook.secret_file) is not None:
        return _found(str(file), _read_named(file, _WEBHOOK, "webhook.secret_file"))
    for file in conventional(WEBHOOK_CREDENTIAL, environ, run_secrets):
        with suppress(FileNotFoundError):
            return _found(str(file), read_text(file, _WEBHOOK))
    return FoundSecrets("", ())


def _found(place: str, text: str) -> FoundSecrets:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise ConfigError(f"{place}: the file is empty, but the {_WEBHOOK} belongs in it")
    secrets = tuple(_secret(line, place, f"a {_WEBHOOK}") for line in lines)
    return FoundSecrets(place, secrets)
