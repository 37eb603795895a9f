"""One URL becomes one verified part file. Blocking: it runs in a worker thread, one a transfer.

A part file is continued only where its name has the validator of the version offered now, and some bytes are
the same (`resume`). `Range` is sent without `If-Range`: the validator of the 206 is compared here, which is
the same proof (RFC 9110, 13.1.5 and 15.3.7), and some servers answer a stale `If-Range` with a 206.

A whole answer is compared with the part file from the first byte on, and only different or new bytes are
written: so nothing is lost where a host refuses ranges and the connection breaks again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, Self

import httpx
import msgspec

from floradl import urls
from floradl.download.checksums import ChecksumSet, Proof, disagreement, proof_of, signed_fields
from floradl.download.file_type import sniff
from floradl.download.file_type.signatures import beginning
from floradl.download.inspection import LocalCopy, beginning_of, is_whole, local_copy
from floradl.download.resume import (
    OVERLAP,
    Answer,
    BytesDifferError,
    ContentOffer,
    RangeRefusedError,
    StartOverError,
    append,
    compare_head,
    digests_of,
    discard_parts,
    is_weak,
    offer_of,
    refusal_of,
    refuses_range,
    resuming,
    takes_ranges,
    wire_errors,
)
from floradl.errors import (
    ErrorCode,
    OverLimitError,
    PauseReason,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.library.base import Destination, DownloadTarget, Sink, StreamingSink
from floradl.models import Integrity, OutputKind
from floradl.net import url_policy
from floradl.net.client import MediaClient
from floradl.net.http11 import Piece, pieces
from floradl.net.plain_exchange import SmallAnswer
from floradl.net.url_policy import UrlPolicy, redirect_target
from floradl.urls import is_data_url

_MAX_REDIRECTS = 5
_REQUESTED = "floradl_requested_path"  # of a response: the path before redirects
_CHECK_DISK_EVERY = 32 << 20  # bytes
_WORTH_RESERVING = 16 << 20  # bytes; a smaller file is soon there

Report = Callable[[int, int | None], None]


class DownloadStoppedError(Exception):
    """The transfer was stopped; its part file stays, to be continued."""


class DownloadLimits(msgspec.Struct, frozen=True):
    """Limits of a transfer: bytes, and seconds in all."""

    max_file_size: int | None
    min_free_space: int
    deadline: float


class TypeCheck(msgspec.Struct, frozen=True):
    """The type of a whole part file, its hash, and what proved that it is whole."""

    ext: str
    sha256: str
    content_type: str | None
    etag: str | None
    integrity: Integrity
    checked: tuple[str, ...]


class Received(msgspec.Struct, frozen=True):
    """A sink that holds a whole, checked output: publish it inside `with`, which closes the sink."""

    sink: Sink
    finding: TypeCheck

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sink.__exit__()


class Fetcher(Protocol):
    """Downloads outputs, in this process or a worker."""

    def fetch(self, url: str, destination: Destination, report: Report) -> Received:
        """See `Downloader.fetch`."""
        ...


class Downloader:
    """Fetches outputs with a client without credentials, from where `url_policy` allows.

    `monotonic` returns the seconds that count for the deadline.
    """

    def __init__(
        self,
        client: MediaClient,
        url_policy: UrlPolicy,
        limits: DownloadLimits,
        stop: threading.Event | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._url_policy = url_policy
        self.limits = limits
        """What holds for new transfers."""
        self._stop = stop or threading.Event()
        self._monotonic = monotonic

    def change(self, limits: DownloadLimits) -> None:
        """Apply `limits` from now on; transfers under way keep their deadline."""
        self.limits = limits

    def fetch(self, url: str, target: DownloadTarget, report: Report) -> Received:
        """Fetch `url` into the target's part file, continuing it; `report` gets bytes and total.

        A `data:` URL is decoded. Raises `TransientError` (`ExpiredUrlError` where a fresh URL is needed),
        `PermanentError` (`OverLimitError` where it is over `max_file_size`), `ServicePausedError` (disk),
        `DownloadStoppedError`.
        """
        with target.held():
            if is_data_url(url):
                return self._decode(url, target, report)
            return self._fetch(url, target, report)

    @property
    def is_unlimited(self) -> bool:
        """Whether no limit on the bandwidth is set."""
        return self._client.is_unlimited

    def receive(
        self, answer: Answer, body: Iterable[Piece], target: DownloadTarget, report: Report
    ) -> Received:
        """Receive the answer to a request for the whole output; the caller holds `target`.

        Raises as `fetch`, for errors of `body` too.
        """
        with wire_errors():
            if answer.status_code != 200:
                raise refusal_of(answer)
            return self._receive_whole(answer, body, target, report)

    def keep(self, answer: Answer, offset: int, more: bytes, target: DownloadTarget) -> bool:
        """Write the bytes `more` at `offset` of an unfinished answer, if it can be continued later.

        The caller holds `target`. Returns whether it wrote them.
        """
        offer = offer_of(answer)
        if not offer.validator:
            return False
        with target.open(offer.validator) as sink:
            if sink.size != offset:
                return False
            self._check_disk(sink, offer.total)
            self._note_promises(offer, target)
            sink.write(more)
        return True

    def _decode(self, url: str, target: DownloadTarget, report: Report) -> Received:
        inline = urls.decode(url)
        self._check_size(len(inline.data), len(inline.data))
        head = beginning(lambda size, offset: inline.data[offset : offset + size])
        # What is refused is refused for good: a retry decodes the same.
        ext = sniff.identify(head, inline.content_type, "", target.kind)
        sink = target.open("")
        try:
            sink.truncate(0)
            if isinstance(sink, StreamingSink):
                sink.expect(len(inline.data), lambda: ext)
            self._check_disk(sink, len(inline.data))
            sink.write(inline.data)
            report(sink.size, sink.size)
            _refuse_cut(sink, ext)
        except BaseException:
            sink.__exit__()
            raise
        finding = TypeCheck(
            ext=ext,
            sha256=hashlib.sha256(inline.data).hexdigest(),
            content_type=inline.content_type,
            etag=None,
            integrity=Integrity.VERIFIED,
            checked=("inline",),
        )
        return Received(sink, finding)

    def _fetch(self, url: str, target: DownloadTarget, report: Report) -> Received:
        validator, size = target.resume_point() or ("", 0)
        if validator and size > OVERLAP and takes_ranges(target):
            with suppress(StartOverError):
                return self._resume(url, validator, target, report)
        with self._get(url) as response:
            return self._receive_whole(response, pieces(response), target, report)

    def _resume(self, url: str, validator: str, target: DownloadTarget, report: Report) -> Received:
        """Continue the part file of `validator`. Raises as `fetch`, and `StartOverError`."""
        sink = target.open(validator)
        with resuming(sink, target):
            start = sink.size - OVERLAP
            if start <= 0:  # another attempt changed it meanwhile
                raise StartOverError
            if is_weak(validator):
                # First, and to its end: a second connection could wait for this one.
                with self._get(url, 0, OVERLAP - 1) as response:
                    if response.status_code == 200:
                        sink.__exit__()
                        return self._receive_whole(response, pieces(response), target, report)
                    compare_head(response, validator, sink)
            with self._get(url, start) as response:
                if response.status_code == 200:
                    sink.__exit__()
                    return self._receive_whole(response, pieces(response), target, report)
                offer = offer_of(response)
                if not (offer.is_from(start) and offer.continues(validator)):
                    raise StartOverError
                offer = offer.with_promises_of(validator, target.notes)
                return self._receive(_ResponseBody(response, offer, sink, pieces(response)), target, report)

    @contextmanager
    def _get(self, url: str, first: int | None = None, last: int | None = None) -> Iterator[httpx.Response]:
        """Request the bytes from `first` to `last`, all from `first`, or the whole.

        Raises `RangeRefusedError` where the host may refuse only the range.
        """
        ranged = first is not None
        headers = {"Range": f"bytes={first}-{'' if last is None else last}"} if ranged else {}
        with wire_errors():
            response = self._follow(url, headers)
            try:
                status = response.status_code
                if status not in {200, 206}:
                    refusal = refusal_of(response)
                    raise RangeRefusedError(status, refusal) if ranged and refuses_range(status) else refusal
                yield response
            finally:
                response.close()

    def _follow(self, url: str, headers: dict[str, str]) -> httpx.Response:
        """Send the request, and follow redirects: the URL policy checks each hop."""
        try:
            target = requested = url_policy.parse(url)
        except (httpx.InvalidURL, UnicodeError):  # the cause may quote the query
            raise PermanentError("the output's URL is not a URL", ErrorCode.BAD_URL) from None
        for _ in range(_MAX_REDIRECTS + 1):
            self._url_policy.check(target)
            request = self._client.build_request("GET", target, headers={**headers, **signed_fields(target)})
            response = self._client.send(request, stream=True)
            try:
                further = redirect_target(response)
            except BaseException:
                response.close()
                raise
            if further is None:
                response.extensions[_REQUESTED] = requested.path
                return response
            response.close()
            target = further
        raise PermanentError(
            f"the media host {target.host} redirects more than {_MAX_REDIRECTS} times", ErrorCode.HTTP_ERROR
        )

    def _receive_whole(
        self, response: Answer, pieces: Iterable[Piece], target: DownloadTarget, report: Report
    ) -> Received:
        offer = offer_of(response)
        if not offer.is_from(0):
            raise TransientError("the media host answers with a part that was not asked for")
        try:
            self._check_size(offer.total, offer.total)
        except OverLimitError:
            discard_parts(target, offer.validator)
            raise
        codings: tuple[str, ...] = ()
        if offer.codings:
            from floradl.download.decompress import undo  # noqa: PLC0415 - media are seldom coded

            pieces, codings = undo(pieces, offer.codings)
            offer = offer.decoded() if codings else offer
        sink = target.open(offer.validator)
        if isinstance(sink, StreamingSink) and sink.is_sent:
            sink.truncate(0)  # it cannot be compared with a whole body
        self._note_promises(offer, target)
        return self._receive(_ResponseBody(response, offer, sink, pieces, codings), target, report)

    def _note_promises(self, offer: ContentOffer, target: DownloadTarget) -> None:
        """Note the checksums of the whole for later attempts: a range may come without them."""
        if offer.validator and offer.expected and (offer.total or 0) > OVERLAP:
            notes = msgspec.structs.replace(target.notes, validator=offer.validator, promised=offer.expected)
            target.note(notes)

    def _receive(self, transfer: _ResponseBody, target: DownloadTarget, report: Report) -> Received:
        """Receive into the part file, and close it on an error.

        Raises `BytesDifferError`, with the part file open, where a range differs from it.
        """
        sink, offer = transfer.sink, transfer.offer
        try:
            self._check_size(offer.total, offer.total)
            if not offer.validator:
                sink.truncate(0)
            digests = digests_of(sink, offer)
            if isinstance(sink, StreamingSink):
                sink.expect(offer.total, lambda: sniff.extension(*_seen(transfer, target.kind)))
                sink.digests = digests
            with local_copy(sink, offer.total) as copy:
                self._copy(transfer if copy is None else transfer.through(copy), digests, report)
                return Received(sink, self._check(transfer, digests, target, copy))
        except BytesDifferError:
            raise
        except (TransientError, PermanentError) as error:
            if error.code in {ErrorCode.DAMAGED, ErrorCode.NOT_MEDIA, ErrorCode.TOO_LARGE}:
                sink.discard()
            sink.__exit__()
            raise
        except BaseException:
            sink.__exit__()
            raise

    def _copy(self, transfer: _ResponseBody, digests: ChecksumSet, report: Report) -> None:
        """Compare the body with the part file, and append what is new."""
        sink, total = transfer.sink, transfer.offer.total
        ends = self._monotonic() + self.limits.deadline
        self._check_disk(sink, total)
        disk_checked = sink.size
        if total is not None and total - sink.size >= _WORTH_RESERVING:
            sink.reserve(total)
        at = transfer.offer.first
        for chunk in transfer.body:
            if sink.size - disk_checked >= _CHECK_DISK_EVERY:
                self._check_disk(sink, total)
                disk_checked = sink.size
            append(sink, at, chunk, may_differ=transfer.offer.first == 0)
            digests.update(chunk[digests.taken - at :] if at < digests.taken else chunk)
            at += len(chunk)
            if self._stop.is_set():  # what came is kept
                raise DownloadStoppedError
            self._check_size(at, None)
            if self._monotonic() > ends:
                raise PermanentError(
                    f"its transfer was not done within {self.limits.deadline:.0f} s (poll.give_up_after); "
                    "`floradl retry` continues it",
                    ErrorCode.GAVE_UP,
                )
            report(at, total)
        if at < sink.size:
            sink.truncate(at)

    def _check_size(self, size: int | None, total: int | None) -> None:
        """Raise `OverLimitError` where `size` bytes, of `total` if that is known, are too many."""
        cap = self.limits.max_file_size
        if cap is not None and size is not None and size > cap:
            raise OverLimitError(f"it is over {cap:,} bytes (download.max_file_size)", total)

    def _check_disk(self, sink: Sink, total: int | None) -> None:
        missing = max((total or 0) - sink.size, 0)
        free = sink.free_space()
        if free - missing < self.limits.min_free_space:
            raise ServicePausedError(
                f"the library's disk has {free >> 20} MiB free, this output needs {-(-missing >> 20)} MiB "
                f"more and download.min_free_space keeps {self.limits.min_free_space >> 20} MiB: make room, "
                "or lower the setting",
                PauseReason.DISK_FULL,
                needed=missing,
            )

    def _check(
        self,
        transfer: _ResponseBody,
        digests: ChecksumSet,
        target: DownloadTarget,
        copy: LocalCopy | None,
    ) -> TypeCheck:
        """Check that the part file is whole and media; return its type and what proved it."""
        response, offer, sink = transfer.response, transfer.offer, transfer.sink
        try:
            ext = sniff.identify(*_seen(transfer, target.kind))
        except PermanentError as error:  # a proxy's page, or an empty answer, may pass
            raise TransientError(str(error), error.code) from None
        if offer.total is not None and sink.size != offer.total:
            raise TransientError(f"{sink.size} of {offer.total} bytes arrived", ErrorCode.DAMAGED)
        if isinstance(sink, StreamingSink) and sink.ext is not None:
            ext = sink.ext
        proof = self._prove(transfer, digests, target)
        checked = ["length"] if offer.total is not None else []
        checked += proof.names
        integrity = Integrity.LENGTH_ONLY if offer.total is not None else Integrity.UNVERIFIED
        if proof.holds:
            integrity = Integrity.VERIFIED
        if integrity is Integrity.UNVERIFIED:
            # Without a length: a proxy that lost its server ends a body in good form.
            whole = is_whole(sink, ext, copy)
            if whole is False:
                raise TransientError(
                    f"the server gives no length, and the {ext} file is cut short", ErrorCode.DAMAGED
                )
            if whole:
                checked.append("container")
        return TypeCheck(
            ext=ext,
            sha256=digests.sha256,
            content_type=response.headers.get("content-type"),
            etag=response.headers.get("etag"),
            integrity=integrity,
            checked=tuple(checked),
        )

    def _prove(self, transfer: _ResponseBody, digests: ChecksumSet, target: DownloadTarget) -> Proof:
        """Compare the file with the server's checksum. Raises `TransientError` where it differs.

        The second time for the same bytes the checksum is wrong, since no transfer error repeats exactly: on
        Azure a block list has whatever checksum its writer gave. `TypeCheck.checked` names it.
        """
        proof = proof_of(digests, transfer.response.headers, transfer.undone)
        if proof.wrong is None:
            return proof
        if target.notes.disagreed != digests.sha256:
            target.note(msgspec.structs.replace(target.notes, disagreed=digests.sha256))
            raise disagreement(proof.wrong)
        return proof


class _ResponseBody(msgspec.Struct, frozen=True):
    """An answer and the open part file for it. `undone` are the codings that `body` no longer has."""

    response: Answer
    offer: ContentOffer
    sink: Sink
    body: Iterable[bytes | memoryview]
    undone: tuple[str, ...] = ()

    def through(self, copy: LocalCopy) -> _ResponseBody:
        """Return it with a body that is copied as it is read."""
        return msgspec.structs.replace(self, body=copy.of(self.body))


def _seen(
    transfer: _ResponseBody, kind: OutputKind
) -> tuple[bytes, str | None, str, OutputKind, str | None, str]:
    """Return what `sniff` tells the type by."""
    response, headers = transfer.response, transfer.response.headers
    content_type, disposition = headers.get("content-type"), headers.get("content-disposition")
    in_memory = response.body if isinstance(response, SmallAnswer) and not transfer.undone else None
    head, path = beginning_of(transfer.sink, in_memory), response.url.path
    return head, content_type, path, kind, disposition, _requested(response)


def _requested(response: Answer) -> str:
    """Return the path before redirects."""
    if not isinstance(response, httpx.Response):
        return response.url.path
    requested: str = response.extensions.get(_REQUESTED, "")
    return requested


def _refuse_cut(sink: Sink, ext: str) -> None:
    if is_whole(sink, ext) is False:
        sink.discard()
        raise PermanentError(f"the {ext} file in its data: URL is cut short", ErrorCode.DAMAGED)
