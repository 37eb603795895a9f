"""What has arrived of outputs that go into a bucket: in memory first, then in an upload that is not ended.

An attempt that breaks off leaves its arrival to the next one of this process. All of them together take
little memory: only a few may be larger than 256 KiB, and the others wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, local
from typing import Final, Self

from floradl.errors import ErrorCode, TransientError
from floradl.library.base import NotKeptError, StreamingSink
from floradl.library.object_client import Upload

AT_ONCE: Final = 8 << 20
"""Up to so many bytes are kept in memory, checked, and stored at once."""

MOST_LARGE: Final = 4
"""Arrivals that may take more than a little memory at once, up to 14 MiB each with what the client holds."""

_FREE: Final = 256 << 10  # bytes that an arrival may take without having a slot
_IDLE: Final = 64  # arrivals that wait for another attempt
_LOOK: Final = 1.0  # seconds
_UNLIMITED: Final = 1 << 60


class Arrival:
    """The bytes of one version of an output. Its sink alone uses it, while it `is_busy`."""

    def __init__(self, validator: str) -> None:
        self.validator = validator
        self.is_busy = self.has_slot = self.is_gone = False
        self.reset()

    def reset(self) -> None:
        """Give up what has arrived."""
        self.size = 0
        self.data = bytearray()
        self.tail = bytearray()
        self.head = b""
        self.digests: object | None = None
        self.ext: str | None = None
        self.path = ""
        self.rivals: list[str] = []
        if (upload := getattr(self, "upload", None)) is not None:
            upload.drop()
        self.upload: Upload | None = None


class Arrivals:
    """The arrivals of a library, by output. Thread-safe."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, Arrival] = OrderedDict()
        self._changed = Condition()
        self._slots = MOST_LARGE
        self._thread = local()

    def never_wait(self) -> None:
        """Have this thread wait for no slot: others that have one may need it to go on."""
        self._thread.never_waits = True

    def point(self, tag: str) -> tuple[str, int] | None:
        """Return validator and size of what has arrived of an output."""
        with self._changed:
            found = self._of.get(tag)
            return (found.validator, found.size) if found else None

    def open(self, tag: str, validator: str) -> Arrival:
        """Return the arrival of a version, alone for the caller; others are given up.

        Raises `TransientError` while another attempt is at it.
        """
        with self._changed:
            found = self._of.get(tag)
            if found is not None and found.is_busy:
                raise TransientError("another attempt is at it", ErrorCode.STORAGE, retry_after=2.0)
            if found is None or found.validator != validator:
                self._drop(tag)
                found = self._of[tag] = Arrival(validator)
            self._of.move_to_end(tag)
            found.is_busy = True
            return found

    def leave(self, arrival: Arrival) -> None:
        """Let the next attempt have it. Safe to repeat."""
        with self._changed:
            arrival.is_busy = False
            if arrival.is_gone:
                self._free_slot(arrival)
            idle = [tag for tag, each in self._of.items() if not each.is_busy]
            for tag in idle[:-_IDLE]:
                self._drop(tag)
            self._changed.notify_all()

    def forget(self, tag: str, arrival: Arrival) -> None:
        """Remove it: it is published, or damaged. Safe to repeat."""
        with self._changed:
            arrival.reset()
            arrival.is_gone = True
            if self._of.get(tag) is arrival:
                del self._of[tag]
            self._free_slot(arrival)
            self._changed.notify_all()

    def take_slot(self, arrival: Arrival, size: int) -> None:
        """Wait until `arrival` may hold `size` bytes; one that only waits for an attempt gives way."""
        if arrival.has_slot or size <= _FREE:
            return
        with self._changed:
            while self._slots <= 0 and not getattr(self._thread, "never_waits", False):
                idle = (tag for tag, each in self._of.items() if each.has_slot and not each.is_busy)
                if (tag := next(idle, None)) is None:
                    self._changed.wait(_LOOK)
                else:
                    self._drop(tag)
            self._slots -= 1
            arrival.has_slot = True

    def _drop(self, tag: str) -> None:
        arrival = self._of.pop(tag, None)
        if arrival is not None:
            arrival.reset()
            arrival.is_gone = True
            self._free_slot(arrival)

    def _free_slot(self, arrival: Arrival) -> None:
        if arrival.has_slot:
            arrival.has_slot = False
            self._slots += 1


