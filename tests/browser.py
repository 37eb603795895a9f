"""A real browser, and a library for it to look at."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import npm
import pytest
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)
from ports import free_port
from studio import Home, wait_until

LONG = "long-label-" * 30
RTL = "حملة الربيع — النسخة الثانية"
HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="200" height="100" onload="top.document.title=\'run\'">'
    b"<script>top.document.title='run'</script><rect width='200' height='100' fill='#b33'/></svg>"
)
HTML = b"<!doctype html><script>top.document.title = 'run'</script><h1>Report</h1>"
POEM = "The first line of the text.\nThe second, with <b>tags</b>.\n" * 60

AXE = "axe-core@4.14.1"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
SIZES = {"phone": (390, 844), "laptop": (1440, 900), "4k": (3840, 2160)}
"""Windows that the page must hold in, in CSS pixels."""

Opener = Callable[..., Page]
"""Opens a URL; `wait=False` where no tile is there to wait for; all else as `Browser.new_context` has it."""

expect.set_options(timeout=60_000)

_KINDS = {"image": "images", "video": "videos", "audio": "audio", "document": "documents", "text": "text"}
_FLORA_TYPES = {"image": "imageUrl", "video": "videoUrl", "audio": "audioUrl", "document": "documentUrl"}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium; a test is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_playwright() as driver:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            yield browser
        finally:
            browser.close()


def axe_source(folder: Path) -> str:
    """Return axe-core, which finds what assistive technology would stumble over, from npm into `folder`."""
    npm.install(AXE, folder)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def violations(page: Page, axe: str) -> list[str]:
    """Return what axe finds on a page as it is now: the rule, and where."""
    page.evaluate(axe)  # as the debugger, which no policy of the page's keeps from it
    found = page.evaluate("() => axe.run(document, { iframes: false })")
    return [f"{each['id']}: {node['html'][:120]}" for each in found["violations"] for node in each["nodes"]]


class Planted:
    """A library with outputs of every kind, written as floradl writes one."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self._at = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=60)
        library.mkdir(parents=True, exist_ok=True)
        (library / ".floradl-library").write_text("This folder is a library of floradl. Keep this file.\n")

    def run(
        self, run_id: str, *files: tuple[str, bytes], technique: str = "campaign", **more: Any
    ) -> dict[str, Any]:
        """Write a run of files (name, bytes); return its sidecar, in which `more` stands.

        It is older than all before, unless `completed` says when it was.
        """
        self._at -= timedelta(minutes=7)
        when = more.pop("completed", self._at).strftime("%Y-%m-%dT%H:%M:%SZ")
        outputs = [self._output(technique, number, *file) for number, file in enumerate(files, 1)]
        result = more.get("result", "complete")
        sidecar: dict[str, Any] = {
            "$schema": "urn:floradl:schema:sidecar:1",
            "schema_version": 1,
            "floradl_version": "0.1.0",
            "reference": f"{technique}/{run_id}",
            "technique": technique,
            "run_id": run_id,
            "label": None,
            "result": result,
            "run": {"run_id": run_id, "status": "completed", "progress": 100, "charged_cost": 0.0425},
            "outputs": outputs,
            "error": None,
            "times": {"created_at": when, "completed_at": when, "finished_at": when},
            **more,
        }
        path = self.library / "runs" / technique.replace("/", "_") / f"{run_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sidecar))
        return sidecar

    def _output(self, technique: str, number: int, name: str, data: bytes) -> Mapping[str, Any]:
        kind = kind_of(name)
        path = f"{_KINDS[kind]}/{technique.replace('/', '_')}/{name}"
        file = self.library / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return {
            "output_id": f"output_{number}",
            "type": _FLORA_TYPES.get(kind, "text"),
            "kind": kind,
            "path": path,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "content_type": None,
            "etag": None,
            "url": None if kind == "text" else f"https://media.example/{number}",
            "integrity": "verified",
            "checked": ["length"],
            "text": data.decode() if kind == "text" else None,
            "error": None,
            "downloaded_at": self._at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def kind_of(name: str) -> str:
    """Return the kind of an output whose file has that name."""
    ending = name.rpartition(".")[2]
    kinds = {
        "mp4": "video",
        "mp3": "audio",
        "wav": "audio",
        "pdf": "document",
        "html": "document",
        "txt": "text",
    }
    return kinds.get(ending, "image")


def picture(width: int, height: int, seed: int = 0) -> bytes:
    """Return a PNG that looks like no other `seed`'s."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    tint = Image.new(
        "RGB", (width, height), ((seed * 67) % 256, (seed * 131 + 60) % 256, (seed * 29 + 120) % 256)
    )
    file = io.BytesIO()
    Image.blend(image, tint, 0.65).save(file, "PNG")
    return file.getvalue()


def recorded(folder: Path, name: str, source: str, *how: str) -> bytes:
    """Return a recording of one of ffmpeg's sources; a test is skipped where ffmpeg is not installed."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    path = folder / name
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, *how, str(path)], check=True, timeout=60
    )
    return path.read_bytes()


def tiles(page: Page) -> Sequence[str]:
    """Return the accessible names of all tiles that are there, in their order."""
    names: Sequence[str] = page.locator("a.tile").evaluate_all("all => all.map(each => each.ariaLabel)")
    return names


class Gallery:
    """A gallery that is served, of a home."""

    def __init__(self, home: Home, url: str) -> None:
        self.home = home
        self.url = url


