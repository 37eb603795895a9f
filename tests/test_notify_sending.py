"""Messages on their way: to a web address, to a mail server, and to a service of Apprise's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import pytest
from loopback import Certificate
from receivers import PASSWORD, USER, MailSite, WebSite, mail_site, web_site

from floradl.net.url_policy import UrlPolicy
from floradl.notify.news import Item, Kind, Pending, compose
from floradl.notify.sending import NotSentError, Sender, _without
from floradl.notify.targets import MailServer, Service, Unusable, Webhook, read_targets
from floradl.redaction import redact

TRUSTED = UrlPolicy(["127.0.0.1"])
MESSAGE = compose(
    Pending([Item(Kind.RUN_FAILED, 1e9, "campaign/run_a “grün” failed: no credits", {"run_id": "run_a"})]),
    "/srv/flora on nas",
    1e9,
)


@pytest.fixture(scope="module")
def site(certificate: Certificate) -> Iterator[WebSite]:
    with web_site(certificate) as site:
        yield site


@pytest.fixture(params=["smtps", "smtp"])
def mail(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[tuple[str, MailSite]]:
    with mail_site(certificate, is_tls=request.param == "smtps") as site:
        yield request.param, site


def send(url: str, environ: Mapping[str, str], policy: UrlPolicy = TRUSTED) -> None:
    (target,) = read_targets(url, "urls")
    Sender(policy, {**os.environ, **environ}).send(MESSAGE, target)


def refusal(url: str, environ: Mapping[str, str], policy: UrlPolicy = TRUSTED) -> NotSentError:
    with pytest.raises(NotSentError) as caught:
        send(url, environ, policy)
    for secret in ("Secret123Token", "QuerySecret456", PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in str(caught.value)
    return caught.value


def test_a_webhook_gets_json_with_a_text_for_people(site: WebSite, tls: dict[str, str]) -> None:
    send(site.url, tls)
    body = site.bodies[-1]
    assert body["schema_version"] == 1
    assert body["title"] == "floradl: 1 run failed"
    assert body["text"].splitlines() == [
        "floradl: 1 run failed",
        "campaign/run_a “grün” failed: no credits",
        "(/srv/flora on nas)",
    ]
    assert body["content"] == body["text"]
    (event,) = body["events"]
    assert (event["event"], event["run_id"]) == ("run_failed", "run_a")
    assert event["at"].startswith("2001-09-09T01:46:40")


@pytest.mark.parametrize(
    ("status", "why", "wait"),
    [
        (404, "it answers HTTP 404: is the URL still right?", 0),
        (429, "it answers HTTP 429", 1800),
        (307, "leads elsewhere, which is not followed", 0),
    ],
)
def test_an_answer_that_is_no_success_is_a_refusal(
    site: WebSite, tls: dict[str, str], status: int, why: str, wait: float
) -> None:
    site.statuses.append(status)
    error = refusal(site.url, tls)
    assert why in str(error)
    assert error.wait == wait


def test_a_web_address_that_nobody_vouches_for_gets_nothing(site: WebSite) -> None:
    before = site.tries
    assert "certificate" in str(refusal(site.url, {}))
    assert site.tries == before


def test_a_private_address_takes_trust_and_plain_http_does_too(site: WebSite, tls: dict[str, str]) -> None:
    stranger = UrlPolicy()
    assert "network.trusted_private_hosts" in str(refusal(site.url, tls, stranger))
    assert "without TLS" in str(refusal(site.url.replace("https", "http"), tls, stranger))


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("nas.local", "private network"),
        ("10.20.30.40:8443", "private address"),
        ("[fd00::1234]", "private address"),
        ("NAS.example", "at a private address"),
        ("nas-2.example", "at a private address"),
    ],
)
def test_a_private_host_is_not_named(host: str, why: str) -> None:
    """All of a URL is a secret; its line tells which one it is."""
    policy = UrlPolicy(resolver=lambda *_: ["10.20.30.40"])
    for url in (f"https://{host}/Secret123Token", f"smtps://{host}/?to=a@b.example"):
        said = str(refusal(url, {}, policy)).lower()
        assert why in said
        assert not any(part in said for part in ("nas", "10.20", "fd00", "8443"))


def test_a_mail_is_sent_over_tls_with_a_login(mail: tuple[str, MailSite], tls: dict[str, str]) -> None:
    scheme, site = mail
    login = f"{quote(USER)}:{quote(PASSWORD, safe='')}"
    send(f"{scheme}://{login}@127.0.0.1:{site.port}/?to=you@example.com,them@example.com", tls)
    (mail_,) = site.mails
    assert site.logins == [(USER, PASSWORD)]
    assert site.was_secure == [True]
    assert mail_["Subject"] == "floradl: 1 run failed"
    assert mail_["From"] == USER
    assert mail_["To"] == "you@example.com, them@example.com"
    assert mail_["Auto-Submitted"] == "auto-generated"
    assert "“grün” failed: no credits" in mail_.get_content()


def test_a_mail_server_without_tls_is_asked_where_it_is_trusted_alone(
    certificate: Certificate, tls: dict[str, str]
) -> None:
    with mail_site(certificate, is_tls=False) as site:
        site.starttls = False
        url = f"smtp://127.0.0.1:{site.port}/?to=you@example.com"
        send(url, tls)
        assert site.was_secure == [False]
        # As one that is reached from outside: its address is public, but it speaks no TLS.
        public = UrlPolicy(resolver=lambda *_: ["127.0.0.1"])
        assert "private address" in str(refusal(url.replace("127.0.0.1", "mail.example.com"), tls, public))


def test_a_password_never_leaves_without_tls(
    certificate: Certificate, tls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UrlPolicy, "resolve", lambda *_: ("127.0.0.1",))  # a server out there
    with mail_site(certificate, is_tls=False) as site:
        site.starttls = False
        login = f"{quote(USER)}:{quote(PASSWORD, safe='')}"
        error = refusal(f"smtp://{login}@mail.example.com:{site.port}", tls, UrlPolicy())
        assert "speaks no TLS" in str(error)
        assert site.logins == []


@pytest.mark.parametrize(
    ("query", "refuses", "login", "why"),
    [
        ("to=gone@example.com", "gone@", f"{quote(USER)}:{quote(PASSWORD, safe='')}@", "takes no mail for"),
        ("to=you@example.com", "", "someone:Wrong9Password@", "refuses user or password (535)"),
    ],
)
def test_what_a_mail_server_refuses_is_said_in_words(
    certificate: Certificate, tls: dict[str, str], query: str, refuses: str, login: str, why: str
) -> None:
    with mail_site(certificate, is_tls=True) as site:
        site.refuses = refuses
        assert why in str(refusal(f"smtps://{login}127.0.0.1:{site.port}/?{query}", tls))
        assert site.mails == []


def test_a_mail_server_that_is_not_there_is_told_so(closed_port: int, tls: dict[str, str]) -> None:
    url = f"smtps://127.0.0.1:{closed_port}/?to=you@example.com"
    assert "its host cannot be reached" in str(refusal(url, tls))


def test_a_service_of_apprise_gets_title_and_text() -> None:
    pytest.importorskip("apprise")
    with web_site(None) as site:
        send(site.url.replace("http://", "json://"), {})
        (body,) = site.bodies
        assert body["title"] == MESSAGE.title
        assert body["message"] == MESSAGE.text


def test_a_mail_by_apprise_keeps_its_lines_and_what_looks_like_html(certificate: Certificate) -> None:
    pytest.importorskip("apprise")
    news = Pending([Item(Kind.RUN_FAILED, 1e9, "run_a failed: <frame> & sound differ", {"run_id": "run_a"})])
    with mail_site(certificate, is_tls=False) as site:
        site.starttls = False
        query = "from=me@example.com&to=you@example.com&mode=insecure"
        (target,) = read_targets(f"mailto://127.0.0.1:{site.port}/?{query}", "urls")
        Sender(TRUSTED, os.environ).send(compose(news, "/srv/flora", 1e9), target)
        (mail,) = site.mails
    plain = mail.get_body(("plain",))
    assert plain is not None
    assert plain.get_content().splitlines()[:2] == ["run_a failed: <frame> & sound differ", "(/srv/flora)"]


def test_a_service_that_does_not_take_it_shows_no_url() -> None:
    pytest.importorskip("apprise")
    with web_site(None) as site:
        site.statuses.append(500)
        refusal(site.url.replace("http://", "json://"), {})
        assert site.tries == 1
    assert "Apprise does not know such a URL" in str(refusal("nosuch://Secret123Token/QuerySecret456", {}))


def test_what_apprise_says_holds_no_part_of_a_url_however_short() -> None:
    said = _without("Failed to notify Telegram:42, error=404 (room 4)", "tgram://123:AbC/42/?room=4")
    assert said == "Failed to notify Telegram:***, error=404 (*** ***)"


def test_without_apprise_its_services_say_which_extra_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("floradl.notify.sending.has_apprise", lambda: False)
    assert "add the extra `notify`" in str(refusal("tgram://Secret123Token/42", {}))


def test_urls_are_read_line_by_line_and_named_by_their_line() -> None:
    text = "# mine\n\nhttps://chat.example/hook\nsmtps://me%40x.example:pw@mail.x.example\r\ntgram://1234:abc/5\n"
    web, server, service = read_targets(text, "urls")
    assert isinstance(web, Webhook)
    assert isinstance(server, MailServer)
    assert isinstance(service, Service)
    assert [web.name, server.name, service.name] == ["line 3 (https)", "line 4 (smtps)", "line 5 (tgram)"]
    assert (server.port, server.sender, server.recipients) == (465, "me@x.example", ("me@x.example",))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("chat.example/Secret123Token", "this is not a URL"),
        ("https://user:Secret123Token@chat.example/", "a user and password in a web address"),
        ("https://chat.example:Secret123Token/", "the port must be a number"),
        ("smtps://mail.example", "does not say to whom: it lacks a parameter to=ME@EXAMPLE.COM"),
        ("smtps://mail.example/?to=Secret123Token", "are mail addresses"),
        ("smtps://mail.example/?to=a@b.example%0d%0aBcc:x@y.example", "are mail addresses"),
        ("smtps://mail.example/?to=a@b.example&pass=Secret123Token", "1 parameters that mail does not know"),
    ],
)
def test_a_url_that_is_wrong_is_named_by_its_line_and_not_shown(url: str, why: str) -> None:
    wrong, other = read_targets(f"\n{url}\nhttps://chat.example/\n", "/etc/urls")
    assert isinstance(wrong, Unusable)
    assert wrong.name == "line 2"
    assert why in redact(wrong.why)
    assert "Secret123Token" not in wrong.why
    assert other.name == "line 3 (https)"  # which is told all the same


def test_tokens_of_urls_are_hidden_wherever_they_are_written_and_words_are_not() -> None:
    read_targets("https://chat.example/services/T0AB12CD3/xYz98765\ntgram://123456:AbCdEf/9\n", "urls")
    said = "services of chat.example took T0AB12CD3 and xYz98765 from 123456:AbCdEf"
    assert redact(said) == "services of chat.example took *** and *** from ***"
