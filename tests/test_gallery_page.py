"""The gallery's page in a real browser: tiles, search, filters, its URL; by keyboard alone; axe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser import (
    RTL,
    SIZES,
    Gallery,
    Opener,
    Planted,
    gallery_of,
    opened_dialog,
    picture,
    tile,
    tiles,
    violations,
)
from playwright.sync_api import Browser, Route, expect
from studio import Home, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # two browsers beside other tests lose their focus


# ---- the grid


def test_tiles_stand_newest_first_under_their_day(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    expect(page.get_by_role("heading", level=2).first).to_contain_text(re.compile("Today|Yesterday"))
    shown = [name for name in tiles(page) if "run_more" not in name]
    order = [re.findall(r"run_\w+", name)[0] for name in shown]
    assert list(dict.fromkeys(order)) == [
        "run_pair",
        "run_wide",
        "run_film",
        "run_voice",
        "run_book",
        "run_poem",
        "run_hostile",
    ]


def test_on_a_phone_what_was_chosen_is_seen_without_scrolling(gallery: Gallery, open_page: Opener) -> None:
    width, height = SIZES["phone"]
    page = open_page(f"{gallery.url}?label=look+07", viewport={"width": width, "height": height})
    expect(page.get_by_role("button", name="Remove label look 07")).to_be_in_viewport(ratio=1)


def test_a_tile_is_a_link_named_by_technique_and_run(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    link = page.get_by_role(
        "link", name=re.compile(r"Campaign stills \(campaign\), image, look 07, run_pair")
    )
    expect(link).to_have_count(2)
    assert link.first.get_attribute("href") == "/?run=run_pair&output=output_2"


def test_pictures_fill_their_places_without_a_jump(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    page.evaluate(
        """() => { window.shifts = 0; new PerformanceObserver((list) => list.getEntries().forEach((entry) =>
        (window.shifts += entry.value))).observe({ type: "layout-shift", buffered: true }); }"""
    )
    expect(page.locator(".tile img.here").nth(5)).to_be_visible()
    width, height = page.locator("a.tile[aria-label*='run_wide']").evaluate(
        "each => [each.clientWidth, each.clientHeight]"
    )
    assert width / height == pytest.approx(2.6, rel=0.05)  # 3, cropped to the widest shape
    assert page.evaluate("() => window.shifts") < 0.02


def test_few_pictures_are_fetched_at_a_time_so_that_others_have_a_connection(
    gallery: Gallery, browser: Browser
) -> None:
    context = browser.new_context()
    page = context.new_page()
    held: list[Route] = []
    page.route("**/thumbnails/**", lambda route: held.append(route))  # noqa: PLW0108 - a method takes no mark
    page.goto(gallery.url)
    wait_until(lambda: page.locator("a.tile").count() > 10 and len(held) == 4)
    opened_dialog(page, "run_poem")
    page.keyboard.press("Escape")
    assert len(held) == 4
    held.pop(0).continue_()
    wait_until(lambda: page.locator("img.here").count() == 1 and len(held) == 4)
    context.close()


def test_scrolling_far_shows_the_tiles_there_and_keeps_few_elements(
    tmp_path: Path, open_page: Opener
) -> None:
    home = Home(tmp_path)
    library = Planted(home.library)
    small = picture(32, 20)
    for number in range(1500):
        library.run(f"run_{number:05}", (f"{number}.png", small))
    with gallery_of(home) as running:
        page = open_page(running.url)
        expect(page.locator("#summary")).to_have_text("1,500 outputs")
        before = page.evaluate("() => document.documentElement.scrollHeight")
        page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight / 2)")
        expect(tile(page, "run_00750")).to_be_attached()
        assert page.locator(".tile").count() < 200
        assert page.evaluate("() => document.documentElement.scrollHeight") == before
        page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
        expect(tile(page, "run_01499")).to_be_visible()


@pytest.mark.parametrize("size", SIZES)
def test_nothing_reaches_over_the_edge_of_the_window(gallery: Gallery, open_page: Opener, size: str) -> None:
    width, height = SIZES[size]
    page = open_page(gallery.url, viewport={"width": width, "height": height})
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for run in ("run_wide", "run_poem"):
        opened_dialog(page, run)
        if size == "phone":
            page.get_by_role("button", name="The run (i)").click()
        panel = page.get_by_role("complementary", name="The run")
        expect(panel).to_contain_text(run)
        assert panel.evaluate("each => each.scrollWidth <= each.clientWidth")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_label_from_right_to_left_is_written_so(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    dialog = opened_dialog(page, "run_poem")
    label = dialog.locator(".panel .label")
    expect(label).to_have_text(RTL)
    expect(label).to_have_css("direction", "rtl")


# ---- search, filters, the URL


def test_typing_searches_labels_techniques_and_texts(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    page.get_by_role("searchbox").fill("first line")
    expect(page.locator("#summary")).to_have_text("1 output")
    expect(tile(page, "run_poem")).to_be_visible()
    expect(page).to_have_url(f"{gallery.url}?q=first+line")
    page.get_by_role("searchbox").fill("look 07")
    expect(page.locator("#summary")).to_have_text("2 outputs")


def test_a_search_without_result_offers_the_way_back(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(f"{gallery.url}?q=zebra", wait=False)
    expect(page.get_by_role("heading", name="No output matches")).to_be_visible()
    page.get_by_role("button", name="Clear search and filters").click()
    expect(page.locator("a.tile").first).to_be_visible()
    expect(page.get_by_role("searchbox")).to_be_focused()
    expect(page.get_by_role("searchbox")).to_have_value("")


def test_a_kind_chip_has_its_count_and_narrows_the_view(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    chip = page.get_by_role("button", name=re.compile("^video"))
    expect(chip).to_have_text(re.compile(r"video\s*1$"))
    chip.click()
    expect(page.locator("#summary")).to_have_text("1 output")
    expect(chip).to_have_attribute("aria-pressed", "true")
    expect(page).to_have_url(f"{gallery.url}?kind=video")
    chip.click()
    expect(page.locator("#summary")).to_have_text("51 outputs")


def test_techniques_are_chosen_from_a_list_with_counts(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    page.get_by_role("button", name="Technique", exact=True).click()
    page.get_by_role("checkbox", name=re.compile("^storyboard")).check()
    expect(page.locator("#summary")).to_have_text("40 outputs")
    page.get_by_role("checkbox", name=re.compile("^campaign")).check()
    expect(page.locator("#summary")).to_have_text("42 outputs")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Remove technique storyboard").click()
    expect(page.locator("#summary")).to_have_text("2 outputs")
    expect(page).to_have_url(f"{gallery.url}?technique=campaign")


def test_the_url_holds_search_filters_and_the_open_output(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(
        f"{gallery.url}?q=look&kind=image&technique=campaign&run=run_pair&output=output_1", wait=False
    )
    expect(page.get_by_role("dialog")).to_have_attribute("aria-label", re.compile("run_pair, output_1"))
    expect(page.locator(".pswp__counter")).to_have_text("2 / 2")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("searchbox")).to_have_value("look")
    expect(page.get_by_role("button", name=re.compile("^image"))).to_have_attribute("aria-pressed", "true")
    expect(page).to_have_url(f"{gallery.url}?q=look&kind=image&technique=campaign")


def test_a_link_to_a_run_outside_the_view_opens_its_outputs(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(f"{gallery.url}?kind=video&run=run_pair", wait=False)
    expect(page.get_by_role("dialog")).to_have_attribute("aria-label", re.compile("run_pair"))
    expect(page.locator(".pswp__counter")).to_have_text("1 / 2")


def test_back_and_forward_go_through_views_and_dialogs(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    page.get_by_role("button", name=re.compile("^image")).click()
    expect(page).to_have_url(re.compile("kind=image$"))
    opened_dialog(page, "run_pair")
    page.go_back()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page).to_have_url(re.compile("kind=image$"))
    page.go_back()
    expect(page.locator("#summary")).to_have_text("51 outputs")
    page.go_forward()
    expect(page.get_by_role("button", name=re.compile("^image"))).to_have_attribute("aria-pressed", "true")


# ---- by keyboard and screen reader alone


def test_everything_is_reached_by_keyboard_alone(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("look 07")
    expect(page).to_have_url(re.compile("q=look.07$"))  # typed slowly, its beginning was searched first
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#summary")).to_have_text("2 outputs")
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("() => document.activeElement.ariaLabel || document.activeElement.textContent")
        )
        if "run_pair" in seen[-1]:
            break
    assert "run_pair" in seen[-1], seen
    page.keyboard.press("ArrowRight")
    expect(tile(page, "run_pair", "output_1")).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        assert page.evaluate("() => !document.activeElement.closest('#app')")
        reached.add(
            page.evaluate("() => document.activeElement.ariaLabel || document.activeElement.textContent")
        )
    assert {"Close", "Copy the path", "Download", "Sidecar"} <= {name.partition(" (")[0] for name in reached}
    page.keyboard.press("Escape")
    expect(tile(page, "run_pair", "output_1")).to_be_focused()


def test_arrow_keys_move_among_tiles(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url)
    first = tile(page, "run_pair", "output_2")
    first.focus()
    page.keyboard.press("ArrowDown")
    below = page.evaluate("() => document.activeElement.getBoundingClientRect().top")
    assert below > first.evaluate("each => each.getBoundingClientRect().top")
    page.keyboard.press("Home")
    expect(first).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["phone", "laptop"])
def test_axe_finds_no_violation(
    gallery: Gallery, open_page: Opener, axe: str, scheme: str, size: str
) -> None:
    width, height = SIZES[size]
    page = open_page(
        gallery.url, viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    expect(page.locator(".tile img.here").nth(2)).to_be_visible()
    assert violations(page, axe) == []
    page.get_by_role("button", name="Technique", exact=True).click()
    expect(page.get_by_role("checkbox").first).to_be_visible()
    assert violations(page, axe) == []
    page.keyboard.press("Escape")
    for run in ("run_pair", "run_film", "run_voice", "run_book", "run_poem", "run_hostile"):
        dialog = opened_dialog(page, run)
        if size == "phone" and run == "run_pair":
            page.keyboard.press("i")
        expect(dialog.locator(".panel")).to_contain_text("verified")
        assert violations(page, axe) == []
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_reduced_motion_is_honoured(gallery: Gallery, open_page: Opener) -> None:
    page = open_page(gallery.url, reduced_motion="reduce")
    assert (
        page.locator("a.tile")
        .first.locator(".caption, .plain")
        .first.evaluate("each => getComputedStyle(each).transitionDuration")
        == "0s"
    )
    opened_dialog(page, "run_pair")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.getAnimations().length") == 0
