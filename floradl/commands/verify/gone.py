"""What `verify` does about files that are gone, without the network: finds moved ones, accepts deleted ones.

A file that somebody moved or renamed is left where it is, and its sidecar says so from then on: people move
files on purpose, and what was put back would be moved again. `relayout` puts all where the template wants it.
Its `NAME.EXT.xmp` goes along. A file that has other bytes than its sidecar says may be another output's, and
its own lie under that one's name: so it is where two changed places.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from floradl.clock import unix_seconds
from floradl.commands.alone import beside_daemon
from floradl.commands.daemon_state import read_under_way
from floradl.commands.verify.scan import ACCEPTED, KnownFiles, Problem, VerifyOutcome
from floradl.config.settings import Config
from floradl.errors import FloradlError, ServicePausedError
from floradl.library import xmp
from floradl.library.base import LibraryStore
from floradl.library.moved_files import find_moved
from floradl.library.retention import Expired, Pruner
from floradl.library.template import SIDECARS
from floradl.library.verify import FileVerdict
from floradl.library_builder import build_library
from floradl.models import Reference, RemovalReason


class Settled(Struct, frozen=True):
    """What became of problems, by number; `taken` are those whose path is another output's."""

    outcomes: dict[int, VerifyOutcome]
    taken: frozenset[int] = frozenset()


def displaced_files(problems: Sequence[Problem]) -> dict[int, Problem]:
    """Return those of `problems`, by number, whose files are gone or have other bytes."""
    return {
        number: each
        for number, each in enumerate(problems)
        if each.verdict in {FileVerdict.MISSING, FileVerdict.DAMAGED}
        and each.output is not None
        and each.path is not None
    }


def missing_files(problems: Sequence[Problem]) -> dict[int, Problem]:
    """Return those of `problems`, by number, that are files which are gone."""
    found = displaced_files(problems)
    return {number: each for number, each in found.items() if each.verdict is FileVerdict.MISSING}


def record_moved(config: Config, displaced: Mapping[int, Problem]) -> Settled:
    """Find files that lie elsewhere, and have their sidecars say so; return what became of them.

    Raises `ServicePausedError`, `LockedError` and `ConfigError`.
    """
    library = build_library(config)
    named = _named(library, config, displaced)
    found = _found(library, displaced, named)
    named.add(found.values())
    taken = {
        number for number, each in displaced.items() if number not in found and (each.path or "") in named
    }
    outcomes: dict[int, VerifyOutcome] = {}
    if not found:
        return Settled(outcomes, frozenset(taken))
    with beside_daemon(config, "verify"):
        for number, path in found.items():
            problem = displaced[number]
            try:
                _record(library, problem, path, keep_times=config.output.mtime == "completed")
                message = "it was moved, and its sidecar says so now"
                if problem.verdict is FileVerdict.DAMAGED and (problem.path or "") not in named:
                    message += f"; what is at {problem.path} stays there"
                outcomes[number] = VerifyOutcome(mended=True, message=message, path=path)
            except ServicePausedError:
                raise
            except FloradlError as error:
                outcomes[number] = VerifyOutcome(mended=False, message=str(error), path=path)
    return Settled(outcomes, frozenset(taken))


def accept_missing(config: Config, missing: Mapping[int, Problem]) -> Settled:
    """Record that files were deleted on purpose, unless they lie elsewhere; return what became of them.

    Raises as `record_moved`.
    """
    library = build_library(config)
    elsewhere = _found(library, missing, _named(library, config, missing))
    outcomes = {
        number: VerifyOutcome(
            mended=False, message="it lies there now: --repair has its sidecar say so", path=path
        )
        for number, path in elsewhere.items()
    }
    gone = {number: _expired(each) for number, each in missing.items() if number not in elsewhere}
    with beside_daemon(config, "verify"):
        keep_times = config.output.mtime == "completed"
        pruner = Pruner(library, RemovalReason.MISSING, time.time, keep_times=keep_times)
        left = dict(pruner.accept(list(gone.values())).left)
        for each in gone.values():
            if each.path not in left:
                _drop_companion(library, each.path)
    for number, each in gone.items():
        why = left.get(each.path)
        outcomes[number] = VerifyOutcome(mended=why is None, message=why or ACCEPTED, path=each.path)
    return Settled(outcomes)


