"""Many new names, one flush: what was put into the same folder is put on disk together.

The flush of a folder costs about as much for one new name as for twenty. Nothing counts as done before it:
where it fails, all that hung on it is taken back and fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import msgspec

from floradl.disk.folders import FolderFd, sync_folder, sync_new

_T = TypeVar("_T")
TakeBack: TypeAlias = Callable[[FolderFd], None]
Flush: TypeAlias = Callable[[FolderFd, TakeBack], None]
"""Puts the new names of a folder on disk, at once or later; the second takes the new one back.

Later the folder may be open under another descriptor, which `TakeBack` is given: the first one may be some
other file's by then.
"""

FLUSH_NOW: Flush = sync_new


def leave(_: FolderFd) -> None:
    """Take nothing back: what is there is no worse than what was."""


class _Changed(msgspec.Struct):
    """A folder with new names, and for each which work brought it and what takes it back."""

    folder: FolderFd
    changes: list[tuple[int, TakeBack]]


def flushed_together(works: Sequence[Callable[[Flush], _T]]) -> list[_T | Exception]:
    """Do all `works`, then flush each folder that they changed once; returns what each gave, or its error.

    A work hands its folder to the `Flush` that it is given, instead of flushing. Blocking; what its error
    leaves behind is the work's own business, as it is where it flushes at once.
    """
    changed: dict[tuple[int, int], _Changed] = {}
    outcomes: list[_T | Exception] = []

    def later(folder: FolderFd, take_back: TakeBack) -> None:
        if folder.key not in changed:
            changed[folder.key] = _Changed(folder.dup(), [])
        changed[folder.key].changes.append((len(outcomes), take_back))

    try:
        for work in works:
            try:
                outcome: Any = work(later)
            except Exception as error:  # noqa: BLE001 - it is one work's, and handed to whoever waits for it
                outcome = error
            outcomes.append(outcome)
        for each in changed.values():
            try:
                sync_folder(each.folder)
            except OSError as error:
                for nth, take_back in each.changes:
                    with suppress(OSError):
                        take_back(each.folder)
                    outcomes[nth] = error
    finally:
        for each in changed.values():
            os.close(each.folder)
    return outcomes
