"""The YAML file, the environment and the options -> one frozen, checked `Config`.

The file is the first of a list of places that exists. All faults are reported at once, each with its place;
nothing of a faulty configuration is applied.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

from floradl.config.locations import CommandLine, DiskPath, LibraryPlace, Location
from floradl.config.settings import PREFIX, Config, Key, fields, sections, settings, variable
from floradl.config.types import MisplacedError, Setting
from floradl.errors import ConfigError
from floradl.fs.permissions import open_unexposed
from floradl.net.addresses import HostPatterns, is_local_name, is_loopback, is_public, join_port, literal
from floradl.redaction import printable, redact
from floradl.yaml_reader import (
    MAX_BYTES,
    Document,
    DocumentError,
    Path as Where,
    Value,
    dotted,
    load,
    nearest,
)

NAME: Final = "config.yaml"
"""What the file is called wherever it is looked for."""

SYSTEM_FILE: Final = Path("/etc/floradl/config.yaml")
_MOST_REPORTED = 20
_MISREAD = re.compile(r"\s*(-|[\w-]+:)\s+([\[{][^'#]*?)\s*(?:#.*)?")
_Stamp: TypeAlias = tuple[object, ...]


class Options(Struct, frozen=True):
    """The command line's options; None for those not given. `log_level` is a value of `log.level`.

    `settings` are what a Python program gives, by dotted key, as the texts of variables.
    """

    config: Path | None = None
    home: Path | None = None
    log_level: str | None = None
    settings: Mapping[str, str] = MappingProxyType({})


def config_file(options: Options, environ: Mapping[str, str], system_file: Path = SYSTEM_FILE) -> Path | None:
    """Return the absolute path of the file that `load_config` reads, None where there is none.

    It is that of `--config` or `$FLORADL_CONFIG`, which need not exist, else the first that exists of
    `config.yaml` in `--home` or `$FLORADL_HOME`, `$XDG_CONFIG_HOME/floradl/config.yaml`, `system_file`.
    Raises `ConfigError` where that is unclear: running without it would be half a configuration.
    """
    place = DiskPath(Path(), Path(), _user_home(environ))
    if options.config is not None:
        return _absolute(str(options.config), "the option --config", place)
    if named := environ.get("FLORADL_CONFIG", "").strip():
        return _absolute(named, "the variable FLORADL_CONFIG", place)
    for candidate in _candidates(options.home, environ, place, system_file):
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


def _user_home(environ: Mapping[str, str]) -> str:
    with suppress(KeyError):  # the user has no entry in passwd
        return environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    return "~"


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
    """Read the file, unless others could write it. Raises `ConfigError` with the place of what is wrong."""
    text = _decode(_read(file), file)
    try:
        return load(text)
    except DocumentError as error:
        line = f", line {error.line}" if error.line else ""
        key = f"{error.key}: " if error.key else ""
        message = f"{key}{error}{_quoting(text, error)}"
        raise ConfigError(f"{file}{line}: {printable(redact(message))}") from error


def _quoting(text: str, error: DocumentError) -> str:
    """Return how to quote a value that starts like YAML's own syntax, if the fault is in its line."""
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
            return " " * (MAX_BYTES + 1)  # the file is too large: `load` reports that
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}, line {line}: this is not UTF-8 text; save the file as UTF-8") from None


class _Source(Struct, frozen=True):
    """The source of a value: a file with its lines, a variable, an option. Relative paths start at `base`."""

    name: str
    base: Path = Path()
    lines: Mapping[Where, int] = MappingProxyType({})

    def place(self, where: Where) -> str:
        line = next(
            (self.lines[where[:end]] for end in range(len(where), 0, -1) if where[:end] in self.lines), None
        )
        return f"{self.name}, line {line}: {dotted(where)}" if line else f"{self.name}: {dotted(where)}"


_DEFAULT = _Source("the default")


class _Given(Struct, frozen=True):
    """The value of one setting in one source."""

    value: Value
    source: _Source


