"""The gallery's dialog in a real browser: pictures, video, sound, PDF, text, the run; a hostile library."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from browser import (
    HOSTILE,
    HTML,
    POEM,
    Gallery,
    Opener,
    Planted,
    gallery_of,
    opened_dialog,
    tile,
)
from playwright.sync_api import Error, expect
from studio import Home, wait_until

SEEK = """(each, to) => new Promise((done) => {
    each.addEventListener("seeked", done, { once: true });
    each.currentTime = to;
})"""

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # two browsers beside other tests lose their focus


# ---- the dialog


def test_a_tile_opens_a_dialog_and_escape_gives_the_focus_back(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    dialog = opened_dialog(page, "run_pair")
    shown = dialog.get_by_role("img", name=re.compile("run_pair, output_1"))
    expect(shown).to_have_js_property("naturalWidth", 640)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(tile(page, "run_pair")).to_be_focused()


def test_arrow_keys_go_on_and_back_in_the_dialog(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    dialog = opened_dialog(page, "run_pair", "output_2")
    for key, run, output in (
        ("ArrowRight", "run_pair", "output_1"),
        ("ArrowRight", "run_wide", "output_1"),
        ("ArrowLeft", "run_pair", "output_1"),
    ):
        page.keyboard.press(key)
        expect(dialog).to_have_attribute("aria-label", re.compile(f"{run}, {output}"))
        expect(page).to_have_url(f"{gallery.url}?run={run}&output={output}")


def test_the_dialog_goes_on_beyond_what_was_fetched(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    page.keyboard.press("Tab")
    tile(page, "run_pair", "output_2").focus()
    page.keyboard.press("End")
    expect(tile(page, "run_more39")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".pswp__counter")).to_have_text("51 / 51")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("dialog")).to_have_attribute("aria-label", re.compile("run_more38"))
    page.keyboard.press("Escape")
    expect(tile(page, "run_more38")).to_be_focused()


def test_a_picture_is_zoomed_by_the_keyboard(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url, viewport={"width": 800, "height": 500})
    opened_dialog(page, "run_pair")
    zoomed = page.locator(".pswp.pswp--zoomed-in")
    expect(zoomed).to_have_count(0)
    expect(page.locator(".pswp--ui-visible")).to_have_count(1)
    page.keyboard.press("z")
    expect(zoomed).to_have_count(1)


def test_a_video_plays_and_seeks(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    asked: list[str | None] = []
    page.on(
        "request",
        lambda request: asked.append(request.headers.get("range")) if ".mp4" in request.url else None,
    )
    dialog = opened_dialog(page, "run_film")
    video = dialog.locator("video")
    expect(video).to_have_js_property("readyState", 4)
    video.evaluate(SEEK, 15)
    assert video.evaluate("each => each.currentTime") == pytest.approx(15, abs=0.2)
    assert any(asked)
    page.keyboard.press(" ")
    expect(video).to_have_js_property("paused", value=False)
    page.keyboard.press("ArrowRight")
    expect(dialog).to_have_attribute("aria-label", re.compile("run_voice"))
    expect(page.locator("video")).to_have_js_property("paused", value=True)


def test_a_sound_can_be_sought(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    audio = opened_dialog(page, "run_voice").locator("audio")
    expect(audio).to_have_js_property("seeking", value=False)
    assert wait_until(lambda: audio.evaluate("each => each.duration")) == pytest.approx(20, abs=1)
    audio.evaluate(SEEK, 12)


def test_a_pdf_is_shown_in_a_frame(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    with page.expect_response(re.compile("book.pdf")) as asked:
        dialog = opened_dialog(page, "run_book")
    assert asked.value.headers["content-type"] == "application/pdf"
    expect(dialog.locator("iframe")).to_have_attribute("title", "book.pdf")


def test_a_text_is_shown_as_it_is(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    sheet = opened_dialog(page, "run_poem").get_by_role("document")
    expect(sheet).to_have_js_property("textContent", POEM)
    sheet.focus()
    page.keyboard.press("End")
    wait_until(lambda: sheet.evaluate("each => each.scrollTop") > 0)


def test_what_has_no_preview_can_be_downloaded(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    dialog = opened_dialog(page, "run_hostile", "output_2")
    expect(dialog.get_by_text("There is no preview of this kind of file.")).to_be_visible()
    with page.expect_download() as begun:
        dialog.locator(".card").get_by_role("link", name="Download").click()
    assert Path(begun.value.path()).read_bytes() == HTML


def test_a_broken_picture_says_so(tmp_path: Path, open_page: Opener) -> None:
    home = Home(tmp_path)
    Planted(home.library).run("run_broken", ("broken.png", b"\x89PNG\r\n\x1a\nnothing"))
    with gallery_of(home) as running:
        page = open_page(running.url)
        dialog = opened_dialog(page, "run_broken")
        expect(dialog.get_by_text("This browser cannot show this picture.")).to_be_visible()


# ---- the run's panel


def test_the_panel_tells_which_run_made_it_with_what_and_where_it_is(
    gallery: Gallery, open_page: Opener
) -> None:
    page = open_page(gallery.url)
    opened_dialog(page, "run_pair")
    panel = page.get_by_role("complementary", name="The run")
    path = gallery.home.library / "images/campaign/pair-1.png"
    for text in (
        "Campaign stills",
        "campaign",
        "look 07",
        "run_pair",
        "flux-pro",
        "Spring 27",
        "$0.0425",
        "shot",
        "12",
        "640 \N{MULTIPLICATION SIGN} 480",
        str(path),
        "verified",
    ):
        expect(panel).to_contain_text(text)
    expect(panel).to_contain_text(re.compile("[0-9a-f]{64}"))
    expect(panel.get_by_role("link", name="Download")).to_have_attribute("download", "pair-1.png")
    panel.get_by_text("Sidecar").click()
    expect(panel.get_by_label("The sidecar")).to_contain_text('"reference": "campaign/run_pair"')


def test_the_path_is_copied(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url, permissions=["clipboard-read", "clipboard-write"])
    opened_dialog(page, "run_pair")
    page.get_by_role("button", name="Copy the path").click()
    copied = wait_until(lambda: page.evaluate("() => navigator.clipboard.readText()"))
    assert Path(copied) == gallery.home.library / "images/campaign/pair-1.png"


def test_the_panel_leads_to_the_other_outputs_of_the_run(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    dialog = opened_dialog(page, "run_pair")
    others = dialog.get_by_role("region", name="All outputs of this run")
    others.get_by_role("link", name=re.compile("run_pair, output_2")).click()
    expect(dialog).to_have_attribute("aria-label", re.compile("run_pair, output_2"))
    dialog.get_by_role("link", name="Campaign stills", exact=True).click()
    expect(page).to_have_url(f"{gallery.url}?technique=campaign")
    expect(page.locator("#summary")).to_have_text("2 outputs")


def test_the_panel_stays_away_once_it_was_closed(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    panel = page.get_by_role("complementary", name="The run")
    opened_dialog(page, "run_pair")
    expect(panel).to_be_visible()
    page.keyboard.press("i")
    expect(panel).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    opened_dialog(page, "run_wide")
    expect(panel).to_be_hidden()


# ---- safety


def test_a_hostile_library_runs_nothing(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    expect(tile(page, "run_hostile")).to_be_visible()
    for output in ("output_1", "output_2", "output_3", "output_4"):
        dialog = opened_dialog(page, "run_hostile", output)
        expect(dialog.locator(".panel")).to_contain_text("verified")
        assert dialog.locator("h2").inner_text() == HOSTILE
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.title() == "floradl gallery"


@pytest.mark.parametrize("name", ["drawing.svg", "page.html"])
def test_an_output_opened_by_itself_runs_no_script(gallery: Gallery, open_page: Opener, name: str) -> None:
    page = open_page(gallery.url)
    (address,) = {
        each["url"]
        for each in page.request.get(f"{gallery.url}api/runs/run_hostile").json()["files"]
        if each["path"].endswith(name)
    }
    answer = page.request.get(gallery.url.rstrip("/") + address)
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    other = page.context.new_page()
    with suppress(Error):  # a browser does not go to an attachment
        other.goto(gallery.url.rstrip("/") + address)
    assert other.title() != "run"
