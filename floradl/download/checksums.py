"""End-to-end checksums: what the server promises of the bytes that it sends, compared with what arrived.

A checksum is only of use where it is one of the bytes sent: GCS gives that of the *stored* bytes, which
are others when an object is stored gzipped; an S3 ETag is an MD5 only for single-part objects that are not
encrypted, or by S3 itself, and in no directory bucket; S3's checksum of a multipart upload may be one of the
parts' checksums.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Final, Protocol, TypeAlias

import httpx
import msgspec

from floradl.errors import ErrorCode, TransientError
from floradl.net.headers import content_codings

_POLYNOMIAL: Final = 0x9A6C9329AC4BC9B5  # reflected
_ONES: Final = (1 << 64) - 1
_WORDS: Final = struct.Struct("<Q")

_Table: TypeAlias = tuple[int, ...]
_MD5_ETAG = re.compile(r'"([0-9a-f]{32})"')
_SHA1_HEX = re.compile(r"[0-9a-f]{40}", re.IGNORECASE)
_DIGEST_FIELD = re.compile(r"([a-z0-9-]+)\s*=\s*:([A-Za-z0-9+/=]+):")
_S3_SUMS = {"sha256": "sha-256", "sha1": "sha-1"} | {name: name for name in ("crc32c", "crc32", "crc64nvme")}
# The fields by which a checksum is promised; most answers have none of them.
_PROMISING = frozenset(
    {
        *("content-md5", "content-digest", "repr-digest", "digest", "x-ms-blob-content-md5", "x-goog-hash"),
        *("x-bz-content-sha1", "x-amz-request-id"),
        *(f"x-amz-checksum-{name}" for name in _S3_SUMS),
    }
)
# How the names in `Repr-Digest`, `Content-Digest` and, in any case, `Digest` read here.
_FIELD_NAMES = {"sha-256": "sha-256", "sha-512": "sha-512", "sha": "sha-1", "md5": "md5"}
_SLOW = frozenset({"crc64nvme"})
_SLOW_UP_TO = 4 << 20  # bytes: a second
_WRONG: Final = "-disagreed"


@cache
def _tables() -> tuple[_Table, ...]:
    """Make the tables for eight bytes at a step: the n-th is for a byte that n bytes of zero follow."""
    first = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        first.append(value)
    tables = [tuple(first)]
    for _ in range(7):
        tables.append(tuple(first[value & 255] ^ value >> 8 for value in tables[-1]))
    return tuple(tables)


class Crc64Nvme:
    """Takes in bytes as `hashlib`'s do; the digest has eight bytes, the highest first."""

    def __init__(self) -> None:
        self._state = _ONES
        self._rest = b""

    def update(self, data: bytes | memoryview) -> None:
        """Take in the next bytes."""
        data = self._rest + bytes(data)
        whole = len(data) & ~7
        self._rest = data[whole:]
        t0, t1, t2, t3, t4, t5, t6, t7 = _tables()
        state = self._state
        for (word,) in _WORDS.iter_unpack(data[:whole]):
            mixed = state ^ word
            state = (
                t7[mixed & 255]
                ^ t6[mixed >> 8 & 255]
                ^ t5[mixed >> 16 & 255]
                ^ t4[mixed >> 24 & 255]
                ^ t3[mixed >> 32 & 255]
                ^ t2[mixed >> 40 & 255]
                ^ t1[mixed >> 48 & 255]
                ^ t0[mixed >> 56]
            )
        self._state = state

    def digest(self) -> bytes:
        """Return the sum of what was taken in so far."""
        state, table = self._state, _tables()[0]
        for byte in self._rest:
            state = table[(state ^ byte) & 255] ^ state >> 8
        return (state ^ _ONES).to_bytes(8, "big")


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    """A checksum of 32 bits, which `extend(value, data)` goes on with."""

    def __init__(self, extend: Callable[[int, bytes | memoryview], int]) -> None:
        self._extend = extend
        self._value = 0

    def update(self, data: bytes | memoryview) -> None:
        self._value = self._extend(self._value, data)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _crc32c() -> _Hash:
    import google_crc32c  # noqa: PLC0415 - a megabyte, in each process that has use for it

    return _Crc(lambda value, data: google_crc32c.extend(value, bytes(data)))


