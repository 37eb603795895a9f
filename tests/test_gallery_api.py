"""The gallery's API on a real socket: views, runs, status and live news, and headers that bound a page."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from callers import HOST, rest
from galleries import TOKEN, Shelf, becomes_listed, listed, opened, picture
from studio import TEST_TIMEOUT, logged, until

from floradl.errors import ConfigError, FloradlError
from floradl.gallery import live, server
from floradl.net.addresses import Endpoint

pytestmark = pytest.mark.anyio


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "library")


async def events(client: httpx.AsyncClient, count: int) -> AsyncIterator[tuple[str, Any]]:
    """Yield the next events: name and data; one comes each few seconds, or the client gives up."""
    async with client.stream("GET", "/api/events", timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name, waited = "", 0
        async for line in answer.aiter_lines():
            field, _, value = line.partition(": ")
            waited += line.startswith(":")  # each 15 seconds without an event
            assert waited < 4, "no event came"
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)
                count -= 1
                if not count:
                    return


async def test_an_output_tells_all_that_a_tile_shows(shelf: Shelf) -> None:
    data = picture(80, 40)
    shelf.put(
        "run_a",
        {"data": data, "content_type": "image/png"},
        technique="camera",
        technique_name="Camera",
        label="Spring",
        project_id="prj_1",
    )
    async with shelf.shown() as client:
        answer = (await client.get("/api/outputs")).json()
    sha256 = answer["outputs"][0]["sha256"]
    assert answer == {
        "schema_version": 1,
        "total": 1,
        "cursor": None,
        "outputs": [
            {
                "key": "run_a/0",
                "run_id": "run_a",
                "output_id": "output_1",
                "technique": "camera",
                "technique_name": "Camera",
                "label": "Spring",
                "project": "prj_1",
                "kind": "image",
                "name": "run_a-1.png",
                "path": "images/run_a-1.png",
                "url": "/files/images/run_a-1.png",
                "thumbnail": f"/thumbnails/{sha256}.webp",
                "bytes": len(data),
                "sha256": sha256,
                "content_type": "image/png",
                "width": 80,
                "height": 40,
                "completed_at": "2026-11-20T12:00:00.000Z",
                "day": "2026-11-20",
                "text": None,
            }
        ],
    }


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be where it is fourteen hours later than in Greenwich."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east")
async def test_a_day_is_that_of_the_server_in_views_outputs_and_status(shelf: Shelf) -> None:
    shelf.put("run_a")  # at noon in Greenwich
    before = time.strftime("%Y-%m-%d")
    async with shelf.shown() as client:
        view = (await client.get("/api/view")).json()
        (output,) = (await client.get("/api/outputs")).json()["outputs"]
        status = (await client.get("/api/status")).json()
    assert view["days"][0]["day"] == output["day"] == "2026-11-21"
    assert {view["today"], status["today"]} <= {before, time.strftime("%Y-%m-%d")}


async def test_an_svg_has_no_thumbnail_that_a_tile_would_ask_for_in_vain(shelf: Shelf) -> None:
    data = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    shelf.put("run_a", {"data": data, "path": "images/run_a.SVG", "kind": "image"})
    async with shelf.shown() as client:
        (output,) = (await client.get("/api/outputs")).json()["outputs"]
        (file,) = (await client.get("/api/runs/run_a")).json()["files"]
    assert (output["kind"], output["thumbnail"], file["thumbnail"]) == ("image", None, None)


async def test_the_view_lays_out_what_the_pages_list(shelf: Shelf) -> None:
    shelf.put(
        "run_a",
        {"data": picture(80, 40)},
        {"kind": "text", "data": b"t", "text": "t" * 900},
        technique="camera",
    )
    shelf.put("run_b", {"data": picture(40, 80)}, day="2026-11-21")
    async with shelf.shown() as client:
        view = (await client.get("/api/view")).json()
        only = (await client.get("/api/view?kind=text&kind=audio&technique=camera")).json()
        text = (await client.get("/api/outputs?kind=text")).json()["outputs"][0]
    assert view["days"] == [
        {"day": "2026-11-21", "count": 1, "ratios": [50]},
        {"day": "2026-11-20", "count": 2, "ratios": [100, 200]},
    ]
    assert (view["total"], only["total"]) == (3, 1)
    assert view["facets"]["kind"] == [{"value": "image", "count": 2}, {"value": "text", "count": 1}]
    assert (len(text["text"]), text["thumbnail"]) == (300, None)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("since=yesterday", "since"),
        ("cursor=x", "cursor"),
        (f"q={'a' * 1001}", "q"),
        ("kind=a&" * 101, "kind"),
    ],
)
async def test_a_bad_parameter_is_named_with_what_would_be_right(shelf: Shelf, query: str, word: str) -> None:
    async with shelf.shown() as client:
        answer = await client.get(f"/api/outputs?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"{word}: ")


async def test_a_search_and_since_narrow_what_is_listed(shelf: Shelf) -> None:
    shelf.put("run_a", label="Späte Blüte", day="2026-11-02")
    shelf.put("run_b", day="2026-11-20")
    async with shelf.shown() as client:
        assert await listed(client, q="blü") == ["run_a"]
        assert await listed(client, since="2026-11-10") == ["run_b"]
        assert await listed(client, limit=1) == ["run_b"]
        assert await listed(client, cursor="@1") == ["run_a"]


async def test_a_run_comes_with_its_sidecar_and_where_its_files_are(shelf: Shelf) -> None:
    path = shelf.put("run_a", {"data": picture()}, {"path": None, "kind": "video"})
    sidecar = json.loads((shelf.root / path).read_text())
    async with shelf.shown() as client:
        answer = (await client.get("/api/runs/run_a")).json()
        unknown = await client.get("/api/runs/run_b")
    assert answer["run"] == sidecar
    assert answer["files"] == [
        {
            "path": "images/run_a-1.png",
            "absolute": str(shelf.root / "images/run_a-1.png"),
            "url": "/files/images/run_a-1.png",
            "thumbnail": f"/thumbnails/{sidecar['outputs'][0]['sha256']}.webp",
        }
    ]
    assert unknown.status_code == 404


async def test_every_answer_bounds_what_a_page_may_do(shelf: Shelf) -> None:
    shelf.put("run_a")
    async with shelf.shown() as client:
        for path in (
            "/",
            "/api/outputs",
            "/api/none",
            "/files/images/run_a-1.png",
            "/thumbnails/x.webp",
            "/%00",
        ):
            headers = (await client.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe-eval" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "access-control-allow-origin" not in headers
        page = (await client.get("/")).headers["content-security-policy"]
    assert "script-src 'self'" in page
    assert "unsafe-inline" not in page


async def test_another_sites_page_gets_nothing(shelf: Shelf) -> None:
    shelf.put("run_a")
    async with shelf.shown() as client:
        for headers in (
            {"Host": "evil.example"},
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            for path in ("/", "/api/outputs", "/api/events", "/files/images/run_a-1.png"):
                answer = await client.get(path, headers=headers)
                assert answer.status_code == 403
                assert "run_a" not in answer.text


async def test_with_a_token_nothing_is_shown_without_it(shelf: Shelf) -> None:
    shelf.put("run_a")
    async with shelf.shown(token=TOKEN) as client:
        for path in (
            "/",
            "/api/outputs",
            "/api/view",
            "/api/status",
            "/api/events",
            "/files/images/run_a-1.png",
            "/static/gallery.js",
            "/none",
        ):
            answer = await client.get(path)
            assert answer.status_code == 401
            assert "run_a" not in answer.text
        person = await client.get("/", headers={"Accept": "text/html"})
        assert person.headers["content-type"].startswith("text/plain")
        assert "/?token=TOKEN" in person.text
        signed = await client.get("/", params={"q": "run", "token": TOKEN})
        assert (signed.status_code, signed.headers["location"]) == (303, "/?q=run")
        assert TOKEN not in signed.headers["set-cookie"]
        assert await listed(client) == ["run_a"]  # the client keeps the cookie


async def test_an_address_that_others_reach_needs_a_token() -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ConfigError, match=r"web\.token_file"):
            server.bound(Endpoint(host, 0), None)


async def test_buttons_act_with_a_token_alone(shelf: Shelf) -> None:
    shelf.put("run_a")
    done: list[tuple[str, str]] = []
    failed = [{"run_id": "run_without_sidecar"}]

    def act(action: str, run_id: str) -> None:
        done.append((action, run_id))

    async with shelf.shown(token=TOKEN, act=act, failed=failed) as client:
        assert (await client.post("/api/runs/run_a/retry")).status_code == 403
        own = {"Authorization": f"Bearer {TOKEN}"}
        assert (await client.post("/api/runs/run_a/retry", headers=own)).status_code == 202
        assert (await client.post("/api/runs/run_a/forget", headers=own)).status_code == 202
        assert (await client.post("/api/runs/run_a/prune", headers=own)).status_code == 202
        assert (await client.post("/api/runs/run_without_sidecar/retry", headers=own)).status_code == 202
        assert (await client.post("/api/runs/run_a/delete", headers=own)).status_code == 404
        assert (await client.post("/api/runs/run_b/retry", headers=own)).status_code == 404
        assert (await client.get("/api/runs/run_a/retry", headers=own)).status_code == 405
        assert (await client.get("/api/status", headers=own)).json()["actions"] == [
            "retry",
            "forget",
            "prune",
        ]
    assert done == [
        ("retry", "run_a"),
        ("forget", "run_a"),
        ("prune", "run_a"),
        ("retry", "run_without_sidecar"),
    ]
    async with shelf.shown() as client:
        own = {"Origin": str(client.base_url).rstrip("/")}
        assert (await client.post("/api/runs/run_a/retry", headers=own)).status_code == 403


async def test_a_new_output_is_announced_and_listed_without_a_reload(shelf: Shelf) -> None:
    shelf.put("run_a")
    async with shelf.shown() as client:
        found: list[tuple[str, Any]] = []
        async for name, data in events(client, 2):
            found.append((name, data))
            if name == "status":
                shelf.put("run_b", technique="made-just-now")
        assert [name for name, _ in found] == ["status", "outputs"]
        assert [output["run_id"] for output in found[1][1]["outputs"]] == ["run_b"]
        await becomes_listed(client, "run_a", "run_b")
        shelf.put("run_c", technique="made-just-now")
        await becomes_listed(client, "run_a", "run_b", "run_c")
        shelf.sidecar("run_a").unlink()
        await becomes_listed(client, "run_b", "run_c")


@pytest.mark.parametrize(("runs", "outputs"), [(live.MOST_RUNS + 1, 1), (3, live.MOST_OUTPUTS // 3 + 1)])
async def test_more_news_than_an_event_holds_are_told_as_a_change_of_the_whole(
    shelf: Shelf, runs: int, outputs: int
) -> None:
    shelf.put("run_before")
    for nth in range(runs):
        shelf.put(f"run_{nth}", *({"kind": "text", "text": "t"} for _ in range(outputs)))
    with shelf.indexed() as index:
        news = live.News(dict, index.views)
        news.announce([f"run_{nth}" for nth in range(runs)])
        assert json.loads(news._read_outputs())["outputs"] == []
        news.announce(["run_before"])  # and the next is told as ever
        (output,) = json.loads(news._read_outputs())["outputs"]
        assert output["run_id"] == "run_before"


async def test_a_library_that_is_there_later_is_shown_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floradl.index.follower._POLL", 0.05)
    shelf = Shelf(tmp_path / "library")
    async with shelf.shown() as client:
        assert (await client.get("/api/view")).json()["days"] == []
        shelf.put("run_first")
        await becomes_listed(client, "run_first")


async def test_without_events_of_the_system_new_runs_are_found_all_the_same(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spent(*_: object, **__: object) -> None:
        raise OSError("inotify watch limit reached")

    monkeypatch.setattr("floradl.index.follower.watchfiles.awatch", spent)
    monkeypatch.setattr("floradl.index.follower._POLL", 0.05)
    shelf.put("run_a")
    with logged() as logs:
        async with shelf.shown() as client:
            shelf.put("run_b")
            await becomes_listed(client, "run_a", "run_b")
            shelf.put("run_c", technique="other")
            await becomes_listed(client, "run_a", "run_b", "run_c")
            assert (await client.get("/api/status")).json()["trouble"] is None
    assert [log["event"] for log in logs] == ["index_not_watching"]


async def test_of_a_store_the_daemon_says_what_it_saved_and_a_listing_shows_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floradl.index.follower._TOLD", 0.02)
    monkeypatch.setattr("floradl.index.follower._SOONEST", 3600)
    shelf = Shelf(tmp_path / "library", a_store=True)
    shelf.put("run_a")
    told: list[str] = []

    def saved() -> list[str]:
        taken, told[:] = list(told), []
        return taken

    async with shelf.shown(saved=saved) as client:
        listings = shelf.door.calls["listing"]
        told.append(shelf.put("run_b"))
        await becomes_listed(client, "run_a", "run_b")
        assert shelf.door.calls["listing"] == listings
    monkeypatch.setattr("floradl.index.follower._SOONEST", 0.01)
    monkeypatch.setattr("floradl.index.follower._PER_REQUEST", 0.01)
    async with shelf.shown() as client:
        shelf.put("run_c")
        shelf.sidecar("run_a").unlink()
        await becomes_listed(client, "run_b", "run_c")


async def test_how_things_stand_is_told_at_once_and_again_when_it_changes(shelf: Shelf) -> None:
    status: dict[str, Any] = {"daemon": True, "counts": {"done": 1}}
    async with shelf.shown(read=lambda: status) as client:
        answer = (await client.get("/api/status")).json()
        told = []
        async for _, data in events(client, 2):
            told.append(data)
            status["counts"] = {"done": 2}
    assert told == [answer, {**answer, "counts": {"done": 2}}]
    assert answer["daemon"] is True
    assert (answer["may_change"], answer["actions"]) == (False, [])
    assert answer["schema_version"] == 1


async def test_what_keeps_the_state_from_being_read_is_said_in_the_status(shelf: Shelf) -> None:
    def broken() -> dict[str, Any]:
        raise FloradlError("this user may not read it")

    async with shelf.shown(read=broken) as client:
        answer = (await client.get("/api/status")).json()
    assert (answer["trouble"], answer["daemon"]) == ("this user may not read it", False)


async def test_listeners_are_bounded_and_make_room_when_they_go(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floradl.gallery.live.MOST_LISTENERS", 1)
    async with shelf.shown() as client:
        async with client.stream("GET", "/api/events") as answer:
            await anext(answer.aiter_raw())
            assert (await client.get("/api/events")).status_code == 503
        with anyio.fail_after(30):
            while True:
                async with client.stream("GET", "/api/events") as again:
                    if again.status_code == 200:
                        break
                await anyio.sleep(0.02)


async def test_whoever_is_slow_to_ask_is_let_go(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shelf.shown() as client:
        monkeypatch.setattr(server, "_HEAD_TIME", 0.2)  # not for the connection that this client keeps
        port = client.base_url.port or 0
        for begun in (b"", b"GET / HTTP/1.1\r\n"):
            async with await anyio.connect_tcp(HOST, port) as stream:
                if begun:
                    await stream.send(begun)
                with anyio.fail_after(TEST_TIMEOUT):
                    await rest(stream)
        # After an answer, too.
        async with await anyio.connect_tcp(HOST, port) as stream:
            await stream.send(b"GET /api/none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 404")
            await stream.send(b"GET /")
            with anyio.fail_after(TEST_TIMEOUT):
                await rest(stream)
        assert (await client.get("/api/status")).status_code == 200


async def test_whoever_does_not_take_what_they_asked_for_is_let_go(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_STALLED", 0.2)
    shelf.put("run_big", {"kind": "video", "data": bytes(20 << 20)})
    async with shelf.shown() as client:
        with socket.create_connection((HOST, client.base_url.port or 0)) as takes_nothing:
            takes_nothing.sendall(b"GET /files/videos/run_big-1.mp4 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await until(lambda: opened("run_big-1.mp4") == 1)
            await until(lambda: opened("run_big-1.mp4") == 0)
        assert (await client.get("/api/status")).status_code == 200


async def test_a_head_without_end_is_refused(shelf: Shelf) -> None:
    async with shelf.shown() as client, await anyio.connect_tcp(HOST, client.base_url.port or 0) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * (100 << 10))
        with anyio.fail_after(TEST_TIMEOUT):
            assert (await rest(stream)).startswith(b"HTTP/1.1 400")


async def test_names_and_texts_with_markup_stay_plain_data(shelf: Shelf) -> None:
    evil = "<img src=x onerror=alert(1)>\u202e\"'&"
    shelf.put("run_a", {"kind": "text", "data": evil.encode(), "text": evil}, label=evil, technique_name=evil)
    async with shelf.shown() as client:
        answer = await client.get("/api/outputs")
    assert answer.headers["content-type"] == "application/json"
    output = answer.json()["outputs"][0]
    assert (output["label"], output["text"], output["technique_name"]) == (evil, evil, evil)
