"""`data:` URLs: an output's bytes that stand in FLORA's answer itself."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, strategies as st
from wire import PDF, PNG, Bench

from floradl.errors import ErrorCode, PermanentError
from floradl.models import Integrity, RemoteOutput
from floradl.urls import decode

IN_BASE64 = base64.b64encode(PNG).decode()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "library") as bench:
        yield bench


@pytest.mark.parametrize(
    ("url", "content_type", "data"),
    [
        ("data:,words", "text/plain;charset=US-ASCII", b"words"),
        ("data:;charset=utf-8,%C3%BC", "text/plain;charset=utf-8", "ü".encode()),
        ("data:text/plain,a%20b#fragment", "text/plain", b"a b"),
        (" DATA:image/gif;BASE64,R0lG", "image/gif", b"GIF"),
        ("data:image/gif;name=a.gif;base64,R0lG", "image/gif;name=a.gif", b"GIF"),
        ("data:image/gif;base64,R0 lG\n", "image/gif", b"GIF"),
        ("data:image/gif;base64,R0lGOA", "image/gif", b"GIF8"),
        ("data:image/gif;base64,R0lGOA%3D%3D", "image/gif", b"GIF8"),
        ("data:x/y;base64,-_-_", "x/y", b"\xfb\xff\xbf"),
        ("data:base64,AAAA", "text/plain;charset=US-ASCII", b"AAAA"),
        ("data:;base64,", "text/plain;charset=US-ASCII", b""),
    ],
)
def test_a_data_url_is_decoded(url: str, content_type: str, data: bytes) -> None:
    found = decode(url)
    assert (found.content_type, found.data) == (content_type, data)


@pytest.mark.parametrize("url", ["data:", "data:image/png;base64", "data:;base64,A", "data:;base64,%%%"])
def test_a_data_url_without_data_is_refused(url: str) -> None:
    with pytest.raises(PermanentError) as caught:
        decode(url)
    assert caught.value.code is ErrorCode.BAD_URL


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_from_both_forms(data: bytes) -> None:
    assert decode("data:x/y," + quote_from_bytes(data)).data == data
    assert decode("data:x/y;base64," + base64.b64encode(data).decode()).data == data


@pytest.mark.parametrize(
    "url",
    [f"data:image/png;base64,{IN_BASE64}", f"data:,{quote_from_bytes(PNG)}", f"\n data:;base64,{IN_BASE64}"],
)
def test_a_data_url_becomes_a_file_like_any_other(bench: Bench, url: str) -> None:
    found = bench.fetch(url)
    assert (found.data, found.path) == (PNG, "image/o.png")
    assert (found.integrity, found.checked) == (Integrity.VERIFIED, ("inline",))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:text/html,<!doctype html><html>Please sign in.</html>", ErrorCode.NOT_MEDIA),
        ("data:image/png;base64,", ErrorCode.NOT_MEDIA),
        ("data:image/png;base64,???", ErrorCode.BAD_URL),
        (f"data:image/png;base64,{base64.b64encode(PNG[:-30]).decode()}", ErrorCode.DAMAGED),
    ],
)
def test_what_is_no_media_in_a_data_url_is_refused(bench: Bench, url: str, code: ErrorCode) -> None:
    with pytest.raises(PermanentError) as caught:
        bench.fetch(url)
    assert caught.value.code is code
    assert "base64,iVBOR" not in str(caught.value)
    assert (bench.files(), bench.part()) == ([], None)


def test_a_data_url_is_bounded_by_the_largest_size(tmp_path: Path) -> None:
    with Bench(tmp_path, max_file_size=len(PNG) - 1) as bench, pytest.raises(PermanentError) as caught:
        bench.fetch(f"data:image/png;base64,{IN_BASE64}")
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_a_document_in_a_data_url_has_the_extension_of_its_content(bench: Bench) -> None:
    url = f"data:application/octet-stream;base64,{base64.b64encode(PDF).decode()}"
    assert bench.fetch(url, RemoteOutput("o", "documentUrl", url)).path == "document/o.pdf"
