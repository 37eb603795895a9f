"""Renames files to where today's template, labels and names put each: which ones, in which order.

A file is renamed, then its sidecar says where it is. A crash between the two leaves a file that no sidecar
names, and a sidecar whose file is gone: the next time they are matched by size and SHA-256. For that to be
sure, nothing ever gets a path that another sidecar still names: whoever stands there goes first, and where
files only change places one of them steps aside, under a name that its sidecar has meanwhile.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from floradl.clock import unix_seconds
from floradl.errors import ErrorCode, FloradlError, ServicePausedError, TransientError
from floradl.fs.names import fold, safe_name
from floradl.library.base import LibraryEntry, LibraryStore, StoredFile, parsed
from floradl.library.moved_files import find_moved, sha256_of
from floradl.library.path_plan import PathPlan, UnnamedOutput
from floradl.library.sidecar import Sidecar, by_key, names_of
from floradl.library.template import SIDECARS, UNKNOWN
from floradl.models import QueuedRun, Reference, RemoteOutput

_AT_ONCE: Final = 16  # runs, whose sidecars are flushed together
_BESIDE: Final = re.compile(r"(.+)(\.(?:damaged(?:-[0-9]+)?|xmp))", re.DOTALL)
_NUMBERED: Final = re.compile(r"-([0-9]{1,6})(?:\.[^./]*)?$")
_Report = Callable[[int, int], None]


class Move(Struct):
    """The file of an output that is to be renamed.

    It is the one at `index` of the sidecar of `run`. `path` is what that says, `at` where the file is: the
    two differ where an earlier attempt ended early. `beside` are the endings of what stands beside it.
    """

    run: int
    index: int
    path: str
    at: str
    to: str = ""
    first: str = ""
    nth: int = 1
    beside: tuple[str, ...] = ()
    is_copy: bool = False
    """Whether `to` has the bytes already: `at` is only removed."""


class RunAt(Struct, frozen=True):
    """A run whose sidecar is at `path`; `is_misplaced`: it has to be elsewhere by its technique or its id."""

    run_id: str
    path: str
    is_misplaced: bool = False


class RelayoutProblem(Struct, frozen=True):
    """What could not be done with a file or sidecar."""

    path: str
    message: str


class RelayoutPlan(Struct):
    """What is to be done. `files` are named by sidecars; `passed_over` runs were open or not asked for."""

    runs: list[RunAt] = []
    moves: list[Move] = []
    sidecars: list[int] = []
    problems: list[RelayoutProblem] = []
    files: int = 0
    passed_over: int = 0
    missing: int = 0


class _Named(Struct, frozen=True, gc=False):
    """A file that a sidecar names: whose, and where it would be by today's template."""

    run: int
    index: int
    path: str
    first: str
    nth: int


def plan_relayout(
    library: LibraryStore,
    paths: PathPlan,
    wanted: Collection[str] | None,
    open_runs: Collection[str],
    report: Callable[[int], None] = lambda _: None,
) -> RelayoutPlan:
    """Look at the whole library, and say what is to be renamed. Nothing is written.

    `wanted` are the ids of the runs to look at, None for all; `open_runs` those that are worked on, and left
    alone. `report` is called with the number of sidecars that were read. Raises `ServicePausedError`.
    """
    return _Planner(library, paths, wanted, open_runs).plan(report)


