"""Files of the library over HTTP: whole and in ranges, and nothing else of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from callers import ask
from galleries import Shelf, opened, picture
from studio import until

from floradl.gallery.files import content_range

pytestmark = pytest.mark.anyio
DATA = bytes(range(256)) * 40
SIZE = len(DATA)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "library")
    shelf.put("run_film", {"kind": "video", "data": DATA})
    return shelf


FILM = "/files/videos/run_film-1.mp4"


async def test_a_file_comes_whole_with_a_type_that_is_not_guessed(shelf: Shelf) -> None:
    async with shelf.shown() as client:
        answer = await client.get(FILM)
        head = await client.head(FILM)
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["accept-ranges"] == "bytes"
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(SIZE))


async def test_a_range_is_what_was_asked_for(shelf: Shelf) -> None:
    wanted = {
        "bytes=0-0": (0, 1),
        "bytes=5-9": (5, 10),
        "bytes=100-": (100, SIZE),
        "bytes=-7": (SIZE - 7, SIZE),
        f"bytes=0-{SIZE * 9}": (0, SIZE),
        f"bytes=-{SIZE * 9}": (0, SIZE),
    }
    async with shelf.shown() as client:
        for header, (start, end) in wanted.items():
            answer = await client.get(FILM, headers={"Range": header})
            assert (answer.status_code, answer.content) == (206, DATA[start:end]), header
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"


async def test_a_range_beyond_the_end_is_416(shelf: Shelf) -> None:
    async with shelf.shown() as client:
        for wanted in (f"bytes={SIZE}-", "bytes=-0", f"bytes={'9' * 18}-"):
            answer = await client.get(FILM, headers={"Range": wanted})
            assert (answer.status_code, answer.content) == (416, b""), wanted
            assert answer.headers["content-range"] == f"bytes */{SIZE}"


async def test_ranges_that_are_malformed_or_many_cost_no_more_than_the_file(shelf: Shelf) -> None:
    odd = ["bytes=9-5", "bytes=a-b", "items=0-1", "bytes=", "bytes=-", f"bytes={'9' * 99}-"]
    async with shelf.shown() as client:
        for wanted in (*odd, "bytes=" + "0-0," * 5000 + "1-1"):
            answer = await client.get(FILM, headers={"Range": wanted})
            assert (answer.status_code, answer.content) == (200, DATA), wanted


async def test_a_file_that_is_known_already_is_304_and_a_changed_one_comes_whole(shelf: Shelf) -> None:
    async with shelf.shown() as client:
        etag = (await client.get(FILM)).headers["etag"]
        known = await client.get(FILM, headers={"If-None-Match": f'"x", W/{etag}'})
        same = await client.get(FILM, headers={"If-Range": etag, "Range": "bytes=0-1"})
        (shelf.root / "videos/run_film-1.mp4").write_bytes(DATA[::-1])
        changed = await client.get(FILM, headers={"If-Range": etag, "Range": "bytes=0-1"})
    assert (known.status_code, known.content) == (304, b"")
    assert same.status_code == 206
    assert (changed.status_code, changed.content) == (200, DATA[::-1])


def test_of_an_empty_file_no_range_is_there() -> None:
    for wanted in ("bytes=0-", "bytes=-1"):
        with pytest.raises(ValueError, match=r"end|empty"):
            content_range(wanted, 0)


async def test_nothing_that_runs_is_handed_to_the_browser_to_run(shelf: Shelf) -> None:
    hostile = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><script>alert(1)</script></svg>"
    attached = ("a.html", "a.xml", "a.js", "a.xhtml", "a.mhtml", "a")
    names = (*attached, "a.svg", "a.pdf", "a.txt", "a.png")
    for nth, name in enumerate(names):
        said = {"path": f"other/{name}", "data": hostile, "content_type": "text/html"}
        shelf.put(f"run_{nth}", said)
    async with shelf.shown() as client:
        for name in names:
            headers = (await client.get(f"/files/other/{name}")).raise_for_status().headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-disposition"].startswith("attachment" if name in attached else "inline")
            assert "html" not in headers["content-type"]
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src" not in policy
            assert ("sandbox" in policy) is (name != "a.pdf")


async def test_a_download_keeps_its_name_whatever_is_in_it(shelf: Shelf) -> None:
    name = 'ü "quoted"; x=1\u202e.png'
    shelf.put("run_name", {"path": f"images/{name}", "data": picture()})
    async with shelf.shown() as client:
        outputs = (await client.get("/api/outputs?kind=image")).json()["outputs"]
        answer = await client.get(f"{outputs[0]['url']}?download=1")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == (
        "attachment; filename*=UTF-8''%C3%BC%20%22quoted%22%3B%20x%3D1%E2%80%AE.png"
    )


async def test_only_outputs_of_the_library_are_served(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("secret")
    (shelf.root / "videos" / "private.txt").write_text("secret")
    (shelf.root / "linked.txt").symlink_to(tmp_path / "outside.txt")
    (shelf.root / "linkedfolder").symlink_to(tmp_path)
    os.mkfifo(shelf.root / "fifo")
    # A hostile sidecar names what is none of the library's.
    for nth, name in enumerate(("linked.txt", "linkedfolder/outside.txt", "fifo")):
        shelf.put(f"run_{nth}", {"path": name})
    outside = [
        "../outside.txt",
        "..%2foutside.txt",
        "%2e%2e/outside.txt",
        "videos/../../outside.txt",
        "/etc/passwd",
    ]
    inside = [
        ".floradl-library",
        "runs/campaign/run_film.json",
        "videos",
        "videos/",
        "videos/private.txt",
        "",
    ]
    led = [
        "linked.txt",
        "linkedfolder/outside.txt",
        "fifo",
        "videos/run_film-1.mp4%00",
        "VIDEOS/run_film-1.mp4",
    ]
    async with shelf.shown() as client:
        for path in (*outside, *inside, *led):
            # As it stands: a client's library would take dots out.
            request = f"GET /files/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            answer = await ask(client.base_url.port or 0, request.encode())
            assert answer.startswith(b"HTTP/1.1 404 "), path
            assert b"secret" not in answer


async def test_a_file_that_is_gone_is_404(shelf: Shelf) -> None:
    (shelf.root / "videos/run_film-1.mp4").unlink()
    async with shelf.shown() as client:
        assert (await client.get(FILM)).status_code == 404


async def test_whoever_goes_away_has_the_file_closed(shelf: Shelf) -> None:
    shelf.put("run_big", {"kind": "video", "data": b"", "path": "videos/big.mp4"})
    with (shelf.root / "videos/big.mp4").open("wb") as file:
        file.truncate(1 << 30)

    async with shelf.shown() as client:
        async with client.stream("GET", "/files/videos/big.mp4") as answer:
            async for _ in answer.aiter_bytes():
                break
            assert opened("big.mp4") == 1
        await until(lambda: opened("big.mp4") == 0)


@pytest.fixture
def store(tmp_path: Path) -> Shelf:
    """The same library, as one in a store is seen."""
    shelf = Shelf(tmp_path / "library", a_store=True)
    shelf.put("run_film", {"kind": "video", "data": DATA})
    return shelf


async def test_a_range_of_a_file_in_a_store_is_what_was_asked_for(store: Shelf) -> None:
    async with store.shown() as client:
        answer = await client.get(FILM, headers={"Range": "bytes=100-"})
        last = await client.get(FILM, headers={"Range": "bytes=-7"})
        beyond = await client.get(FILM, headers={"Range": f"bytes={SIZE}-"})
    assert (answer.status_code, answer.content) == (206, DATA[100:])
    assert (last.status_code, last.content) == (206, DATA[-7:])
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{SIZE}")


async def test_a_file_in_a_store_that_is_known_already_is_304_and_not_read(store: Shelf) -> None:
    async with store.shown() as client:
        etag = (await client.get(FILM)).headers["etag"]
        before = store.door.calls["open_file"]
        known = await client.get(FILM, headers={"If-None-Match": etag})
        assert (known.status_code, known.content) == (304, b"")
        assert store.door.calls["open_file"] == before
        same = await client.get(FILM, headers={"If-Range": etag, "Range": "bytes=0-1"})
        (store.root / "videos/run_film-1.mp4").write_bytes(DATA[::-1])
        changed = await client.get(FILM, headers={"If-Range": etag, "Range": "bytes=0-1"})
    assert same.status_code == 206
    assert (changed.status_code, changed.content) == (200, DATA[::-1])


async def test_a_file_in_a_store_that_is_away_is_503_and_one_that_is_gone_404(store: Shelf) -> None:
    async with store.shown() as client:
        (store.root / "videos/run_film-1.mp4").unlink()
        assert (await client.get(FILM)).status_code == 404
        (store.root / ".floradl-library").unlink()
        assert (await client.get(FILM)).status_code == 503
