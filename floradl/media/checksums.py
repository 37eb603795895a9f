"""End-to-end checksums: what the server says about the bytes that it sent, held against what arrived.

A checksum is only of use where it is one of the bytes sent: GCS gives that of the *stored* bytes, which
are others when an object is stored gzipped; an S3 ETag is an MD5 only for single-part objects without KMS.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Protocol

_MD5_ETAG = re.compile(r'"([0-9a-f]{32})"')
_REPR_DIGEST = re.compile(r"(sha-256|sha-512|md5)\s*=\s*:([A-Za-z0-9+/=]+):")


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32c:
    """`google_crc32c.Checksum` for any buffer."""

    def __init__(self) -> None:
        import google_crc32c  # noqa: PLC0415 - a megabyte, in each process that has use for it

        self._extend = google_crc32c.extend
        self._value = 0

    def update(self, data: bytes | memoryview) -> None:
        self._value = self._extend(self._value, bytes(data))

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


_HASHES: Mapping[str, Callable[[], _Hash]] = {
    "crc32c": _Crc32c,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha-256": hashlib.sha256,
    "sha-512": hashlib.sha512,
}


def promised(headers: Mapping[str, str]) -> dict[str, bytes]:
    """Return the checksums that a response promises for the whole representation, by algorithm.

    Understood are `x-goog-hash` (GCS), S3's MD5 ETag, `Content-MD5` (RFC 1864) and `Repr-Digest`
    (RFC 9530). None are returned for a body with a content coding: which bytes are meant is then unsure.
    """
    if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        return {}
    found: dict[str, bytes] = {}
    for name, value in _REPR_DIGEST.findall(headers.get("repr-digest", "")):
        _put(found, name, value)
    partial = "content-range" in headers  # Content-MD5 of a 206 is of the part alone
    if "content-md5" in headers and not partial:
        _put(found, "md5", headers["content-md5"])
    if headers.get("x-goog-stored-content-encoding", "identity").strip().lower() == "identity":
        for item in headers.get("x-goog-hash", "").split(","):
            name, _, value = item.strip().partition("=")
            if name in {"crc32c", "md5"}:
                _put(found, name, value)
    if (etag := _s3_md5(headers)) is not None:
        found.setdefault("md5", etag)
    return found


def _s3_md5(headers: Mapping[str, str]) -> bytes | None:
    if "x-amz-request-id" not in headers:
        return None
    if headers.get("x-amz-server-side-encryption", "AES256").startswith("aws:kms"):
        return None
    if "x-amz-server-side-encryption-customer-algorithm" in headers:
        return None
    match = _MD5_ETAG.fullmatch(headers.get("etag", "").strip())
    return bytes.fromhex(match[1]) if match else None


def _put(found: dict[str, bytes], name: str, value: str) -> None:
    try:
        digest = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return
    if len(digest) == len(_HASHES[name]().digest()):
        found[name] = digest


class Digests:
    """SHA-256, and the cheapest of the promised checksums, over bytes as they pass."""

    def __init__(self, expected: Mapping[str, bytes]) -> None:
        self._sha256 = hashlib.sha256()
        # One proof is enough; sha-256 is computed anyway, and crc32c costs a tenth of an md5.
        cheapest_first = ("sha-256", "crc32c", "md5", "sha-512")
        self.algorithm = next((name for name in cheapest_first if name in expected), None)
        self._expected = expected[self.algorithm] if self.algorithm else b""
        self._other = _HASHES[self.algorithm]() if self.algorithm and self.algorithm != "sha-256" else None

    def update(self, data: bytes | memoryview) -> None:
        """Take in the next bytes."""
        self._sha256.update(data)
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
