"""The one module that knows the client library (opendal): keys and bytes in, our errors out.

Calls block, release the interpreter's lock, and are safe from several threads. Keys are relative to the
bucket's prefix. The library has no retries or time limits of its own: both are set here.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from floradl.errors import ConfigError, ErrorCode, TransientError
from floradl.library.object_access import StoreAccess, options_of
from floradl.library.object_errors import store_error
from floradl.net.addresses import is_loopback
from floradl.urls import BucketUrl

if TYPE_CHECKING:
    from opendal import AsyncOperator, Operator
    from opendal.file import File

PART: Final = 5 << 20
"""Bytes of an upload's part, the fewest that S3 takes; more where a known size needs over 9,000 of them."""

_PARTS: Final = 9_000
_SCHEMES: Final = {"s3": "s3", "gs": "gcs", "az": "azblob"}
_PAGE: Final = 1_000  # entries of a listing that are taken over at once
_WINDOW, _WIDEST = 128 << 10, 4 << 20  # bytes of a ranged read, which grows while reading goes on


class TakenError(Exception):
    """Something has this key already, or another writer was quicker."""


class ChangedError(Exception):
    """What has this key is not the version that was named."""


class Patience(Struct, frozen=True):
    """How long a request is tried: `retries` with growing `delay`, each for `timeout`, a part `io_timeout`.

    All but the count in seconds.
    """

    retries: int = 3
    delay: float = 0.3
    timeout: float = 20.0
    io_timeout: float = 30.0


class StoredObject(Struct, frozen=True):
    """An object as a look from outside shows it. `etag` as the store writes it, quotes and all."""

    key: str
    size: int
    etag: str = ""
    md5: str = ""


