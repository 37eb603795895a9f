"""A media host that answers byte for byte as a test says, and one output's way from it into a library."""

from __future__ import annotations

import math
import os
import re
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import ClassVar, Literal, Self

import httpx
from clients import client
from loopback import Certificate, Server, read_head

from floradl.download.checksums import signed_fields
from floradl.download.downloader import Downloader, DownloadLimits, Fetcher, Received, Report
from floradl.download.small_files import SmallFiles, body_of, raise_as_download
from floradl.errors import PermanentError
from floradl.library.base import Destination
from floradl.library.batch_writer import BatchWriter
from floradl.library.folder import MARKER, FolderLibrary
from floradl.library.path_plan import PathPlan
from floradl.models import Integrity, OutputKind, QueuedRun, RemoteOutput
from floradl.net import url_policy
from floradl.net.bandwidth import BandwidthLimiter
from floradl.net.client import MediaClient
from floradl.net.plain_exchange import NotPlainError, SmallAnswer, SmallRequest
from floradl.net.pool import PoolLimits as ClientLimits
from floradl.net.url_policy import UrlPolicy
from floradl.simulator import formats
from floradl.urls import is_data_url
from floradl.workers.pool import RemoteDownload
from floradl.workers.process import WorkerProcess
from floradl.workers.protocol import WorkerSettings

PNG = formats.png("wire", "wire", 3000).read()
OTHER_PNG = formats.png("other wire", "other wire", 3000).read()
LARGE_PNG = formats.png("large", "large", 5_000_000).read()  # such bodies are read around h11
MP4 = formats.mp4("wire", "wire", None).read()
PDF = formats.pdf("wire", "wire", 4000).read()
WAV = formats.wav("wire", "wire", 5000).read()

RUN = QueuedRun(run_id="run_wire", technique="wire", queued_at=1.7e9)
TRUSTED = ("127.0.0.1", "localhost")
FOLDERS = {kind: kind.value for kind in OutputKind}


@dataclass(frozen=True)
class Request:
    """What was asked for. `start` and `last` are of its `Range`, None where it says none."""

    head: bytes

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    @property
    def start(self) -> int | None:
        return self._number(1)

    @property
    def last(self) -> int | None:
        return self._number(2)

    def _number(self, group: int) -> int | None:
        found = re.search(rb"(?im)^range: bytes=([0-9]+)-([0-9]*)\r$", self.head)
        return int(found[group]) if found and found[group] else None


@dataclass(frozen=True)
class Reply:
    """What is sent, and what happens to the connection afterwards.

    `keep` waits for the next request; `close` ends it (over TLS with a goodbye, `cut` without one);
    `reset` breaks it; `hang` says nothing more. `drip` bytes are sent twice a second, where it is set.
    """

    data: bytes
    then: Literal["keep", "close", "cut", "reset", "hang"] = "close"
    drip: int | None = None


class MediaHost(Server):
    """Answers each request as `answer` says."""

    def __init__(self, answer: Callable[[Request], Reply], certificate: Certificate | None = None) -> None:
        super().__init__(tls=certificate.server if certificate else None)
        self._reply = answer
        self._ended = threading.Event()
        self._scheme = "https" if certificate else "http"
        self.dripped = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        super().__exit__(kind, error, traceback)

    def url(self, path: str = "/o.png") -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}{path}"

    @property
    def requests(self) -> list[Request]:
        return [Request(head) for head in self.heads]

    def talk(self, connection: socket.socket) -> None:
        while head := read_head(connection):
            self.heads.append(head)
            self.asked.set()
            reply = self._reply(Request(head))
            self._send(connection, reply)
            if reply.then == "keep":
                continue
            if reply.then == "hang":
                connection.recv(1)
            elif reply.then == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif reply.then == "close" and hasattr(connection, "unwrap"):
                connection.unwrap()
            return

    def _send(self, connection: socket.socket, reply: Reply) -> None:
        if reply.drip is None:
            connection.sendall(reply.data)
            return
        for at in range(0, len(reply.data), reply.drip):
            connection.sendall(reply.data[at : at + reply.drip])
            self.dripped += 1
            if self._ended.wait(0.5):
                return


