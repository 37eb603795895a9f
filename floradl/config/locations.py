"""The types of settings that say where something is: URLs, hosts and addresses, paths, programs. Pure.

`ValueError`s are as those of `config.types`.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from floradl.config.types import CONTROL, SettingType
from floradl.net.addresses import Endpoint, HostPatterns
from floradl.redaction import hide_keys, redact
from floradl.urls import BucketUrl, has_scheme
from floradl.yaml_reader import DocumentError, Value, load

_ENGINE: Final = "postgresql://USER@HOST/DB"
_EXAMPLE: Final = '["/usr/local/bin/notify", "--quiet"]'
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class BaseUrl(SettingType, frozen=True):
    """The API's base URL, without a slash at its end."""

    def _parse(self, text: str) -> str:
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError("is not a URL: the port must be a number, and [ ] must match") from None
        if "@" in parts.netloc:
            raise ValueError("holds a user name or password, which do not belong in a URL: take them out")
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
            raise ValueError("is not a web address: it starts with https:// and a host's name")
        if "?" in text or "#" in text:
            raise ValueError("must end with its path: take out what follows the ? or #")
        if re.search(r"[\s\\\x00-\x1f\x7f]", text):
            raise ValueError("holds a space, backslash or control character")
        HostPatterns.parse([parts.hostname])
        return text.rstrip("/")


class StoreEndpoint(SettingType, frozen=True):
    """The base URL of an object store, without a slash at its end; None for its provider's own."""

    def _absent(self) -> None:
        return None

    def _parse(self, text: str) -> str:
        # Plain http and private addresses are allowed: the user named this host, and no key is sent to it.
        return BaseUrl()._parse(text)  # noqa: SLF001 - it is a URL like the other


class EngineUrl(SettingType, frozen=True):
    """The queue's engine: `sqlite`, or a `postgresql://` URL without a password."""

    def _parse(self, text: str) -> str:
        if text.lower() == "sqlite":
            return "sqlite"
        try:
            parts = urlsplit(text)
            # Of several hosts (HOST:PORT,HOST:PORT), one of which can be written to, libpq reads the ports.
            password, _ = parts.password, None if "," in parts.netloc else parts.port
        except ValueError:
            raise ValueError(f"is malformed: write it like {_ENGINE}") from None
        if password is not None or "password" in parts.query.lower():
            raise ValueError("holds a password: put that into queue.password_file, and take it out here")
        if parts.scheme not in {"postgresql", "postgres"}:
            raise ValueError(f"is no engine of the queue: write sqlite, or {_ENGINE}")
        if CONTROL.search(text) or not parts.username or not parts.path.strip("/"):
            raise ValueError(f"names no user or no database: write it like {_ENGINE}")
        return text


class Region(SettingType, frozen=True):
    """The name of a region of an object store; None for the usual one."""

    def _absent(self) -> None:
        return None

    def _parse(self, text: str) -> str:
        if not _REGION.fullmatch(text):
            raise ValueError("is not a region: write its name, like eu-central-1, or auto")
        return text


class ListenAddress(SettingType, frozen=True):
    """Where floradl listens, as an `Endpoint`; None for nowhere."""

    def _absent(self) -> None:
        return None

    def _parse(self, text: str) -> Endpoint:
        return Endpoint.parse(text)


class HostList(SettingType, frozen=True):
    """Patterns of hosts, as `addresses.HostPatterns` reads them."""

    any_host: bool = True  # whether `*` alone is allowed

    def read(self, value: Value) -> tuple[str, ...]:
        """Return the patterns, each once. Raises `ValueError`."""
        match value:
            case list():
                return tuple(dict.fromkeys(self._host(item) for item in value))
            case str():
                raise ValueError(f"is not a list: write it like {json.dumps([value], ensure_ascii=False)}")
            case _:
                raise ValueError('is not a list: write it like ["storage.googleapis.com"], or [] for none')

    def from_variable(self, text: str) -> Value:
        """Return the list in a variable: with commas, or in YAML."""
        if text.startswith("["):
            try:
                found = load(text).value
            except DocumentError:
                found = None  # an IPv6 address in brackets
            if isinstance(found, list) and all(isinstance(item, str) for item in found):
                return found
        return [item for item in text.split(",") if item.strip()]

    def _host(self, item: Value) -> str:
        match item:
            case str():
                host = item.strip()
            case _:  # [::1] is a list to YAML, `a: b` a mapping, and nothing is null
                raise ValueError("holds something that YAML does not read as text: put each host in quotes")
        HostPatterns.parse([host])
        if not self.any_host and host.partition(":")[0] == "*":
            raise ValueError("holds '*', but each host that is trusted must be named")
        return host


