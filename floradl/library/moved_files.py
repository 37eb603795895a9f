"""Finds files that were moved or renamed by hand: by their size, then by their SHA-256."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, TypeVar

from floradl.errors import FloradlError
from floradl.library.base import LibraryStore, StoredFile
from floradl.portability import drop_cached, mark_sequential

_CHUNK: Final = 1 << 20
_K = TypeVar("_K")


def sha256_of(library: LibraryStore, path: str, report: Callable[[int], None] = lambda _: None) -> str | None:
    """Return the SHA-256 of a file of the library; None where it is not there, or cannot be read.

    `report` is called with the bytes that were read. Raises `ServicePausedError`: no library.
    """
    try:
        file = library.open_file(path)
    except (ValueError, OSError):
        return None
    if file is None:
        return None
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with file:
        try:
            mark_sequential(file.fileno())
            while size := file.readinto(buffer):  # type: ignore[attr-defined]
                digest.update(buffer[:size])
                report(size)
            drop_cached(file.fileno(), 0)
        except OSError:  # a bad block
            return None
    return digest.hexdigest()


def find_moved(
    library: LibraryStore, wanted: Mapping[_K, tuple[int | None, str | None]], unnamed: Iterable[StoredFile]
) -> dict[_K, str]:
    """Return where the files lie that are `wanted` by size and SHA-256, among those that no sidecar names.

    Only files of a size that is wanted are read. No file is given twice.
    """
    by_size: dict[int, dict[str, list[_K]]] = defaultdict(lambda: defaultdict(list))
    for key, (size, sha256) in wanted.items():
        if size is not None and sha256 is not None:
            by_size[size][sha256].append(key)
    found: dict[_K, str] = {}
    for file in unnamed:
        if not any(by_size.get(file.size, {}).values()):
            continue
        sha256 = None
        with suppress(FloradlError):
            sha256 = sha256_of(library, file.path)
        if sha256 is not None and (keys := by_size[file.size].get(sha256)):
            found[keys.pop(0)] = file.path
    return found
