from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from floradl.download.file_type.signatures import HEAD, from_content
from floradl.download.file_type.sniff import extension, identify
from floradl.errors import ErrorCode, PermanentError
from floradl.models import OutputKind

NOT_MEDIA = {"sample.html", "storage-error.xml"}
SAMPLES = Path(__file__).parent / "samples"
MEDIA = [OutputKind.IMAGE, OutputKind.VIDEO, OutputKind.AUDIO]
CERTAIN = {
    "sample.png": ".png",
    "sample.jpg": ".jpg",
    "thumbnail.jpg": ".jpg",
    "sample.webp": ".webp",
    "sample.gif": ".gif",
    "sample.avif": ".avif",
    "sample.heic": ".heic",
    "sample.tiff": ".tiff",
    "sample.svg": ".svg",
    "sample.bmp": ".bmp",
    "sample.exr": ".exr",
    "sample.psd": ".psd",
    "sample.mp4": ".mp4",
    "faststart.mp4": ".mp4",
    "fragmented.mp4": ".mp4",
    "sample.mov": ".mov",
    "sample.webm": ".webm",
    "live.webm": ".webm",
    "sample.mkv": ".mkv",
    "tagged.mp3": ".mp3",
    "bare.mp3": ".mp3",
    "sample.wav": ".wav",
    "streamed.wav": ".wav",
    "sample.flac": ".flac",
    "sample.ogg": ".ogg",
    "sample.opus": ".opus",
    "sample.m4a": ".m4a",
    "sample.aac": ".aac",
    "sample.pdf": ".pdf",
    "sample.docx": ".docx",
    "sample.zip": ".zip",
    "sample.glb": ".glb",
    "ape.mp3": ".mp3",
    "sample.3mf": ".3mf",
    "sample.ac3": ".ac3",
    "sample.aiff": ".aiff",
    "sample.amr": ".amr",
    "sample.au": ".au",
    "sample.caf": ".caf",
    "sample.cur": ".cur",
    "sample.dds": ".dds",
    "sample.doc": ".doc",
    "sample.dts": ".dts",
    "sample.eac3": ".eac3",
    "sample.eps": ".eps",
    "sample.epub": ".epub",
    "sample.flv": ".flv",
    "sample.gltf": ".gltf",
    "sample.h264": ".h264",
    "sample.h265": ".h265",
    "sample.ico": ".ico",
    "sample.ivf": ".ivf",
    "sample.j2k": ".j2k",
    "sample.jls": ".jls",
    "sample.jp2": ".jp2",
    "sample.jxl": ".jxl",
    "sample.lottie": ".lottie",
    "sample.m2ts": ".m2ts",
    "sample.m3u8": ".m3u8",
    "sample.mid": ".mid",
    "sample.mp2": ".mp2",
    "sample.mpd": ".mpd",
    "sample.mpg": ".mpg",
    "sample.mxf": ".mxf",
    "sample.nut": ".nut",
    "sample.odg": ".odg",
    "sample.oga": ".oga",
    "sample.ogv": ".ogv",
    "sample.ora": ".ora",
    "sample.pcx": ".pcx",
    "sample.pfm": ".pfm",
    "sample.pgm": ".pgm",
    "sample.ppm": ".ppm",
    "sample.qoi": ".qoi",
    "sample.sgi": ".sgi",
    "sample.spx": ".spx",
    "sample.srt": ".srt",
    "sample.stl": ".stl",
    "sample.svgz": ".svgz",
    "sample.tga": ".tga",
    "sample.ts": ".ts",
    "sample.tta": ".tta",
    "sample.usda": ".usda",
    "sample.usdc": ".usdc",
    "sample.voc": ".voc",
    "sample.vtt": ".vtt",
    "sample.w64": ".w64",
    "sample.wma": ".wma",
    "sample.woff": ".woff",
    "sample.woff2": ".woff2",
    "sample.wv": ".wv",
    "sample.xbm": ".xbm",
    "sample.xls": ".xls",
    "sample.xpm": ".xpm",
    "sample.xps": ".xps",
    "sample.y4m": ".y4m",
    "tagged.aac": ".aac",
    "text.stl": ".stl",
    "sample.asf": ".wmv",
    "sample.docm": ".docx",
    "sample.xlsm": ".xlsx",
    "sample.mka": ".mkv",
    "pictures.webm": ".webm",
    "lottie.json": ".json",
    "sample.html": ".html",
    "storage-error.xml": ".xml",
}