class _Planner:
    def __init__(
        self,
        library: LibraryStore,
        paths: PathPlan,
        wanted: Collection[str] | None,
        open_runs: Collection[str],
    ) -> None:
        self._library = library
        self._paths = paths
        self._wanted = wanted
        self._open = open_runs
        self._plan = RelayoutPlan()
        self._named: list[_Named] = []
        self._settled: set[str] = set()  # folded paths that are some file's for good
        self._exact: set[int] = set()  # hashes of all paths that sidecars name
        self._twice: dict[int, bool] = {}  # of those that more than one output has: whether that is told

    def plan(self, report: Callable[[int], None]) -> RelayoutPlan:
        known: dict[str, str] = {}
        for count, entry in enumerate(self._library.scan(), 1):
            if entry.sidecar is not None and entry.foreign is None:
                self._take(entry, entry.sidecar, known)
            report(count)
        self._leave_shared()
        on_disk, unnamed, spelling = self._look_at_files()
        self._assign(self._located(on_disk, unnamed), unnamed, spelling)
        return self._plan

    def _take(self, entry: LibraryEntry, sidecar: Sidecar, known: dict[str, str]) -> None:
        """Note the files of a run, and where they would be."""
        plan, number = self._plan, len(self._plan.runs)
        is_left = sidecar.run_id in self._open or (
            self._wanted is not None and sidecar.run_id not in self._wanted
        )
        technique = known_technique(sidecar)
        folder = safe_name(technique, self._paths.max_name_bytes) if technique else UNKNOWN
        stem = safe_name(sidecar.run_id, self._paths.max_name_bytes - 24)
        name = entry.path.rpartition("/")[2]
        # One that differs in case only is where it belongs: folders are shared like that.
        is_misplaced = fold(entry.path.rpartition("/")[0]) != fold(f"{SIDECARS}/{folder}") or not (
            name == f"{stem}.json" or name.startswith(f"{stem}~")
        )
        twice = known.get(sidecar.run_id)
        known.setdefault(sidecar.run_id, entry.path)
        if twice is not None:
            plan.problems.append(
                RelayoutProblem(entry.path, f"{twice} is a sidecar of the same run: remove one")
            )
            is_left = True
        plan.runs.append(RunAt(sidecar.run_id, entry.path, is_misplaced=is_misplaced))
        plan.passed_over += is_left
        if is_misplaced and not is_left:
            plan.sidecars.append(number)
        run = run_of(sidecar, technique)
        times = unix_seconds(sidecar.times.completed_at), unix_seconds(sidecar.times.created_at)
        for index, (key, output) in enumerate(by_key(sidecar.outputs).items()):
            if output.path is None or output.removed is not None:
                continue
            plan.files += 1
            exact = _exact(output.path)
            if exact in self._exact:
                self._twice[exact] = self._twice.get(exact, False) or twice is None
            self._exact.add(exact)
            nth = 1 if key == output.output_id else int(key[len(output.output_id) + 1 :])
            if is_left:
                self._settled.add(fold(output.path))
                continue
            remote = RemoteOutput(output.output_id, output.type, output.url or output.text or "", nth)
            first = self._paths.path(
                UnnamedOutput(run, remote, index + 1, times), extension_of(output.path).lower(), nth
            )
            self._named.append(_Named(number, index, output.path, first, nth))

    def _leave_shared(self) -> None:
        """Leave what two outputs have: under its new name only one of their sidecars would find it."""
        message = "it is the file of two outputs (their bytes were the same): it stays where it is"
        for path in sorted({each.path for each in self._named if _exact(each.path) in self._twice}):
            if self._twice[_exact(path)]:  # two sidecars of one run are told as such
                self._plan.problems.append(RelayoutProblem(path, message))
            self._settled.add(fold(path))
        self._named = [each for each in self._named if _exact(each.path) not in self._twice]

    def _look_at_files(self) -> tuple[set[int], dict[str, StoredFile], dict[str, str]]:
        """Return the hashes of what is there, what no sidecar names by its folded path, folders as spelt."""
        on_disk: set[int] = set()
        unnamed: dict[str, StoredFile] = {}
        spelling: dict[str, str] = {}
        for file in self._library.listing():
            if file.path.startswith(f"{SIDECARS}/"):
                continue
            key = _exact(file.path)
            on_disk.add(key)
            if key not in self._exact:
                unnamed[fold(file.path)] = file
            folder = file.path.rpartition("/")[0]
            while folder and (folded := fold(folder)) not in spelling:
                spelling[folded] = folder
                folder = folder.rpartition("/")[0]
        return on_disk, unnamed, spelling

    def _located(self, on_disk: set[int], unnamed: dict[str, StoredFile]) -> list[Move]:
        """Return the files that are there. One that is not may lie elsewhere, after an early end."""
        found = [
            Move(each.run, each.index, each.path, each.path, first=each.first, nth=each.nth)
            for each in self._named
            if _exact(each.path) in on_disk
        ]
        gone = {(each.run, each.index): each for each in self._named if _exact(each.path) not in on_disk}
        if not gone:
            return found
        sought: dict[tuple[int, int], tuple[int | None, str | None]] = {}
        for run, index in gone:
            if (sidecar := read_sidecar(self._library, self._plan.runs[run].path)) is not None:
                output = sidecar.outputs[index]
                sought[run, index] = output.bytes, output.sha256
        elsewhere = find_moved(self._library, sought, unnamed.values())
        for key, each in gone.items():
            if (at := elsewhere.get(key)) is None:
                self._plan.missing += 1
                self._settled.add(fold(each.path))
                continue
            unnamed.pop(fold(at), None)
            found.append(Move(each.run, each.index, each.path, at, first=each.first, nth=each.nth))
        return found

    def _assign(
        self, files: Sequence[Move], unnamed: Mapping[str, StoredFile], spelling: dict[str, str]
    ) -> None:
        """Give each file its path: the first that is free, as a destination takes it."""
        beside: dict[str, list[str]] = {}
        for file in unnamed.values():
            if found := _BESIDE.fullmatch(file.path):
                beside.setdefault(found[1], []).append(found[2])
        left: list[tuple[int, Move]] = []
        for move in files:
            move.beside = tuple(dict.fromkeys(beside.get(move.at, []) + beside.get(move.path, [])))
            move.first = _spelt(move.first, spelling)
            if move.first == move.at:
                move.to = move.at
                self._settled.add(fold(move.to))
            else:
                left.append((self._number_of(move, spelling), move))
        # Those that are numbered already go first: they keep their numbers.
        left.sort(key=lambda each: each[0])
        next_free: dict[str, int] = {}
        for _, move in left:
            move.to = self._free(move, unnamed, spelling, next_free)
            self._settled.add(fold(move.to))
        self._plan.moves = sorted(
            (move for move in files if move.to != move.at or move.path != move.at),
            key=lambda move: (move.run, move.index),
        )

    def _free(
        self,
        move: Move,
        unnamed: Mapping[str, StoredFile],
        spelling: dict[str, str],
        next_free: dict[str, int],
    ) -> str:
        family = fold(move.first)
        number = max(next_free.get(family, move.nth), move.nth)
        while True:
            path = move.first if number == move.nth else _spelt(self._candidate(move, number), spelling)
            number += 1
            folded = fold(path)
            if folded in self._settled:
                next_free[family] = number
                continue
            if path == move.at:
                return path
            if (there := unnamed.get(folded)) is not None and not self._has_our_bytes(move, there):
                continue
            if any(fold(path + ending) in unnamed for ending in move.beside) and not move.is_copy:
                continue
            return path

    def _has_our_bytes(self, move: Move, there: StoredFile) -> bool:
        """Whether a file that nobody names is a copy, left by a store that cannot rename."""
        ours = self._library.stat(move.at)
        if ours is None or ours.size != there.size or there.path.endswith(".xmp"):
            return False
        sha256 = sha256_of(self._library, there.path)
        move.is_copy = sha256 is not None and sha256 == sha256_of(self._library, move.at)
        return move.is_copy

    def _number_of(self, move: Move, spelling: dict[str, str]) -> int:
        """Return which candidate for its path a file has now; a large number for none."""
        found = _NUMBERED.search(move.at)
        if found is not None and (number := int(found[1])) > 1:
            if move.at.rpartition("/")[0] != move.first.rpartition("/")[0]:
                return 1 << 30
            if _spelt(self._candidate(move, number), spelling) == move.at:
                return number
        return 1 << 30

    def _candidate(self, move: Move, number: int) -> str:
        """Return the path of a file that is the `number`-th to want it."""
        at = self._plan.runs[move.run].path
        if (sidecar := read_sidecar(self._library, at)) is None:
            raise TransientError(f"{at} changed meanwhile: start again", ErrorCode.STORAGE)
        output = sidecar.outputs[move.index]
        remote = RemoteOutput(output.output_id, output.type, output.url or output.text or "", move.nth)
        times = unix_seconds(sidecar.times.completed_at), unix_seconds(sidecar.times.created_at)
        planned = UnnamedOutput(run_of(sidecar, known_technique(sidecar)), remote, move.index + 1, times)
        return self._paths.path(planned, extension_of(move.path).lower(), number)


