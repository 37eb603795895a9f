"""Codings are undone as far as the bytes are really coded, in reverse order, and within bounds."""

from __future__ import annotations

import builtins
import gzip
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, strategies as st
from wire import MP4, PDF, PNG, WAV

from floradl.download.decompress import undo
from floradl.errors import ErrorCode, PermanentError, TransientError
from floradl.net.headers import content_codings

TEXT = b"".join(b"line %d of a document\n" % number for number in range(2000))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><title>caf\xc3\xa9</title></svg>'


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, 9, -15)


def brotli(data: bytes) -> bytes:
    packed: bytes = pytest.importorskip("brotli", reason="needs the extra `codings`").compress(data)
    return packed


def zstd(data: bytes) -> bytes:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    packed: bytes = pytest.importorskip(name, reason="needs the extra `codings`").compress(data)
    return packed


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli),
    "zstd": ("zstd", zstd),
}
every_packer = pytest.mark.parametrize("packer", PACKERS)


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def undone(data: bytes, *codings: str, size: int = 1000) -> tuple[bytes, tuple[str, ...]]:
    body = undo(chunks(data, size), codings)
    return b"".join(bytes(piece) for piece in body.pieces), body.codings


@pytest.mark.parametrize(
    ("said", "codings"),
    [
        (None, ()),
        ("", ()),
        (" , ,", ()),
        ("identity", ()),
        ("aws-chunked", ()),
        ("aws-chunked,gzip", ("gzip",)),
        ("gzip, aws-chunked", ("gzip",)),
        ("identity, gzip", ("gzip",)),
        ("GZIP", ("gzip",)),
        ("gzip, br", ("gzip", "br")),
        ("utf-8", ()),
        ("UTF-8, gzip", ("gzip",)),
        ("binary", ()),
        ("base64", ()),
        ("none", ()),
        ("7bit", ()),
        ("deflate,x-compress", ("deflate", "x-compress")),
    ],
)
def test_codings_are_a_list_and_what_is_no_coding_falls_away(
    said: str | None, codings: tuple[str, ...]
) -> None:
    headers = httpx.Headers({} if said is None else {"content-encoding": said})
    assert content_codings(headers) == codings


def test_codings_in_fields_of_their_own_follow_one_another() -> None:
    headers = httpx.Headers([("Content-Encoding", "aws-chunked"), ("Content-Encoding", "gzip")])
    assert content_codings(headers) == ("gzip",)


@every_packer
@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("data", [TEXT, PNG, b"x"], ids=["text", "image", "byte"])
def test_a_coding_is_undone_however_the_bytes_come(packer: str, size: int, data: bytes) -> None:
    coding, pack = PACKERS[packer]
    assert undone(pack(data), coding, size=size) == (data, (coding,))


@pytest.mark.parametrize("first", PACKERS)
@pytest.mark.parametrize("second", PACKERS)
def test_several_codings_are_undone_the_last_first(first: str, second: str) -> None:
    body = PACKERS[second][1](PACKERS[first][1](TEXT))
    codings = (PACKERS[first][0], PACKERS[second][0])
    assert undone(body, *codings) == (TEXT, codings)


@every_packer
@pytest.mark.parametrize("data", [PNG, MP4, PDF, WAV, TEXT, SVG, b"ab\n\xc3\xa9 text"])
def test_what_is_called_coded_and_is_not_stays_as_it_is(packer: str, data: bytes) -> None:
    assert undone(data, PACKERS[packer][0]) == (data, ())


@pytest.mark.parametrize(
    "coding", ["compress", "x-compress", "exi", "aes128gcm", "dcb", "dcz", "pack200-gzip"]
)
def test_media_under_a_coding_that_is_not_understood_stay_as_they_are(coding: str) -> None:
    assert undone(PNG, coding) == (PNG, ())


def test_a_text_that_ends_within_a_letter_at_the_edge_of_what_is_looked_at_is_a_text() -> None:
    text = b"x" * 4095 + "é".encode() * 100
    assert undone(text, "br", size=1 << 20) == (text, ())


