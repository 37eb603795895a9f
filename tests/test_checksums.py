"""A checksum is compared only where it is one of the bytes sent, and then it decides."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

import google_crc32c
import httpx
import pytest
from hypothesis import given, strategies as st

from floradl.media.checksums import Digests, promised

DATA = b"the bytes of an image"
MD5 = hashlib.md5(DATA).digest()
SHA256 = hashlib.sha256(DATA).digest()
SHA512 = hashlib.sha512(DATA).digest()
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
        ({"content-digest": f"sha-256=:{b64(SHA256)}:"}, {}),  # of what this one message carries
        ({}, {}),
    ],
)
def test_what_is_promised_for_the_bytes_sent(headers: Mapping[str, str], expected: dict[str, bytes]) -> None:
    assert promised(httpx.Headers(dict(headers))) == expected


def test_checksums_in_fields_of_their_own_count_too() -> None:
    """Google Cloud Storage sends `x-goog-hash` twice."""
    headers = httpx.Headers([("x-goog-hash", f"crc32c={b64(CRC32C)}"), ("x-goog-hash", f"md5={b64(MD5)}")])
    assert promised(headers) == {"crc32c": CRC32C, "md5": MD5}


EVERY = {"sha-256": SHA256, "crc32c": CRC32C, "md5": MD5, "sha-512": SHA512}


@pytest.mark.parametrize("algorithm", EVERY)
@given(cuts=st.lists(st.integers(0, len(DATA))))
def test_the_right_bytes_agree_however_they_come(algorithm: str, cuts: list[int]) -> None:
    digests = Digests({algorithm: EVERY[algorithm]})
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
    digests = Digests({algorithm: EVERY[algorithm]})
    digests.update(bytes(data))
    assert not digests.agree()


def test_where_nothing_is_promised_anything_agrees_and_nothing_is_claimed() -> None:
    digests = Digests({})
    digests.update(DATA)
    assert digests.agree()
    assert digests.algorithm is None
    assert digests.sha256 == SHA256.hex()


def test_the_cheapest_of_several_is_taken() -> None:
    assert Digests(EVERY).algorithm == "sha-256"
    assert Digests({"md5": MD5, "crc32c": CRC32C}).algorithm == "crc32c"
    assert Digests({"md5": MD5, "sha-512": SHA512}).algorithm == "md5"


@given(
    st.dictionaries(
        st.sampled_from(["x-goog-hash", "content-md5", "repr-digest", "etag", "x-amz-request-id"]),
        st.text(st.characters(max_codepoint=255)),
    )
)
def test_no_header_at_all_is_an_error(headers: dict[str, str]) -> None:
    for name, digest in promised(headers).items():
        assert len(digest) == len(EVERY[name])


@pytest.mark.parametrize("algorithm", ["crc32c", "md5", "sha-512"])
def test_bytes_are_taken_in_before_their_buffer_is_used_again(algorithm: str) -> None:
    expected = {"crc32c": CRC32C, "md5": MD5, "sha-512": SHA512}
    digests = Digests({algorithm: expected[algorithm]})
    buffer = bytearray(4)
    for at in range(0, len(DATA), 4):
        part = DATA[at : at + 4]
        buffer[: len(part)] = part
        with memoryview(buffer)[: len(part)] as view:
            digests.update(view)
    assert digests.sha256 == SHA256.hex()
    assert digests.agree()
