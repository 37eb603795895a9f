"""Who may ask the gallery: no page of somebody else's, in whatever browser, and nobody without the token."""

from __future__ import annotations

from typing import Any

import pytest

from floradl.gallery.guard import COOKIE, Asked, Guard, RequestRefusal, SignIn
from floradl.net.addresses import Endpoint, is_loopback
from floradl.redaction import Secret

HERE = Endpoint("127.0.0.1", 8788)
OPEN = Guard(HERE, None)
TOKEN = "a-token-that-nobody-guesses"
CLOSED = Guard(Endpoint("0.0.0.0", 8788), Secret(TOKEN))


def asked(
    host: str | None = "127.0.0.1:8788",
    method: str = "GET",
    query: str = "",
    cookie: str | None = None,
    **headers: str,
) -> Asked:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    cookies = {} if cookie is None else {COOKIE: cookie}
    return Asked(method, "/", query, {**({} if host is None else {"host": host}), **named}, cookies)


def status(guard: Guard, request: Asked) -> int | None:
    judged = guard.judge(request)
    return judged.status if isinstance(judged, RequestRefusal) else None


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8788", "localhost:8788", "LOCALHOST", "[::1]:9000", "127.0.0.1", "x.localhost:1"]
)
def test_names_of_this_machine_are_answered_at_any_port_that_leads_here(host: str) -> None:
    assert OPEN.judge(asked(host)) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8788",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.0.2.1",
        "10.0.0.1:8788",
        "127.1",
    ],
)
def test_a_name_of_somebody_elses_that_leads_here_is_refused(host: str) -> None:
    """DNS rebinding: the page's own name is looked up again, and is 127.0.0.1 then."""
    assert status(OPEN, asked(host)) == 403


@pytest.mark.parametrize("host", [None, "", "a b", "user@127.0.0.1", "127.0.0.1/x", "127.0.0.1:x", "[::1"])
def test_a_request_without_a_proper_host_is_refused(host: str | None) -> None:
    assert status(OPEN, asked(host)) in {400, 403}


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8788", "file://", "x"],
)
def test_another_origin_is_refused_for_reading_and_for_acting(origin: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        assert status(OPEN, asked(method=method, origin=origin)) == 403


def test_the_page_itself_is_answered() -> None:
    own: dict[str, Any] = {"origin": "http://127.0.0.1:8788", "sec_fetch_site": "same-origin"}
    assert OPEN.judge(asked(**own)) is None
    assert OPEN.judge(asked(method="POST", **own)) is None
    assert OPEN.judge(asked(sec_fetch_site="none", sec_fetch_mode="navigate")) is None


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_sites_page_may_link_here_but_not_embed_what_is_here(site: str) -> None:
    link = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert OPEN.judge(asked(**link)) is None
    assert status(OPEN, asked(method="POST", **link)) == 403
    for mode, dest in (
        ("no-cors", "image"),
        ("no-cors", "script"),
        ("navigate", "iframe"),
        ("cors", "empty"),
    ):
        assert status(OPEN, asked(sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest)) == 403


def test_a_form_of_an_old_browser_that_says_nothing_of_its_origin_is_refused() -> None:
    assert status(OPEN, asked(method="POST")) == 403
    assert CLOSED.judge(asked(method="POST", authorization=f"Bearer {TOKEN}")) is None


def test_with_a_token_nothing_is_answered_without_it() -> None:
    assert status(CLOSED, asked("nas.example:8788")) == 401
    for wrong in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \u00fc"):
        assert status(CLOSED, asked(authorization=wrong)) == 401
    for cookie in ("", TOKEN, "0" * 64):
        assert status(CLOSED, asked(cookie=cookie)) == 401
    assert status(CLOSED, asked(query="token=wrong")) == 401


def test_the_token_is_taken_from_a_header_and_once_from_the_url_which_then_loses_it() -> None:
    assert CLOSED.judge(asked("nas.example", authorization=f"bearer {TOKEN}")) is None
    signed = CLOSED.judge(asked("nas.example", query=f"q=a+b&token={TOKEN}&kind=image"))
    assert isinstance(signed, SignIn)
    assert signed.location == "/?q=a+b&kind=image"
    assert TOKEN not in signed.cookie
    assert "HttpOnly" in signed.cookie
    assert "SameSite=Lax" in signed.cookie
    value = signed.cookie.partition(";")[0].partition("=")[2]
    assert CLOSED.judge(asked("nas.example", cookie=value)) is None
    assert status(CLOSED, asked(method="POST", query=f"token={TOKEN}")) == 403


def test_a_cookie_of_another_token_opens_nothing() -> None:
    other = Guard(HERE, Secret("another-token-of-16"))
    signed = other.judge(asked(query="token=another-token-of-16"))
    assert isinstance(signed, SignIn)
    value = signed.cookie.partition(";")[0].partition("=")[2]
    assert status(CLOSED, asked(cookie=value)) == 401


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("nas", False),
    ],
)
def test_which_addresses_are_this_machines_alone(host: str, *, here: bool) -> None:
    assert is_loopback(host) is here