def head_of(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()[:HEAD]


@pytest.mark.parametrize(("name", "expected"), CERTAIN.items())
def test_the_content_tells_the_extension(name: str, expected: str) -> None:
    assert from_content(head_of(name)) == expected


@pytest.mark.parametrize(("name", "expected"), CERTAIN.items())
def test_the_content_wins_over_a_wrong_type_and_a_wrong_url(name: str, expected: str) -> None:
    assert extension(head_of(name), "image/x-photo-cd", "/a.pcd", OutputKind.OTHER) == expected
    assert extension(head_of(name), "image/flif", "/a.bpg", OutputKind.OTHER) == expected


@pytest.mark.parametrize(("name", "expected"), [row for row in CERTAIN.items() if row[0] not in NOT_MEDIA])
@pytest.mark.parametrize("content_type", [None, "", "application/octet-stream", "text/plain; charset=utf-8"])
def test_a_real_file_is_kept_under_its_own_name_whatever_vague_type_it_has(
    name: str, expected: str, content_type: str | None
) -> None:
    for kind in (*MEDIA, OutputKind.DOCUMENT, OutputKind.OTHER):
        for path in ("/x", "/x" + Path(name).suffix, "/x" + expected):
            identify(head_of(name), content_type, path, kind)


@pytest.mark.parametrize("name", ["sample.txt", "sample.json"])
def test_content_that_could_be_anything_is_not_guessed(name: str) -> None:
    assert from_content(head_of(name)) is None


@pytest.mark.parametrize("text", [b"BM is a brand", b"ID", b"RIFF", b"\xff\xfb", b"OggS", b"MM", b"G" * 100])
def test_a_short_signature_alone_is_not_enough(text: bytes) -> None:
    assert from_content(text) is None


@pytest.mark.parametrize(
    ("brands", "expected"),
    [
        (b"mif1\0\0\0\0mif1avifmiaf", ".avif"),
        (b"mif1\0\0\0\0mif1heic", ".heic"),
        (b"mif1\0\0\0\0mif1", ".heif"),
        (b"3gp5\0\0\0\0", ".3gp"),
        (b"3g2a\0\0\0\0", ".3g2"),
        (b"M4V \0\0\0\0", ".m4v"),
        (b"isom\0\0\0\0", ".mp4"),
        (b"new!\0\0\0\0", ".mp4"),
    ],
)
def test_brands_tell_the_members_of_the_mp4_family_apart(brands: bytes, expected: str) -> None:
    assert from_content((8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands) == expected


def test_sound_in_an_mp4_without_a_brand_of_its_own_is_m4a() -> None:
    assert extension(b"\0\0\0\x10ftypisom\0\0\0\0", None, "", OutputKind.AUDIO) == ".m4a"
    assert extension(b"\0\0\0\x10ftypisom\0\0\0\0", "audio/mp4", "", OutputKind.OTHER) == ".m4a"


@pytest.mark.parametrize(
    ("content_type", "url_path", "expected"),
    [
        ("image/png", "/a.jpg", ".png"),
        ("Image/JPEG; charset=binary", "", ".jpg"),
        ("application/octet-stream", "/a/b.PNG", ".png"),
        (None, "/a.b/c.tar", ".tar"),
        (None, "/a.b/c", ".bin"),
        ("", "/.png", ".bin"),
        ("nonsense", "/a.p%2Fng", ".bin"),
        (None, "/a.toolongforone", ".bin"),
        (None, "/setup.exe", ".bin"),
        (None, "/run.SH", ".bin"),
        (None, "", ".bin"),
    ],
)
def test_then_the_type_tells_and_then_the_url(content_type: str | None, url_path: str, expected: str) -> None:
    assert extension(b"\x00\x01\x02\x03", content_type, url_path, OutputKind.IMAGE) == expected


@pytest.mark.parametrize(
    ("name", "content_type", "url_path", "expected"),
    [
        ("sample.zip", "application/epub+zip", "", ".epub"),
        ("sample.zip", None, "/scene.usdz", ".usdz"),
        ("sample.zip", "image/png", "/a.png", ".zip"),
        ("sample.tiff", "image/x-adobe-dng", "", ".dng"),
        ("sample.ogg", None, "/a.oga", ".oga"),
    ],
)
def test_a_container_is_named_by_what_was_packed_into_it(
    name: str, content_type: str | None, url_path: str, expected: str
) -> None:
    assert extension(head_of(name), content_type, url_path, OutputKind.OTHER) == expected


@pytest.mark.parametrize("name", ["sample.txt", "sample.html", "sample.png"])
def test_a_text_output_is_txt_always(name: str) -> None:
    assert extension(head_of(name), "image/png", "/a.png", OutputKind.TEXT) == ".txt"


@given(
    st.binary(max_size=600),
    st.none() | st.text(max_size=40),
    st.text(max_size=40) | st.from_regex(r"/a\.[a-zA-Z0-9]{1,9}"),
    st.sampled_from(OutputKind),
)
def test_an_extension_is_always_a_plain_one(
    head: bytes, content_type: str | None, url_path: str, kind: OutputKind
) -> None:
    found = extension(head, content_type, url_path, kind)
    assert found[0] == "."
    assert found[1:].isascii()
    assert found[1:].isalnum()
    assert found == found.lower()
    assert len(found) <= 9


@pytest.mark.parametrize("kind", MEDIA)
@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\xef\xbb\xbf\r\n <HTML lang='en'>", "HTML"),
        (b"<!-- a -->\n<!-- b --><html>", "HTML"),
        (b"<?xml version='1.0'?><!DOCTYPE html PUBLIC '-//W3C'><html>", "HTML"),
        ("<html>".encode("utf-16"), "HTML"),
        (b"<p>Sorry</p>", "HTML"),
        (b"<html>caf\xe9 in latin-1, caf\xe9, caf\xe9, caf\xe9</html>", "HTML"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "storage"),
        (b"<Error xmlns='x'>\n<Code>NoSuchKey</Code>", "storage"),
        (b"<?xml version='1.0'?><rss/>", "XML"),
        (b'{"error": {"code": "not_found"}}', "JSON"),
        (b' [{"a": 1}]', "JSON"),
    ],
)
def test_a_page_or_message_is_not_taken_for_media(kind: OutputKind, head: bytes, what: str) -> None:
    with pytest.raises(PermanentError, match=what) as caught:
        identify(head, "image/png", "", kind)
    assert caught.value.code is ErrorCode.NOT_MEDIA
    assert kind.value in str(caught.value)