@contextmanager
def gallery_of(home: Home, *arguments: str) -> Iterator[Gallery]:
    """Serve a home's gallery in a process of its own, as a user would; it has read the whole library."""
    port = free_port()
    command = home.command("gallery", "--listen", f"127.0.0.1:{port}", *arguments)
    with (home.path / "gallery.log").open("w") as log:
        process = subprocess.Popen(command, env=home.environ, stderr=log, stdout=log)
    try:
        wait_until(lambda: process.poll() is not None or _has_read(home, port))
        assert process.poll() is None, (home.path / "gallery.log").read_text()
        yield Gallery(home, f"http://127.0.0.1:{port}/")
    finally:
        process.terminate()
        process.wait(30)


def _has_read(home: Home, port: int) -> bool:
    """Ask a gallery whether it has read the whole library, or says why not; until then a view is a part."""
    file = home.environ.get("FLORADL_WEB__TOKEN_FILE")
    headers = {"Authorization": f"Bearer {Path(file).read_text().strip()}"} if file else {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/api/status", headers=headers)
        status = json.loads(connection.getresponse().read())
        return status["indexing"] is None or status["trouble"] is not None
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def pages(browser: Browser) -> Iterator[Opener]:
    """Give what opens pages, each for somebody new; none may break its policy or leave its host."""
    contexts: list[BrowserContext] = []
    trouble: list[str] = []

    def opened(url: str, *, wait: bool = True, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda said: trouble.append(said.text) if is_error(said) else None)
        page.on("dialog", lambda dialog: trouble.append(f"dialog: {dialog.message}"))
        host = url.split("/")[2]
        page.on("request", lambda asked: trouble.append(asked.url) if is_elsewhere(asked.url, host) else None)
        page.goto(url)
        if wait:
            expect(page.locator("a.tile").first).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not trouble, trouble


def is_error(said: ConsoleMessage) -> bool:
    """Is it the page's fault? That a thumbnail or run is not there, or that the server ended, is not."""
    ended = re.search("ERR_(CONNECTION_|EMPTY_RESPONSE|INCOMPLETE_CHUNKED_ENCODING)", said.text)
    return (
        said.type == "error"
        and not ended
        and not re.search("/thumbnails/|/run_elsewhere$", said.location["url"])
    )


def is_elsewhere(url: str, host: str) -> bool:
    """Does a request leave the gallery's host? The browser's own viewer of PDF is inside the browser."""
    return not url.startswith(
        ("chrome-extension://", "chrome://", f"http://{host}/", f"blob:http://{host}/", "data:")
    )


def plant(library: Planted, media: Path) -> None:
    """Fill a library."""
    video = recorded(media, "v.mp4", "testsrc=s=320x180:d=20", "-pix_fmt", "yuv420p", "-g", "10")
    sound = recorded(media, "a.mp3", "sine=d=20")
    named = {"technique_name": "Campaign stills", "model_id": "flux-pro", "project_name": "Spring 27"}
    pair = [("pair-1.png", picture(640, 480, 1)), ("pair-2.png", picture(480, 640, 2))]
    library.run("run_pair", *pair, label="look 07", meta={"shot": "12"}, **named)
    library.run("run_wide", ("wide.png", picture(900, 300, 3)), technique="product-shot", label=LONG)
    library.run("run_film", ("film.mp4", video), technique="camera-orbit")
    library.run("run_voice", ("voice.mp3", sound), technique="voiceover")
    library.run("run_book", ("book.pdf", pdf()), technique="brand-book")
    library.run("run_poem", ("poem.txt", POEM.encode()), technique="critique", label=RTL)
    odd = f"{HOSTILE.replace('/', '')}.png"
    files = [
        ("drawing.svg", SVG),
        ("page.html", HTML),
        (odd, picture(300, 300, 4)),
        ("words.txt", HOSTILE.encode()),
    ]
    library.run("run_hostile", *files, technique="<b>bold</b>", label=HOSTILE, technique_name=HOSTILE)
    for number in range(40):
        library.run(
            f"run_more{number:02}",
            (f"more{number}.png", picture(320, 200 + 10 * number, number)),
            technique="storyboard",
        )


def pdf() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (300, 400), "white").save(file, "PDF")
    return file.getvalue()


def tile(page: Page, run_id: str, output: str = "output_1") -> Locator:
    """Return the tile of an output."""
    return page.get_by_role("main").get_by_role("link", name=re.compile(rf"\b{run_id}, {output}\b"))


def opened_dialog(page: Page, run_id: str, output: str = "output_1") -> Locator:
    """Click a tile; return its dialog."""
    tile(page, run_id, output).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_have_attribute("aria-label", re.compile(rf"\b{run_id}, {output}\b"))
    return dialog


class Held:
    """Requests of a page to addresses of a pattern, each held until `release`."""

    def __init__(self, page: Page, pattern: str) -> None:
        self._page = page
        self._pattern = pattern
        self._waiting: list[Route] = []
        self._is_open = False
        page.route(pattern, self._take)

    def _take(self, route: Route) -> None:
        if self._is_open:
            route.continue_()
        else:
            self._waiting.append(route)

    def wait(self) -> None:
        """Wait until something is held."""
        # What a browser tells is heard while it is asked something.
        wait_until(lambda: self._page.evaluate("() => true") and self._waiting)

    def release(self) -> None:
        """Let go on what is held, once something is, and all that comes later."""
        self.wait()
        self._is_open = True
        for route in self._waiting:
            route.continue_()
        self._page.unroute(self._pattern)  # nothing is to be decided while the page is closed


def press(page: Page, element: Locator) -> None:
    """Press the mouse on an element, without letting go."""
    element.hover()
    page.mouse.down()
