"""What path a media host is asked for, and what name its answer gets, on real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from wire import PDF, PNG, Bench, MediaHost, Reply, Request, answer

from floradl.errors import ErrorCode, TransientError
from floradl.models import RemoteOutput

IMAGE = answer(PNG, "Content-Type: image/png")
TARGETS = [
    "/a/../b.png?sig=x",
    "/a/./b.png",
    "/a/..",
    "/../../b.png",
    "//a//../b.png",
    "/a/%2e%2e/b.png",
    "/a/%2E./%2f../b.png?of=/../c",
    "/a/.../b.png",
    "/plain/b.png?of=/./c",
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


@pytest.mark.parametrize("target", TARGETS)
def test_dot_segments_of_a_path_reach_the_host_as_they_are(bench: Bench, target: str) -> None:
    with MediaHost(lambda _: Reply(IMAGE)) as host:
        bench.fetch(host.url(target))
        assert [request.path for request in host.requests] == [target]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("absolute", [False, True])
def test_dot_segments_of_a_redirect_reach_the_host_as_they_are(
    bench: Bench, target: str, *, absolute: bool
) -> None:
    def reply(request: Request) -> Reply:
        if request.path == target:
            return Reply(IMAGE)
        start = host.url("") if absolute or target.startswith("//") else ""
        return Reply(answer(b"", f"Location: {start}{target}#part", status="302 Found"))

    with MediaHost(reply) as host:
        bench.fetch(host.url("/x/../y"))
        assert [request.path for request in host.requests] == ["/x/../y", target]


DRAWING = b"<!-- " + b"made by a program " * 900 + b"-->\n<a:svg xmlns:a='http://www.w3.org/2000/svg'/>"
KEPT = [
    ("imageUrl", "/o.png", DRAWING, ["Content-Type: text/plain"], "image/o.svg"),
    ("imageUrl", "/o", b'{"asset": {"version": "2.0"}}', ["Content-Type: application/json"], "image/o.gltf"),
    ("videoUrl", "/o", b"#EXTM3U\r\n", ["Content-Type: application/octet-stream"], "video/o.m3u8"),
    (
        "documentUrl",
        "/o",
        b'{"error": "is its first word"}',
        ["Content-Type: application/json"],
        "document/o.json",
    ),
    ("documentUrl", "/o.md", b"<h1>Title</h1>", ["Content-Type: text/plain"], "document/o.md"),
    ("documentUrl", "/o", b"a;b\n", ['Content-Disposition: attachment; filename="t.csv"'], "document/o.csv"),
    ("documentUrl", "/o", b"a;b\n", ['Content-Disposition: attachment; filename="t.exe"'], "document/o.bin"),
    ("documentUrl", "/o.pdf?x=.exe", PDF, ["Content-Type: binary/octet-stream"], "document/o.pdf"),
    ("imageUrl", "/o.jpg", PNG, ["Content-Type: image/jpeg"], "image/o.png"),
]


@pytest.mark.parametrize(("kind", "path", "body", "headers", "expected"), KEPT)
def test_a_file_is_kept_and_named_by_content_type_path_and_disposition(
    bench: Bench, kind: str, path: str, body: bytes, headers: list[str], *, expected: str
) -> None:
    with MediaHost(lambda _: Reply(answer(body, *headers))) as host:
        found = bench.fetch(host.url(path), RemoteOutput("o", kind, ""))
    assert (found.path, found.data) == (expected, body)


def test_a_page_that_a_redirect_leads_to_is_refused_where_a_pdf_was_asked_for(bench: Bench) -> None:
    page = answer(b"<!DOCTYPE html><title>Sign in</title>", "Content-Type: text/html")

    def reply(request: Request) -> Reply:
        moved = answer(b"", "Location: /login.html?next=o.pdf", status="302 Found")
        return Reply(page if request.path.startswith("/login") else moved)

    with MediaHost(reply) as host, pytest.raises(TransientError, match="HTML page instead of the document"):
        bench.fetch(host.url("/o.pdf"), RemoteOutput("o", "documentUrl", ""))
    assert (bench.files(), bench.part()) == ([], None)


def test_a_file_that_a_redirect_leads_to_is_named_by_what_was_asked_for(bench: Bench) -> None:
    def reply(request: Request) -> Reply:
        if request.path == "/hash":
            return Reply(answer(b"# Title", "Content-Type: text/plain"))
        return Reply(answer(b"", "Location: /hash", status="302 Found"))

    with MediaHost(reply) as host:
        assert bench.fetch(host.url("/o.md"), RemoteOutput("o", "documentUrl", "")).path == "document/o.md"


WRONG = [
    ("imageUrl", "/o.png", b"upstream connect error", ["Content-Type: text/plain"]),
    ("imageUrl", "/o", b"upstream connect error", ["Content-Type: image/png"]),
    ("videoUrl", "/o.mp4", bytes(9000), ["Content-Type: video/mp4"]),
    ("audioUrl", "/o.mp3", b'{"error": "expired"}', ["Content-Type: audio/mpeg"]),
    ("documentUrl", "/o.pdf", b"<!DOCTYPE html><html>", ["Content-Type: text/html"]),
    ("documentUrl", "/o", b"Busy", ["Content-Disposition: inline; filename*=utf-8''a.docx"]),
]


@pytest.mark.parametrize(("kind", "path", "body", "headers"), WRONG)
def test_wrong_content_where_a_signature_is_due_is_refused_for_now_and_leaves_nothing(
    bench: Bench, kind: str, path: str, body: bytes, headers: list[str]
) -> None:
    with (
        MediaHost(lambda _: Reply(answer(body, *headers))) as host,
        pytest.raises(TransientError, match="instead of the") as caught,
    ):
        bench.fetch(host.url(path), RemoteOutput("o", kind, ""))
    assert caught.value.code is ErrorCode.NOT_MEDIA
    assert (bench.files(), bench.part()) == ([], None)