# By size in bytes. The cheapest first: sha-256 is computed anyway, and crc32c costs a tenth of an md5.
_HASHES: Mapping[str, tuple[int, Callable[[], _Hash]]] = {
    "sha-256": (32, hashlib.sha256),
    "crc32c": (4, _crc32c),
    "crc32": (4, lambda: _Crc(lambda value, data: zlib.crc32(data, value))),
    "md5": (16, lambda: hashlib.md5(usedforsecurity=False)),
    "sha-1": (20, lambda: hashlib.sha1(usedforsecurity=False)),
    "sha-512": (64, hashlib.sha512),
    "crc64nvme": (8, Crc64Nvme),
}


def promised(headers: Mapping[str, str], host: str = "") -> dict[str, bytes]:
    """Return the checksums that a response of `host` promises for the whole representation, by algorithm.

    Understood are `x-goog-hash` (GCS), S3's `x-amz-checksum-…` and MD5 ETag, `x-bz-content-sha1` (Backblaze),
    `x-ms-blob-content-md5` (Azure), `Content-MD5` (RFC 1864), `Digest` (RFC 3230), `Repr-Digest` and
    `Content-Digest` (RFC 9530). None are returned for a body with a content coding: which bytes are meant is
    then unsure.
    """
    if _PROMISING.isdisjoint(headers) or content_codings(headers):
        return {}
    found: dict[str, bytes] = {}
    partial = "content-range" in headers
    if (etag := _s3_md5(headers, host)) is not None:
        found["md5"] = etag
    if not partial:  # of a 206 these are of the part alone
        _put(found, "md5", headers.get("content-md5", ""))
        _put_fields(found, headers.get("content-digest", ""))
    _put(found, "md5", headers.get("x-ms-blob-content-md5", ""))
    _put_fields(found, headers.get("repr-digest", ""))
    for name, value in _pairs(headers.get("digest", "")):
        if (algorithm := _FIELD_NAMES.get(name.lower())) is not None:
            _put(found, algorithm, value)
    if headers.get("x-goog-stored-content-encoding", "identity").strip().lower() == "identity":
        for name, value in _pairs(headers.get("x-goog-hash", "")):
            if name in {"crc32c", "md5"}:
                _put(found, name, value)
    _put_s3(found, headers, partial=partial)
    return found


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for item in text.split(","):
        name, _, value = item.strip().partition("=")
        yield name, value


def _put_s3(found: dict[str, bytes], headers: Mapping[str, str], *, partial: bool) -> None:
    """Take S3's own fields and those of what speaks its language."""
    kind = headers.get("x-amz-checksum-type", "" if partial else "FULL_OBJECT").strip().upper()
    if kind == "FULL_OBJECT":  # else of the parts' checksums, and with "-3" behind it: that is no base64
        for name, algorithm in _S3_SUMS.items():
            _put(found, algorithm, headers.get(f"x-amz-checksum-{name}", ""))
    # Backblaze; "none" for what came in parts, "unverified:…" for what the uploader alone said.
    sha1 = headers.get("x-bz-content-sha1", "").strip()
    if _SHA1_HEX.fullmatch(sha1):
        found["sha-1"] = bytes.fromhex(sha1)


def _s3_md5(headers: Mapping[str, str], host: str) -> bytes | None:
    if "x-amz-request-id" not in headers:
        return None
    if headers.get("x-amz-server-side-encryption", "AES256").strip() != "AES256":
        return None
    if "x-amz-server-side-encryption-customer-algorithm" in headers:
        return None
    # Directory buckets and their access points: the ETag there is a random word.
    if any(mark in host.lower() for mark in ("--x-s3", "--xa-s3", "s3express")):
        return None
    if headers.get("x-amz-storage-class", "").strip() in {"EXPRESS_ONEZONE", "FSX_ONTAP", "FSX_OPENZFS"}:
        return None
    match = _MD5_ETAG.fullmatch(headers.get("etag", "").strip())
    return bytes.fromhex(match[1]) if match else None


