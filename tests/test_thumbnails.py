"""Thumbnails: small, right, made once, and harmless whatever a file holds."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import anyio
import pytest
from galleries import Shelf, picture
from PIL import Image
from studio import until, wait_until

from floradl.gallery import thumbnailer
from floradl.gallery.pace import SHARE, Pace, Transfers
from floradl.gallery.thumbnailer import HIGHEST, WIDEST
from floradl.gallery.thumbnails import Maker, ThumbnailCache, Thumbnails

pytestmark = pytest.mark.anyio
SAMPLES = Path(__file__).parent / "samples"
ROOM = 1 << 30


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker(os.environ)


@pytest.fixture(scope="module", autouse=True)
def ended(maker: Maker) -> Iterator[None]:
    yield
    maker.end()


def made_of(maker: Maker, data: bytes, tmp_path: Path) -> Image.Image | None:
    file = tmp_path / "file"
    file.write_bytes(data)
    with file.open("rb") as opened:
        made = maker.make(opened)
    return Image.open(io.BytesIO(made)) if made else None


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_a_thumbnail_is_a_small_webp_of_the_same_shape(maker: Maker, tmp_path: Path, form: str) -> None:
    made = made_of(maker, picture(1600, 1200, form, "red"), tmp_path)
    assert made is not None
    assert (made.format, made.size) == ("WEBP", (533, 400))
    assert made.convert("RGB").reduce(400).tobytes()[0] > 200
    assert max(made.convert("RGB").reduce(400).tobytes()[1:3]) < 60


@pytest.mark.parametrize("size", [(4000, 500), (500, 4000), (10, 10), (1, 3000), (3000, 1)])
def test_odd_shapes_fit_and_small_ones_stay_as_they_are(
    maker: Maker, tmp_path: Path, size: tuple[int, int]
) -> None:
    made = made_of(maker, picture(*size), tmp_path)
    assert made is not None
    assert made.width <= WIDEST
    assert made.height <= HIGHEST
    assert size != (10, 10) or made.size == size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_every_kind_of_color_is_shown(maker: Maker, tmp_path: Path, mode: str) -> None:
    data = io.BytesIO()
    Image.new(mode, (600, 500)).save(data, "TIFF")
    assert made_of(maker, data.getvalue(), tmp_path) is not None


@pytest.mark.parametrize(("mode", "form"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF")])
def test_a_depth_map_of_16_bits_keeps_its_greys(maker: Maker, tmp_path: Path, mode: str, form: str) -> None:
    data = io.BytesIO()
    Image.new(mode, (60, 50), 0x4000).save(data, form)
    made = made_of(maker, data.getvalue(), tmp_path)
    assert made is not None
    assert all(60 <= grey <= 68 for grey in made.convert("L").tobytes())


def test_what_shines_through_still_does(maker: Maker, tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("RGBA", (600, 500), (255, 0, 0, 0)).save(data, "PNG")
    made = made_of(maker, data.getvalue(), tmp_path)
    assert made is not None
    assert made.convert("RGBA").getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "AVIF", "WEBP"])
def test_a_photo_that_lies_on_its_side_is_turned_where_chromium_does(
    maker: Maker, tmp_path: Path, form: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.new("RGB", (1600, 800)).save(data, form, exif=exif)
    made = made_of(maker, data.getvalue(), tmp_path)
    assert made is not None
    assert (made.width < made.height) == (form != "WEBP")


@pytest.mark.parametrize(
    "name",
    ["sample.mp4", "faststart.mp4", "fragmented.mp4", "sample.mov", "sample.webm", "live.webm", "sample.mkv"],
)
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_film_has_one_of_its_frames(maker: Maker, tmp_path: Path, name: str) -> None:
    made = made_of(maker, (SAMPLES / name).read_bytes(), tmp_path)
    assert made is not None
    assert made.size == (32, 32)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that is that large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_not_unpacked(maker: Maker, tmp_path: Path) -> None:
    for size in ((60_000, 60_000), (1 << 30, 1), (20_000, 20_000)):
        assert made_of(maker, bomb(*size), tmp_path) is None
    assert made_of(maker, picture(), tmp_path) is not None
    assert maker._process is not None
    peak = Path(f"/proc/{maker._process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    assert int(peak) < 200 << 10  # KiB


def test_a_list_of_other_files_is_not_followed(maker: Maker, tmp_path: Path) -> None:
    """HLS and concat name files that ffmpeg would read, and show."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes((SAMPLES / "sample.mp4").read_bytes())
    for text in (
        f"#EXTM3U\n#EXTINF:1,\n{secret}\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"file '{secret}'\n",
    ):
        assert made_of(maker, text.encode(), tmp_path) is None
        assert (
            made_of(maker, b"\x00\x00\x00\x14ftypisom\x00\x00\x00\x00isom" + text.encode(), tmp_path) is None
        )