class DiskPath(Struct, frozen=True):
    """The folders that paths are relative to: `base` given ones, `home` defaults, `user_home` `~`."""

    base: Path
    home: Path
    user_home: str


class Location(SettingType, frozen=True):
    """A path, `default` below the home folder where none is set; `resolve` makes it absolute."""

    default: str = ""

    def resolve(self, text: str | None, place: DiskPath) -> Path | None:
        """Return the absolute path. Raises `ValueError`. It does not read the disk."""
        if text is None:
            return place.home / self.default if self.default else None
        if text == "~" or text.startswith("~/"):
            text = place.user_home + text[1:]
        elif text.startswith("~"):
            text = os.path.expanduser(text)  # noqa: PTH111  # pathlib's raises for an unknown user
        if text.startswith("~"):
            raise ValueError("names a user's folder that this machine does not know: write the whole path")
        try:
            return Path(place.base, text).absolute()
        except OSError:
            raise ValueError("is relative to a working folder that does not exist any more") from None

    def _absent(self) -> None:
        return None

    def _parse(self, text: str) -> str:
        if not text or CONTROL.search(text):
            raise ValueError("is not a path: write one, or null for the default")
        if redact(text) != text:
            raise ValueError("holds a secret where a path belongs: write the path of the file that has it")
        return text


class LibraryPlace(SettingType, frozen=True):
    """Where the library is: a path as `Location` has it, or a `BucketUrl`."""

    default: str

    def resolve(self, text: str | None, place: DiskPath) -> Path | BucketUrl:
        """Return the absolute path, or the bucket. Raises `ValueError`. It reads neither disk nor store."""
        if text is not None and has_scheme(text):
            return BucketUrl.parse(text)
        path = Location(self.default).resolve(text, place)
        assert path is not None  # noqa: S101 - it has a default
        return path

    def _absent(self) -> None:
        return None

    def _parse(self, text: str) -> str:
        if not has_scheme(text):
            return Location()._parse(text)  # noqa: SLF001 - it is one
        try:
            BucketUrl.parse(text)
        except ValueError as error:
            raise ValueError(f"is neither a path nor a bucket: {error}") from None
        return text


class CommandLine(SettingType, frozen=True):
    """A program and its arguments as a list; empty for none. `resolve` makes the program's path absolute."""

    def read(self, value: Value) -> tuple[str, ...]:
        """Return program and arguments. Raises `ValueError`."""
        match value:
            case None:
                return ()
            case str():
                like = json.dumps(value.split(), ensure_ascii=False)
                raise ValueError(f"is not a list, and no shell reads it: write it like {like}")
            case dict():
                raise ValueError(f"is a mapping to YAML, but a list belongs here: write it like {_EXAMPLE}")
        command = tuple(self._word(item) for item in value)
        if command and not command[0].strip():
            raise ValueError(f"names no program: write it like {_EXAMPLE}, or [] for none")
        return command

    def from_variable(self, text: str) -> Value:
        """Return the list in a variable: a program alone, or in YAML."""
        if text.startswith("["):
            with suppress(DocumentError):
                return load(text).value
        one = len(text.split()) == 1 and text.lower() != "null"
        return [text] if one else super().from_variable(text)

    def resolve(self, command: tuple[str, ...], place: DiskPath) -> tuple[str, ...]:
        """Return the command with the program's absolute path; a name without `/` is left to PATH."""
        if not command or ("/" not in command[0] and not command[0].startswith("~")):
            return command
        return (str(Location().resolve(command[0], place)), *command[1:])

    def _word(self, item: Value) -> str:
        if not isinstance(item, str):
            raise ValueError(  # noqa: TRY004 - an error of the file, as the others
                "holds something that YAML does not read as text: put each word in quotes"
            )
        if "\0" in item:
            raise ValueError("holds a NUL character, which no argument can")
        if hide_keys(item) != item:
            raise ValueError("holds a key of FLORA's, which the process list would show: take it out")
        return item