class Relayout:
    """Does what a plan says. `report` is called with how many files are done, and how many there are."""

    def __init__(
        self,
        library: LibraryStore,
        plan: RelayoutPlan,
        report: _Report = lambda *_: None,
        *,
        keep_times: bool,
    ) -> None:
        self._library = library
        self._plan = plan
        self._report = report
        self._keep_times = keep_times
        self._sources = {fold(move.at): move for move in plan.moves if move.at != move.to}
        self._blocked: dict[str, Move] = {}  # by the folded path that has to become free
        self._ready: dict[int, list[Move]] = {}
        self._again: dict[int, list[Move]] = {}
        self.renamed = self.sidecars_moved = 0
        self.problems: list[RelayoutProblem] = list(plan.problems)

    def run(self) -> None:
        """Rename all. Raises `ServicePausedError` where the library is gone, or its disk full."""
        for move in self._plan.moves:
            if move.at != move.to and fold(move.to) in self._sources:
                self._blocked[fold(move.to)] = move
            else:
                self._ready.setdefault(move.run, []).append(move)
        for run in self._plan.sidecars:
            self._ready.setdefault(run, [])
        while self._ready or self._again or self._step_aside():
            # What failed is tried once more, alone: a folder may have gone with the last file in it.
            few = 1 if not self._ready else _AT_ONCE
            source = self._ready or self._again
            runs = [source.popitem() for _ in range(min(few, len(source)))]
            works = [partial(self._rename, run, tuple(moves)) for run, moves in runs]
            for (run, moves), result in zip(runs, self._library.together(works), strict=True):
                if source is self._ready and isinstance(result, TransientError):
                    self._again.setdefault(run, []).extend(moves)
                else:
                    self._note(moves, result)
        for move in self._blocked.values():
            self.problems.append(
                RelayoutProblem(move.at, f"{move.to} is not free: what stands there could not move")
            )

    def _note(self, moves: Sequence[Move], result: object) -> None:
        if isinstance(result, ServicePausedError):
            raise result
        if isinstance(result, FloradlError | OSError):
            self.problems += [RelayoutProblem(move.path, str(result)) for move in moves]
            return
        if isinstance(result, Exception):
            raise result
        for move in moves:
            was, move.at, move.path = move.at, move.to, move.to
            self.renamed += 1
            self._sources.pop(fold(was), None)
            if (waiting := self._blocked.pop(fold(was), None)) is not None:
                self._ready.setdefault(waiting.run, []).append(waiting)
        self._report(self.renamed, len(self._plan.moves))

    def _step_aside(self) -> bool:
        """Where files wait for each other in a circle, give one another name; False where none do."""
        for start in self._blocked.values():
            seen, move = 0, start
            while seen <= len(self._blocked):
                occupant = self._sources.get(fold(move.to))
                if occupant is start:
                    return self._put_aside(start)
                if occupant is None or self._blocked.get(fold(occupant.to)) is not occupant:
                    break
                move, seen = occupant, seen + 1
        return False

    def _put_aside(self, move: Move) -> bool:
        was, to = move.at, move.to
        stem, dot, ext = was.rpartition(".")
        # The same again after a kill: in a store, which copies, it may stand there already.
        way = f"{was} -> {to}".encode("utf-8", "surrogatepass")
        mark = f"~moving-{hashlib.sha256(way).hexdigest()[:8]}"
        move.to = f"{stem}{mark}{dot}{ext}" if dot and "/" not in ext else f"{was}{mark}"
        (result,) = self._library.together([partial(self._rename, move.run, (move,))])
        if isinstance(result, ServicePausedError):
            raise result
        aside, move.to = move.to, to
        del self._sources[fold(was)]
        if isinstance(result, Exception):
            self.problems.append(RelayoutProblem(move.path, str(result)))
            del self._blocked[fold(to)]
            return True
        move.at = move.path = aside
        self._sources[fold(aside)] = move
        if (waiting := self._blocked.pop(fold(was), None)) is not None:
            self._ready.setdefault(waiting.run, []).append(waiting)
        return True

    def _rename(self, run: int, moves: tuple[Move, ...]) -> None:
        """Rename files of a run, then have its sidecar say so."""
        at = self._plan.runs[run]
        sidecar = read_sidecar(self._library, at.path)
        if sidecar is None or any(
            len(sidecar.outputs) <= move.index or sidecar.outputs[move.index].path != move.path
            for move in moves
        ):
            raise TransientError(f"{at.path} changed meanwhile: start again", ErrorCode.STORAGE)
        done: list[Move] = []
        try:
            for move in moves:
                self._rename_file(move)
                done.append(move)
            self._write(run, sidecar, {move.index: move.to for move in moves})
        except FloradlError:
            self._move_back(at.path, done)
            raise
        for move in moves:
            if move.is_copy:
                self._library.remove(move.at)

    def _move_back(self, at: str, moves: Sequence[Move]) -> None:
        """Undo renames, but for what the sidecar names by now: another machine was at the same."""
        with suppress(FloradlError):
            now = read_sidecar(self._library, at)
            named = {output.path for output in now.outputs} if now else set()
            for move in moves:
                if not move.is_copy and move.to not in named:
                    with suppress(FloradlError):
                        self._library.move(move.to, move.at)

    def _rename_file(self, move: Move) -> None:
        library = self._library
        if move.at != move.to and not move.is_copy:
            if not library.move(move.at, move.to):
                raise TransientError(f"{move.to} was taken meanwhile: start again", ErrorCode.STORAGE)
            if library.stat(move.to) is None:  # in a folder that differs in case only
                raise TransientError(f"{move.to} is spelt otherwise on disk: start again", ErrorCode.STORAGE)
        for ending in move.beside:
            for before in dict.fromkeys((move.at, move.path)):
                if before != move.to:
                    with suppress(FloradlError):  # it is nobody's that counts
                        library.move(before + ending, move.to + ending)

    def _write(self, run: int, sidecar: Sidecar, new: Mapping[int, str]) -> None:
        at, technique = self._plan.runs[run], known_technique(sidecar)
        outputs = tuple(
            replace(output, path=new[index]) if index in new else output
            for index, output in enumerate(sidecar.outputs)
        )
        reference = Reference(sidecar.run_id, technique)
        changed = replace(sidecar, reference=str(reference), technique=technique, outputs=outputs)
        mtime = unix_seconds(sidecar.times.completed_at) if self._keep_times else None
        located = self._library.locate_sidecar(reference)
        if located is not None and located[0] != at.path:
            raise TransientError(f"{located[0]} is a sidecar of the same run: remove one", ErrorCode.STORAGE)
        # One that has to go elsewhere takes the place of none, unless it is where those of no technique are.
        is_known = located is not None and (
            not at.is_misplaced or at.path.startswith(f"{SIDECARS}/{UNKNOWN}/")
        )
        path = self._library.write_sidecar(changed, mtime, replacing=sidecar if is_known else None)
        if path != at.path:
            self._library.remove(at.path)
            self._plan.runs[run] = RunAt(at.run_id, path)
            self.sidecars_moved += 1


