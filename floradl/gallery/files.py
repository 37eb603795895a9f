"""A file of the library -> an answer, whole or a range, with a type that no browser runs anything of.

Of a file in a store that part alone is read which is asked for, and nothing for who has it already.
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import closing
from typing import BinaryIO, Final, Protocol
from urllib.parse import quote

import anyio
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from floradl.library.base import LibraryStore, StoredFile
from floradl.library.folder import FolderLibrary

_CHUNK: Final = 256 << 10  # bytes
_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")
# By the name's ending, which comes from the content; what a host or a sidecar called it is not believed.
_TYPES: Final = {
    "png": "image/png", "apng": "image/apng", "jpg": "image/jpeg", "jpeg": "image/jpeg", "jfif": "image/jpeg",
    "gif": "image/gif", "webp": "image/webp", "avif": "image/avif",
    "heic": "image/heic", "heif": "image/heif",
    "bmp": "image/bmp", "ico": "image/x-icon", "tif": "image/tiff", "tiff": "image/tiff", "jxl": "image/jxl",
    "mp4": "video/mp4", "m4v": "video/mp4", "mov": "video/quicktime",
    "webm": "video/webm", "ogv": "video/ogg",
    "mkv": "video/x-matroska", "avi": "video/x-msvideo", "mpg": "video/mpeg", "mpeg": "video/mpeg",
    "mp3": "audio/mpeg", "m4a": "audio/mp4", "aac": "audio/aac", "wav": "audio/wav", "flac": "audio/flac",
    "ogg": "audio/ogg", "oga": "audio/ogg", "opus": "audio/ogg", "weba": "audio/webm", "aif": "audio/aiff",
    "aiff": "audio/aiff", "pdf": "application/pdf", "txt": "text/plain; charset=utf-8",
    "md": "text/plain; charset=utf-8", "csv": "text/plain; charset=utf-8",
    "json": "text/plain; charset=utf-8",
    "srt": "text/plain; charset=utf-8", "vtt": "text/vtt; charset=utf-8",
}  # fmt: skip
_UNKNOWN: Final = "application/octet-stream"
_LOCKED: Final = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)
# A browser's own viewer of PDF does not come up in a sandbox.
_OF_PDF: Final = (
    "default-src 'none'; object-src 'self'; plugin-types application/pdf; style-src 'unsafe-inline'; "
    "frame-ancestors 'self'"
)


class FileKind:
    """How a file of that name is handed over."""

    def __init__(self, name: str) -> None:
        ending = name.rpartition(".")[2].lower() if "." in name else ""
        self.inline = ending in _TYPES or ending == "svg"
        self.content_type = "image/svg+xml" if ending == "svg" else _TYPES.get(ending, _UNKNOWN)
        self.policy = _OF_PDF if ending == "pdf" else _LOCKED


def content_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return first byte and length that a `Range` header asks for of `size` bytes; None for all of them.

    Several ranges, other units and what is malformed count as not asked for (RFC 9110, section 14.2). Raises
    `ValueError` where none of what is asked for is there.
    """
    if header is None or (found := _RANGE.fullmatch(header.replace(" ", ""))) is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        length = min(int(suffix), size)
        if not length:
            raise ValueError("an empty range")
        return size - length, length
    start = int(first)
    end = min(int(last), size - 1) if last else size - 1
    if last and int(last) < start:
        return None  # malformed
    if start >= size:
        raise ValueError("beyond the end")
    return start, end - start + 1


class Content(Protocol):
    """The bytes of a file: how many, and a `tag` that tells them from others'. Blocking."""

    size: int
    tag: str

    def read(self, size: int, at: int) -> bytes:
        """Return up to `size` bytes from `at` on. Raises `OSError`, `FloradlError`."""

    def close(self) -> None:
        """Let go of it. Safe to repeat."""


