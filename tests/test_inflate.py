"""A content coding is undone in bounded steps; what is cut, broken or a bomb is refused."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, strategies as st

from floradl.errors import ErrorCode, PermanentError, TransientError
from floradl.net.http11 import CodedBody, inflate

TEXT = b"".join(b"line %d of a document\n" % number for number in range(2000))
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_a_body_is_decoded_however_it_comes(coding: str, size: int) -> None:
    assert b"".join(inflate(chunks(CODINGS[coding](TEXT), size), coding)) == TEXT


@given(st.binary(max_size=3000), st.integers(1, 50), st.integers(0, 9))
def test_any_bytes_come_back(data: bytes, size: int, level: int) -> None:
    assert b"".join(inflate(chunks(gzip.compress(data, level), size), "gzip")) == data


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_all_members_of_a_gzip_body_are_decoded(size: int) -> None:
    """Tools that compress on several cores write many; taking the first alone would cut the file."""
    body = gzip.compress(TEXT) + gzip.compress(b"") + gzip.compress(b"and more")
    assert b"".join(inflate(chunks(body, size), "gzip")) == TEXT + b"and more"


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("tail", [b"\0" * 512, b"\x1f", b"\n"])
def test_padding_behind_a_gzip_body_is_passed_over(size: int, tail: bytes) -> None:
    assert b"".join(inflate(chunks(gzip.compress(TEXT) + tail, size), "gzip")) == TEXT


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_is_cut_short_anywhere_is_damaged(coding: str) -> None:
    body = CODINGS[coding](TEXT[:500])
    for end in range(len(body)):
        with pytest.raises(TransientError) as caught:
            list(inflate([body[:end]], coding))
        assert caught.value.code is ErrorCode.DAMAGED


def test_a_second_member_that_is_cut_short_is_damaged() -> None:
    body = gzip.compress(TEXT) + gzip.compress(b"and more")[:-1]
    with pytest.raises(TransientError):
        list(inflate(chunks(body, 100), "gzip"))


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_with_a_wrong_bit_is_damaged(coding: str) -> None:
    data = random.Random(7).randbytes(2000)
    body = bytearray(CODINGS[coding](data))
    body[len(body) // 2] ^= 1
    with pytest.raises(TransientError) as caught:
        list(inflate(chunks(bytes(body), 100), coding))
    assert caught.value.code is ErrorCode.DAMAGED


def test_what_is_not_coded_at_all_is_damaged() -> None:
    with pytest.raises(TransientError):
        list(inflate([b"\x89PNG\r\n"], "gzip"))


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "x" * 1000])
def test_a_coding_that_nobody_asked_for_is_refused(coding: str) -> None:
    with pytest.raises(PermanentError) as caught:
        list(inflate([b""], coding))
    assert caught.value.code is ErrorCode.HTTP_ERROR
    assert len(str(caught.value)) < 200


def test_a_bomb_is_refused_long_before_it_is_inflated() -> None:
    body = gzip.compress(bytes(100 << 20), 9)
    sizes: list[int] = []
    coded = CodedBody([body])
    with pytest.raises(PermanentError) as caught:
        sizes.extend(map(len, coded.bound(inflate(coded, "gzip"))))
    assert caught.value.code is ErrorCode.TOO_LARGE
    assert max(sizes) <= 256 * 1024
    assert sum(sizes) <= 64 << 20


def test_a_large_file_that_shrinks_well_is_no_bomb() -> None:
    block = random.Random(7).randbytes(2000)
    data = b"".join(block + bytes(60_000) for _ in range(1200))  # 74 MB, to a thirtieth
    body = gzip.compress(data, 1)
    assert len(body) * 100 > len(data) > 64 << 20
    coded = CodedBody(chunks(body, 1 << 16))
    assert sum(map(len, coded.bound(inflate(coded, "gzip")))) == len(data)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_is_decoded_out_of_a_buffer_that_is_used_again(coding: str) -> None:
    def reused() -> Iterator[memoryview]:
        buffer = bytearray(7)
        for chunk in chunks(CODINGS[coding](TEXT), 7):
            buffer[: len(chunk)] = chunk
            with memoryview(buffer)[: len(chunk)] as view:
                yield view

    assert b"".join(inflate(reused(), coding)) == TEXT
