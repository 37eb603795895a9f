"""Content, content type and name of an answer -> the file's extension, or a refusal, row by row."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from floradl.download.file_type.signatures import HEAD, beginning, from_content
from floradl.download.file_type.sniff import extension, identify
from floradl.errors import PermanentError
from floradl.models import OutputKind

SAMPLES = Path(__file__).parent / "samples"
FILES = sorted(path for path in SAMPLES.iterdir() if path.is_file())
MEDIA = [OutputKind.IMAGE, OutputKind.VIDEO, OutputKind.AUDIO]
VAGUE = [None, "application/octet-stream", "binary/octet-stream", "text/plain; charset=utf-8"]
UNKNOWN = b"\x8f\x01nobody's format\0\1\2\3" * 9
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><path d=""/></svg>'
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form>"
LOTTIE = json.dumps({"v": "5.7.4", "fr": 30, "ip": 0, "op": 9, "w": 8, "h": 8, "layers": []}).encode()
GLTF = b'{"accessors":[{"bufferView":0}],"asset":{"generator":"x","version":"2.0"},"meshes":[]}'
MPD = b'<?xml version="1.0"?>\n<!-- a -->\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
HLS = b"#EXTM3U\r\n#EXT-X-VERSION:3\r\n#EXTINF:4,\r\na.ts\r\n"


def head_of(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()[:HEAD]


def packed(*members: str, first: tuple[str, str] | None = None) -> bytes:
    """Give a ZIP file with these members, and one before them that is stored as it is."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        if first:
            archive.writestr(zipfile.ZipInfo(first[0]), first[1])
        for member in members:
            archive.writestr(member, "x" * 50)
    return data.getvalue()


def reading(data: bytes) -> Callable[[int, int], bytes]:
    return lambda size, at: data[at : at + size]


def named(
    head: bytes, content_type: str | None, path: str, kind: OutputKind, disposition: str | None = None
) -> str | None:
    """Give the extension, None where it is refused."""
    try:
        return identify(head, content_type, path, kind, disposition)
    except PermanentError:
        return None


# --- what looks like an error and is none --------------------------------------------------------------


@pytest.mark.parametrize("kind", [OutputKind.DOCUMENT, OutputKind.OTHER])
@pytest.mark.parametrize("content_type", ["application/json", *VAGUE])
@pytest.mark.parametrize("path", ["/x.json", "/x"])
@pytest.mark.parametrize("key", ["message", "detail", "error", "errors", "code", "status"])
def test_a_json_document_may_begin_with_any_key(
    kind: OutputKind, content_type: str | None, path: str, key: str
) -> None:
    expected = {"/x.json": ".json", "/x": {"application/json": ".json"}.get(content_type or "", "")}[path]
    found = named(b'{"%s": {"a": 1}}' % key.encode(), content_type, path, kind)
    assert found == (expected or (".txt" if content_type and content_type.startswith("text") else ".bin"))


@pytest.mark.parametrize(
    "text",
    [
        b"<h1 align='center'>Title</h1>\n\n# More\n",
        b"<p align=center><img src=a.png></p>\n",
        b"<!-- a comment -->\n# Title\n",
        b"<br>\n\ntext",
        b"<div>\n\n**bold**\n</div>",
        b"<details><summary>x</summary>",
        b"<a name='top'></a>\n# Title",
        b"<html>is how this page begins, which is about HTML",
    ],
)
@pytest.mark.parametrize(
    ("content_type", "path"),
    [
        ("text/markdown", "/x"),
        ("text/markdown; charset=utf-8", "/x.md"),
        ("text/x-markdown", "/x.md"),
        ("text/plain", "/x.md"),
        ("application/octet-stream", "/x.md"),
        (None, "/x.md"),
        ("text/html", "/x.md"),
    ],
)
def test_markdown_may_begin_with_html(text: bytes, content_type: str | None, path: str) -> None:
    assert named(text, content_type, path, OutputKind.DOCUMENT) == ".md"


