"""What a Python program may use: `floradl.fetch`, `floradl.fetch_sync`, `floradl.Library`, and their values.

The package itself names all of it, and imports this module on first use. Names, parameters and attributes
stay; what is added later is added behind them.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import anyio
import msgspec
from anyio import CapacityLimiter, to_thread
from msgspec import Struct
from msgspec.structs import replace

from floradl.config.credentials import given_api_key
from floradl.config.load import Options, load_config
from floradl.config.settings import Config, settings as known_settings, variable
from floradl.errors import ConfigError, JobError
from floradl.fetch_session import FetchSession
from floradl.library.base import LibraryStore
from floradl.library.folder import FolderLibrary
from floradl.library.path_plan import PathPlan
from floradl.library.scan import Owners
from floradl.library.sidecar import Sidecar
from floradl.library_builder import build_library
from floradl.models import (
    Action,
    OutputKind,
    QueuedRun,
    Reference,
    RemovalReason,
    Result,
    RunFailure,
    RunRequest,
    RunState,
    SkipReason,
    refuse_joined,
)
from floradl.redaction import redact
from floradl.sources.job_file import described, parse_job
from floradl.urls import BucketUrl, has_scheme
from floradl.yaml_reader import nearest

StrPath: TypeAlias = "str | os.PathLike[str]"
RunSpec: TypeAlias = "str | Mapping[str, Any]"
"""A reference, or what a job file may have for a run: `{"run": …, "label": …}`, or FLORA's own answer."""


class Output(Struct, frozen=True, kw_only=True):
    """One output of a run: saved at `location`, or not: for `error`, `skipped` or `removed`.

    `path` is the same (absolute) where the library is a folder; in a bucket it is None, and `location` a URL.
    `skipped` is why it was left out on purpose, `removed` why its file was removed on purpose. `text` is that
    of a text output. `bytes` and `sha256` are those of the file, or that it had.
    """

    output_id: str
    kind: OutputKind
    path: Path | None
    bytes: int | None
    sha256: str | None
    content_type: str | None
    text: str | None
    error: RunFailure | None
    skipped: SkipReason | None = None
    location: str | None = None
    removed: RemovalReason | None = None