def _put_fields(found: dict[str, bytes], text: str) -> None:
    for name, value in _DIGEST_FIELD.findall(text):
        if name in _FIELD_NAMES:
            _put(found, _FIELD_NAMES[name], value)


def _put(found: dict[str, bytes], name: str, value: str) -> None:
    if not value:
        return
    try:
        digest = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return
    if len(digest) == _HASHES[name][0]:
        found[name] = digest


class ChecksumSet:
    """SHA-256, and the cheapest of the promised checksums, over bytes as they pass.

    `size` is how many there will be, None where that is unknown: one that is slow here is not worth it for
    large files.
    """

    def __init__(self, expected: Mapping[str, bytes], size: int | None = 0) -> None:
        self._sha256 = hashlib.sha256()
        self.taken = 0
        """How many bytes were taken in."""
        # One proof is enough.
        worth = size is not None and size <= _SLOW_UP_TO
        usable = (name for name in _HASHES if name in expected and (worth or name not in _SLOW))
        self.algorithm = next(usable, None)
        self._expected = expected[self.algorithm] if self.algorithm else b""
        self._other = _HASHES[self.algorithm][1]() if self.algorithm not in {None, "sha-256"} else None

    def update(self, data: bytes | memoryview) -> None:
        """Take in the next bytes."""
        self._sha256.update(data)
        self.taken += len(data)
        if self._other is not None:
            self._other.update(data)

    @property
    def sha256(self) -> str:
        """The SHA-256 so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def agree(self) -> bool:
        """Whether what passed is what the server promised; True where it promised nothing."""
        if self.algorithm is None:
            return True
        return (self._other or self._sha256).digest() == self._expected


class Proof(msgspec.Struct, frozen=True):
    """What `checked` says of checksums, and whether one holds. `wrong` names one that differs."""

    names: tuple[str, ...] = ()
    holds: bool = False
    wrong: str | None = None


def proof_of(digests: ChecksumSet, headers: Mapping[str, str], undone: tuple[str, ...]) -> Proof:
    """Return what proves the bytes of an answer from which the codings `undone` were taken.

    Where the checksum differs, so does that of `wrong`.
    """
    if digests.algorithm is None:
        if not {"gzip", "x-gzip"} & {*undone}:
            return Proof()
        # zlib held each member against its own checksum and length (RFC 1952, 2.3.1); how many there should
        # be, an answer shows only by its length or its last chunk.
        return Proof(("gzip-crc32",), holds="content-length" in headers or "transfer-encoding" in headers)
    if digests.agree():
        return Proof((digests.algorithm,), holds=True)
    return Proof(("twice", f"{digests.algorithm}{_WRONG}"), wrong=digests.algorithm)


def names_wrong(checked: tuple[str, ...]) -> str | None:
    """Return the checksum of the server's that `checked` says to be wrong, None where it names none."""
    return next((name.removesuffix(_WRONG) for name in checked if name.endswith(_WRONG)), None)


def disagreement(algorithm: str) -> TransientError:
    """Return what is said of a file that does not match the server's checksum, for the first time."""
    return TransientError(f"the bytes do not match the server's {algorithm} checksum", ErrorCode.DAMAGED)


def signed_fields(url: httpx.URL) -> dict[str, str]:
    """Return the header that a presigned URL of S3 requires.

    boto3 signs `x-amz-checksum-mode` where its caller wants checksums. S3 refuses every unsigned `x-amz-…`
    header.
    """
    if b"x-amz-signedheaders" not in url.query.lower():
        return {}
    signed = url.params.get("X-Amz-SignedHeaders", "").lower().split(";")
    return {"x-amz-checksum-mode": "ENABLED"} if "x-amz-checksum-mode" in signed else {}
