"""`./dev screenshots`: pictures of the gallery for the docs, at three sizes and in both schemes.

They show a library that is drawn here, beside a daemon with runs under way, to somebody who opens the page.
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from browser import SIZES, Planted, chromium, gallery_of, opened_dialog, pdf, recorded
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, expect
from studio import Home, served, wait_until

from floradl.simulator import Simulator

PLACE = Path(__file__).parent.parent / "docs" / "screenshots"
MOST = 1_500_000  # bytes, all together
_WIDEST = 1920  # pixels that are kept: a 4K window at half its size
_PALETTES = (
    ("#f6c2cb", "#d98a8f", "#b0606f", "#fff4e2", "#5b2a3a"),
    ("#dfead0", "#a9c48a", "#5e8a4f", "#fff4e2", "#274133"),
    ("#cfdcea", "#8fa9c8", "#4f739b", "#fff1dc", "#1f2f4d"),
    ("#f1b880", "#cf8a58", "#8f5640", "#fff0da", "#4a2730"),
    ("#dcd3f0", "#a994d6", "#6d55a3", "#fff4e2", "#31264d"),
    ("#9ecbcc", "#5f969f", "#355f70", "#fff1dc", "#1d3a4a"),
)
_SHAPES = ((1024, 1024), (1344, 768), (768, 1344), (1152, 896), (896, 1152))
_WORDS = (
    "The bottle sits too low in the frame; give it air above the cap. The label reads well at thumbnail "
    "size, which is rare. Warm the shadow by a touch, so that the glass does not turn grey against the paper."
)
_LABELS = ("Aurora / hero", "Aurora / social", "Look 07", "Spring 27", None)


def hills(size: tuple[int, int], seed: int) -> Image.Image:
    """Draw a sun over hills."""
    chance, colors = random.Random(seed), _PALETTES[seed % len(_PALETTES)]
    picture = Image.new("RGB", size, colors[0])
    draw = ImageDraw.Draw(picture)
    width, height = size
    x, y, r = chance.uniform(0.25, 0.75) * width, 0.34 * height, 0.15 * min(size)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colors[3])
    for nth, color in enumerate((colors[1], colors[2], colors[4])):
        top = (0.45 + 0.17 * nth) * height
        points = [(step * width / 24, top + chance.uniform(-0.05, 0.05) * height) for step in range(25)]
        draw.polygon([*points, (width, height), (0, height)], fill=color)
    return picture


def bottle(size: tuple[int, int], seed: int) -> Image.Image:
    """Draw a bottle on paper."""
    colors = _PALETTES[seed % len(_PALETTES)]
    picture = Image.new("RGB", size, colors[0])
    draw = ImageDraw.Draw(picture)
    width, height = size
    x, unit = (0.5 + 0.08 * (seed % 3 - 1)) * width, min(size) / 10
    draw.rectangle((0, 0.74 * height, width, height), fill=colors[1])
    draw.ellipse((x - 2.6 * unit, 0.78 * height, x + 2.6 * unit, 0.78 * height + unit), fill=colors[2])
    draw.rectangle(
        (x - 0.45 * unit, 0.82 * height - 6.4 * unit, x + 0.45 * unit, 0.82 * height - 4 * unit),
        fill=colors[2],
    )
    draw.rounded_rectangle(
        (x - 0.6 * unit, 0.82 * height - 7 * unit, x + 0.6 * unit, 0.82 * height - 6.2 * unit),
        9,
        fill=colors[4],
    )
    draw.rounded_rectangle(
        (x - 1.5 * unit, 0.82 * height - 4.9 * unit, x + 1.5 * unit, 0.82 * height), unit / 2, fill=colors[2]
    )
    draw.rectangle(
        (x - 1.1 * unit, 0.82 * height - 3.4 * unit, x + 1.1 * unit, 0.82 * height - 1.2 * unit),
        fill=colors[3],
    )
    return picture


def pattern(size: tuple[int, int], seed: int) -> Image.Image:
    """Draw a quilt of quarter circles."""
    chance, colors = random.Random(seed), _PALETTES[seed % len(_PALETTES)]
    picture = Image.new("RGB", size, colors[3])
    draw = ImageDraw.Draw(picture)
    side = min(size) // 5
    for left in range(0, size[0], side):
        for top in range(0, size[1], side):
            back, front = chance.sample(colors, 2)
            draw.rectangle((left, top, left + side, top + side), fill=back)
            x, y = left - side * chance.randrange(2), top - side * chance.randrange(2)
            draw.pieslice(
                (x, y, x + 2 * side, y + 2 * side), 0, 360, fill=front
            ) if chance.random() < 0.4 else None
            draw.ellipse(
                (left + side / 4, top + side / 4, left + 3 * side / 4, top + 3 * side / 4), fill=front
            )
    return picture


_SCENES: Sequence[tuple[str, str, Callable[[tuple[int, int], int], Image.Image]]] = (
    ("product-shot", "Product shot", bottle),
    ("camera-move", "Camera move", hills),
    ("pattern-maker", "Pattern maker", pattern),
)


def png(picture: Image.Image) -> bytes:
    """Return a picture's bytes."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def plant(library: Planted, media: Path) -> None:
    """Fill a library with four days of work."""
    now = datetime.now(UTC).replace(microsecond=0)
    png_of = [
        png(draw(_SHAPES[nth % 5], nth)) for nth in range(24) for _, _, draw in _SCENES[nth % 3 : nth % 3 + 1]
    ]
    (media / "frame.png").write_bytes(png(hills((1280, 720), 5)))
    still = ["-loop", "1", "-t", "6", "-i", str(media / "frame.png"), "-map", "1:v", "-r", "12"]
    film = recorded(media, "film.mp4", "color=s=16x16:d=1", *still, "-pix_fmt", "yuv420p")
    sound = recorded(media, "sound.mp3", "sine=d=20")
    for nth in range(70):
        slug, name, _ = _SCENES[nth % 3]
        at = now - timedelta(minutes=4 + nth * 63)
        named = {
            "technique_name": name,
            "label": _LABELS[nth % 5],
            "project_name": ("Aurora", "Spring 27")[nth % 2],
        }
        began = (at - timedelta(seconds=21 + nth)).strftime("%Y-%m-%dT%H:%M:%SZ")
        done = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        times = {"created_at": began, "completed_at": done, "finished_at": done}
        more = {"model_id": "flux-pro", "completed": at, "times": times, **named}
        run_id = f"run_{random.Random(nth).getrandbits(50):010x}"
        if nth % 11 == 4:
            library.run(
                run_id,
                (f"{run_id}.mp4", film),
                technique="camera-move",
                **{**more, "technique_name": "Camera move"},
            )
        elif nth % 17 == 7:
            library.run(
                run_id,
                (f"{run_id}.txt", _WORDS.encode()),
                technique="critique",
                **{**more, "technique_name": "Critique"},
            )
        elif nth % 23 == 11:
            library.run(
                run_id,
                (f"{run_id}.mp3", sound),
                technique="voice-over",
                **{**more, "technique_name": "Voice over"},
            )
        elif nth % 29 == 13:
            library.run(
                run_id,
                (f"{run_id}.pdf", pdf()),
                technique="brand-book",
                **{**more, "technique_name": "Brand book"},
            )
        else:
            pictures = [
                (f"{run_id}-{each}.png", png_of[(nth * 2 + each) % 24]) for each in range(1 + nth % 2)
            ]
            library.run(run_id, *pictures, technique=slug, **more)


