"""Where the configuration file is, and what it says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from floradl.config.types import DiskPath, Location
from floradl.errors import ConfigError
from floradl.fs.permissions import open_unexposed
from floradl.redaction import printable, redact
from floradl.yaml_reader import MAX_BYTES, Document, DocumentError, load

NAME: Final = "config.yaml"
"""What the file is called wherever it is looked for."""

_MISREAD = re.compile(r"\s*(-|[\w-]+:)\s+([\[{][^'#]*?)\s*(?:#.*)?")


def find_file(
    option: Path | None, home: Path | None, environ: Mapping[str, str], place: DiskPath, system_file: Path
) -> Path | None:
    """Return the absolute path of the file to read, None where there is none.

    One that was named is returned whether it exists or not. Raises `ConfigError` where it is unclear
    whether one exists, for running without it would be half a configuration.
    """
    if option is not None:
        return _absolute(str(option), "the option --config", place)
    if named := environ.get("FLORADL_CONFIG", "").strip():
        return _absolute(named, "the variable FLORADL_CONFIG", place)
    for candidate in _candidates(home, environ, place, system_file):
        try:
            candidate.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(
                f"{candidate}: cannot tell whether there is a configuration file: {error.strerror}; "
                "fix that, or name a file with --config"
            ) from error
        return candidate
    return None


def _candidates(
    home: Path | None, environ: Mapping[str, str], place: DiskPath, system_file: Path
) -> Iterator[Path]:
    if home is not None:
        yield _absolute(str(home), "the option --home", place) / NAME
    elif named := environ.get("FLORADL_HOME", "").strip():
        yield _absolute(named, "the variable FLORADL_HOME", place) / NAME
    # XDG Base Directory Specification: a relative path here is to be ignored.
    xdg = environ.get("XDG_CONFIG_HOME", "")
    yield (Path(xdg) if os.path.isabs(xdg) else Path(place.user_home, ".config")) / "floradl" / NAME  # noqa: PTH117
    yield system_file


def _absolute(text: str, name: str, place: DiskPath) -> Path:
    kind = Location()
    try:
        path = kind.resolve(kind.read(text), place)
    except ValueError as error:
        raise ConfigError(f"{name}: {redact(text)!a} {error}") from error
    if path is None:
        raise ConfigError(f"{name}: names no file")
    return path


def read_document(file: Path) -> Document:
    """Read the file. Raises `ConfigError` with the place of what is wrong.

    One that others could write or replace is not read: it says what is run with this user's rights.
    """
    text = _decode(_read(file), file)
    try:
        return load(text)
    except DocumentError as error:
        line = f", line {error.line}" if error.line else ""
        key = f"{error.key}: " if error.key else ""
        message = f"{key}{error}{_quoting(text, error)}"
        raise ConfigError(f"{file}{line}: {printable(redact(message))}") from error


def _quoting(text: str, error: DocumentError) -> str:
    """Say how to quote a value that starts like YAML's own syntax, if the fault is in its line."""
    lines = text.splitlines()
    if error.line is None or error.line > len(lines) or "quoted" in str(error):
        return ""
    match = _MISREAD.fullmatch(lines[error.line - 1])
    return f"; if this is one value, quote it: {match[1]} '{match[2]}'" if match else ""


def _read(file: Path) -> bytes:
    try:
        with os.fdopen(open_unexposed(file, "configuration"), "rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{file}: this configuration file does not exist") from None
    except IsADirectoryError:
        raise ConfigError(f"{file}: this is a folder; name the file in it, {file / NAME}") from None
    except OSError as error:
        raise ConfigError(f"{file}: the configuration file cannot be read: {error.strerror}") from error


def _decode(data: bytes, file: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if len(data) > MAX_BYTES:
            return " " * (MAX_BYTES + 1)  # too long anyway: let the one who judges that say so
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}, line {line}: this is not UTF-8 text; save the file as UTF-8") from None