def open_content(library: LibraryStore, path: str) -> Content | None:
    """Open a file of the library; None where it is not there. Raises as the library does."""
    if isinstance(library, FolderLibrary):
        file = library.open_file(path)
        return None if file is None else _OpenFile(file)
    found = library.stat(path)
    return None if found is None else _StoredContent(library, found)


class _OpenFile:
    """A file of this machine's."""

    def __init__(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        self._file = file
        self.size = status.st_size
        self.tag = f"{status.st_mtime_ns:x}-{status.st_size:x}"

    def read(self, size: int, at: int) -> bytes:
        return os.pread(self._file.fileno(), size, at)

    def close(self) -> None:
        self._file.close()


class _StoredContent:
    """A file in a store, which is asked for its bytes when they are wanted."""

    def __init__(self, library: LibraryStore, found: StoredFile) -> None:
        self._library = library
        self._path = found.path
        self._file: BinaryIO | None = None
        self.size = found.size
        self.tag = f"{zlib.crc32(found.stamp.encode()):x}-{found.size:x}"

    def read(self, size: int, at: int) -> bytes:
        if self._file is None:
            self._file = self._library.open_file(self._path)
            if self._file is None:
                raise FileNotFoundError(self._path)
        if self._file.tell() != at:
            self._file.seek(at)
        return self._file.read(size)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class FileAnswer(Response):
    """`content` as an answer to `request`, closed afterwards. `tag` tells it from others, too."""

    def __init__(self, request: Request, content: Content, name: str, tag: str) -> None:
        kind = FileKind(name)
        self._content = content
        self._start, self._length = 0, content.size
        etag = f'"{tag[:32]}-{content.tag}"'
        download = not kind.inline or "download" in request.query_params
        code = 200
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Cache-Control": "private, no-cache",
            "Content-Type": kind.content_type,
            "Content-Security-Policy": kind.policy,
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": f"{'attachment' if download else 'inline'}; {_named(name)}",
        }
        known = request.headers.get("if-none-match", "")
        if known and (
            known.strip() == "*" or etag in [each.strip().removeprefix("W/") for each in known.split(",")]
        ):
            code, self._length = 304, 0
        elif request.headers.get("if-range", etag) == etag:
            try:
                wanted = content_range(request.headers.get("range"), content.size)
            except ValueError:
                code, self._length = 416, 0
                headers["Content-Range"] = f"bytes */{content.size}"
            else:
                if wanted is not None:
                    code, (self._start, self._length) = 206, wanted
                    headers["Content-Range"] = (
                        f"bytes {self._start}-{self._start + self._length - 1}/{content.size}"
                    )
        if code != 304:
            headers["Content-Length"] = str(self._length)
        super().__init__(None, code, headers)
        self.raw_headers = [(key.lower().encode(), value.encode("latin-1")) for key, value in headers.items()]
        self._bodiless = request.method == "HEAD"

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send it, in chunks, until all is sent or nobody is there any more."""
        with closing(self._content):
            # Before anything is said: a store that does not answer is no good answer cut short.
            first = b"" if self._bodiless else await self._chunk(self._start)
            async with anyio.create_task_group() as group:
                group.start_soon(until_gone, receive, group.cancel_scope)
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                if not self._bodiless:
                    await self._send_chunks(first, send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                group.cancel_scope.cancel()

    async def _send_chunks(self, chunk: bytes, send: Send) -> None:
        at, end = self._start, self._start + self._length
        while at < end:
            if not chunk:  # it was cut meanwhile: the client sees that bytes are missing
                raise OSError("the file got shorter while it was sent")
            at += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            chunk = await self._chunk(at)

    async def _chunk(self, at: int) -> bytes:
        left = self._start + self._length - at
        return await to_thread.run_sync(self._content.read, min(_CHUNK, left), at) if left else b""


def _named(name: str) -> str:
    """Return the parameter that has the file's name (RFC 6266, section 4.3)."""
    return f"filename*=UTF-8''{quote(name, safe='')}"


async def until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel `scope` once nobody waits for the answer any more."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