@pytest.mark.parametrize(
    ("head", "content_type", "path", "expected"),
    [
        (b"<Error><Code>1</Code></Error>", "application/xml", "/x.xml", ".xml"),
        (b"<?xml version='1.0'?><Error><Code>", "text/plain", "/x.xml", ".xml"),
        (PAGE, "text/html", "/x.html", ".html"),
        (PAGE, "text/html", "/x", ".html"),
        (PAGE, "text/plain", "/x", ".html"),
        (PAGE, "application/vnd.ms-excel", "/x.xls", ".html"),
        (b"a;b\r\n1;2\r\n", "application/vnd.ms-excel", "/x.csv", ".csv"),
        (b"a;b\r\n1;2\r\n", "text/csv", "/x", ".csv"),
        (b"Not found: a poem", "text/plain", "/x.txt", ".txt"),
        (b"Not found: a poem", "text/plain", "/x", ".txt"),
        (b"Access denied", "text/x-poem", "/x", ".txt"),
        (b"# Title\n", "text/markdown", "/cat.png", ".md"),
        (b'["a"]\n["b"]\n', "application/x-ndjson", "/x", ".ndjson"),
        (b'{"cells": []}', "application/json", "/x.ipynb", ".ipynb"),
        (b"", None, "/x", None),
    ],
)
def test_a_document_is_what_its_type_or_name_says(
    head: bytes, content_type: str | None, path: str, expected: str | None
) -> None:
    assert named(head, content_type, path, OutputKind.DOCUMENT) == expected