class ObjectClient:
    """What is under one prefix of a bucket.

    `sums_etags`: an object that was written at once has the MD5 of its bytes for an ETag, as far as is known.
    """

    def __init__(self, url: BucketUrl, access: StoreAccess, patience: Patience | None = None) -> None:
        """Make it; nothing is asked yet. Raises `ConfigError` for settings, and where opendal is missing."""
        self.url = url
        self.access = access
        options = options_of(url, access)
        patience = patience or Patience()
        sums = url.scheme == "s3"
        # S3 compares what arrives with the checksum sent: MD5 of a whole, CRC32C of a part, for which it
        # takes no MD5.
        self._whole = _operator(url, options | ({"checksum_algorithm": "md5"} if sums else {}), patience)
        self._parts = (
            _operator(url, options | {"checksum_algorithm": "crc32c"}, patience) if sums else self._whole
        )
        self._lists = self._whole.to_async_operator()
        self.sums_etags = sums
        self.is_readable_on_the_way = options.get("endpoint", "").startswith("http://") and not is_loopback(
            urlsplit(options["endpoint"]).hostname or ""
        )
        self.replaces_matching = bool(self._whole.capability().write_with_if_match)

    def place(self, key: str = "") -> str:
        """Return the URL of a key."""
        return f"{self.url}/{key}" if key else str(self.url)

    def stat(self, key: str) -> StoredObject | None:
        """Look at an object; None where there is none."""
        with self._translated(key):
            try:
                found = self._whole.stat(key)
            except Exception as error:
                if _is(error, "NotFound"):
                    return None
                raise
        if not found.is_file:
            return None
        return StoredObject(key, found.content_length, found.etag or "", found.content_md5 or "")

    def read(self, key: str, offset: int = 0, size: int | None = None, etag: str = "") -> bytes | None:
        """Return bytes of an object, of the version `etag` where it is given; None where there is none.

        Raises `ChangedError`. The range must lie within the object.
        """
        more: dict[str, Any] = {"if_match": etag} if etag else {}
        if size is not None:
            more |= {"offset": offset, "size": size}
        with self._translated(key):
            try:
                return self._whole.read(key, **more)
            except Exception as error:
                if _is(error, "NotFound"):
                    return None
                raise

    def create(self, key: str, data: bytes, content_type: str | None = None, sha256: str = "") -> None:
        """Store a new object at once, with its SHA-256 beside it. Raises `TakenError`."""
        more: dict[str, Any] = {"content_type": content_type} if content_type else {}
        if sha256:
            more["user_metadata"] = {"sha256": sha256}
        with self._translated(key, writing=True):
            try:
                self._whole.write(key, data, if_not_exists=True, **more)
            except Exception as error:
                if _is_taken(error):
                    raise TakenError(key) from None
                raise

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Replace the version `etag` of an object. Raises `ChangedError`.

        A store without conditions for this (GCS, here) replaces whatever stands there by then.
        """
        more: dict[str, Any] = {"if_match": etag} if self.replaces_matching and etag else {}
        with self._translated(key, writing=True):
            self._whole.write(key, data, **more)

    def overwrite(self, key: str, data: bytes) -> None:
        """Store an object, whatever stands there."""
        with self._translated(key, writing=True):
            self._whole.write(key, data)

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone is no error."""
        with self._translated(key, writing=True):
            self._whole.delete(key)

    def upload(self, key: str, size: int | None, content_type: str | None = None) -> Upload:
        """Begin a new object, of `size` bytes where that is known, that is sent in parts."""
        part = max(PART, -(-(size or 0) // _PARTS))
        more: dict[str, Any] = {"content_type": content_type} if content_type else {}
        with self._translated(key, writing=True):
            file = self._parts.open(key, "wb", chunk=part, concurrent=1, if_not_exists=True, **more)
        return Upload(file, lambda: self._translated(key, writing=True))

    def list(self, folder: str = "", *, recursive: bool = True) -> Iterator[StoredObject]:
        """Yield the objects below a folder, `folder/` or empty; with a `/` at the end what are folders.

        1,000 come with a request, as the store lists them.
        """
        loop = asyncio.new_event_loop()
        try:
            with self._translated(folder):
                entries = loop.run_until_complete(_listed(self._lists, folder, recursive=recursive))
            while entries is not None:
                with self._translated(folder):
                    found = loop.run_until_complete(_next(entries))
                yield from (each for each in found if each.key != folder)
                if len(found) < _PAGE:
                    return
        finally:
            loop.close()

    def open(self, found: StoredObject) -> io.BufferedReader:
        """Open an object for reading and seeking, of this version alone, by ranges.

        Reading raises `TransientError` once it was changed or removed.
        """
        return io.BufferedReader(_RangeReader(self, found), _WINDOW)

    @contextmanager
    def _translated(self, key: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except (TakenError, ChangedError, TransientError):
            raise
        except Exception as error:
            if _is(error, "ConditionNotMatch"):
                raise ChangedError(key) from None
            if not _is_clients(error):
                raise
            # The cause is cut: its text holds upload ids and signed queries.
            raise store_error(self.place(key), error, writing=writing) from None


async def _listed(operator: AsyncOperator, folder: str, *, recursive: bool) -> Any:
    # The blocking one keeps the interpreter's lock while it waits for the store.
    try:
        return await operator.list(folder, recursive=recursive)
    except Exception as error:
        if _is(error, "NotFound"):
            return None
        raise


async def _next(entries: Any) -> list[StoredObject]:
    found: list[StoredObject] = []
    try:
        async for entry in entries:
            known = entry.metadata
            found.append(StoredObject(entry.path, known.content_length, known.etag or ""))
            if len(found) == _PAGE:
                break
    except Exception as error:
        if not _is(error, "NotFound"):
            raise
    return found


class Upload:
    """A new object that is being sent. Nothing is stored before `close`; what is dropped never is.

    The client library's own `with` would store what came before an error: it is never used.
    """

    def __init__(self, file: File, translated: Callable[[], Any]) -> None:
        self._file: File | None = file
        self._translated = translated

    def write(self, data: bytes | memoryview) -> None:
        """Send on what is given; the bytes are copied."""
        if self._file is None:
            raise ValueError("it has ended")
        with self._translated():
            try:
                self._file.write(bytes(data))
            except Exception as error:
                if _is_taken(error):  # GCS says so at the beginning already
                    raise TransientError(
                        "another program stored it meanwhile: it is sent anew, under another name",
                        ErrorCode.STORAGE,
                    ) from None
                raise

    def close(self) -> None:
        """Store the object. Raises `TakenError`; after any error it is of no use any more."""
        file, self._file = self._file, None
        if file is None:
            raise ValueError("it has ended")
        with self._translated():
            try:
                file.close()
            except Exception as error:
                if _is_taken(error):
                    raise TakenError from None
                raise

    def drop(self) -> None:
        """Give it up. Its parts stay until the bucket's rule for abandoned uploads removes them."""
        self._file = None


class _RangeReader(io.RawIOBase):
    """Reads one version of an object."""

    def __init__(self, client: ObjectClient, found: StoredObject) -> None:
        self._client = client
        self._found = found
        self._at = 0
        self._start, self._window = 0, b""
        self._width = _WINDOW

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        begin = self._at - self._start
        if not 0 <= begin < len(self._window):
            size = min(max(self._width, len(view)), self._found.size - self._at)
            if size <= 0:
                return 0
            self._width = min(2 * self._width, _WIDEST) if begin == len(self._window) else _WINDOW
            self._window, self._start, begin = self._fetch(self._at, size), self._at, 0
        piece = memoryview(self._window)[begin : begin + len(view)]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _fetch(self, offset: int, size: int) -> bytes:
        found = self._found
        try:
            data = self._client.read(found.key, offset, size, found.etag)
        except ChangedError:
            data = None
        if data is None:
            place = self._client.place(found.key)
            raise TransientError(f"{place} was changed while it was read", ErrorCode.STORAGE)
        return data


def _operator(url: BucketUrl, options: dict[str, str], patience: Patience) -> Operator:
    try:
        import opendal  # noqa: PLC0415 - only where a library is in a bucket
        from opendal.layers import RetryLayer, TimeoutLayer  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            f"output.dir is {url}, and the extra `cloud` is not installed: see docs/buckets.md"
        ) from None
    try:
        operator = opendal.Operator(_SCHEMES[url.scheme], **options)
    except Exception as error:  # noqa: BLE001 - whatever a builder does not like
        raise ConfigError(
            f"{url}: the settings of this bucket make no client ({type(error).__name__})"
        ) from None
    limits = TimeoutLayer(patience.timeout, patience.io_timeout)
    retries = RetryLayer(
        max_times=patience.retries, factor=3.0, jitter=True, max_delay=5.0, min_delay=patience.delay
    )
    return operator.layer(limits).layer(retries)


def _is(error: Exception, name: str) -> bool:
    return type(error).__name__ == name or str(error).startswith(f"{name} (")


def _is_taken(error: Exception) -> bool:
    """Whether another has the key: told by the condition, or by two that were at it at once."""
    return _is(error, "ConditionNotMatch") or _is(error, "AlreadyExists")


def _is_clients(error: Exception) -> bool:
    return type(error).__module__.startswith("opendal") or isinstance(error, OSError)
