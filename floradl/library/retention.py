"""Removes files that are not kept any longer, oldest first; their sidecars say so, and keep the SHA-256.

A file is removed only while its bytes are those that its sidecar vouches for: it is read for that right
before. Then

    sidecar with `removed`, and still the path → the file is removed → sidecar without the path

so a crash in between never makes it look lost: what is `removed` with a path is removed by the next attempt.

A file that another sidecar names too (equal bytes under one name are adopted) stays for that: only the
sidecar says `removed`, and the last of them takes the file along.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby, islice
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from floradl.clock import rfc3339, unix_seconds
from floradl.errors import FloradlError, ServicePausedError
from floradl.library.base import LibraryStore, StoredFile
from floradl.library.moved_files import sha256_of
from floradl.library.sidecar import Sidecar
from floradl.library.xmp import ENDING, MAX_BYTES, is_untouched
from floradl.models import OutputKind, Reference, RemovalReason, Removed, SavedOutput

_AT_ONCE: Final = 16  # runs, whose sidecars are flushed together


class Expired(Struct, frozen=True):
    """The file of an output that is not to be kept: that at `index` of the sidecar of `run_id`.

    `saved_at` is when it was downloaded (unix seconds). `begun`: its removal was, and ended early.
    `is_shared`: another output has the same file, which stays for that.
    """

    run_id: str
    technique: str | None
    index: int
    path: str
    size: int
    saved_at: float
    begun: bool = False
    is_shared: bool = False


class Expiry(Struct, frozen=True):
    """What is not to be kept, oldest first, and when the next file is not any more (unix seconds)."""

    files: tuple[Expired, ...]
    next_at: float | None


class Pruned(Struct):
    """What came of it: how many files were removed, and of how many bytes; and what was left, and why."""

    files: int = 0
    bytes: int = 0
    left: list[tuple[str, str]] = []


def expired_files(
    library: LibraryStore, keep: Mapping[OutputKind, float], now: float, passed_over: Collection[str] = ()
) -> Expiry:
    """Look which files are older than `keep` says (seconds, by kind), counted from their download.

    `passed_over` are the ids of runs that are left alone. Raises `ServicePausedError` where the library is
    missing.
    """
    found: list[Expired] = []
    kept = array("q")  # hashes of the paths of what stays: there may be millions
    next_at: float | None = None
    for entry in library.scan():
        sidecar = entry.sidecar
        if sidecar is None or entry.foreign is not None:
            continue
        is_left = sidecar.run_id in passed_over
        for index, output in enumerate(sidecar.outputs):
            if output.path is None:
                continue
            limit = keep.get(output.kind)
            saved_at = saved_at_of(sidecar, output)
            if saved_at is not None and not is_left:
                if output.removed is not None or (limit is not None and saved_at + limit <= now):
                    found.append(_expired(sidecar, index, saved_at))
                    continue
                if limit is not None:
                    next_at = min(next_at or saved_at + limit, saved_at + limit)
            kept.append(hash(output.path))
    found.sort(key=lambda each: (not each.begun, each.saved_at, each.run_id, each.index))
    return Expiry(_shared_told(found, kept), next_at)


def _shared_told(files: Sequence[Expired], kept: Iterable[int]) -> tuple[Expired, ...]:
    """Return `files`, told which others name too: what is `kept`, or one that comes later."""
    hashes = {hash(each.path) for each in files}
    seen = {each for each in kept if each in hashes}
    told = []
    for each in reversed(files):
        told.append(replace(each, is_shared=True) if hash(each.path) in seen else each)
        seen.add(hash(each.path))
    return tuple(reversed(told))


def files_of(sidecar: Sidecar, others: Collection[str] = ()) -> tuple[Expired, ...]:
    """Return all files of a run, to be removed whatever their age; other runs name `others`, too."""
    files = [
        _expired(sidecar, index, saved_at_of(sidecar, output) or 0.0)
        for index, output in enumerate(sidecar.outputs)
        if output.path is not None
    ]
    return _shared_told(files, [hash(path) for path in others])


def saved_at_of(sidecar: Sidecar, output: SavedOutput) -> float | None:
    """Return when a file was downloaded (unix seconds); None where nobody knows, and it is kept.

    That is not before its run completed, by FLORA's clock: this machine's may have been years behind.
    """
    times = sidecar.times
    said = [unix_seconds(each) for each in (output.downloaded_at, times.finished_at, times.completed_at)]
    saved_at = next((each for each in said if each is not None), None)
    return saved_at if saved_at is None else max(saved_at, said[-1] or saved_at)


def _expired(sidecar: Sidecar, index: int, saved_at: float) -> Expired:
    output = sidecar.outputs[index]
    return Expired(
        sidecar.run_id,
        sidecar.technique,
        index,
        output.path or "",
        output.bytes or 0,
        saved_at,
        begun=output.removed is not None,
    )


class Pruner:
    """Removes files. `reason` and `wall` (unix seconds) are for the sidecars; `report` gets what was done.

    `is_open` says of a run whether it is worked on by now: what was queued again meanwhile is left alone.
    """

    def __init__(
        self,
        library: LibraryStore,
        reason: RemovalReason,
        wall: Callable[[], float],
        report: Callable[[Pruned], None] = lambda _: None,
        is_open: Callable[[str], bool] = lambda _: False,
        *,
        keep_times: bool,
    ) -> None:
        self._library = library
        self._is_open = is_open
        self._reason = reason
        self._wall = wall
        self._report = report
        self._keep_times = keep_times
        self._seen: dict[str, StoredFile | None] = {}  # by path, as it was before it was read

    def prune(
        self, files: Iterable[Expired], is_enough: Callable[[], bool] | None = None, at_once: int = _AT_ONCE
    ) -> Pruned:
        """Remove `files`, of so many runs `at_once`; what is not as its sidecar says stays.

        Before each time `is_enough` is asked whether to stop. Raises `ServicePausedError`.
        """
        done = Pruned()
        groups = (list(group) for _, group in groupby(files, key=lambda each: each.run_id))
        while (is_enough is None or not is_enough()) and (batch := list(islice(groups, at_once))):
            self._remove(batch, done)
        return done

    def accept(self, gone: Sequence[Expired]) -> Pruned:
        """Record that files are gone which somebody deleted. Raises `ServicePausedError`."""
        done = Pruned()
        runs = [list(group) for _, group in groupby(gone, key=lambda each: each.run_id)]
        for begin in range(0, len(runs), _AT_ONCE):
            batch = runs[begin : begin + _AT_ONCE]
            works = [partial(self._mark, run, self._is_gone, keeps_path=False) for run in batch]
            self._collect(batch, works, done)
            self._report(done)
        return done

    def _is_gone(self, output: SavedOutput) -> str | None:
        return None if self._library.stat(output.path or "") is None else "it is there again"

    def _remove(self, batch: Sequence[list[Expired]], done: Pruned) -> None:
        self._seen.clear()
        works = [partial(self._mark, run, self._is_sound, keeps_path=True) for run in batch]
        marked = self._collect(batch, works, Pruned(left=done.left))
        # Reading what comes before took its time: a run that is fetched again by now may have these files.
        marked = [run for run in marked if run and not self._is_open(run[0].run_id)]
        stays: set[tuple[str, int]] = set()
        for run in marked:
            for each in run:
                if each.is_shared:
                    continue
                there = self._library.stat(each.path)
                if there is not None and there != self._seen.get(each.path):  # written to meanwhile
                    done.left.append((each.path, _NOT_AS_SAID))
                    stays.add((each.run_id, each.index))
                    continue
                self._library.remove(each.path)
                self._remove_companion(each.path)
                done.files += 1
                done.bytes += each.size
        works = [partial(self._settle, run, stays) for run in marked]
        self._collect(marked, works, Pruned(left=done.left))
        self._report(done)

    def _remove_companion(self, path: str) -> None:
        """Remove the XMP beside a file, unless somebody else has written into it."""
        with suppress(ValueError, OSError):
            if (file := self._library.open_file(path + ENDING)) is None:
                return
            with file:
                data = file.read(MAX_BYTES + 1)
            if is_untouched(data):
                self._library.remove(path + ENDING)

    def _collect(
        self, batch: Sequence[list[Expired]], works: Sequence[Callable[[], list[Expired]]], done: Pruned
    ) -> list[list[Expired]]:
        """Do `works`, one for each run; return for each what it did, and note why it did not do more."""
        found = []
        for run, result in zip(batch, self._library.together(works), strict=True):
            if isinstance(result, ServicePausedError):
                raise result
            if isinstance(result, FloradlError):
                done.left += [(each.path, str(result)) for each in run]
            elif isinstance(result, Exception):
                raise result
            else:
                done.files += len(result)
                done.bytes += sum(each.size for each in result)
                done.left += [(each.path, _NOT_AS_SAID) for each in run if each not in result]
                found.append(result)
        return found

    def _is_sound(self, output: SavedOutput) -> str | None:
        """Say why a file may not be removed; None where it is what its sidecar says."""
        if output.path is None or output.sha256 is None:
            return _NOT_AS_SAID
        self._seen[output.path] = self._library.stat(output.path)
        return None if sha256_of(self._library, output.path) == output.sha256 else _NOT_AS_SAID

    def _mark(
        self, run: Sequence[Expired], judge: Callable[[SavedOutput], str | None], *, keeps_path: bool
    ) -> list[Expired]:
        """Have the sidecar say that files are removed, those of which `judge` finds nothing to say."""
        sidecar = self._read(run[0])
        if sidecar is None:
            return []
        removed = Removed(rfc3339(self._wall()) or "", self._reason)
        outputs, done = list(sidecar.outputs), []
        for each in run:
            output = outputs[each.index] if each.index < len(outputs) else None
            if output is None or output.path != each.path:
                continue
            if each.is_shared:
                outputs[each.index] = replace(output, removed=output.removed or removed, path=None)
                done.append(each)
                continue
            if output.removed is not None:  # begun before: what stands there by now may be something else
                if self._is_sound(output) is None or self._library.stat(each.path) is None:
                    done.append(each)
                else:
                    outputs[each.index] = replace(output, path=None)
                continue
            if judge(output) is None:
                outputs[each.index] = replace(
                    output, removed=removed, path=output.path if keeps_path else None
                )
                done.append(each)
        if tuple(outputs) != sidecar.outputs:
            self._write(sidecar, outputs)
        return done

    def _settle(self, run: Sequence[Expired], stays: Container[tuple[str, int]]) -> list[Expired]:
        """Have the sidecar name no file that is removed; one that `stays` is not said to be."""
        sidecar = self._read(run[0]) if run else None
        if sidecar is None:
            return []
        outputs = list(sidecar.outputs)
        for each in run:
            output = outputs[each.index] if each.index < len(outputs) else None
            if output is None or output.removed is None or output.path != each.path:
                continue
            is_left = (each.run_id, each.index) in stays
            outputs[each.index] = replace(output, removed=None) if is_left else replace(output, path=None)
        if tuple(outputs) != sidecar.outputs:
            self._write(sidecar, outputs)
        return list(run)

    def _read(self, file: Expired) -> Sidecar | None:
        return self._library.find_sidecar(Reference(file.run_id, file.technique))

    def _write(self, sidecar: Sidecar, outputs: Sequence[SavedOutput]) -> None:
        mtime = unix_seconds(sidecar.times.completed_at) if self._keep_times else None
        self._library.write_sidecar(replace(sidecar, outputs=tuple(outputs)), mtime, replacing=sidecar)


_NOT_AS_SAID: Final = "it is not as its sidecar says: it stays ('floradl verify' looks closer)"
