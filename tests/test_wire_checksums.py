"""What hosts say of their objects, each in its own fields, is held against the bytes that arrive."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from wire import LARGE_PNG, PNG, Bench, MediaHost, Reply, Request, answer, broken, ranged, served

from floradl.download.checksums import Crc64Nvme
from floradl.errors import TransientError
from floradl.models import Integrity

S3 = "x-amz-request-id: 1"
HELD = 3_000_000  # bytes of the large one, when its connection breaks


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "library") as bench:
        yield bench


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def crc64(data: bytes) -> bytes:
    register = Crc64Nvme()
    register.update(data)
    return register.digest()


def fields(body: bytes) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Give each kind of field for `body`, and the name that it is checked by."""
    md5, sha1, sha256 = (hashlib.new(name, body).digest() for name in ("md5", "sha1", "sha256"))
    crc32 = zlib.crc32(body).to_bytes(4, "big")
    return {
        "S3's crc32": ("crc32", (S3, f"x-amz-checksum-crc32: {b64(crc32)}")),
        "S3's sha1": ("sha-1", (S3, f"x-amz-checksum-sha1: {b64(sha1)}")),
        "S3's sha256": ("sha-256", (S3, f"x-amz-checksum-sha256: {b64(sha256)}")),
        "S3's crc64nvme": ("crc64nvme", (S3, f"x-amz-checksum-crc64nvme: {b64(crc64(body))}")),
        "S3's ETag": ("md5", (S3, f'ETag: "{md5.hex()}"')),
        "S3's ETag under AES256": (
            "md5",
            (S3, "x-amz-server-side-encryption: AES256", f'ETag: "{md5.hex()}"'),
        ),
        "Content-Digest": ("sha-256", (f"Content-Digest: sha-256=:{b64(sha256)}:",)),
        "Digest": ("sha-256", (f"Digest: SHA-256={b64(sha256)}",)),
        "Backblaze": ("sha-1", (f"x-bz-content-sha1: {sha1.hex()}",)),
        "Azure": ("md5", (f"Content-MD5: {b64(md5)}",)),
    }


@pytest.mark.parametrize("kind", fields(b""))
def test_a_checksum_of_the_hosts_verifies(bench: Bench, kind: str) -> None:
    name, headers = fields(PNG)[kind]
    with MediaHost(lambda _: Reply(answer(PNG, *headers))) as host:
        fetched = bench.fetch(host.url())
    assert (fetched.integrity, fetched.checked) == (Integrity.VERIFIED, ("length", name))


@pytest.mark.parametrize("kind", fields(b""))
def test_a_wrong_bit_is_found_by_any_of_them(bench: Bench, kind: str) -> None:
    wrong = bytearray(PNG)
    wrong[len(PNG) // 2] ^= 1
    name, headers = fields(PNG)[kind]
    with (
        MediaHost(lambda _: Reply(answer(bytes(wrong), *headers))) as host,
        pytest.raises(TransientError, match=f"{name} checksum"),
    ):
        bench.fetch(host.url())
    assert (bench.files(), bench.part()) == ([], None)


@pytest.mark.parametrize(
    "headers",
    [
        (S3, f"x-amz-checksum-crc32: {b64(bytes(4))}-7"),
        (S3, f"x-amz-checksum-sha256: {b64(bytes(32))}", "x-amz-checksum-type: COMPOSITE"),
        (S3, f'ETag: "{"0" * 32}"', "x-amz-server-side-encryption: aws:fsx"),
        (S3, f'ETag: "{"0" * 32}"', "x-amz-server-side-encryption: aws:kms"),
        (S3, f'ETag: "{"0" * 32}"', "x-amz-storage-class: EXPRESS_ONEZONE"),
        ("x-bz-content-sha1: none",),
        (f"x-bz-content-sha1: unverified:{'0' * 40}",),
        (f"x-amz-content-sha256: {'0' * 64}",),
    ],
)
def test_what_is_no_checksum_of_the_bytes_is_not_compared(bench: Bench, headers: tuple[str, ...]) -> None:
    with MediaHost(lambda _: Reply(answer(PNG, *headers))) as host:
        fetched = bench.fetch(host.url())
    assert (fetched.integrity, fetched.checked) == (Integrity.LENGTH_ONLY, ("length",))


@pytest.mark.parametrize(
    "field",
    [
        f"x-ms-blob-content-md5: {b64(hashlib.md5(LARGE_PNG).digest())}",
        f"x-bz-content-sha1: {hashlib.sha1(LARGE_PNG).hexdigest()}",
    ],
    ids=["Azure", "Backblaze"],
)
def test_the_wholes_checksum_in_the_answer_to_a_range_verifies(bench: Bench, field: str) -> None:
    tag = 'ETag: "0x8D"'
    with MediaHost(lambda _: broken(answer(LARGE_PNG, tag), HELD)) as host, pytest.raises(TransientError):
        bench.fetch(host.url())
    with MediaHost(lambda request: Reply(served(LARGE_PNG, request, tag, field))) as host:
        assert bench.fetch(host.url()).integrity is Integrity.VERIFIED
        assert host.requests[0].start == HELD - 65_536


def test_the_md5_of_the_part_in_the_answer_to_a_range_is_not_held_against_the_whole(bench: Bench) -> None:
    tag = 'ETag: "0x8D"'
    with MediaHost(lambda _: broken(answer(LARGE_PNG, tag), HELD)) as host, pytest.raises(TransientError):
        bench.fetch(host.url())

    def reply(request: Request) -> Reply:
        start = request.start or 0
        part = f"Content-MD5: {b64(hashlib.md5(LARGE_PNG[start:]).digest())}"
        return Reply(ranged(LARGE_PNG, start, tag, part))

    with MediaHost(reply) as host:
        fetched = bench.fetch(host.url())
    assert (fetched.data, fetched.integrity) == (LARGE_PNG, Integrity.LENGTH_ONLY)


@pytest.mark.parametrize(
    ("signed", "asked"),
    [
        ("host%3Bx-amz-checksum-mode", True),
        ("host;x-amz-checksum-mode", True),
        ("host", False),
        (None, False),
    ],
)
def test_a_presigned_url_is_asked_with_the_header_that_it_was_signed_with(
    bench: Bench, signed: str | None, *, asked: bool
) -> None:
    """boto3 signs this one without putting it into the query; any that was not signed would be refused."""
    query = "" if signed is None else f"?X-Amz-SignedHeaders={signed}&X-Amz-Signature=0"
    with MediaHost(lambda _: Reply(answer(PNG))) as host:
        bench.fetch(host.url(f"/o.png{query}"))
        (head,) = host.heads
    assert (b"x-amz-checksum-mode: enabled\r\n" in head.lower()) is asked