def serving(*replies: Reply) -> Callable[[Request], Reply]:
    """Answer with each of `replies` in turn, and with the last one from then on."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Give a whole answer; `length` is what `Content-Length` says where that is not the truth."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def unframed(body: bytes, *headers: str) -> bytes:
    """Give an answer whose body ends where the connection does."""
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode() + body


def chunked(body: bytes, *headers: str, size: int = 1000) -> bytes:
    """Give an answer in chunks."""
    head = "\r\n".join(["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *headers, "", ""]).encode()
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def ranged(
    body: bytes, start: int, *headers: str, total: int | None = None, last: int | None = None
) -> bytes:
    """Give the 206 for `body` from `start` on, to its end or to `last`."""
    last = len(body) - 1 if last is None else min(last, len(body) - 1)
    total = len(body) if total is None else total
    span = f"Content-Range: bytes {start}-{last}/{total}"
    return answer(body[start : last + 1], span, *headers, status="206 Partial Content")


def served(body: bytes, request: Request, *headers: str) -> bytes:
    """Answer as a host that honours ranges does."""
    if request.start is None:
        return answer(body, *headers)
    if request.start >= len(body):
        return answer(b"", f"Content-Range: bytes */{len(body)}", status="416 Range Not Satisfiable")
    return ranged(body, request.start, *headers, last=request.last)


def broken(whole: bytes, after: int) -> Reply:
    """Send no more than `after` bytes of the body of `whole`, and break the connection if there are more."""
    end = whole.index(b"\r\n\r\n") + 4 + after
    return Reply(whole[:end]) if end < len(whole) else Reply(whole)


@dataclass(frozen=True)
class Fetched:
    """A file of the library, and what is claimed of it."""

    data: bytes
    path: str
    integrity: Integrity
    checked: tuple[str, ...]


class ByWorker:
    """Has each transfer made by another process, one for all that are alike; their like is `Downloader`."""

    _workers: ClassVar[dict[tuple[str, ...], WorkerProcess]] = {}

    def __init__(self, bench: Bench) -> None:
        limits = DownloadLimits(bench.max_file_size, 0, bench.deadline)
        settings = WorkerSettings("test", bench.stall_timeout, TRUSTED, ("*",), limits, 4)
        key = (str(bench.stall_timeout), *map(str, sorted(bench.environ.items())))
        if key not in self._workers:
            self._workers[key] = WorkerProcess(settings, {**os.environ, **bench.environ})
        self._worker = self._workers[key]
        self._worker.change(settings)
        self._worker.assign(bench.bandwidth.rate() or math.inf)

    def fetch(self, url: str, slot: Destination, report: Report) -> Received:
        return RemoteDownload(slot, report).run(self._worker, url)

    @classmethod
    def end_all(cls) -> None:
        while cls._workers:
            cls._workers.popitem()[1].end()


class _Tokens:
    """As many transfers as anybody wants."""

    def take_now(self) -> bool:
        return True

    def release(self) -> None: ...


class ByMultiClient:
    """Has each transfer that may be one made by a `MultiClient`, as small outputs are at their first try."""

    def __init__(self, bench: Bench, client: MediaClient, downloader: Downloader) -> None:
        self._downloader = downloader
        self._multi_client = client.many(_Tokens())
        self._bandwidth = bench.bandwidth

    def fetch(self, url: str, slot: Destination, report: Report) -> Received:
        with slot.held():
            if slot.resume_point() is None and not self._bandwidth.limits() and not is_data_url(url):
                with suppress(NotPlainError, PermanentError, httpx.InvalidURL, UnicodeError):
                    return self._receive(url_policy.parse(url), slot, report)
            return self._downloader.fetch(url, slot, report)

    def _receive(self, url: httpx.URL, slot: Destination, report: Report) -> Received:
        if not self._multi_client.reads(url):
            raise NotPlainError
        came: SimpleQueue[SmallAnswer | Exception] = SimpleQueue()
        most = self._downloader.limits.max_file_size
        request = SmallRequest(
            url, signed_fields(url), lambda: None, lambda _so_far, _total: None, came.put, most
        )
        self._multi_client.send(request)
        answer = came.get(timeout=60)
        if isinstance(answer, Exception):
            raise_as_download(answer)
        try:
            return self._downloader.receive(answer, body_of(answer), slot, report)
        finally:
            self._multi_client.taken(answer)

    def close(self) -> None:
        self._multi_client.close()


By = Literal["here", "worker", "many"]


@dataclass
class Bench:
    """A library in `folder`, and who fetches and trusts loopback. Times are in seconds."""

    by: ClassVar[By] = "here"  # who makes transfers: this thread, another process, or the one for many

    folder: Path
    stall_timeout: float = 5.0
    max_file_size: int | None = None
    deadline: float = 60.0
    environ: dict[str, str] = field(default_factory=dict)
    bandwidth: BandwidthLimiter = field(default_factory=BandwidthLimiter)

    def __post_init__(self) -> None:
        self.library = FolderLibrary(self.folder, PathPlan.parse("{kind}/{output_id}{ext}", FOLDERS, 255))
        self.library.create()
        self._client = client(
            UrlPolicy(TRUSTED),
            self.environ,
            ClientLimits(read=self.stall_timeout, connections=4),
            self.bandwidth,
        )
        limits = DownloadLimits(self.max_file_size, 0, self.deadline)
        downloader = Downloader(
            self._client, UrlPolicy(TRUSTED), limits, monotonic=self.bandwidth.active_clock
        )
        self.fetcher: Fetcher = downloader
        self.disk = BatchWriter(self.library.together)
        self.small = SmallFiles(self._client.many(_Tokens()), downloader, self.disk)
        self._many: ByMultiClient | None = None
        if self.by == "worker":
            self.fetcher = ByWorker(self)
        elif self.by == "many":
            self.fetcher = self._many = ByMultiClient(self, self._client, downloader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._many is not None:
            self._many.close()
        self.small.close()
        self.disk.close()
        self._client.close()

    def fetch(self, url: str, output: RemoteOutput | None = None) -> Fetched:
        """Make one attempt at an output (an image, unless said), up to its final name."""
        output = output or RemoteOutput("o", "imageUrl", url)
        slot = self.library.destination(RUN, output, 1, None)
        with self.fetcher.fetch(url, slot, lambda _received, _total: None) as received:
            found = received.finding
            path = slot.publish(received.sink, found.ext, found.sha256, None)
        return Fetched((self.folder / path).read_bytes(), path, found.integrity, found.checked)

    def files(self) -> list[str]:
        """Name the files under final names."""
        return [path.name for path in self._all() if path.suffix != ".part" and path.name != MARKER]

    def part(self) -> bytes | None:
        """Give the bytes of the part file, if there is one."""
        found = [path.read_bytes() for path in self._all() if path.suffix == ".part"]
        return found[0] if found else None

    def _all(self) -> list[Path]:
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file()]


class Silent:
    """Hears of every step, and says nothing."""

    def run(self, run: QueuedRun, next_in: float | None) -> None: ...
    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None: ...
    def transferred(self, run: QueuedRun, output_id: str) -> None: ...
    def finished(self, run: QueuedRun, brought: object) -> None: ...
    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None: ...
    def dropped(self, run_id: str) -> None: ...