@pytest.mark.parametrize(
    ("content_type", "what"),
    [("text/plain; charset=utf-8", "text"), ("text/html", "HTML"), ("application/json", "JSON")],
)
def test_what_says_that_it_is_text_is_not_taken_for_media(content_type: str, what: str) -> None:
    with pytest.raises(PermanentError, match=what):
        identify(b"Not Found", content_type, "", OutputKind.IMAGE)


@pytest.mark.parametrize("name", sorted(set(CERTAIN) - NOT_MEDIA))
@pytest.mark.parametrize("content_type", [None, "text/html", "application/json", "image/png"])
def test_media_is_media_whatever_the_server_calls_it(name: str, content_type: str | None) -> None:
    for kind in MEDIA:
        identify(head_of(name), content_type, "", kind)


def test_bytes_that_nothing_tells_are_let_through() -> None:
    identify(os.urandom(64), "application/octet-stream", "", OutputKind.IMAGE)


@pytest.mark.parametrize("content_type", [None, "text/html; charset=utf-8", "application/octet-stream"])
def test_a_document_may_be_an_html_page(content_type: str | None) -> None:
    identify(head_of("sample.html"), content_type, "", OutputKind.DOCUMENT)


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        (b"<!doctype html>", "application/pdf"),
        (b"<Error><Code>AccessDenied</Code></Error>", "application/xml"),
        (b"", "application/pdf"),
    ],
)
def test_an_error_is_no_document(head: bytes, content_type: str) -> None:
    with pytest.raises(PermanentError):
        identify(head, content_type, "", OutputKind.DOCUMENT)


def test_a_document_may_be_json() -> None:
    identify(head_of("sample.json"), "application/json", "", OutputKind.DOCUMENT)


@pytest.mark.parametrize("head", [b"", b"<html>", b'{"error": "said the model"}', b"words"])
def test_a_text_may_be_any_words(head: bytes) -> None:
    identify(head, "text/plain", "", OutputKind.TEXT)


def test_no_output_is_an_error_message_of_the_storage() -> None:
    for kind in OutputKind:
        with pytest.raises(PermanentError, match="storage"):
            identify(head_of("storage-error.xml"), "application/xml", "", kind)


@pytest.mark.parametrize(
    "piece", [b"<!--", b"<!doctype [", b"<!doctype x[]", b"<?", b"[", b"<!--x-->", b"<Error ", b" ", b"]>"]
)
def test_a_hostile_beginning_is_gone_through_once(piece: bytes) -> None:
    head = b"<!doctype a" + piece * HEAD
    from_content(head[: HEAD * 4])
    identify(head[: HEAD * 4], None, "", OutputKind.OTHER)
    # Were it gone through again for each piece, this would not end.
