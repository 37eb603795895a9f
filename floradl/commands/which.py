"""`floradl which`: the runs that made a file, wherever it lies now and whatever it is called."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from floradl.commands.exits import Exit
from floradl.commands.find import described, json_line
from floradl.commands.library_index import CommandIndex, opened_index
from floradl.commands.streams import say, tell, write_bytes
from floradl.fs.folders import NotRegularFileError, open_plain
from floradl.index.finder import FileOrigin, KnownRun

if TYPE_CHECKING:
    from floradl.config.settings import Config

SCHEMA_VERSION: Final = 1
_MINUTE: Final = 60.0


def which(
    config: Config, environ: Mapping[str, str], files: Sequence[Path], stream: TextIO, *, as_json: bool
) -> Exit:
    """Write to `stream` which runs made `files`, by their SHA-256.

    Returns `FOUND` where no run made one of them, `USAGE` where one cannot be read. Raises as `find`.
    """
    code = Exit.OK
    with opened_index(config, environ) as index:
        for file in files:
            try:
                sha256 = _sha256(file)
            except NotRegularFileError:
                tell(f"floradl: {file}: it is not a file")
                code = Exit.USAGE
                continue
            except (OSError, ValueError) as error:
                tell(f"floradl: {file}: {getattr(error, 'strerror', None) or error}")
                code = Exit.USAGE
                continue
            origins = _origins(index, sha256)
            if as_json:
                runs = [_described(index, origin) for origin in origins]
                named = os.fspath(file).encode("utf-8", "replace").decode()
                known = {"schema_version": SCHEMA_VERSION, "file": named, "sha256": sha256, "runs": runs}
                write_bytes(stream, json_line(known))
            for origin in origins if not as_json else ():
                say(stream, f"{file}: {_sentence(origin)}")
            if not origins:
                tell(f"{file}: {_unknown(index, file)}")
                code = code or Exit.FOUND
    return code


def _sha256(file: Path) -> str:
    """Hash a file. Raises `OSError`, and `NotRegularFileError` for a FIFO or device: it may have no end."""
    with open(open_plain(file, os.O_RDONLY, follow=True), "rb") as opened:  # noqa: PTH123 - a descriptor
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _origins(index: CommandIndex, sha256: str) -> list[FileOrigin]:
    found = index.finder.origins(sha256)
    if not found and index.refresh(_MINUTE):  # a sidecar may have been written to in place
        return index.finder.origins(sha256)
    return found


def _sentence(origin: FileOrigin) -> str:
    label = f" ({origin.run.label})" if origin.run.label else ""
    place = origin.path or f"not in the library any more: {origin.why_absent}"
    return f"{origin.run.reference}{label}, {origin.kind} {origin.output_id}: {place}"


def _described(index: CommandIndex, origin: FileOrigin) -> dict[str, object]:
    path = None if origin.path is None else index.location(origin.path)
    output = {"output_id": origin.output_id, "kind": origin.kind, "path": path, "absent": origin.why_absent}
    return {**described(index, origin.run), **output}


def _unknown(index: CommandIndex, file: Path) -> str:
    run = _named_there(index, file)
    if run is None:
        return "no run in the library made these bytes"
    return (
        f"no run in the library made these bytes; the file that {run.reference} left there was another: "
        f"'floradl verify {run.reference}'"
    )


def _named_there(index: CommandIndex, file: Path) -> KnownRun | None:
    """Return the run whose file has this path, where it is in the library."""
    with suppress(OSError, ValueError):
        if index.folder is not None:
            return index.finder.maker_at(file.resolve().relative_to(index.folder.resolve()).as_posix())
    return None