class _Faults:
    """Collects all faults, so that one start reports them together."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, place: str, message: str) -> None:
        self._found.append(printable(redact(f"{place}: {message}")))

    def check(self) -> None:
        """Raise `ConfigError` if there are any."""
        if self._found:
            more = len(self._found) - _MOST_REPORTED
            shown = self._found[:_MOST_REPORTED] + ([f"… and {more} more"] if more > 0 else [])
            raise ConfigError("\n".join(shown))


def load_config(options: Options, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> Config:
    """Read, merge and check the whole configuration, from the file that `config_file` finds.

    Options win over variables, variables over the file; an empty variable is an unset one. Raises
    `ConfigError` that names place, key and what would be right, one line for each fault.
    """
    faults = _Faults()
    file = config_file(options, environ, system_file)
    given: dict[Key, _Given] = {}
    if file is not None:
        document = read_document(file)
        source = _Source(str(file), file.parent, document.lines)
        given.update(_leaves(document.value, (), source, faults))
    given.update(_from_environment(environ, faults))
    given.update(_from_options(options))
    values = _values(given, _user_home(environ), faults)
    faults.check()
    config: Config = _assemble(Config, (), {**values, ("file",): file})
    _cross_check(config, given, faults)
    faults.check()
    return config


def _leaves(value: Value, key: Key, source: _Source, faults: _Faults) -> Iterator[tuple[Key, _Given]]:
    if value is None:
        return
    if not isinstance(value, dict):
        names = ", ".join(fields(sections()[key]))
        place = source.place(key) if key else source.name
        faults.add(
            place, f"holds keys, each on its own line as in 'key: value', not a text or list ({names})"
        )
        return
    for name, item in value.items():
        below = (*key, name)
        if below in sections():
            yield from _leaves(item, below, source, faults)
        elif below in settings():
            yield below, _Given(item, source)
        else:
            faults.add(source.place(below), f"is not a setting: {_right_key(below)}")


def _from_environment(environ: Mapping[str, str], faults: _Faults) -> Iterator[tuple[Key, _Given]]:
    texts = {name: text.strip() for name, text in environ.items() if text.strip()}
    # A whole section of settings as YAML has it: FLORADL_OUTPUT__FOLDERS={image: pics}
    for key in sections():
        if len(key) > 1 and (text := texts.get(variable(key))):
            yield from _section_variable(key, text, faults)
    for key, setting in settings().items():
        for name in (variable(key), *setting.aliases):
            if name in texts:
                yield key, _Given(setting.type.from_variable(texts[name]), _Source(f"the variable {name}"))
                break
    known = {variable(key): key for key in (*settings(), *sections()) if "__" in variable(key)}
    for name in texts:
        if name.startswith(PREFIX) and "__" in name and name not in known:
            faults.add(f"the variable {name}", f"names no setting: {_right_variable(name, known)}")


def _section_variable(key: Key, text: str, faults: _Faults) -> Iterable[tuple[Key, _Given]]:
    source = _Source(f"the variable {variable(key)}")
    try:
        value = load(text).value
    except DocumentError as error:
        faults.add(source.place(key), str(error))
        return ()
    return _leaves(value, key, source, faults)


def _from_options(options: Options) -> Iterator[tuple[Key, _Given]]:
    if options.home is not None:
        yield ("home",), _Given(str(options.home), _Source("the option --home"))
    if options.log_level is not None:
        yield ("log", "level"), _Given(options.log_level, _Source("the options -v and -q"))
    for name, text in options.settings.items():
        if text.strip():
            key = tuple(name.split("."))
            value = settings()[key].type.from_variable(text.strip())
            yield key, _Given(value, _Source("the argument settings"))


def _values(given: Mapping[Key, _Given], user_home: str, faults: _Faults) -> dict[Key, Any]:
    home = Path("/")  # `home` is the first of all settings: from then on it is right
    values: dict[Key, Any] = {}
    for key, setting in settings().items():
        entry = given.get(key)
        source = entry.source if entry else _DEFAULT
        default = setting.default if isinstance(setting.default, str) else None
        value: Value = entry.value if entry else default
        if entry is None and isinstance(setting.default, tuple):
            value = list(setting.default)
        try:
            values[key] = setting.type.read(value)
            place = DiskPath(source.base, home, user_home)
            if isinstance(setting.type, Location | LibraryPlace):
                values[key] = setting.type.resolve(values[key] or default, place)
            elif isinstance(setting.type, CommandLine):
                values[key] = setting.type.resolve(values[key], place)
        except ValueError as error:
            shown = f"{_shown(value)} " if isinstance(value, str) else ""
            advice = f"; the default is {default}" if default else ""
            where = error.where if isinstance(error, MisplacedError) else ()
            faults.add(source.place((*key, *where)), f"{shown}{error}{advice}")
        found = values.get(("home",))
        home = found if isinstance(found, Path) else home  # a text is one that could not be resolved
    return values


def _assemble(section: type[Struct], key: Key, values: Mapping[Key, Any]) -> Any:
    below = {}
    for name, field in fields(section).items():
        path = (*key, name)
        below[name] = values[path] if isinstance(field, Setting) else _assemble(field, path, values)
    if not key:
        below["file"] = values["file",]
    return section(**below)


def _cross_check(config: Config, given: Mapping[Key, _Given], faults: _Faults) -> None:
    def fault(key: Key, message: str) -> None:
        entry = given.get(key)
        faults.add((entry.source if entry else _DEFAULT).place(key), message)

    for key, remedy in _exposures(config):
        fault(key, remedy)
    for name in ("projects", "techniques"):
        if getattr(config.sync, name) and not config.sync.kinds:
            message = "narrows what is synced: set sync.technique_runs or sync.generations to true, too"
            fault(("sync", name), message)
    inbox = _real(config.queue.watch_dir)
    for key, folder in {("output", "dir"): config.output.dir, ("state_dir",): config.state_dir}.items():
        if isinstance(folder, Path) and _real(folder) == inbox:
            fault(key, "is the watch folder too, where each file is taken for a job: choose another folder")
    files = {("queue", "file"): config.queue.file, ("api", "key_file"): config.api.key_file}
    for key, file in files.items():
        if file is not None and _real(file).parent == inbox:
            fault(key, "lies in the watch folder, where it would be taken for a job: move it elsewhere")
    if config.file is not None and _real(config.file).parent == inbox:
        faults.add(str(config.file), "lies in the watch folder, where it would be taken for a job: move it")


def _exposures(config: Config) -> Iterator[tuple[Key, str]]:
    """Yield the settings that would send the key unencrypted, or show the library to anybody."""
    if (remedy := _untrusted(config)) is not None:
        yield ("api", "base_url"), remedy
    if (remedy := _unguarded(config)) is not None:
        yield ("web", "listen"), remedy


def _untrusted(config: Config) -> str | None:
    """Return why the URL policy would refuse the API's URL, before it does so for each run."""
    # What a name resolves to is judged at each connection.
    url = urlsplit(config.api.base_url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    if HostPatterns.parse(config.network.trusted_private_hosts).match(host, port):
        return None
    add = (
        f"if that is meant, add {join_port(host, port)!r} to network.trusted_private_hosts "
        f"({variable(('network', 'trusted_private_hosts'))})"
    )
    if url.scheme == "http":
        return f"is plain http, which would send the key in the clear: write https://, or {add}"
    address = literal(host)
    if is_local_name(host) or (address is not None and not is_public(address)):
        return f"is at a private address: {add}"
    return None


def _unguarded(config: Config) -> str | None:
    """Return why the gallery may not be shown at an address, None where it may."""
    listen = config.web.listen
    if listen is None or config.web.token_file is not None or is_loopback(listen.host):
        return None
    return (
        "can be reached from other machines: put a token into a file, and name that in web.token_file; or "
        f"write 127.0.0.1:{listen.port}"
    )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _shown(value: str) -> str:
    safe = redact(value)
    return ascii(safe if len(safe) <= 60 else safe[:57] + "...")


def _right_key(key: Key) -> str:
    *section, name = key
    wanted = name.lower().replace("-", "_")
    siblings = list(fields(sections()[tuple(section)]))
    if section in ([], ["api"]) and wanted in {"key", "api_key", "token", "flora_api_key", "secret"}:
        return "the key does not belong in this file; let api.key_file name a file that holds it"
    if near := nearest(wanted, siblings):
        return f"did you mean {'.'.join([*section, near])}?"
    if elsewhere := [".".join(other) for other in settings() if other[-1] == wanted]:
        return f"it belongs in another section: {' or '.join(elsewhere)}"
    return f"known here are {', '.join(siblings)}"


def _right_variable(name: str, known: Mapping[str, Key]) -> str:
    if name in {"FLORADL_API__KEY", "FLORADL_API__API_KEY"}:
        return "did you mean FLORA_API_KEY?"
    leaf = name.removeprefix(PREFIX).rpartition("__")[2]
    near = nearest(name, known, cutoff=0.75)
    near = near or next((other for other, key in known.items() if key[-1].upper() == leaf), None)
    return f"did you mean {near}?" if near else "docs/settings.md lists their names"


class Source:
    """The file, variables and options of one invocation; remembers the file's version that was read."""

    def __init__(
        self, options: Options, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE
    ) -> None:
        self._options = options
        self._environ = environ
        self._system_file = system_file
        self._loaded: _Stamp | None = None
        self._seen: _Stamp | None = None

    def load(self) -> Config:
        """Read the configuration. Raises `ConfigError` as `load_config` does."""
        self._loaded = self._seen = self._stamp()
        return load_config(self._options, self._environ, system_file=self._system_file)

    def changed(self) -> bool:
        """Whether the file differs from what `load` read, and did not change since the last call."""
        before, self._seen = self._seen, self._stamp()
        return self._loaded != self._seen == before

    def _stamp(self) -> _Stamp:
        # What is another where the file is, or may be read where it could not be.
        try:
            if (file := config_file(self._options, self._environ, self._system_file)) is None:
                return ()
            stat = file.stat()
        except (ConfigError, OSError) as error:
            return (str(error),)
        return (file, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def passed_over(config: Config) -> str | None:
    """Return why a file in the home is not read, where another is named; None where there is none."""
    here = config.home / NAME
    if config.file != here and os.path.lexists(here):
        return f"{here} is not read: {config.file or 'another'} was found first, or is named"
    return None
