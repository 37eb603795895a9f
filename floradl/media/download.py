"""One URL becomes one verified part file. Blocking: it runs in a worker thread, one a transfer.

A leftover is continued only where its name says that it holds bytes of the very representation offered
now (strong ETag and size). `Range` is sent without `If-Range`: the validator of the 206 is compared here,
which is the same proof (RFC 9110, 13.1.5 and 15.3.7) and needs no memory of the ETag across a restart.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, Protocol, Self, TypeVar

import httpx
import msgspec

from floradl.disk.files import AppendedFile, PartFile
from floradl.errors import ErrorCode, PassingError, PausedError, PauseReason, PermanentError
from floradl.media import containers, sniff
from floradl.media.checksums import Digests
from floradl.media.inflate import inflate
from floradl.media.offers import Offer, offer_of, refusal_of
from floradl.media.signatures import HEAD
from floradl.models import Integrity, Kind
from floradl.net.transport import Guard, MediaClient, pieces, redirect_target

_MAX_REDIRECTS = 5
_CHECK_DISK_EVERY = 32 << 20  # bytes

P = TypeVar("P", bound=AppendedFile)
P_co = TypeVar("P_co", bound=AppendedFile, covariant=True)
Report = Callable[[int, int | None], None]


class StoppedError(Exception):
    """The transfer was told to stop; its part file stays, to be continued."""


class Limits(msgspec.Struct, frozen=True):
    """What a transfer may take: bytes, and seconds in all."""

    max_file_size: int | None
    min_free_space: int
    deadline: float


class Slot(Protocol[P_co]):
    """Where the part file of one output lies. `validator` stands in its name; empty means none."""

    kind: Kind

    def held(self) -> AbstractContextManager[None]:
        """Keep its folder open meanwhile."""
        ...

    def leftover(self) -> tuple[str, int] | None:
        """Return validator and size of what an earlier attempt left."""
        ...

    def open(self, validator: str) -> P_co:
        """Open the part file for `validator`; leftovers of others go."""
        ...


class Finding(msgspec.Struct, frozen=True):
    """What a whole part file turned out to be, and by what that is known."""

    ext: str
    sha256: str
    content_type: str | None
    etag: str | None
    integrity: Integrity
    checked: tuple[str, ...]


class Received(msgspec.Struct, Generic[P], frozen=True):
    """A whole, checked part file, open and locked: to be published inside `with`, which closes it."""

    part: P
    finding: Finding

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.part.__exit__()


class Fetcher(Protocol):
    """Who fetches."""

    def fetch(self, url: str, slot: Slot[PartFile], report: Report) -> Received[PartFile]:
        """Fetch `url` as `Downloader.fetch` does."""
        ...


class Downloader:
    """Fetches outputs with a client that has no credentials, over connections that `guard` allows.

    `monotonic` gives the seconds that count for the deadline.
    """

    def __init__(
        self,
        client: MediaClient,
        guard: Guard,
        limits: Limits,
        stop: threading.Event | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._guard = guard
        self._limits = limits
        self._stop = stop or threading.Event()
        self._monotonic = monotonic

    def change(self, limits: Limits) -> None:
        """Let these hold from now on, for transfers under way too, but for their deadline."""
        self._limits = limits

    def fetch(self, url: str, slot: Slot[P], report: Report) -> Received[P]:
        """Fetch `url` into the slot's part file, continuing what is there; `report` hears bytes and total.

        Raises `PassingError` (`ExpiredUrlError` where FLORA should be asked for a fresh URL),
        `PermanentError`, `PausedError` (disk), `StoppedError`, and `OSError` of the library.
        """
        with slot.held():
            return self._fetch(url, slot, report)

    def _fetch(self, url: str, slot: Slot[P], report: Report) -> Received[P]:
        validator, size = slot.leftover() or ("", 0)
        # One byte less than there is: such a range can be satisfied even when the file is complete.
        start = max(size - 1, 0) if validator else 0
        with self._ask(url, start) as response:
            offer = offer_of(response)
            if offer.first == 0 or (offer.first == start and offer.validator == validator):
                return self._receive(response, offer, slot, report)
        with self._ask(url, 0) as response:
            offer = offer_of(response)
            if offer.first != 0:
                raise PassingError("the media host answers with a part that was not asked for")
            return self._receive(response, offer, slot, report)

    @contextmanager
    def _ask(self, url: str, start: int) -> Iterator[httpx.Response]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        with _wire_trouble():
            response = self._follow(url, headers)
            try:
                if start and response.status_code == 416:
                    response.close()
                    del headers["Range"]
                    response = self._follow(url, headers)
                if response.status_code not in {200, 206}:
                    raise refusal_of(response)
                yield response
            finally:
                response.close()

    def _follow(self, url: str, headers: dict[str, str]) -> httpx.Response:
        """Send the request, following redirects by hand: each hop is checked like the first."""
        try:
            target: httpx.URL = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError):  # the cause may quote the query
            raise PermanentError("the output's URL is not a URL", ErrorCode.BAD_URL) from None
        for _ in range(_MAX_REDIRECTS + 1):
            self._guard.check(target)
            request = self._client.build_request("GET", target, headers=headers)
            response = self._client.send(request, stream=True)
            try:
                further = redirect_target(response)
            except BaseException:
                response.close()
                raise
            if further is None:
                return response
            response.close()
            target = further
        raise PermanentError(
            f"the media host {target.host} redirects more than {_MAX_REDIRECTS} times", ErrorCode.HTTP_ERROR
        )

    def _receive(self, response: httpx.Response, offer: Offer, slot: Slot[P], report: Report) -> Received[P]:
        self._check_size(offer.total)
        part = slot.open(offer.validator)
        try:
            part.truncate(offer.first)
            digests = Digests(offer.expected)
            _rehash(part, digests)
            chunks = pieces(response)
            body = inflate(chunks, offer.coding) if offer.coding else chunks
            self._copy(body, part, offer, digests, report)
            return Received(part, self._check(response, offer, part, digests, slot.kind))
        except (PassingError, PermanentError) as error:
            if error.code in {ErrorCode.DAMAGED, ErrorCode.NOT_MEDIA, ErrorCode.TOO_LARGE}:
                part.discard()
            part.__exit__()
            raise
        except BaseException:
            part.__exit__()
            raise

    def _copy(
        self,
        chunks: Iterable[bytes | memoryview],
        part: AppendedFile,
        offer: Offer,
        digests: Digests,
        report: Report,
    ) -> None:
        ends = self._monotonic() + self._limits.deadline
        disk_checked = -_CHECK_DISK_EVERY
        for chunk in chunks:
            if self._stop.is_set():
                raise StoppedError
            if part.size - disk_checked >= _CHECK_DISK_EVERY:
                self._check_disk(part, offer.total)
                disk_checked = part.size
            part.write(chunk)
            digests.update(chunk)
            self._check_size(part.size)
            if self._monotonic() > ends:
                raise PermanentError(
                    f"its transfer was not done within {self._limits.deadline:.0f} s (poll.give_up_after); "
                    "`floradl retry` goes on where it stopped",
                    ErrorCode.GAVE_UP,
                )
            report(part.size, offer.total)

    def _check_size(self, size: int | None) -> None:
        cap = self._limits.max_file_size
        if cap is not None and size is not None and size > cap:
            raise PermanentError(
                f"it is over {cap} bytes, the limit that download.max_file_size sets", ErrorCode.TOO_LARGE
            )

    def _check_disk(self, part: AppendedFile, total: int | None) -> None:
        stat = os.fstatvfs(part.fd)
        missing = max((total or 0) - part.size, 0)
        free = stat.f_bavail * stat.f_frsize
        if free - missing < self._limits.min_free_space:
            raise PausedError(
                f"the library's disk has {free >> 20} MiB free and download.min_free_space keeps "
                f"{self._limits.min_free_space >> 20} MiB: make room, or lower the setting",
                PauseReason.DISK_FULL,
            )

    def _check(
        self, response: httpx.Response, offer: Offer, part: AppendedFile, digests: Digests, kind: Kind
    ) -> Finding:
        """Decide whether what arrived is whole, and say by what."""
        head = part.read(HEAD, 0)
        content_type = response.headers.get("content-type")
        try:
            sniff.refuse_not_media(head, content_type, kind)
        except PermanentError as error:  # a page of a proxy, or nothing at all, may stand there for a while
            raise PassingError(str(error), error.code) from None
        if offer.total is not None and part.size != offer.total:
            raise PassingError(f"{part.size} of {offer.total} bytes arrived", ErrorCode.DAMAGED)
        if not digests.agree():
            raise PassingError(
                f"the bytes do not match the server's {digests.algorithm} checksum", ErrorCode.DAMAGED
            )
        ext = sniff.extension(head, content_type, response.url.path, kind)
        checked = ["length"] if offer.total is not None else []
        integrity = Integrity.LENGTH_ONLY if checked else Integrity.UNVERIFIED
        if digests.algorithm is not None:
            checked.append(digests.algorithm)
            integrity = Integrity.VERIFIED
        if integrity is Integrity.UNVERIFIED:
            # Nothing says how long it should be: a proxy that lost its server ends the body in good form.
            whole = containers.is_whole(part.fd, part.size, ext)
            if whole is False:
                raise PassingError(
                    f"the server gives no length, and the {ext} file is cut short", ErrorCode.DAMAGED
                )
            if whole:
                checked.append("container")
        return Finding(
            ext=ext,
            sha256=digests.sha256,
            content_type=content_type,
            etag=response.headers.get("etag"),
            integrity=integrity,
            checked=tuple(checked),
        )


def _rehash(part: AppendedFile, digests: Digests) -> None:
    offset = 0
    while offset < part.size:
        chunk = part.read(1 << 20, offset)
        if not chunk:
            raise PassingError("the part file is shorter than it was", ErrorCode.DAMAGED)
        digests.update(chunk)
        offset += len(chunk)


@contextmanager
def _wire_trouble() -> Iterator[None]:
    """Translate httpx's errors; their texts can hold whole URLs, so only their kind is told."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise PassingError(f"the media host does not answer in time ({type(error).__name__})") from error
    except httpx.RequestError as error:
        raise PassingError(f"the transfer broke ({type(error).__name__})") from error