def _expired(problem: Problem) -> Expired:
    sidecar, output = problem.sidecar, problem.output
    assert sidecar is not None  # noqa: S101 - `missing_files` leaves others out
    assert output is not None  # noqa: S101 - as above
    size = output.bytes or 0
    return Expired(sidecar.run_id, sidecar.technique, problem.index, output.path or "", size, 0.0)


def _named(library: LibraryStore, config: Config, displaced: Mapping[int, Problem]) -> KnownFiles:
    """Return the files that are some output's: sidecars name them, or open runs have them.

    What the sidecars of the `displaced` call theirs does not count: it has other bytes.
    """
    wrong = {(each.sidecar.run_id, each.index) for each in displaced.values() if each.sidecar is not None}
    known = KnownFiles()
    known.add(read_under_way(config.state_dir))
    for entry in library.scan():
        if (sidecar := entry.sidecar) is not None:
            known.add(
                output.path
                for index, output in enumerate(sidecar.outputs)
                if output.path is not None and (sidecar.run_id, index) not in wrong
            )
    return known


def _found(library: LibraryStore, displaced: Mapping[int, Problem], named: KnownFiles) -> dict[int, str]:
    """Return where the bytes of the `displaced` are, among files that are not `named`."""
    # Two sidecars may name one file, which is found for both.
    wanted = {
        (each.path, each.output.sha256): (each.output.bytes, each.output.sha256)
        for each in displaced.values()
        if each.output is not None
    }
    files = (
        file
        for file in library.listing()
        if not file.path.startswith(f"{SIDECARS}/") and file.path not in named
    )
    found = find_moved(library, wanted, files)
    places = {
        number: found.get((each.path, each.output.sha256))
        for number, each in displaced.items()
        if each.output is not None
    }
    return {number: path for number, path in places.items() if path is not None}


def _record(library: LibraryStore, problem: Problem, path: str, *, keep_times: bool) -> None:
    sidecar = problem.sidecar
    assert sidecar is not None  # noqa: S101 - `missing_files` leaves others out
    there = library.find_sidecar(Reference(sidecar.run_id, sidecar.technique))
    if (
        there is None
        or len(there.outputs) <= problem.index
        or (there.outputs[problem.index].path != problem.path)
    ):
        raise FloradlError("its sidecar changed meanwhile: start again")
    if problem.verdict is FileVerdict.MISSING:
        _take_companion_along(library, problem.path or "", path)
    outputs = list(there.outputs)
    outputs[problem.index] = replace(outputs[problem.index], path=path)
    mtime = unix_seconds(there.times.completed_at) if keep_times else None
    library.write_sidecar(replace(there, outputs=tuple(outputs)), mtime, replacing=there)


def _take_companion_along(library: LibraryStore, path: str, to: str) -> None:
    try:
        if library.stat(path + xmp.ENDING) is not None:
            library.move(path + xmp.ENDING, to + xmp.ENDING)
    except ServicePausedError:
        raise
    except FloradlError:
        pass  # the file counts: where its companion stays `verify` lists that


def _drop_companion(library: LibraryStore, path: str) -> None:
    """Remove what lies beside a file that is gone, unless another program has written to it."""
    try:
        file = library.open_file(path + xmp.ENDING)
        if file is None:
            return
        with file:
            ours = xmp.is_untouched(file.read(xmp.MAX_BYTES))
        if ours:
            library.remove(path + xmp.ENDING)
    except ServicePausedError:
        raise
    except (FloradlError, OSError):
        pass