def test_what_is_no_picture_has_no_thumbnail_and_harms_nobody(maker: Maker, tmp_path: Path) -> None:
    cut = picture(900, 900, "JPEG")[:500]
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch /tmp/x) system\n"
    for data in (
        b"",
        b"words",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        cut,
        postscript,
        bytes(5000),
        b"\x1a\x45\xdf\xa3" * 99,
    ):
        assert made_of(maker, data, tmp_path) is None
    assert made_of(maker, picture(), tmp_path) is not None


def test_the_process_knows_no_key_and_may_not_write_files() -> None:
    maker = Maker(
        {**os.environ, "FLORA_API_KEY": "sk_live_x", "FLORADL_HOME": "/h", "CREDENTIALS_DIRECTORY": "/c"}
    )
    try:
        maker._started()
        assert maker._process is not None
        place = Path(f"/proc/{maker._process.pid}")
        environ = place.joinpath("environ").read_bytes()
        assert b"sk_live_x" not in environ
        assert b"FLORA" not in environ
        with (SAMPLES / "sample.png").open("rb") as file:
            assert maker.make(file)
        limits = place.joinpath("limits").read_text()
        assert "Max file size             0 " in limits
        assert os.sched_getscheduler(maker._process.pid) == os.SCHED_IDLE
    finally:
        maker.end()