@contextmanager
def shown(folder: Path) -> Iterator[str]:
    """Serve the gallery of such a library beside a daemon with two runs under way and one that failed."""
    simulator = Simulator()
    with served(simulator):
        home = Home(folder / "flora", simulator)
        home.path.mkdir()
        plant(Planted(home.library), folder)
        simulator.add_run("run_k3w8v2m9q1", technique="camera-move", duration=120)
        simulator.add_run("run_p7c4n6t2b8", technique="product-shot", duration=60)
        simulator.add_run(
            "run_w5d1z8x4c2", technique="pattern-maker", duration=0, fail=("safety_blocked", "Refused.")
        )
        with home.daemon(), gallery_of(home) as gallery:
            home.drop(
                "camera-move/run_k3w8v2m9q1\nproduct-shot/run_p7c4n6t2b8\npattern-maker/run_w5d1z8x4c2\n"
            )
            wait_until(
                lambda: home.status()["counts"]["running"] == 2 and home.status()["counts"]["failed"] == 1
            )
            yield gallery.url


def shoot(browser: Browser, url: str, size: str, scheme: str) -> None:
    """Take a picture of the page, and one of its dialog."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        device_scale_factor=2 if size == "phone" else 1,
        has_touch=size == "phone",
        is_mobile=size == "phone",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_text("1 run failed")).to_be_visible(timeout=60_000)
    seen = (
        "() => [...document.querySelectorAll('.tile img')].every((each) => each.classList.contains('here'))"
    )
    page.wait_for_function(seen, timeout=120_000)
    keep(page.screenshot(), f"{size}-{scheme}")
    run_id = page.locator("a.tile[aria-label*='product-shot']").nth(1).get_attribute("href") or ""
    opened_dialog(page, run_id.partition("run=")[2].partition("&")[0], run_id.rpartition("output=")[2])
    if size != "phone":  # where the panel is shown on demand
        expect(page.get_by_role("dialog").locator(".panel")).to_contain_text("Integrity", timeout=60_000)
    whole = "() => [...document.querySelectorAll('.pswp__img, .panel img')].every((each) => each.complete)"
    page.wait_for_function(whole, timeout=60_000)
    page.wait_for_timeout(300)  # of fading in
    keep(page.screenshot(), f"{size}-{scheme}-dialog")
    context.close()


def keep(png_data: bytes, name: str) -> None:
    """Write a picture for the docs."""
    picture = Image.open(io.BytesIO(png_data)).convert("RGB")
    if picture.width > _WIDEST:
        picture = picture.resize(
            (_WIDEST, picture.height * _WIDEST // picture.width), Image.Resampling.LANCZOS
        )
    PLACE.mkdir(exist_ok=True)
    picture.save(PLACE / f"{name}.webp", "WEBP", quality=72, method=6)
    if name == "laptop-light":
        picture.quantize(128, dither=Image.Dither.NONE).save(PLACE.parent / "gallery.png", optimize=True)


def main() -> None:
    """Take them all."""
    with (
        tempfile.TemporaryDirectory(prefix="floradl-screenshots-") as folder,
        shown(Path(folder)) as url,
        chromium() as browser,
    ):
        for size in SIZES:
            for scheme in ("light", "dark"):
                shoot(browser, url, size, scheme)
    total = sum(path.stat().st_size for path in PLACE.iterdir())
    sys.stdout.write(f"{PLACE}: {total:,} bytes\n")
    if total > MOST:
        sys.exit(f"they are more than {MOST:,} bytes: take some out, or lower their quality")


if __name__ == "__main__":
    main()
