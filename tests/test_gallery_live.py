"""The gallery beside a daemon, in a real browser: what comes, runs, waits, fails and is paused."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from browser import (
    Held,
    Opener,
    Planted,
    gallery_of,
    opened_dialog,
    picture,
    press,
    tile,
    tiles,
    violations,
)
from playwright.sync_api import Browser, expect
from studio import Home, queue, wait_until

from floradl.simulator import Simulator

TOP = "each => each.getBoundingClientRect().top"
FOCUS_AT_ONCE = """() => new MutationObserver((_, observer) => {
    const button = document.querySelector("[aria-label='Copy the SHA-256']");
    if (button) {
        observer.disconnect();
        button.focus();
    }
}).observe(document.body, { childList: true, subtree: true })"""

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # two browsers beside other tests lose their focus


# ---- the work as it happens


def test_an_empty_library_says_what_to_do_next(home: Home, open_page: Opener, axe: str) -> None:
    with gallery_of(home) as running:
        page = open_page(running.url, wait=False)
        expect(page.get_by_role("heading", name="The library is empty")).to_be_visible()
        for command in ("floradl run", "floradl add TECHNIQUE/RUN_ID", "floradl sync"):
            expect(page.get_by_text(command, exact=True)).to_be_visible()
        assert violations(page, axe) == []


def test_a_new_output_appears_without_a_reload(home: Home, simulator: Simulator, open_page: Opener) -> None:
    with home.daemon(), gallery_of(home) as running:
        page = open_page(running.url, wait=False)
        expect(page.get_by_role("heading", name="The library is empty")).to_be_visible()
        queue(home, simulator, "run_first")
        expect(tile(page, "run_first", "a")).to_be_visible()
        tile(page, "run_first", "a").evaluate("each => { each.isKept = true; }")
        queue(home, simulator, "run_second")
        expect(tile(page, "run_second", "a")).to_be_visible()
        assert [re.findall(r"run_\w+", name)[0] for name in tiles(page)] == ["run_second", "run_first"]
        assert tile(page, "run_first", "a").evaluate("each => each.isKept")  # its picture does not flicker
        expect(page.locator("#summary")).to_have_text("2 outputs")
        expect(page.get_by_role("button", name=re.compile("^image"))).to_have_text(re.compile(r"image\s*2$"))


def test_days_are_the_servers_wherever_the_browser_is(tmp_path: Path, open_page: Opener) -> None:
    home = Home(tmp_path, TZ="Pacific/Kiritimati")  # where it is tomorrow already, for half of the others
    library = Planted(home.library)
    library.run("run_old", ("old.png", picture(320, 240)), completed=datetime.now(UTC))
    with gallery_of(home) as running:
        page = open_page(running.url, timezone_id="Pacific/Pago_Pago")
        expect(page.get_by_role("heading", level=2)).to_have_text(re.compile("^Today"))
        library.run("run_new", ("new.png", picture(320, 240, 1)), completed=datetime.now(UTC))
        expect(page.locator("#summary")).to_have_text("2 outputs")
        expect(page.get_by_role("heading", level=2)).to_have_text(re.compile("^Today.*2"))


def test_a_new_output_moves_nothing_that_is_looked_at(tmp_path: Path, open_page: Opener) -> None:
    home = Home(tmp_path)
    library = Planted(home.library)
    for number in range(60):
        library.run(f"run_{number:02}", (f"{number}.png", picture(320, 240, number)))
    with gallery_of(home) as running:
        page = open_page(running.url)
        tile(page, "run_00").focus()
        page.keyboard.press("End")
        last = tile(page, "run_59")
        expect(last).to_be_focused()
        before = last.evaluate(TOP)
        library.run("run_new", ("new.png", picture(320, 240, 99)), completed=datetime.now(UTC))
        expect(page.locator("#summary")).to_have_text("61 outputs")
        assert last.evaluate(TOP) == pytest.approx(before, abs=2)
        expect(last).to_be_focused()


def test_runs_under_way_and_failures_are_shown_live(
    home: Home, simulator: Simulator, open_page: Opener, axe: str
) -> None:
    with home.daemon(), gallery_of(home) as running:
        page = open_page(running.url, wait=False)
        simulator.add_run(
            "run_bad", technique="campaign", duration=0, fail=("safety_blocked", "The prompt was refused.")
        )
        home.drop("campaign/run_bad\n", "bad.txt")
        queue(home, simulator, "run_slow", duration=600)
        bar = page.get_by_role("progressbar", name="Progress of run_slow")
        expect(bar).to_be_visible()
        expect(page.get_by_role("list", name="Runs under way")).to_contain_text("campaign")
        page.get_by_text("1 run failed").click()
        expect(page.get_by_role("list", name="Failed runs")).to_contain_text("The prompt was refused.")
        assert violations(page, axe) == []


def test_a_paused_daemon_says_why_and_how_it_is_mended(
    home: Home, simulator: Simulator, open_page: Opener, axe: str
) -> None:
    with home.daemon(FLORA_API_KEY="sk_live_wrong"), gallery_of(home) as running:
        page = open_page(running.url, wait=False)
        queue(home, simulator, "run_any")
        alert = page.get_by_role("alert").filter(has_text="Downloads are paused.")
        expect(alert).to_contain_text("key")
        expect(alert).to_contain_text("floradl check")
        assert violations(page, axe) == []


def test_a_server_that_went_away_is_missed(home: Home, browser: Browser) -> None:
    Planted(home.library).run("run_here", ("here.png", picture(320, 240)))
    with gallery_of(home) as running:
        context = browser.new_context()
        page = context.new_page()  # whose console has the lost connection
        page.goto(running.url)
        expect(page.locator("a.tile")).to_have_count(1)
    expect(page.get_by_text("The gallery's server does not answer.")).to_be_visible()
    context.close()


def ask_for_the_token(home: Home) -> None:
    """Have the gallery ask for a token, with which it has buttons."""
    (home.path / "token").write_text("a-token-of-the-test\n")
    home.environ["FLORADL_WEB__TOKEN_FILE"] = str(home.path / "token")


def test_with_a_token_runs_are_retried_and_forgotten_by_buttons(
    home: Home, simulator: Simulator, open_page: Opener
) -> None:
    ask_for_the_token(home)
    simulator.add_run("run_bad", technique="campaign", duration=0, fail=("safety_blocked", "Refused."))
    with home.daemon(), gallery_of(home) as running:
        queue(home, simulator, "run_good")
        home.drop("campaign/run_bad\n", "bad.txt")
        home.finished("campaign/run_good")
        page = open_page(f"{running.url}?token=a-token-of-the-test")
        expect(page).to_have_url(running.url)
        page.get_by_text("1 run failed").click()
        home.finished("campaign/run_bad")
        (home.library / "runs/campaign/run_bad.json").unlink()
        page.get_by_role("button", name="Retry run_bad").click()
        home.finished("campaign/run_bad")
        opened_dialog(page, "run_good", "a")
        page.get_by_role("button", name="Forget run_good").click()
        page.get_by_role("button", name="Really: Forget run_good?").click()
        wait_until(lambda: home.status()["counts"]["forgotten"] == 1)


def test_a_button_pressed_before_its_run_has_come_stays_pressed(
    home: Home, simulator: Simulator, open_page: Opener
) -> None:
    ask_for_the_token(home)
    with home.daemon(), gallery_of(home) as running:
        queue(home, simulator, "run_good")
        home.finished("campaign/run_good")
        page = open_page(f"{running.url}?token=a-token-of-the-test")
        held = Held(page, "**/api/runs/run_good")
        dialog = opened_dialog(page, "run_good", "a")
        page.get_by_role("button", name="Forget run_good").click()
        held.release()
        expect(dialog.locator(".panel")).to_contain_text("Sidecar")
        really = page.get_by_role("button", name="Really: Forget run_good?")
        expect(really).to_be_focused()
        really.click()
        wait_until(lambda: home.status()["counts"]["forgotten"] == 1)


def test_a_press_on_a_link_of_the_panel_counts_where_its_run_comes_meanwhile(
    tmp_path: Path, open_page: Opener
) -> None:
    home = Home(tmp_path)
    Planted(home.library).run("run_here", ("here.png", picture(320, 240)))
    with gallery_of(home) as running:
        page = open_page(running.url)
        held = Held(page, "**/api/runs/run_here")
        dialog = opened_dialog(page, "run_here")
        press(page, dialog.get_by_role("link", name="campaign", exact=True))
        held.release()
        expect(dialog.locator(".panel")).to_contain_text("Sidecar")
        page.mouse.up()
        expect(page).to_have_url(f"{running.url}?technique=campaign")


def test_the_path_is_offered_to_be_copied_once_it_is_known_where_the_library_is(
    tmp_path: Path, open_page: Opener
) -> None:
    home = Home(tmp_path)
    Planted(home.library).run("run_here", ("here.png", picture(320, 240)))
    with gallery_of(home) as running:
        page = open_page(running.url)
        held = Held(page, "**/api/runs/run_here")
        dialog = opened_dialog(page, "run_here")
        expect(dialog.locator(".panel")).to_contain_text("images/campaign/here.png")
        expect(dialog.get_by_role("button", name="Copy the path")).to_have_count(0)
        held.release()
        expect(dialog.get_by_role("button", name="Copy the path")).to_be_visible()
        expect(dialog.locator(".panel")).to_contain_text(str(home.library / "images/campaign/here.png"))


def test_buttons_come_to_a_dialog_that_was_open_before_the_server_said_what_it_does(
    tmp_path: Path, open_page: Opener
) -> None:
    home = Home(tmp_path)
    ask_for_the_token(home)
    Planted(home.library).run("run_here", ("here.png", picture(320, 240)))
    with gallery_of(home) as running:
        page = open_page(f"{running.url}?token=a-token-of-the-test")
        news, status = Held(page, "**/api/events"), Held(page, "**/api/status")
        page.reload()
        dialog = opened_dialog(page, "run_here")
        expect(dialog.locator(".panel")).to_contain_text("Sidecar")
        expect(dialog.get_by_role("button", name="Forget run_here")).to_have_count(0)
        news.release()
        expect(dialog.get_by_role("button", name="Forget run_here")).to_be_visible()
        status.release()


def test_a_view_that_comes_while_the_dialog_is_open_waits_until_it_is_closed(
    tmp_path: Path, open_page: Opener
) -> None:
    home = Home(tmp_path)
    library = Planted(home.library)
    library.run("run_here", ("here.png", picture(320, 240)))
    with gallery_of(home) as running:
        page = open_page(running.url)
        held = Held(page, "**/api/view")
        library.run("run_older", ("older.png", picture(320, 240, 1)))  # not the newest: the view is read anew
        held.wait()
        opened_dialog(page, "run_here")
        held.release()
        expect(page.locator("main")).to_have_attribute("aria-busy", "false")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(tile(page, "run_here")).to_be_focused()
        expect(page.locator("#summary")).to_have_text("2 outputs")
        expect(tile(page, "run_here")).to_be_focused()


def test_the_focus_goes_back_to_the_tile_where_another_view_came_while_the_dialog_was_open(
    tmp_path: Path, open_page: Opener
) -> None:
    home = Home(tmp_path)
    library = Planted(home.library)
    for number in range(3):
        library.run(f"run_{number}", (f"{number}.png", picture(320, 240, number)))
    with gallery_of(home) as running:
        page = open_page(running.url)
        held = Held(page, "**/api/view?q=*")
        page.get_by_role("searchbox").fill("campaign")
        held.wait()
        opened_dialog(page, "run_1")
        held.release()
        expect(page.locator("main")).to_have_attribute("aria-busy", "false")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(tile(page, "run_1")).to_be_focused()


def test_a_tile_opens_its_own_output_where_another_came_before_it_meanwhile(
    tmp_path: Path, open_page: Opener
) -> None:
    home = Home(tmp_path)
    library = Planted(home.library)
    library.run("run_here", ("here.png", picture(320, 240)))
    with gallery_of(home) as running:
        page = open_page(running.url)
        held = Held(page, "**/viewer.js")
        page.reload()
        tile(page, "run_here").click()
        held.wait()
        library.run("run_new", ("new.png", picture(320, 240, 1)), completed=datetime.now(UTC))
        expect(page.locator("#summary")).to_have_text("2 outputs")
        held.release()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_have_attribute("aria-label", re.compile("run_here, output_1"))
        expect(page.locator(".pswp__counter")).to_have_text("2 / 2")


def test_a_press_on_a_tile_counts_where_another_output_comes_meanwhile(
    tmp_path: Path, open_page: Opener
) -> None:
    home = Home(tmp_path)
    library = Planted(home.library)
    library.run("run_here", ("here.png", picture(320, 240)))
    with gallery_of(home) as running:
        page = open_page(running.url)
        press(page, tile(page, "run_here"))
        library.run("run_older", ("older.png", picture(320, 240, 1)))
        expect(page.locator("#summary")).to_have_text("2 outputs")
        page.mouse.up()
        expect(page.get_by_role("dialog")).to_have_attribute("aria-label", re.compile("run_here"))


def test_a_link_of_the_panel_keeps_the_focus_when_its_run_comes(
    home: Home, simulator: Simulator, open_page: Opener
) -> None:
    with home.daemon(), gallery_of(home) as running:
        queue(home, simulator, "run_good")
        page = open_page(running.url)
        held = Held(page, "**/api/runs/run_good")
        dialog = opened_dialog(page, "run_good", "a")
        copy = dialog.get_by_role("button", name="Copy the SHA-256")
        copy.focus()
        held.release()
        expect(dialog.locator(".panel")).to_contain_text("Sidecar")
        expect(copy).to_be_focused()


def test_a_focus_that_was_moved_while_the_dialog_opens_stays_where_it_is(
    tmp_path: Path, open_page: Opener
) -> None:
    home = Home(tmp_path)
    Planted(home.library).run("run_here", ("here.png", picture(320, 240)))
    with gallery_of(home) as running:
        page = open_page(running.url)
        page.evaluate(FOCUS_AT_ONCE)
        tile(page, "run_here").click()
        expect(page.locator(".pswp__item").nth(2)).to_have_css("display", "block")  # it has opened
        expect(page.get_by_role("button", name="Copy the SHA-256")).to_be_focused()


def test_a_failure_that_comes_leaves_the_focus_on_the_button_of_another(
    home: Home, simulator: Simulator, open_page: Opener
) -> None:
    ask_for_the_token(home)
    for run in ("run_bad", "run_worse"):
        simulator.add_run(run, technique="campaign", duration=0, fail=("safety_blocked", "Refused."))
    with home.daemon(), gallery_of(home) as running:
        home.drop("campaign/run_bad\n", "bad.txt")
        home.finished("campaign/run_bad")
        page = open_page(f"{running.url}?token=a-token-of-the-test", wait=False)
        page.get_by_text("1 run failed").click()
        retry = page.get_by_role("button", name="Retry run_bad")
        retry.focus()
        home.drop("campaign/run_worse\n", "worse.txt")
        expect(page.get_by_text("2 runs failed")).to_be_visible()
        expect(retry).to_be_focused()


def test_an_output_that_comes_leaves_the_focus_on_a_chosen_filter(
    home: Home, simulator: Simulator, open_page: Opener
) -> None:
    with home.daemon(), gallery_of(home) as running:
        queue(home, simulator, "run_first")
        home.finished("campaign/run_first")
        page = open_page(f"{running.url}?technique=campaign")
        chip = page.get_by_role("button", name="Remove technique campaign")
        chip.focus()
        queue(home, simulator, "run_second")
        expect(tile(page, "run_second", "a")).to_be_visible()
        expect(chip).to_be_focused()


def test_without_a_token_there_is_no_button_that_changes_anything(
    home: Home, simulator: Simulator, open_page: Opener
) -> None:
    with home.daemon(), gallery_of(home) as running:
        queue(home, simulator, "run_good")
        page = open_page(running.url)
        dialog = opened_dialog(page, "run_good", "a")
        expect(dialog.locator(".panel")).to_contain_text("SHA-256")
        expect(page.get_by_role("button", name=re.compile("Retry|Forget"))).to_have_count(0)


def test_a_link_to_a_run_that_is_not_there_says_so(home: Home, open_page: Opener) -> None:
    Planted(home.library).run("run_here", ("here.png", picture(320, 240)))
    with gallery_of(home) as running:
        page = open_page(f"{running.url}?run=run_elsewhere")
        expect(page.get_by_text("no sidecar of this run is known")).to_be_visible()
        expect(page).to_have_url(running.url)