def test_a_file_that_takes_too_much_of_a_processor_has_its_process_ended() -> None:
    """As a hostile picture would have it: the process spins, and the system ends it."""
    program = (
        "from floradl.gallery import thumbnailer as t; t._PROCESSOR_TIME = 0; t._bound_time()\n"
        "while True: pass"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGXCPU


def test_where_a_sandbox_forbids_to_give_way_thumbnails_are_made_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def forbidden(name: str) -> Callable[..., None]:
        def refuse(*_: object) -> None:
            asked.append(name)
            raise PermissionError(1, "Operation not permitted")

        return refuse

    for module, name in ((os, "nice"), (os, "sched_setscheduler"), (resource, "setrlimit")):
        monkeypatch.setattr(module, name, forbidden(name))
    thumbnailer._give_way()
    assert {"nice", "sched_setscheduler", "setrlimit"} == set(asked)


def test_one_that_takes_too_long_is_ended_and_the_next_is_made() -> None:
    maker = Maker(os.environ)
    try:
        channel = maker._started()
        assert maker._process is not None
        slow = maker._process
        os.kill(slow.pid, 19)  # SIGSTOP: it does not answer
        channel.settimeout(0.2)
        with (SAMPLES / "sample.png").open("rb") as file:
            assert maker.make(file) is None
            assert slow.poll() is not None
            file.seek(0)
            assert maker.make(file)
    finally:
        maker.end()


def test_what_had_no_thumbnail_is_tried_again_after_a_day(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path, ROOM)
    cache.put("a" * 64, b"")
    assert cache.get("a" * 64) == b""
    (kept,) = tmp_path.rglob("*.webp")
    os.utime(kept, (0, 0))
    assert cache.get("a" * 64) is None


def shown_ago(cache: ThumbnailCache, place: Path, name: str, days: float) -> Path:
    """Put a thumbnail of 8 kB into the cache that was looked at some days ago."""
    cache.put(name * 64, bytes(8000))
    path = place / (2 * name) / f"{name * 64}.webp"
    at = time.time() - days * 86_400
    os.utime(path, (at, at))
    return path


def test_a_cache_without_room_loses_what_was_not_looked_at_for_longest(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path, 30_000)
    old, looked_at, new = (
        shown_ago(cache, tmp_path, name, days) for name, days in (("a", 9), ("b", 8), ("c", 7))
    )
    unfinished = new.with_name(".d.webp.1.part")
    unfinished.touch()
    os.utime(unfinished, (0, 0))
    assert cache.get("b" * 64)  # and so it was looked at
    cache.sweep()
    assert old.exists()
    assert not unfinished.exists()
    newest = shown_ago(cache, tmp_path, "e", 0)
    cache.sweep()
    assert [path.exists() for path in (old, new, looked_at, newest)] == [False, True, True, True]


def test_a_cache_that_grew_is_swept_before_its_time(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path, 100_000)
    grown = [cache.has_grown]
    cache.put("a" * 64, bytes(6000))
    grown.append(cache.has_grown)
    cache.sweep()
    assert [*grown, cache.has_grown] == [False, True, False]


class Downloads:
    """Downloads under way, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.transfers: Transfers = {}
        self.pace = Pace(lambda: self.transfers, lambda: self.now)

    def after(self, seconds: float, *transfers: tuple[str, int]) -> float:
        """Return for how long nothing is made after a thumbnail of 10 ms, once these are under way."""
        self.now += seconds
        self.transfers = {(run_id, "output_1"): size for run_id, size in transfers}
        return self.pace.rest(0.01)


def test_thumbnails_take_little_while_a_download_is_fast_and_all_they_can_after_it() -> None:
    downloads = Downloads()
    assert downloads.after(1, ("run_a", 0)) == 0
    assert downloads.after(1, ("run_a", 30 << 20)) == pytest.approx(0.01 / SHARE - 0.01)
    assert downloads.after(1) > 0  # between two files, perhaps
    assert downloads.after(4) == 0


def test_thumbnails_take_little_while_many_small_files_come() -> None:
    downloads = Downloads()
    assert downloads.after(1, ("run_a", 2000), ("run_b", 0)) > 0
    assert downloads.after(1, ("run_c", 0), ("run_d", 5000)) > 0


def test_thumbnails_do_not_wait_for_a_download_that_is_slow_anyway() -> None:
    downloads = Downloads()
    assert [downloads.after(1, ("run_a", second << 20)) for second in range(5)] == [0, 0, 0, 0, 0]


class Opened:
    """Opens a picture by its hash, and counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def __call__(self, sha256: str) -> BinaryIO | None:
        self.count += 1
        return self.path.open("rb") if sha256.startswith("a") else None


async def test_a_thumbnail_is_made_once_and_kept(tmp_path: Path) -> None:
    opens = Opened(SAMPLES / "sample.png")
    cache = ThumbnailCache(tmp_path / "thumbnails", ROOM)
    a, none = "a" * 64, "b" * 64
    made: list[bytes | None] = []
    async with anyio.create_task_group() as group:
        thumbnails = Thumbnails(cache, opens, os.environ, Pace(dict))
        group.start_soon(thumbnails.serve)

        async def get(sha256: str) -> None:
            made.append(await thumbnails.get(sha256))

        async with anyio.create_task_group() as many:
            for _ in range(10):
                many.start_soon(get, a)
        assert opens.count == 1
        assert await thumbnails.get(none) == b""
        assert await thumbnails.get("../../etc/passwd") == b""
        assert await thumbnails.get(a) == made[0]
        group.cancel_scope.cancel()
    assert len(set(made)) == 1
    assert made[0]
    assert opens.count == 2
    assert ThumbnailCache(tmp_path / "thumbnails", ROOM).get(a) == made[0]
    shutil.rmtree(tmp_path / "thumbnails")
    assert cache.get(a) is None


async def test_thumbnails_are_made_in_their_order_and_those_that_are_too_many_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floradl.gallery.thumbnails._MOST_WAITING", 3)
    order: list[str] = []

    def opens(sha256: str) -> BinaryIO | None:
        order.append(sha256[:1])
        return None

    answers: dict[str, bytes | None] = {}
    thumbnails = Thumbnails(ThumbnailCache(tmp_path, ROOM), opens, os.environ, Pace(dict))

    async def get(letter: str) -> None:
        answers[letter] = await thumbnails.get(letter * 64)

    async with anyio.create_task_group() as group:
        for letter in "abcde":
            group.start_soon(get, letter)
            await until(partial(thumbnails._waiting.__contains__, letter * 64))
        group.start_soon(thumbnails.serve)
        await until(lambda: len(answers) == 5)
        group.cancel_scope.cancel()
    assert order == ["c", "d", "e"]
    assert (answers["a"], answers["b"], answers["c"]) == (None, None, b"")


async def test_a_thumbnail_that_nobody_waits_for_any_more_is_not_made(tmp_path: Path) -> None:
    order: list[str] = []

    def opens(sha256: str) -> BinaryIO | None:
        order.append(sha256[:1])
        return None

    thumbnails = Thumbnails(ThumbnailCache(tmp_path, ROOM), opens, os.environ, Pace(dict))
    async with anyio.create_task_group() as scrolled_on:
        scrolled_on.start_soon(thumbnails.get, "a" * 64)
        await until(lambda: "a" * 64 in thumbnails._waiting)
        scrolled_on.cancel_scope.cancel()
    async with anyio.create_task_group() as group:
        group.start_soon(thumbnails.serve)
        assert await thumbnails.get("b" * 64) == b""
        group.cancel_scope.cancel()
    assert order == ["b"]


async def test_the_gallery_serves_thumbnails_and_says_where_there_are_none(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "library")
    shelf.put(
        "run_a",
        {"data": picture(900, 900)},
        {"kind": "image", "data": b"broken"},
        {"kind": "text", "data": b"t"},
    )
    async with shelf.shown() as client:
        urls = {
            each["output_id"]: each["thumbnail"]
            for each in (await client.get("/api/outputs")).json()["outputs"]
        }
        made = await client.get(urls["output_1"])
        broken = await client.get(urls["output_2"])
        unknown = await client.get(f"/thumbnails/{'0' * 64}.webp")
    assert urls["output_3"] is None
    assert (made.status_code, made.headers["content-type"]) == (200, "image/webp")
    assert "immutable" in made.headers["cache-control"]
    assert Image.open(io.BytesIO(made.content)).size == (400, 400)
    assert (broken.status_code, unknown.status_code) == (404, 404)
    assert not list(shelf.root.rglob("*.webp"))
    name = hashlib.sha256(picture(900, 900)).hexdigest()
    assert (shelf.place / "thumbnails" / name[:2] / f"{name}.webp").exists()


async def test_a_thumbnail_of_what_a_link_leads_to_is_not_made(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "library")
    data = picture(300, 300)
    (tmp_path / "outside.png").write_bytes(data)
    (shelf.root / "linked.png").symlink_to(tmp_path / "outside.png")
    sha256 = hashlib.sha256(data).hexdigest()
    shelf.put("run_evil", {"path": "linked.png", "sha256": sha256})
    async with shelf.shown() as client:
        assert (await client.get(f"/thumbnails/{sha256}.webp")).status_code == 404


def test_the_process_ends_with_whoever_started_it() -> None:
    program = (
        "import os; from floradl.gallery.thumbnails import Maker; "
        "maker = Maker(os.environ); maker._started(); print(maker._process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert wait_until(lambda: not Path(f"/proc/{int(done.stdout)}/stat").exists())