class ObjectSink(StreamingSink):
    """Holds what arrives in memory, and sends it on once it is more than `AT_ONCE` bytes.

    `begin` chooses where an arrival of this extension and size goes, and opens its upload.
    """

    def __init__(
        self,
        arrivals: Arrivals,
        tag: str,
        arrival: Arrival,
        begin: Callable[[Arrival, str, int | None], Upload],
    ) -> None:
        self._arrivals = arrivals
        self._tag = tag
        self.arrival = arrival
        self._begin = begin
        self._total: int | None = None
        self._extension: Callable[[], str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Never the upload's end: what is not published is not stored.
        self._arrivals.leave(self.arrival)

    @property
    def size(self) -> int:
        return self.arrival.size

    @size.setter
    def size(self, size: int) -> None:
        raise AssertionError(f"no other process writes here ({size})")

    @property
    def is_sent(self) -> bool:  # type: ignore[override]
        return self.arrival.upload is not None

    @property
    def digests(self) -> object | None:
        return self.arrival.digests

    @digests.setter
    def digests(self, digests: object | None) -> None:
        self.arrival.digests = digests

    @property
    def ext(self) -> str | None:  # type: ignore[override]
        return self.arrival.ext

    def expect(self, total: int | None, extension: Callable[[], str]) -> None:
        self._total = total
        self._extension = extension

    def write(self, data: bytes | memoryview) -> None:
        """See `Sink.write`: an error of the store's gives up what was sent."""
        arrival = self.arrival
        after = arrival.size + len(data)
        self._arrivals.take_slot(arrival, max(after, self._total or 0))
        upload = arrival.upload
        if upload is None:
            arrival.data += data
            arrival.size = after
            # What is known to be large is sent on as soon as its beginning shows what it is.
            most = self.KEPT if (self._total or 0) > AT_ONCE else AT_ONCE
            if after > most and self._extension is not None:
                with self._given_up_on_error():
                    self._send_on(self._extension())
            return
        with self._given_up_on_error():
            upload.write(data)
        arrival.size = after
        if len(data) >= self.KEPT:
            arrival.tail = bytearray(data[-self.KEPT :])
            return
        if len(arrival.tail) + len(data) > 2 * self.KEPT:
            del arrival.tail[: -self.KEPT]
        arrival.tail += data

    def _send_on(self, ext: str) -> None:
        arrival = self.arrival
        upload = self._begin(arrival, ext, self._total)
        held, arrival.data = arrival.data, bytearray()
        arrival.ext, arrival.upload = ext, upload
        arrival.head, arrival.tail = bytes(held[: self.KEPT]), held[-self.KEPT :]
        with memoryview(held) as view:
            for offset in range(0, len(view), self.KEPT):
                upload.write(view[offset : offset + self.KEPT])

    @contextmanager
    def _given_up_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.arrival.reset()
            raise

    def read(self, size: int, offset: int) -> bytes:
        """See `StreamingSink`."""
        arrival = self.arrival
        if arrival.upload is None:
            return bytes(arrival.data[offset : offset + size])
        end = min(offset + size, arrival.size)
        if end <= len(arrival.head):
            return arrival.head[offset:end]
        first = arrival.size - len(arrival.tail)
        if offset < first:
            raise NotKeptError
        return bytes(arrival.tail[offset - first : max(end - first, 0)])

    def truncate(self, size: int) -> None:
        """See `StreamingSink`."""
        arrival = self.arrival
        if size > arrival.size:
            raise TransientError("it is shorter than it was", ErrorCode.STORAGE)
        if size == arrival.size:
            return
        if arrival.upload is None:
            del arrival.data[size:]
            arrival.size = size
            arrival.digests = None
            return
        arrival.reset()
        if size:
            raise TransientError("what was sent of it cannot be continued: it begins anew", ErrorCode.STORAGE)

    def discard(self) -> None:
        """See `Sink.discard`."""
        self._arrivals.forget(self._tag, self.arrival)

    def free_space(self) -> int:
        """See `Sink.free_space`: a store says nothing of it before it is full."""
        return _UNLIMITED

    def reserve(self, size: int) -> None:
        """See `Sink.reserve`: a store cannot."""

    def fileno(self) -> None:
        """See `Sink.fileno`."""
