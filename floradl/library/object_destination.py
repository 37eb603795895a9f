"""Where one output goes in a bucket: straight under its final name, which the store gives to one writer only.

What is taken is compared: the same bytes are adopted (an answer that was lost, another machine's work), and
for any other the next free name is tried.
"""

from __future__ import annotations

import hashlib
import itertools
import mimetypes
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Final

from msgspec import Struct

from floradl.errors import ErrorCode, TransientError
from floradl.fs.names import SafeName, fold
from floradl.library.base import Destination, ResumePoint, Sink
from floradl.library.destination import AttemptMemory
from floradl.library.object_arrivals import Arrival, Arrivals, ObjectSink
from floradl.library.object_client import ChangedError, ObjectClient, StoredObject, TakenError, Upload
from floradl.models import AttemptNotes, OutputKind

_NAMES: Final = 20_000  # that are remembered
_CHUNK: Final = 1 << 20
_NO_NOTES = AttemptNotes()
_NOBODY: Final = ""


class KnownNames:
    """Paths that this process gave or saw, so that no two differ in case only. Thread-safe."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._lock = Lock()

    def claim(self, path: str, owner: str) -> bool:
        """Whether `path` is `owner`'s, who has it from now on where nobody had; the oldest are forgotten."""
        with self._lock:
            key = fold(path)
            known, its_owner = self._names.setdefault(key, (path, owner))
            if known != path or its_owner not in {owner, _NOBODY}:
                return False
            self._names[key] = path, owner
            self._names.move_to_end(key)
            if len(self._names) > _NAMES:
                self._names.popitem(last=False)
            return True

    def release(self, path: str) -> None:
        """Have `path` claimed by nobody: it is that of an object that belongs to none who claims it."""
        with self._lock:
            self._names[fold(path)] = path, _NOBODY

    def drop(self, path: str) -> None:
        """Forget a path that is gone."""
        with self._lock:
            if (known := self._names.get(fold(path))) is not None and known[0] == path:
                del self._names[fold(path)]


class ObjectPlace(Struct, frozen=True):
    """What a destination knows of its library.

    `check` raises where the library is missing. `render` returns the components of the path for an extension
    and the number of the candidate, from 1. `damaged` has, by path, the SHA-256 of a damaged file's
    successor; `set_aside` moves such a file. `memory` has the notes of earlier attempts. `is_anothers` says
    of a path whether it is another output's; `earlier` returns that of this output's file, if it is retried.
    """

    client: ObjectClient
    check: Callable[[], None]
    render: Callable[[str, int], tuple[SafeName, ...]]
    names: KnownNames
    arrivals: Arrivals
    memory: AttemptMemory
    damaged: dict[str, str]
    set_aside: Callable[[str], None]
    is_anothers: Callable[[str], bool]
    earlier: Callable[[], str | None]


