"""A checksum is compared only where it is one of the bytes sent, and then it decides."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping

import google_crc32c
import httpx
import pytest
from hypothesis import given, strategies as st

from floradl.download.checksums import ChecksumSet, Crc64Nvme, promised

DATA = b"the bytes of an image"
MD5 = hashlib.md5(DATA).digest()
SHA256 = hashlib.sha256(DATA).digest()
SHA512 = hashlib.sha512(DATA).digest()
SHA1 = hashlib.sha1(DATA).digest()
CRC32 = zlib.crc32(DATA).to_bytes(4, "big")
CRC64 = bytes.fromhex("673530ba49a3eb56")
CRC32C: bytes = google_crc32c.value(DATA).to_bytes(4, "big")
S3 = {"x-amz-request-id": "1", "etag": f'"{MD5.hex()}"'}


def b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


GCS = {"x-goog-hash": f"crc32c={b64(CRC32C)},md5={b64(MD5)}"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (GCS, {"crc32c": CRC32C, "md5": MD5}),
        ({"x-goog-hash": f"crc32c={b64(CRC32C)}"}, {"crc32c": CRC32C}),
        ({"x-goog-hash": f"md5={b64(MD5)}"}, {"md5": MD5}),
        ({**GCS, "x-goog-stored-content-encoding": "identity"}, {"crc32c": CRC32C, "md5": MD5}),
        ({**GCS, "x-goog-stored-content-encoding": "gzip"}, {}),
        ({**GCS, "content-encoding": "gzip"}, {}),
        ({**GCS, "content-encoding": "identity"}, {"crc32c": CRC32C, "md5": MD5}),
        ({"x-goog-hash": "crc32c=nonsense,md5=AAAA,other=AAAA"}, {}),
        (S3, {"md5": MD5}),
        ({**S3, "x-amz-server-side-encryption": "AES256"}, {"md5": MD5}),
        ({**S3, "x-amz-server-side-encryption": "aws:kms"}, {}),
        ({**S3, "x-amz-server-side-encryption": "aws:kms:dsse"}, {}),
        ({**S3, "x-amz-server-side-encryption-customer-algorithm": "AES256"}, {}),
        ({**S3, "etag": f'"{MD5.hex()}-3"'}, {}),  # of several parts
        ({**S3, "etag": f'W/"{MD5.hex()}"'}, {}),
        ({**S3, "content-encoding": "gzip"}, {}),
        ({"etag": f'"{MD5.hex()}"'}, {}),  # anybody's ETag may look so
        ({"content-md5": b64(MD5)}, {"md5": MD5}),
        ({"content-md5": b64(MD5), "content-range": "bytes 0-1/2"}, {}),  # of the part alone
        ({"content-md5": MD5.hex()}, {}),
        ({"repr-digest": f"sha-256=:{b64(SHA256)}:"}, {"sha-256": SHA256}),
        (
            {"repr-digest": f"sha-256=:{b64(SHA256)}:, sha-512=:{b64(SHA512)}:"},
            {"sha-256": SHA256, "sha-512": SHA512},
        ),
        ({"repr-digest": f"sha-256=:{b64(SHA256)}:", "content-range": "bytes 0-1/2"}, {"sha-256": SHA256}),
        ({"repr-digest": f"sha-256=:{b64(MD5)}:"}, {}),
        ({"repr-digest": f"sha=:{b64(SHA1)}:"}, {"sha-1": SHA1}),
        ({"content-digest": f"sha-256=:{b64(SHA256)}:"}, {"sha-256": SHA256}),
        ({"content-digest": f"sha-256=:{b64(SHA256)}:", "content-range": "bytes 0-1/2"}, {}),  # of the part
        ({"content-digest": f"sha-256=:{b64(SHA256)}:", "content-encoding": "gzip"}, {}),
        ({"digest": f"SHA-256={b64(SHA256)},md5={b64(MD5)}"}, {"sha-256": SHA256, "md5": MD5}),
        ({"digest": f"sha={b64(SHA1)}, SHA-512={b64(SHA512)}"}, {"sha-1": SHA1, "sha-512": SHA512}),
        ({"digest": f"sha-256={b64(SHA256)}", "content-range": "bytes 0-1/2"}, {"sha-256": SHA256}),
        ({"digest": "UNIXsum=30637, adler32=03da0195"}, {}),
        ({"x-bz-content-sha1": SHA1.hex()}, {"sha-1": SHA1}),
        ({"x-bz-content-sha1": SHA1.hex(), "content-range": "bytes 0-1/2"}, {"sha-1": SHA1}),
        ({"x-bz-content-sha1": "none"}, {}),
        ({"x-bz-content-sha1": f"unverified:{SHA1.hex()}"}, {}),
        ({"x-ms-blob-content-md5": b64(MD5)}, {"md5": MD5}),
        ({"x-ms-blob-content-md5": b64(MD5), "content-range": "bytes 0-1/2"}, {"md5": MD5}),
        ({"x-amz-checksum-crc32": b64(CRC32)}, {"crc32": CRC32}),
        ({"x-amz-checksum-crc32c": b64(CRC32C)}, {"crc32c": CRC32C}),
        ({"x-amz-checksum-sha1": b64(SHA1)}, {"sha-1": SHA1}),
        ({"x-amz-checksum-sha256": b64(SHA256)}, {"sha-256": SHA256}),
        ({"x-amz-checksum-crc64nvme": b64(CRC64)}, {"crc64nvme": CRC64}),
        ({"x-amz-checksum-crc32": f"{b64(CRC32)}-3"}, {}),  # of the parts' checksums
        ({"x-amz-checksum-crc32": b64(CRC32), "x-amz-checksum-type": "COMPOSITE"}, {}),
        ({"x-amz-checksum-crc32": b64(CRC32), "x-amz-checksum-type": "FULL_OBJECT"}, {"crc32": CRC32}),
        ({"x-amz-checksum-crc32": b64(CRC32), "content-range": "bytes 0-1/2"}, {}),  # whose, is not told
        (
            {
                "x-amz-checksum-crc32": b64(CRC32),
                "x-amz-checksum-type": "FULL_OBJECT",
                "content-range": "bytes 0-1/2",
            },
            {"crc32": CRC32},
        ),
        ({"x-amz-content-sha256": SHA256.hex()}, {}),  # what an upload said
        ({**S3, "x-amz-server-side-encryption": "aws:fsx"}, {}),
        ({**S3, "x-amz-storage-class": "EXPRESS_ONEZONE"}, {}),
        ({**S3, "content-encoding": ""}, {"md5": MD5}),
        ({**S3, "content-encoding": "aws-chunked, utf-8"}, {"md5": MD5}),
        ({}, {}),
    ],
)
def test_what_is_promised_for_the_bytes_sent(headers: Mapping[str, str], expected: dict[str, bytes]) -> None:
    assert promised(httpx.Headers(dict(headers))) == expected


@pytest.mark.parametrize(
    "host",
    [
        "bucket--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com",
        "s3express-control.us-west-2.amazonaws.com",
        "access--usw2-az1--xa-s3.s3express-usw2-az1.us-west-2.amazonaws.com",
    ],
)
def test_the_etag_of_a_directory_bucket_is_no_md5(host: str) -> None:
    assert promised(httpx.Headers(S3), host) == {}
    assert promised(httpx.Headers(S3), "bucket.s3.us-west-2.amazonaws.com") == {"md5": MD5}


def test_checksums_in_fields_of_their_own_count_too() -> None:
    """Google Cloud Storage sends `x-goog-hash` twice."""
    headers = httpx.Headers([("x-goog-hash", f"crc32c={b64(CRC32C)}"), ("x-goog-hash", f"md5={b64(MD5)}")])
    assert promised(headers) == {"crc32c": CRC32C, "md5": MD5}


EVERY = {
    "sha-256": SHA256,
    "crc32c": CRC32C,
    "crc32": CRC32,
    "md5": MD5,
    "sha-1": SHA1,
    "sha-512": SHA512,
    "crc64nvme": CRC64,
}


@pytest.mark.parametrize("algorithm", EVERY)
@given(cuts=st.lists(st.integers(0, len(DATA))))
def test_the_right_bytes_agree_however_they_come(algorithm: str, cuts: list[int]) -> None:
    digests = ChecksumSet({algorithm: EVERY[algorithm]})
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(DATA)], strict=True):
        digests.update(memoryview(DATA)[start:end])
    assert digests.algorithm == algorithm
    assert digests.agree()
    assert digests.sha256 == SHA256.hex()


@pytest.mark.parametrize("algorithm", EVERY)
@given(bit=st.integers(0, len(DATA) * 8 - 1))
def test_one_wrong_bit_does_not_agree(algorithm: str, bit: int) -> None:
    data = bytearray(DATA)
    data[bit // 8] ^= 1 << bit % 8
    digests = ChecksumSet({algorithm: EVERY[algorithm]})
    digests.update(bytes(data))
    assert not digests.agree()


def test_where_nothing_is_promised_anything_agrees_and_nothing_is_claimed() -> None:
    digests = ChecksumSet({})
    digests.update(DATA)
    assert digests.agree()
    assert digests.algorithm is None
    assert digests.sha256 == SHA256.hex()


def test_the_cheapest_of_several_is_taken() -> None:
    assert ChecksumSet(EVERY).algorithm == "sha-256"
    assert ChecksumSet({"md5": MD5, "crc32c": CRC32C}).algorithm == "crc32c"
    assert ChecksumSet({"md5": MD5, "sha-512": SHA512}).algorithm == "md5"


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("x-goog-hash", "content-md5", "repr-digest", "etag", "x-amz-request-id", "digest"),
                *("content-digest", "x-bz-content-sha1", "x-amz-checksum-crc32", "x-amz-checksum-type"),
                *("x-ms-blob-content-md5", "content-encoding", "content-range"),
            ]
        ),
        st.text(st.characters(max_codepoint=255)),
    )
)
def test_no_header_at_all_is_an_error(headers: dict[str, str]) -> None:
    for name, digest in promised(headers).items():
        assert len(digest) == len(EVERY[name])


def test_one_that_is_slow_here_is_taken_for_small_files_alone_and_where_there_is_no_other() -> None:
    crc64 = {"crc64nvme": CRC64}
    assert ChecksumSet(crc64, 4 << 20).algorithm == "crc64nvme"
    assert ChecksumSet(crc64, (4 << 20) + 1).algorithm is None
    assert ChecksumSet(crc64, None).algorithm is None
    assert ChecksumSet({**crc64, "sha-512": SHA512}, 1000).algorithm == "sha-512"


def test_crc64nvme_is_that_of_the_catalogue() -> None:
    """The check value of CRC-64/NVME in the catalogue of parametrised CRC algorithms."""
    crc64 = Crc64Nvme()
    crc64.update(b"123456789")
    assert crc64.digest().hex() == "ae8b14860a799888"


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_crc64nvme_is_the_same_however_the_bytes_come(data: bytes, cuts: list[int]) -> None:
    crc64, register = Crc64Nvme(), (1 << 64) - 1
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        crc64.update(memoryview(data)[start:end])
    for byte in data:  # a bit at a time, as the polynomial says
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x9A6C9329AC4BC9B5 if register & 1 else 0)
    assert crc64.digest() == (register ^ ((1 << 64) - 1)).to_bytes(8, "big")


@pytest.mark.parametrize("algorithm", ["crc32c", "crc32", "md5", "sha-1", "sha-512", "crc64nvme"])
def test_bytes_are_taken_in_before_their_buffer_is_used_again(algorithm: str) -> None:
    digests = ChecksumSet({algorithm: EVERY[algorithm]})
    buffer = bytearray(4)
    for at in range(0, len(DATA), 4):
        part = DATA[at : at + 4]
        buffer[: len(part)] = part
        with memoryview(buffer)[: len(part)] as view:
            digests.update(view)
    assert digests.sha256 == SHA256.hex()
    assert digests.agree()