class Run(Struct, frozen=True, kw_only=True):
    """A run that ended, as its sidecar has it; one that failed is a value, too: `result` and `error` say why.

    `sidecar` is the whole of its sidecar, and `sidecar_location` where that is; both are None where the
    library could not take it. `sidecar_path` is the same where the library is a folder.
    """

    run_id: str
    technique: str | None
    label: str | None
    result: Result
    error: RunFailure | None
    outputs: tuple[Output, ...] = ()
    sidecar: dict[str, Any] | None = None
    sidecar_path: Path | None = None
    sidecar_location: str | None = None

    @property
    def ok(self) -> bool:
        """Whether all of it is there."""
        return self.result is Result.COMPLETE

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the run, in the order of its outputs; none where the library is in a bucket."""
        return tuple(output.path for output in self.outputs if output.path is not None)

    @property
    def locations(self) -> tuple[str, ...]:
        """The full paths or URLs of its files, in the order of its outputs."""
        return tuple(output.location for output in self.outputs if output.location is not None)


class Library:
    """A library in the folder `path` or in a bucket (`s3://BUCKET/PREFIX`), for reading, beside any daemon.

    How the bucket is reached is read from the configuration, from `config` in place of the usual file, and
    from `settings` (`{"output.endpoint": "https://…"}`), which win. Raises `ConfigError` where that is wrong.
    Its methods raise `ServicePausedError` where there is no library (its disk may not be mounted).
    """

    def __init__(
        self, path: StrPath, *, config: StrPath | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._place = place = _library_place(path)
        self._store: LibraryStore
        if isinstance(place, Path):
            paths = PathPlan.parse("{run_id}{ext}", {}, 255)  # nothing is written
            self._store = FolderLibrary(place, paths, Owners(_owner(place)))
        else:
            self._store = build_library(_configured(place, config, settings or {})[0])

    def __repr__(self) -> str:
        return f"floradl.Library({str(self._place)!r})"

    @property
    def location(self) -> str:
        """Its full path or URL."""
        return self._store.location()

    @property
    def path(self) -> Path:
        """Its absolute path. Raises `ConfigError` where it is in a bucket."""
        if isinstance(self._place, Path):
            return self._place
        raise ConfigError(f"{self._place} is no folder, and has no path: use location")

    def open(self, output: Output) -> BinaryIO:
        """Open an output's file for reading, wherever it is.

        Raises `FileNotFoundError` where there is none, and `ServicePausedError`.
        """
        root = self._store.location("-")[:-1]
        path = (output.location or "").removeprefix(root)
        file = self._store.open_file(path) if path and output.location != path else None
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), output.location)
        return file

    def runs(self) -> Iterator[Run]:
        """Yield every run that has a sidecar, by technique; what is unreadable is left out.

        Raises `ServicePausedError`, also where the disk goes meanwhile.
        """
        for entry in self._store.scan():
            if entry.sidecar is not None:
                yield _run(self._store, entry.path, entry.sidecar)

    def find(self, reference: str) -> Run | None:
        """Return one run, whatever technique it is under; None where it has no sidecar.

        Raises `ConfigError` for what is no reference, and `ServicePausedError`.
        """
        found = self._store.locate_sidecar(_reference(reference))
        return None if found is None else _run(self._store, *found)


def fetch(
    references: RunSpec | Iterable[RunSpec],
    *,
    library: StrPath,
    api_key: str | None = None,
    config: StrPath | None = None,
    settings: Mapping[str, str] | None = None,
) -> AsyncGenerator[Run, None]:
    """Download runs into `library`, and yield each as it ends: an async iterator, under asyncio or trio.

    It does what `floradl get` does, with the same settings, and is as safe beside a daemon. A run that is
    there already is yielded at once, each run once. Work goes on while nobody waits for it. `aclose`, or
    cancelling the task that waits, stops it: part files stay, and the next `fetch` continues them.

    `references` are references, or mappings as a job file has them. `api_key` wins over the key that the
    settings lead to. `config` is the configuration file to read in place of the usual one. `settings` are
    more settings by their key, as texts (`{"download.rate_limit": "5MB"}`), which win over file and
    environment.

    Raises `ConfigError` at once for what is no reference. While iterated it raises `ConfigError`,
    `ServicePausedError` (a refused key, a missing library; whatever else pauses, after ten minutes),
    `TransientError` (ten minutes without any progress).
    """
    return _fetched(_requests(references), library, api_key, config, settings or {})


def fetch_sync(
    references: RunSpec | Iterable[RunSpec],
    *,
    library: StrPath,
    api_key: str | None = None,
    config: StrPath | None = None,
    settings: Mapping[str, str] | None = None,
) -> Generator[Run, None, None]:
    """As `fetch`, for a program without an event loop: a generator that blocks until the next run ends.

    `close`, or any exception in the loop's body, stops the work.
    """
    return _fetched_sync(_requests(references), library, api_key, config, settings or {})


async def _fetched(
    requests: tuple[RunRequest, ...],
    library: StrPath,
    api_key: str | None,
    config: StrPath | None,
    settings: Mapping[str, str],
) -> AsyncGenerator[Run, None]:
    limiter = CapacityLimiter(2)  # of its own: the program's threads are the program's
    begin = await to_thread.run_sync(_prepared, requests, library, api_key, config, settings, limiter=limiter)
    work = begin()
    try:
        # The thread is left behind where this task is cancelled: `stop` ends it.
        while (
            run := await to_thread.run_sync(work.next, abandon_on_cancel=True, limiter=limiter)
        ) is not None:
            yield run
    finally:
        work.session.stop()
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(work.session.join, limiter=limiter)


def _fetched_sync(
    requests: tuple[RunRequest, ...],
    library: StrPath,
    api_key: str | None,
    config: StrPath | None,
    settings: Mapping[str, str],
) -> Generator[Run, None, None]:
    work = _prepared(requests, library, api_key, config, settings)()
    try:
        while run := work.next():
            yield run
    finally:
        work.session.stop()
        work.session.join()


class _Work(Struct, frozen=True):
    """A session that has begun, and the library to read its runs from."""

    session: FetchSession
    library: LibraryStore

    def next(self) -> Run | None:
        """Wait for the next run; None for no more. Blocking."""
        ended = self.session.next()
        if ended is None:
            return None
        found = self.library.locate_sidecar(ended.reference)
        return _unrecorded(ended) if found is None else _run(self.library, *found)


def _prepared(
    requests: tuple[RunRequest, ...],
    library: StrPath,
    api_key: str | None,
    config: StrPath | None,
    settings: Mapping[str, str],
) -> Callable[[], _Work]:
    """Read the configuration; return what begins the work, which does not block. Raises `ConfigError`."""
    found, environ = _configured(_library_place(library), config, settings)
    key = None if api_key is None else given_api_key(api_key, "the argument api_key")
    return lambda: _Work(FetchSession(found, environ, requests, key), build_library(found))


def _configured(
    place: Path | BucketUrl, config: StrPath | None, settings: Mapping[str, str]
) -> tuple[Config, dict[str, str]]:
    """Return the configuration, with the library at `place`, and the environment that it goes with."""
    texts = _texts(settings)
    environ = {**os.environ, **{variable(tuple(name.split("."))): text for name, text in texts.items()}}
    options = Options(None if config is None else _absolute(config), settings=texts)
    found = load_config(options, environ)
    return replace(found, output=replace(found.output, dir=place)), environ


def _library_place(path: StrPath) -> Path | BucketUrl:
    text = os.fsdecode(path)
    if not has_scheme(text):
        return _absolute(path)
    try:
        return BucketUrl.parse(text)
    except ValueError as error:
        raise ConfigError(f"{redact(text)!a} is neither a path nor a bucket: {error}") from None


def _texts(settings: Mapping[str, str]) -> dict[str, str]:
    known = {".".join(key) for key in known_settings()}
    for name in settings:
        if name not in known:
            near = nearest(name, known)
            advice = f"did you mean {near}?" if near else "docs/settings.md lists them"
            raise ConfigError(f"the argument settings: {name!a} is not a setting: {advice}")
    return {name: str(value) for name, value in settings.items()}


def _requests(references: RunSpec | Iterable[RunSpec]) -> tuple[RunRequest, ...]:
    given = [references] if isinstance(references, str | Mapping) else list(references)
    if all(isinstance(each, str) for each in given):
        return tuple({each.run_id: RunRequest(each) for each in map(_reference, map(str, given))}.values())
    try:
        requests = parse_job(json.dumps([_plain(each) for each in given]).encode(), "references")
    except JobError as error:
        raise ConfigError(f"the argument references: {described(error)}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the argument references: {error}") from error
    for request in requests:
        if request.action is Action.FORGET:
            raise ConfigError(f"{request.reference}: 'forget' is for a daemon: floradl forget")
    return requests


def _plain(spec: RunSpec) -> str | dict[str, Any]:
    return spec if isinstance(spec, str) else dict(spec)


def _reference(text: str) -> Reference:
    try:
        refuse_joined(text)
        return Reference.parse(text)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _absolute(path: StrPath) -> Path:
    try:
        return Path(os.fsdecode(path)).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{os.fsdecode(path)!a}: {error}") from error


def _owner(root: Path) -> tuple[int, ...]:
    """Return who owns the library, whose sidecars count besides this user's and root's."""
    try:
        return (root.stat().st_uid,)
    except OSError:
        return ()


_RESULTS = {RunState.DONE: Result.COMPLETE, RunState.PARTIAL: Result.PARTIAL}


def _unrecorded(run: QueuedRun) -> Run:
    result = _RESULTS.get(run.state, Result.FAILED)
    return Run(run_id=run.run_id, technique=run.technique, label=run.label, result=result, error=run.error)


def _run(library: LibraryStore, path: str, sidecar: Sidecar) -> Run:
    root = library.root if isinstance(library, FolderLibrary) else None
    outputs = tuple(
        Output(
            output_id=output.output_id,
            kind=output.kind,
            path=None if output.path is None or root is None else root / output.path,
            bytes=output.bytes,
            sha256=output.sha256,
            content_type=output.content_type,
            text=output.text,
            error=output.error,
            skipped=output.skipped.reason if output.skipped else None,
            location=None if output.path is None else library.location(output.path),
            removed=output.removed.reason if output.removed else None,
        )
        for output in sidecar.outputs
    )
    return Run(
        run_id=sidecar.run_id,
        technique=sidecar.technique,
        label=sidecar.label,
        result=sidecar.result,
        error=sidecar.error,
        outputs=outputs,
        sidecar=msgspec.json.decode(msgspec.json.encode(sidecar)),
        sidecar_path=None if root is None else root / path,
        sidecar_location=library.location(path),
    )