def known_technique(sidecar: Sidecar) -> str | None:
    """Return a run's technique as its sidecar has it, or as FLORA's answer in it names it."""
    if sidecar.technique is not None or sidecar.run is None:
        return sidecar.technique
    url = sidecar.run.get("poll_url", sidecar.run.get("pollUrl"))
    if isinstance(url, str):
        with suppress(ValueError):
            return Reference.parse(url).technique or sidecar.technique_id
    return sidecar.technique_id


def run_of(sidecar: Sidecar, technique: str | None) -> QueuedRun:
    """Return the run of a sidecar as paths are planned by it."""
    return QueuedRun(
        run_id=sidecar.run_id,
        technique=technique,
        label=sidecar.label,
        queued_at=0.0,
        meta=sidecar.meta,
        names=names_of(sidecar),
    )


def extension_of(path: str) -> str:
    """Return the extension of a file, with its dot; empty where it has none."""
    _, dot, ext = path.rpartition("/")[2].rpartition(".")
    return dot + ext if dot else ""


def read_sidecar(library: LibraryStore, path: str) -> Sidecar | None:
    """Read the sidecar at a path; None where none is there that can be read."""
    try:
        data = library.read(path)
    except (ValueError, OSError):
        return None
    return parsed(data) if data is not None else None


def changes(plan: RelayoutPlan) -> Iterator[tuple[str, str]]:
    """Yield each file that would be renamed: from where, and to where."""
    for move in plan.moves:
        if move.at != move.to:
            yield move.at, move.to


def _spelt(path: str, spelling: dict[str, str]) -> str:
    """Return a path with its folders spelt as those that are there, or as the first that was planned."""
    folder, slash, name = path.rpartition("/")
    if not folder:
        return path
    if (found := spelling.get(fold(folder))) is None:
        found = spelling[fold(folder)] = _spelt(folder, spelling)
    return f"{found}{slash}{name}"


def _exact(path: str) -> int:
    return hash(path if path.isascii() else unicodedata.normalize("NFC", path))
