"""`floradl find`: the runs of the library that words and filters name, with their files."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec
from msgspec import to_builtins

from floradl.clock import rfc3339
from floradl.commands.exits import Exit
from floradl.commands.library_index import CommandIndex, opened_index
from floradl.commands.streams import Show, say, tell, write_bytes
from floradl.errors import ConfigError
from floradl.index.finder import KnownRun, RunQuery
from floradl.index.freshness import are_current
from floradl.library.template import SIDECARS
from floradl.models import OutputKind
from floradl.redaction import redact, shown_json
from floradl.units import format_count

if TYPE_CHECKING:
    from floradl.config.settings import Config

SCHEMA_VERSION: Final = 1
USUAL_LIMIT: Final = 50  # runs that are shown to a person
_CHECKED: Final = 1000  # runs whose sidecars are compared with the index before they are shown
_MINUTE: Final = 60.0
_EVER: Final = -1.0  # shorter than any time since the last look: look again
_FILES_SHOWN: Final = 4
_BATCH: Final = 500  # runs that are written at once


def run_query(words: Sequence[str], since: float | None, *, failed: bool, **named: Sequence[str]) -> RunQuery:
    """Read the command line; `named` are its options by their names. Raises `ConfigError`."""
    kinds = tuple(kind.strip().casefold() for kind in named["kinds"])
    for kind in kinds:
        if kind not in set(OutputKind):
            raise ConfigError(
                f"--kind: {kind[:60]!a} is no kind of output: name one of {', '.join(OutputKind)}"
            )
    meta = []
    for text in named["meta"]:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--meta: {text[:60]!a} is not written like client=Atlas")
        meta.append((key.strip(), value.strip()))
    return RunQuery(
        q=" ".join(words),
        techniques=tuple(named["techniques"]),
        projects=tuple(named["projects"]),
        labels=tuple(named["labels"]),
        kinds=kinds,
        meta=tuple(meta),
        since=since,
        failed=failed,
    )


def find(
    config: Config,
    environ: Mapping[str, str],
    wanted: RunQuery,
    show: Show,
    limit: int | None,
    stream: TextIO,
) -> Exit:
    """Write what is `wanted` to `stream`, the newest runs first: up to `limit` runs, None for the usual.

    Raises `ConfigError`, and as the library where it is missing.
    """
    most = limit if limit is not None else USUAL_LIMIT if show is Show.NOTHING else 0
    with opened_index(config, environ) as index:
        count, runs = _found(index, wanted, most or None)
        match show:
            case Show.PATHS:
                _write_paths(index, runs, stream)
            case Show.JSON:
                for batch in _batches(runs):
                    write_bytes(stream, b"".join(_line(index, run) for run in batch))
            case Show.NOTHING:
                for run in runs:
                    _say(stream, index, run)
    if not count:
        tell("no run in the library matches")
    elif 0 < most < count and show is Show.NOTHING:
        tell(f"the newest {most:,} of {format_count(count, 'run')}: --limit shows more, 0 shows all")
    return Exit.OK


def _found(index: CommandIndex, wanted: RunQuery, most: int | None) -> tuple[int, Iterator[KnownRun]]:
    """Ask the index; again where sidecars were edited in place, which no folder's time shows."""
    count, runs = index.finder.runs(wanted, most)
    first = list(islice(runs, _CHECKED))
    stale = index.folder is not None and not are_current(first, index.folder)
    if (stale or not count) and index.refresh(_EVER if stale else _MINUTE):
        return index.finder.runs(wanted, most)
    return count, chain(first, runs)


def _batches(runs: Iterator[KnownRun]) -> Iterator[list[KnownRun]]:
    while batch := list(islice(runs, _BATCH)):
        yield batch


def _write_paths(index: CommandIndex, runs: Iterator[KnownRun], stream: TextIO) -> None:
    gone = 0
    for batch in _batches(runs):
        found = [_files(index, run) for run in batch]
        gone += sum(len(missing) for _, missing in found)
        write_bytes(stream, b"".join(os.fsencode(path) + b"\n" for files, _ in found for path in files))
    if gone:
        tell(f"{format_count(gone, 'file')} of these runs are not there: 'floradl verify' tells which")


def _files(index: CommandIndex, run: KnownRun) -> tuple[list[str], list[str]]:
    """Return the full paths of a run's files: of those on disk, and of those missing."""
    files: list[str] = []
    missing: list[str] = []
    for file in run.files:
        path = index.location(file.path)
        (files if index.is_there(file.path) else missing).append(path)
    return files, missing


def _line(index: CommandIndex, run: KnownRun) -> bytes:
    files, missing = _files(index, run)
    return json_line(
        {
            **described(index, run),
            "files": files,
            "missing": missing,
            "outputs": [*map(to_builtins, run.files)],
        }
    )


def described(index: CommandIndex, run: KnownRun) -> dict[str, Any]:
    """Return a run as `--json` writes it, as plain values."""
    code, message = run.error_code, run.error_message or ""
    return {
        "schema_version": SCHEMA_VERSION,
        "reference": run.reference,
        "run_id": run.run_id,
        "technique": run.technique,
        "technique_name": run.technique_name,
        "project": run.project,
        "model_id": run.model,
        "label": run.label,
        "meta": run.meta,
        "result": run.result,
        "error": None if code is None else {"code": code, "message": redact(message)},
        "charged_cost": run.cost,
        "ended_at": rfc3339(run.finished / 1000),
        "sidecar": index.location(f"{SIDECARS}/{run.folder}/{run.file}"),
    }


def json_line(value: dict[str, Any]) -> bytes:
    """Return one line of JSON."""
    try:
        packed = msgspec.json.encode(value)
    except UnicodeEncodeError:  # the library's own path is no UTF-8
        packed = json.dumps(value, ensure_ascii=True).encode()
    return shown_json(packed) + b"\n"


def _say(stream: TextIO, index: CommandIndex, run: KnownRun) -> None:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.finished / 1000))
    kinds = Counter(file.kind for file in run.files)
    said = [run.label, ", ".join(format_count(count, kind) for kind, count in kinds.items())]
    if run.result != "complete":
        error = f": {run.error_code}: {run.error_message}" if run.error_code else ""
        said.append(f"{run.result}{error}")
    say(stream, "  ".join((when, run.reference, *filter(None, said))))
    for file in run.files[:_FILES_SHOWN]:
        say(stream, f"  {index.location(file.path)}")
    if (more := len(run.files) - _FILES_SHOWN) > 0:
        say(stream, f"  … and {format_count(more, 'file')} more")