class ObjectDestination(Destination):
    """Where one output goes. `tag` is unique; `nth` counts outputs of the same id."""

    has_descriptors = False
    stored_etag: str | None = None

    def __init__(self, place: ObjectPlace, kind: OutputKind, tag: str, nth: int) -> None:
        self.kind = kind
        self._place = place
        self._tag = tag
        self._first = nth

    @property
    def notes(self) -> AttemptNotes:
        return self._place.memory.of(self._tag)

    def note(self, notes: AttemptNotes) -> None:
        self._place.memory.keep(self._tag, notes)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._place.check()
        yield

    def resume_point(self) -> ResumePoint | None:
        self._place.check()
        found = self._place.arrivals.point(self._tag)
        return ResumePoint(*found) if found else None

    def open(self, validator: str) -> ObjectSink:
        self._place.check()
        arrival = self._place.arrivals.open(self._tag, validator)
        return ObjectSink(self._place.arrivals, self._tag, arrival, self._begin)

    def publish(self, sink: Sink, ext: str, sha256: str, mtime: float | None) -> str:  # noqa: ARG002 - a store has its own times
        if not isinstance(sink, ObjectSink):
            raise TypeError("this sink is another library's")
        self._place.check()
        arrival = sink.arrival
        if arrival.upload is None:
            path = self._store(arrival, ext, sha256)
        else:
            path = self._end(arrival, arrival.upload, sha256)
        self.note(_NO_NOTES)
        size = arrival.size
        self._place.arrivals.forget(self._tag, arrival)
        arrival.size = size  # whoever saved it still asks
        return path

    def _candidates(self, ext: str) -> Iterator[str]:
        """Yield the paths to try, in order, that are nobody else's."""
        for distinct in itertools.count(self._first):
            path = "/".join(self._place.render(ext, distinct))
            if self._place.names.claim(path, self._tag):
                yield path

    def _store(self, arrival: Arrival, ext: str, sha256: str) -> str:
        """Store what is in memory, at once."""
        client, data = self._place.client, bytes(arrival.data)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        content = _Content(len(data), sha256, md5)
        if (earlier := self._place.earlier()) is not None and self._adopt(earlier, content):
            return earlier
        for path in self._candidates(ext):
            try:
                client.create(path, data, content_type_of(ext), sha256)
            except TakenError:
                there = client.stat(path)
                if there is None:
                    raise _fleeting(client.place(path)) from None
                is_alike = is_same(client, there, content)
                if is_alike and not self._place.is_anothers(path):
                    self.stored_etag = there.etag or None
                    return path
                if is_alike or self._place.damaged.get(path) != sha256:
                    self._place.names.release(path)  # the object's own output may be saved again
                    continue
                self._place.set_aside(path)
                self._create_again(path, data, ext, sha256)
            self.stored_etag = f'"{md5}"' if client.sums_etags else self._look(path, content)
            return path
        raise AssertionError("counting ended")

    def _adopt(self, path: str, content: _Content) -> bool:
        """Whether an object with these bytes is at `path`: then it is this output's."""
        there = self._place.client.stat(path)
        if there is None or not is_same(self._place.client, there, content):
            return False
        self.stored_etag = there.etag or None
        return True

    def _create_again(self, path: str, data: bytes, ext: str, sha256: str) -> None:
        try:
            self._place.client.create(path, data, content_type_of(ext), sha256)
        except TakenError:
            raise _fleeting(self._place.client.place(path)) from None

    def _begin(self, arrival: Arrival, ext: str, total: int | None) -> Upload:
        """Choose a free name, and open its upload; what stands under the names before it is noted."""
        client = self._place.client
        for path in self._candidates(ext):
            if client.stat(path) is not None and path not in self._place.damaged:
                arrival.rivals.append(path)
                self._place.names.release(path)
                continue
            arrival.path = path
            return client.upload(path, total, content_type_of(ext))
        raise AssertionError("counting ended")

    def _end(self, arrival: Arrival, upload: Upload, sha256: str) -> str:
        """End an upload, or adopt what is the same already."""
        client, path = self._place.client, arrival.path
        content = _Content(arrival.size, sha256)
        earlier = self._place.earlier()
        rivals: list[str] = [*arrival.rivals]
        for rival in rivals if earlier is None else [earlier, *rivals]:
            # Whose it is is asked last: that may take long.
            if self._adopt(rival, content) and (rival == earlier or not self._place.is_anothers(rival)):
                upload.drop()
                return rival
        try:
            if self._place.damaged.get(path) == sha256 and client.stat(path) is not None:
                self._place.set_aside(path)
            upload.close()
        except TakenError:
            there = client.stat(path)
            arrival.reset()
            if there is None or not is_same(client, there, content) or self._place.is_anothers(path):
                self._place.damaged.pop(path, None)  # it is not what was expected
                raise TransientError(
                    f"{client.place(path)}: another program stored it meanwhile: the output is sent anew, "
                    "under another name",
                    ErrorCode.STORAGE,
                ) from None
            self.stored_etag = there.etag or None
            return path
        except BaseException:
            arrival.reset()
            raise
        self.stored_etag = self._look(path, content)
        return path

    def _look(self, path: str, content: _Content) -> str | None:
        """Compare what the store says of a new object with what was sent; return its ETag."""
        there = self._place.client.stat(path)
        if there is None:
            raise _fleeting(self._place.client.place(path))
        if there.size != content.size or (there.md5 and content.md5 and _hex(there.md5) != content.md5):
            raise TransientError(
                f"{self._place.client.place(path)}: the store has other bytes than were sent",
                ErrorCode.DAMAGED,
            )
        return there.etag or None


class _Content(Struct, frozen=True):
    """What is to be stored: its size, and hashes in hexadecimal; an empty MD5 where it was not taken."""

    size: int
    sha256: str
    md5: str = ""


def is_same(client: ObjectClient, there: StoredObject, content: _Content) -> bool:
    """Whether an object holds these bytes: by the store's MD5 of them, else by reading it."""
    if there.size != content.size:
        return False
    if content.md5 and client.sums_etags and there.etag.strip('"') == content.md5:
        return True
    digest = hashlib.sha256()
    for offset in range(0, there.size, _CHUNK * 4):
        try:
            data = client.read(there.key, offset, min(_CHUNK * 4, there.size - offset), there.etag)
        except ChangedError:
            return False
        if data is None:
            return False
        digest.update(data)
    return digest.hexdigest() == content.sha256


@cache
def content_type_of(ext: str) -> str | None:
    """Return what browsers are to take a file with this extension for."""
    return mimetypes.guess_type(f"x{ext}", strict=False)[0]


def _hex(base64_md5: str) -> str:
    import base64  # noqa: PLC0415 - few stores say it so

    try:
        return base64.b64decode(base64_md5).hex()
    except ValueError:
        return ""


def _fleeting(place: str) -> TransientError:
    return TransientError(f"{place} comes and goes: another program works there", ErrorCode.STORAGE)