@pytest.mark.parametrize("content_type", ["image/svg+xml", "text/xml", "text/html", "image/png", *VAGUE])
@pytest.mark.parametrize(
    "text",
    [
        SVG,
        b"\xef\xbb\xbf\r\n" + SVG,
        b"<!-- " + b"long " * 2000 + b"-->" + SVG,
        b"<?xml version='1.0'?>\n" + b"<!-- a -->\n" * 900 + SVG,
        b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'x' [\n"
        + b"<!ENTITY ns 'a > b ]'>\n<!-- ]> \" -->\n<?a ]> ?>\n" * 99
        + b"]>\n"
        + SVG,
        b"<!DOCTYPE svg [<!ENTITY ns_svg 'http://www.w3.org/2000/svg'>]><svg xmlns='&ns_svg;'>",
        b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' [\n" + b"<!ENTITY a 'b'>\n" * 9000,
        b"<style>svg { color: red }</style>\n" + SVG,
        b"<title>A drawing</title><!-- b --><desc>of it</desc>" + SVG,
        b'<ns0:svg xmlns:ns0="http://www.w3.org/2000/svg" width="1">',
        b'<?xml version="1.0"?><a.b-c:svg\n width="1" xmlns:a.b-c = \'http://www.w3.org/2000/svg\'>',
        b"<!DOCTYPE s:svg [<!ENTITY n 'http://www.w3.org/2000/svg'>]><s:svg xmlns:s='&n;'>",
        b"<svg:svg xmlns:svg='http://www.w3.org/2000/svg'>",
        SVG.decode().encode("utf-16"),
        SVG.decode().encode("utf-16-le"),
        SVG.decode().encode("utf-16-be"),
    ],
)
def test_a_drawing_is_one_whatever_stands_before_it(text: bytes, content_type: str | None) -> None:
    assert named(text[:HEAD], content_type, "/x", OutputKind.IMAGE) == ".svg"


@pytest.mark.parametrize(
    "text",
    [
        b'<ns0:svg xmlns:ns0="urn:else">',
        b"<title>Sign in</title><p>first</p><svg>",
        b"<style>p { }</style><p>first</p>",
        b"<html><svg>",
        b"<!doctype html><svg>",
    ],
)
def test_what_only_holds_a_drawing_or_its_name_is_none(text: bytes) -> None:
    assert from_content(text) != ".svg"


@pytest.mark.parametrize(
    ("head", "kind", "own", "expected"),
    [
        (LOTTIE, OutputKind.IMAGE, "application/json", ".json"),
        (LOTTIE, OutputKind.VIDEO, "video/lottie+json", ".json"),
        (GLTF, OutputKind.IMAGE, "model/gltf+json", ".gltf"),
        (head_of("sample.gltf"), OutputKind.IMAGE, "application/json", ".gltf"),
        (MPD, OutputKind.VIDEO, "application/dash+xml", ".mpd"),
        (MPD, OutputKind.AUDIO, "application/xml", ".mpd"),
        (HLS, OutputKind.VIDEO, "application/vnd.apple.mpegurl", ".m3u8"),
        (b"\xef\xbb\xbf" + HLS, OutputKind.AUDIO, "audio/mpegurl", ".m3u8"),
        (b"WEBVTT", OutputKind.VIDEO, "text/vtt", ".vtt"),
        (b"\xef\xbb\xbfWEBVTT - words\r\n\r\n", OutputKind.VIDEO, "text/vtt", ".vtt"),
        (b"WEBVTT\tmore\n", OutputKind.VIDEO, "text/vtt", ".vtt"),
        (b"1\r\n00:00:01,000 --> 00:00:02,000\r\nHi", OutputKind.VIDEO, "application/x-subrip", ".srt"),
        (b"[Script Info]\r\n", OutputKind.VIDEO, "text/x-ssa", ".ass"),
        (b"<tt xmlns='http://www.w3.org/ns/ttml'>", OutputKind.VIDEO, "application/ttml+xml", ".ttml"),
        (b"# made\n\nmtllib a.mtl\no b\nv 1.0 -2 3e-4\nf 1 2 3\n", OutputKind.IMAGE, "model/obj", ".obj"),
        (b"solid a\n facet normal 0 0 1\n", OutputKind.IMAGE, "model/stl", ".stl"),
        (b"# made\n\nnewmtl a\nKd 0 0 0\n", OutputKind.IMAGE, "model/mtl", ".mtl"),
        (b"OFF\n# made\n\n8 6 0\n0 0 0\n", OutputKind.IMAGE, "text/plain", ".off"),
        (b"xof 0303txt 0032\n", OutputKind.IMAGE, "text/plain", ".x"),
        (b"#usda 1.0\n(", OutputKind.IMAGE, "model/vnd.usda", ".usda"),
        (b"P3\n# text\n2 2\n255\n0 0 0", OutputKind.IMAGE, "image/x-portable-pixmap", ".ppm"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\r%%", OutputKind.IMAGE, "application/postscript", ".eps"),
        (b"/* XPM */\nstatic", OutputKind.IMAGE, "image/x-xpixmap", ".xpm"),
    ],
)
def test_an_image_video_or_sound_may_be_a_text_of_a_known_format(
    head: bytes, kind: OutputKind, own: str, expected: str
) -> None:
    for content_type in (own, *VAGUE, "text/html"):
        for path in ("/x", "/x" + expected):
            assert named(head, content_type, path, kind) == expected


@pytest.mark.parametrize("kind", [*MEDIA, OutputKind.DOCUMENT, OutputKind.OTHER])
@pytest.mark.parametrize(
    "content_type", [*VAGUE, "text/html", "application/json", "application/xml", "image/png"]
)
def test_an_unknown_format_passes_under_any_type(kind: OutputKind, content_type: str | None) -> None:
    identify(UNKNOWN, content_type, "/x.unknown", kind)
    identify(UNKNOWN, content_type, "", kind)


@pytest.mark.parametrize(
    ("head", "content_type", "path"),
    [
        (b"v1.0 of a format of texts\n", "application/octet-stream", "/x.foo"),
        (b"v1.0 of a format of texts\n", "text/plain", "/x.foo"),
        (b"v1.0 of a format of texts\n", "image/x-foo", "/x"),
        (b"v1.0 of a format of texts\n", None, "/x"),
        (b'{"scenes": "of a format in JSON"}', "application/json", "/x.json"),
        (b'{"scenes": "of a format in JSON"}', "application/octet-stream", "/x.tldr"),
        (b"<?xml version='1.0'?><mxfile>", "application/xml", "/x.drawio"),
        (b"<?xml version='1.0'?><song>", "application/vnd.recordare.musicxml+xml", "/x.musicxml"),
    ],
)
def test_an_image_of_a_format_of_texts_passes_by_its_name(
    head: bytes, content_type: str | None, path: str
) -> None:
    identify(head, content_type, path, OutputKind.IMAGE)


# --- what is wrong ------------------------------------------------------------------------------------

WRONG = {
    "a plain text": b"upstream connect error or disconnect/reset before headers",
    "a text of another time": "Zugriff verweigert: für Sie gesperrt".encode("latin-1"),
    "a text in Cyrillic": ("Доступ запрещён. " * 9).encode("cp1251"),
    "zeros": bytes(5000),
    "a few zeros": bytes(16),
    "a page": PAGE,
    "a piece of a page": b"<p>Sorry</p>",
    "a page after a comment": b"<!-- " + b"x" * 9000 + b" --><html>",
    "a page in UTF-16": PAGE.decode().encode("utf-16"),
    "a message in JSON": b'{"error": {"code": "expired"}}',
    "a list in JSON": b'[{"error": "expired"}]',
    "a message in XML": b"<?xml version='1.0'?><error>expired</error>",
    "a message of a storage": head_of("storage-error.xml"),
    "white space": b" \r\n ",
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(
    ("kind", "content_type", "path"),
    [
        (OutputKind.IMAGE, "image/png", "/x"),
        (OutputKind.IMAGE, "image/jpeg", "/x"),
        (OutputKind.IMAGE, "application/octet-stream", "/x.webp"),
        (OutputKind.IMAGE, "text/plain", "/x.png"),
        (OutputKind.IMAGE, "text/html", "/x.png"),
        (OutputKind.IMAGE, "application/json", "/x.jpg"),
        (OutputKind.IMAGE, None, "/x.JPEG"),
        (OutputKind.VIDEO, "video/mp4", "/x"),
        (OutputKind.VIDEO, None, "/x.mp4"),
        (OutputKind.AUDIO, "audio/mpeg", "/x"),
        (OutputKind.AUDIO, "text/plain", "/x.wav"),
        (OutputKind.DOCUMENT, "application/pdf", "/x"),
        (OutputKind.DOCUMENT, "text/html", "/x.pdf"),
        (OutputKind.DOCUMENT, "application/octet-stream", "/x.docx"),
        (OutputKind.DOCUMENT, "application/json", "/x.pdf"),
        (OutputKind.OTHER, "model/gltf-binary", "/x"),
        (OutputKind.OTHER, "video/webm", "/x"),
        (OutputKind.OTHER, None, "/x.png"),
    ],
)
def test_wrong_content_is_refused_where_a_signature_is_due(
    wrong: bytes, kind: OutputKind, content_type: str | None, path: str
) -> None:
    assert named(wrong, content_type, path, kind) is None


@pytest.mark.parametrize(
    ("head", "content_type", "path", "kind"),
    [
        (PAGE, "application/json", "/x", OutputKind.DOCUMENT),
        (PAGE, "text/html", "/x.csv", OutputKind.DOCUMENT),
        (PAGE, "text/csv", "/x", OutputKind.DOCUMENT),
        (PAGE, "text/html", "/x.json", OutputKind.DOCUMENT),
        (b'{"error": "expired"}', "application/json", "/x.svg", OutputKind.DOCUMENT),
        (b'{"error": "expired"}', "application/json", "/x.srt", OutputKind.OTHER),
        (b'{"error": "expired"}', "application/json", "/x", OutputKind.IMAGE),
        (b'{"error": "expired"}', None, "/x", OutputKind.IMAGE),
        (b"Not found", "text/plain", "/x", OutputKind.IMAGE),
        (PAGE, "text/html", "/x.html", OutputKind.VIDEO),
        (gzip.compress(PAGE, mtime=0), "image/png", "/x.png", OutputKind.IMAGE),
        (gzip.compress(b'{"error": 1}', mtime=0), "application/pdf", "/x", OutputKind.DOCUMENT),
        (bytes(99), None, "/x", OutputKind.IMAGE),
        (bytes(99), "application/json", "/x", OutputKind.DOCUMENT),
    ],
)
def test_a_page_or_message_is_refused_where_another_text_is_due(
    head: bytes, content_type: str | None, path: str, kind: OutputKind
) -> None:
    assert named(head, content_type, path, kind) is None


def test_a_file_name_that_the_host_suggests_asks_for_a_signature_too() -> None:
    suggested = 'attachment; filename="report.pdf"'
    assert named(PAGE, "text/html", "/x", OutputKind.DOCUMENT, suggested) is None
    assert named(b"%PDF-1.7", "application/octet-stream", "/x", OutputKind.DOCUMENT, suggested) == ".pdf"


@pytest.mark.parametrize(
    ("head", "content_type", "path", "expected"),
    [
        (head_of("sample.webp"), "image/png", "/x.png", ".webp"),
        (head_of("sample.jpg"), "image/png", "/x.png", ".jpg"),
        (head_of("sample.avif"), "image/jpeg", "/x.jpg", ".avif"),
        (head_of("sample.webm"), "video/mp4", "/x.mp4", ".webm"),
        (head_of("bare.mp3"), "audio/wav", "/x.wav", ".mp3"),
        (head_of("sample.opus"), "audio/ogg", "/x.ogg", ".opus"),
        (head_of("sample.wav"), "audio/mpeg", "/x.mp3", ".wav"),
        (head_of("sample.png"), "application/pdf", "/x.pdf", ".png"),
    ],
)
def test_another_real_format_than_was_said_passes_and_is_named_by_its_content(
    head: bytes, content_type: str, path: str, expected: str
) -> None:
    for kind in (*MEDIA, OutputKind.DOCUMENT, OutputKind.OTHER):
        assert named(head, content_type, path, kind) == expected


# --- names --------------------------------------------------------------------------------------------

OFFICE = packed("_rels/.rels", "word/document.xml", "word/_rels/document.xml.rels")
MACRO = "application/vnd.ms-word.document.macroEnabled.12"


@pytest.mark.parametrize(
    ("head", "content_type", "path", "expected"),
    [
        (head_of("sample.odg"), None, "/x", ".odg"),
        (head_of("sample.ora"), "application/zip", "/x.zip", ".ora"),
        (head_of("sample.lottie"), "application/octet-stream", "/x", ".lottie"),
        (head_of("sample.xps"), "application/zip", "/x", ".xps"),
        (head_of("sample.zip"), "application/zip", "/x.pages", ".pages"),
        (head_of("sample.zip"), "application/vnd.apple.keynote", "/x", ".key"),
        (head_of("sample.docm"), None, "/x.docm", ".docm"),
        (head_of("sample.xlsm"), "application/octet-stream", "/x.xlsm", ".xlsm"),
        (OFFICE, MACRO, "/x", ".docm"),
        (OFFICE, "application/octet-stream", "/x.docx", ".docx"),
        (packed("[Content_Types].xml", "ppt/presentation.xml", "ppt/vbaProject.bin"), None, "/x", ".pptm"),
        (packed("[Content_Types].xml", "_rels/.rels", "3D/3dmodel.model"), None, "/x", ".3mf"),
        (packed(first=("mimetype", "application/vnd.oasis.opendocument.chart")), None, "/x", ".odc"),
        (head_of("sample.svgz"), "application/gzip", "/x", ".svgz"),
        (gzip.compress(b"NGSP" + UNKNOWN, mtime=0), "application/gzip", "/x", ".spz"),
        (gzip.compress(UNKNOWN, mtime=0), None, "/x.spz", ".spz"),
        (gzip.compress(UNKNOWN, mtime=0), None, "/x", ".gz"),
        (head_of("sample.eps"), "application/postscript", "/x.ps", ".eps"),
        (b"\xc5\xd0\xd3\xc6" + UNKNOWN, None, "/x", ".eps"),
        (b"%!PS-Adobe-3.0\n", "application/postscript", "/x.eps", ".eps"),
        (head_of("sample.jls"), "image/jpeg", "/x.jpg", ".jls"),
        (head_of("sample.cur"), "image/x-icon", "/x.ico", ".cur"),
        (UNKNOWN, "text/plain", "/x.tga", ".tga"),
        (UNKNOWN, "application/octet-stream", "/x.splat", ".splat"),
        (b"a,b\n1,2\n", "text/plain", "/x.csv", ".csv"),
        (b"text", "text/plain", "/x.exe", ".txt"),
        (b"text", "text/plain", "/x.py", ".txt"),
        (b"\x1bLua", "application/octet-stream", "/x.jar", ".bin"),
        (b"ID3\4\0\0\0\x7f\x7f\x7f" + bytes(900), "audio/flac", "/x", ".flac"),
        (b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + b"fLaC" + UNKNOWN, "audio/mpeg", "/x.mp3", ".flac"),
        (head_of("tagged.mp3"), "audio/aac", "/x.aac", ".mp3"),
        (head_of("sample.xls"), "application/msword", "/x", ".xls"),
        (LOTTIE, "application/json", "/x.lottie", ".lottie"),
        (PAGE.replace(b"html", b"HTML"), "application/xhtml+xml", "/x", ".html"),
        (b"<p>hello</p>", "text/plain", "/x", ".txt"),
    ],
)
def test_a_file_has_a_name_of_its_own(
    head: bytes, content_type: str | None, path: str, expected: str
) -> None:
    assert named(head, content_type, path, OutputKind.OTHER) == expected


@pytest.mark.parametrize(
    ("disposition", "expected"),
    [
        ('attachment; filename="a.spz"', ".spz"),
        ("attachment; filename=a.spz", ".spz"),
        ("inline;FILENAME = a.SPZ ; size=3", ".spz"),
        ("attachment; filename*=UTF-8''%e2%82%ac%20rates.spz", ".spz"),
        ("attachment; filename*=iso-8859-1'en'%A3.spz", ".spz"),
        ("attachment; filename=\"b.exe\"; filename*=UTF-8''a.spz", ".spz"),
        ('attachment; filename="a;filename=b.obj\\".spz"', ".spz"),
        ('attachment; filename="../../a.spz"', ".spz"),
        ('attachment; filename="C:\\\\a.spz"', ".spz"),
        ('attachment; filename="setup.exe"', ".bin"),
        ('attachment; filename="a.png.JS"', ".bin"),
        ("attachment; filename*=UTF-8''a.spz%2Fb", ".bin"),
        ("attachment; filename*=UTF-8''a.%00", ".bin"),
        ("attachment; filename=", ".bin"),
        ("attachment", ".bin"),
        ("", ".bin"),
        (None, ".bin"),
    ],
)
def test_the_file_name_of_a_content_disposition_comes_last(disposition: str | None, expected: str) -> None:
    assert named(UNKNOWN, "application/octet-stream", "/x", OutputKind.OTHER, disposition) == expected
    assert named(UNKNOWN, "application/octet-stream", "/x.splat", OutputKind.OTHER, disposition) == ".splat"
    assert named(UNKNOWN, "image/x-photo-cd", "/x", OutputKind.OTHER, disposition) == expected
    assert named(UNKNOWN, "image/vnd.radiance", "/x", OutputKind.OTHER, disposition) == ".hdr"


@pytest.mark.parametrize(
    ("name", "content_type", "path", "expected"),
    [
        ("sample.mp4", "video/mp4", "/x", ".mp4"),
        ("sample.mp4", None, "/x.mp4", ".mp4"),
        ("sample.mp4", "audio/mp4", "/x", ".m4a"),
        ("sample.mp4", None, "/x", ".mp4"),
        ("faststart.mp4", None, "/x", ".mp4"),
        ("pictures.webm", "audio/webm", "/x", ".webm"),
        ("pictures.webm", None, "/x.weba", ".weba"),
        ("sample.ogv", "audio/ogg", "/x", ".ogg"),
        ("sample.ogv", None, "/x.oga", ".oga"),
        ("sample.ogv", None, "/x", ".ogv"),
        ("sample.mkv", None, "/x", ".mkv"),
        ("sample.mka", None, "/x", ".mka"),
        ("sample.m4a", "video/mp4", "/x", ".m4a"),
        ("pictures.m4a", "audio/mp4", "/x", ".m4a"),
        ("pictures.m4a", "application/octet-stream", "/x.m4a", ".m4a"),
        ("pictures.m4a", None, "/x", ".m4v"),
    ],
)
def test_a_sound_with_pictures_is_called_what_type_or_name_say(
    name: str, content_type: str | None, path: str, expected: str
) -> None:
    data = (SAMPLES / name).read_bytes()
    head = beginning(reading(data))
    assert named(head, content_type, path, OutputKind.AUDIO) == expected


def test_an_index_at_the_end_and_a_directory_far_in_are_looked_at() -> None:
    track = b"\0\0\0\x08moov" + b"hdlr" + bytes(8) + b"soun"
    film = (
        b"\0\0\0\x10ftypisom\0\0\0\0" + struct.pack(">I4s", 9 << 16, b"mdat") + bytes((9 << 16) - 8) + track
    )
    old = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".ljust(30, b"\0") + struct.pack("<H16xI", 9, 999)
    old = old.ljust(1000 << 9, b"\0") + "PowerPoint Document".encode("utf-16-le") + bytes(9)
    for data, expected in ((film, ".m4a"), (old, ".ppt")):
        head = beginning(reading(data))
        assert extension(head, None, "/x", OutputKind.AUDIO) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\xff\x0a" + bytes(30), ".jxl"),
        (b"\xff\xd8\xff\xe8\0\x20SPIFF\0" + bytes(24) + b"\xff\xf7\0\x0b", ".jls"),
        (b"\xff\xd8\xff\xe0\0\x04ab\xff\xdb\0\x04ab\xff\xc0\0\x0b", ".jpg"),
        (b"\xabKTX 11\xbb\r\n\x1a\n", ".ktx"),
        (b"\xabKTX 20\xbb\r\n\x1a\n", ".ktx2"),
        (b"BPG\xfb" + UNKNOWN, ".bpg"),
        (b"FLIF\x41\0", ".flif"),
        (b"OTTO\0\x0a" + bytes(6) + b"CFF \0\0\0\0" + bytes(16), ".otf"),
        (b"VOX \x96\0\0\0MAIN", ".vox"),
        (b"BLENDER-v405", ".blend"),
        (b"BLENDER17-01v0500", ".blend"),
        (b"gimp xcf v011\0", ".xcf"),
        (b"bplist00\xd1\x01\x02_\x10\x0fWebMainResource", ".webarchive"),
        (b"AT&TFORM\0\0\0\x20DJVUINFO", ".djvu"),
        (b"AT&TFORM\0\0\0\x20DJVMDIRM", ".djvu"),
        (b"MAC \x96\x0f\0\0", ".ape"),
        (b"MPCKSH\0\0", ".mpc"),
        (b"RIFF\x20\0\0\0RMIDdata", ".rmi"),
        (b"Extended Module: x" + bytes(9), ".xm"),
        (b"IMPM" + bytes(30), ".it"),
        (bytes(1080) + b"M.K.", ".mod"),
        (b"x\0".ljust(44, b"\0") + b"SCRM\0", ".s3m"),
        (b"\0\0\0\0\x01\xbc\0\0\0\0\xe1\xe2", ".gxf"),
        (b"junk \n%PDF-1.4\n", ".pdf"),
        (b"\0\0\0\x18stypmsdh" + bytes(12), ".m4s"),
        (b"\0\0\0\x18ftypM4B " + bytes(12), ".m4b"),
        (b"BZh91AY&SY", ".bz2"),
        (b"\xfd7zXZ\0", ".xz"),
        (bytes(188) + (b"G" + bytes(187)) * 9, ".ts"),
        (bytes(9) + (b"G" + bytes(187)) * 9, ".ts"),
        ((b"G" + bytes(203)) * 9, ".ts"),
        (b"BM" + struct.pack("<I4xIIHHHH", 200, 26, 12, 4, 4, 1, 24), ".bmp"),
        (b"BM" + struct.pack("<I4xII", 200, 78, 64) + bytes(60), ".bmp"),
        (b"\xff\xfb\x00\xc4" + bytes(300) + (b"\xff\xfb\x00\xc4" + bytes(300)) * 4, ".mp3"),
        (bytes(1000) + head_of("bare.mp3"), ".mp3"),
        (head_of("sample.ac3")[:256], ".ac3"),
        (b"\0\0\x02" + bytes(9) + b"\x10\0\x10\0\x18\x20" + bytes(99), ".tga"),
        (b"\0\x01\x01\0\0\0\x01\x18" + bytes(4) + b"\x10\0\x10\0\x08\0" + bytes(99), ".tga"),
    ],
)
def test_a_format_is_known_by_its_first_bytes(head: bytes, expected: str) -> None:
    assert from_content(head) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "MAC addresses are six bytes",
            "FLIF is a format",
            "KB2 and KB3",
            "IMPM stands for",
            "MPCK",
            "wOFF",
        ),
        *(
            "LASF",
            "OFR 1",
            "DRACO was a lawgiver",
            "AC1015 is DWG",
            "solid ground",
            "v is a letter",
            "P3",
            "P5 x",
        ),
        *(
            "WEBVTTX",
            "#EXTM3U8",
            "1\n2\n3",
            "[a] b",
            "GIF8",
            "%PD",
            "RIFF and raff",
            "FORM follows",
            "Vgm x",
            "icns",
        ),
        *("SMK2 is a video", "BIKf", "TTA1", "FOVb", "tBaK", "XoS.", "2BIT", "PVR", "PAR1", "FWS a b c d e"),
    ],
)
def test_words_that_are_signatures_make_no_file_of_a_text(text: str) -> None:
    assert from_content(text.encode()) is None


@given(
    st.binary(max_size=1500) | st.sampled_from(FILES).map(lambda path: path.read_bytes()[:999]),
    st.none() | st.text(max_size=40) | st.sampled_from(["image/png", "text/plain", "application/json"]),
    st.sampled_from(OutputKind),
    st.text(max_size=40) | st.from_regex(r"/a\.[a-zA-Z0-9]{1,9}"),
    st.none() | st.text(max_size=60).map(lambda text: f"attachment; filename{text}"),
)
def test_any_bytes_are_named_or_refused(
    head: bytes, content_type: str | None, kind: OutputKind, path: str, disposition: str | None
) -> None:
    found = named(head, content_type, path, kind, disposition)
    assert found is None or (found[0] == "." and found[1:].isalnum() and found.isascii() and len(found) <= 12)


@given(st.sampled_from(FILES), st.integers(0, 400), st.binary(max_size=8))
@example(SAMPLES / "sample.zip", 4, b"")
def test_a_beginning_that_is_damaged_or_cut_raises_nothing(path: Path, at: int, piece: bytes) -> None:
    data = path.read_bytes()
    for head in (data[:at], data[:at] + piece, data[:at] + piece + data[at + len(piece) :]):
        beginning(reading(head))
        from_content(head)