def test_what_is_called_gzip_twice_and_is_so_once_is_undone_once() -> None:
    assert undone(gzip.compress(TEXT), "gzip", "gzip") == (TEXT, ("gzip",))


@pytest.mark.parametrize("coding", ["compress", "x-compress"])
def test_a_coding_that_is_not_understood_is_refused(coding: str) -> None:
    with pytest.raises(PermanentError, match="content coding") as caught:
        undone(b"\x1f\x9d\x90" + bytes(100), coding)
    assert caught.value.code is ErrorCode.HTTP_ERROR


def test_codings_without_end_are_refused() -> None:
    with pytest.raises(PermanentError, match="5 content codings"):
        undone(TEXT, *["gzip"] * 5)


@every_packer
def test_a_coded_body_that_is_cut_short_is_damaged(packer: str) -> None:
    coding, pack = PACKERS[packer]
    body = pack(random.Random(7).randbytes(3000))
    for end in (1, 2, len(body) // 2, len(body) - 1):
        with pytest.raises(TransientError) as caught:
            undone(body[:end], coding)
        assert caught.value.code is ErrorCode.DAMAGED


@every_packer
def test_an_empty_coded_body_is_damaged(packer: str) -> None:
    with pytest.raises(TransientError) as caught:
        undone(b"", PACKERS[packer][0])
    assert caught.value.code is ErrorCode.DAMAGED


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_all_frames_of_a_zstd_body_are_decoded(size: int) -> None:
    body = zstd(TEXT) + zstd(b"") + zstd(b"and more")
    assert undone(body, "zstd", size=size)[0] == TEXT + b"and more"


# Brotli's own library refuses bytes behind the end that come in one piece with it.
@pytest.mark.parametrize(("packer", "size"), [("zstd", 1), ("zstd", 7), ("zstd", 1 << 20), ("br", 1)])
def test_padding_behind_a_coded_body_is_passed_over(packer: str, size: int) -> None:
    coding, pack = PACKERS[packer]
    assert undone(pack(TEXT) + bytes(100), coding, size=size)[0] == TEXT


@every_packer
def test_a_bomb_of_any_coding_is_refused_in_small_pieces(packer: str) -> None:
    coding, pack = PACKERS[packer]
    sizes: list[int] = []
    with pytest.raises(PermanentError) as caught:
        sizes.extend(len(piece) for piece in undo([pack(bytes(100 << 20))], (coding,)).pieces)
    assert caught.value.code is ErrorCode.TOO_LARGE
    assert max(sizes) <= (512 if packer == "br" else 256) << 10  # brotli gives a little more than it may
    assert sum(sizes) <= 64 << 20


def test_a_bomb_within_a_bomb_is_held_against_what_came_from_the_network() -> None:
    body = gzip.compress(gzip.compress(bytes(1 << 30), 9), 9)
    assert len(body) < 5000
    with pytest.raises(PermanentError) as caught:
        for _ in undo([body], ("gzip", "gzip")).pieces:
            pass
    assert caught.value.code is ErrorCode.TOO_LARGE


@given(st.binary(max_size=3000), st.sampled_from(sorted(PACKERS)), st.integers(1, 500))
def test_any_bytes_are_decoded_or_refused_and_never_a_bug(data: bytes, packer: str, size: int) -> None:
    try:
        undone(data, PACKERS[packer][0], size=size)
    except (TransientError, PermanentError):
        return


@pytest.mark.parametrize("packer", ["br", "zstd"])
def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, packer: str) -> None:
    coding, pack = PACKERS[packer]
    body = pack(PNG)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in {"brotli", "backports", "compression"}:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PermanentError, match="the extra `codings`") as caught:
        undone(body, coding)
    assert "pip" not in str(caught.value)
    # What is not so coded after all needs no extra.
    assert undone(PNG, coding) == (PNG, ())
