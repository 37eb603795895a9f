from __future__ import annotations

import threading
from collections.abc import Sequence

import httpx
import pytest
from hypothesis import given, strategies as st

from floradl.errors import ErrorCode, PermanentError
from floradl.net.url_policy import UrlPolicy, addresses, parse


class Answers:
    """A resolver that gives one answer after the other, and counts."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def refusal(url_policy: UrlPolicy, url: str) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        url_policy.check(url)
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        "https://media.flora.ai/output.png",
        "https://media.flora.ai:8443/output.png?sig=1",
        "HTTPS://MEDIA.FLORA.AI./output.png",
        "https://xn--bcher-kva.example/",
        "https://bücher.example/",
        "https://my_bucket.s3.amazonaws.com/x",
        "https://8.8.8.8/",
        "https://[2600:1901:0:1::]/",
        "https://[::ffff:8.8.8.8]/",
    ],
)
def test_an_https_url_of_a_public_host_may_be_asked_for(url: str) -> None:
    UrlPolicy().check(url)
    UrlPolicy().check(httpx.URL(url))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://media.flora.ai/", ErrorCode.HOST_REFUSED),
        ("https://127.0.0.1/", ErrorCode.HOST_REFUSED),
        ("https://127.0.0.1:8443/", ErrorCode.HOST_REFUSED),
        ("https://127。0。0。1/", ErrorCode.HOST_REFUSED),
        ("https://0.0.0.0/", ErrorCode.HOST_REFUSED),
        ("https://169.254.169.254/latest/meta-data", ErrorCode.HOST_REFUSED),
        ("https://[::1]/", ErrorCode.HOST_REFUSED),
        ("https://[::ffff:127.0.0.1]/", ErrorCode.HOST_REFUSED),
        ("https://[::ffff:7f00:1]/", ErrorCode.HOST_REFUSED),
        ("https://[64:ff9b::10.0.0.1]/", ErrorCode.HOST_REFUSED),
        ("https://[fe80::1]/", ErrorCode.HOST_REFUSED),
        ("https://localhost/", ErrorCode.HOST_REFUSED),
        ("https://LOCALHOST./", ErrorCode.HOST_REFUSED),
        ("https://metadata.google.internal/", ErrorCode.HOST_REFUSED),
        ("https://nas/", ErrorCode.HOST_REFUSED),
        ("https://nas.lan/", ErrorCode.HOST_REFUSED),
        ("https://X.CORP./", ErrorCode.HOST_REFUSED),
        ("https://[fe80::1%25eth0]/", ErrorCode.HOST_REFUSED),
        ("https://2130706433/", ErrorCode.BAD_URL),
        ("https://0177.0.0.1/", ErrorCode.BAD_URL),
        ("https://017700000001/", ErrorCode.BAD_URL),
        ("https://0x7f000001/", ErrorCode.BAD_URL),
        ("https://0x7f.1/", ErrorCode.BAD_URL),
        ("https://127.1/", ErrorCode.BAD_URL),
        ("https://127%2e0.0.1/", ErrorCode.BAD_URL),
        ("https://user@media.flora.ai/", ErrorCode.BAD_URL),
        ("https://user:secret@media.flora.ai/", ErrorCode.BAD_URL),
        ("https://media.flora.ai@127.0.0.1/", ErrorCode.BAD_URL),
        ("https://media.flora.ai\\@127.0.0.1/", ErrorCode.BAD_URL),
        ("https://media.flora.ai:0/", ErrorCode.BAD_URL),
        ("https://media.flora.ai:99999/", ErrorCode.BAD_URL),
        ("https:///output.png", ErrorCode.BAD_URL),
        ("https:output.png", ErrorCode.BAD_URL),
        ("//media.flora.ai/output.png", ErrorCode.BAD_URL),
        ("/output.png", ErrorCode.BAD_URL),
        ("output.png", ErrorCode.BAD_URL),
        ("", ErrorCode.BAD_URL),
        ("file:///etc/passwd", ErrorCode.BAD_URL),
        ("ftp://media.flora.ai/x", ErrorCode.BAD_URL),
        ("data:text/plain,x", ErrorCode.BAD_URL),
        ("https://media.flora.ai/\r\nX: y", ErrorCode.BAD_URL),
        ("https://[::1", ErrorCode.BAD_URL),
        ("https://a b/", ErrorCode.BAD_URL),
        ("https://\ud800.example/", ErrorCode.BAD_URL),
    ],
)
def test_any_other_url_is_refused(url: str, code: ErrorCode) -> None:
    assert refusal(UrlPolicy(), url).code is code


def test_a_trusted_host_may_be_plain_http_and_private_and_only_at_its_port() -> None:
    url_policy = UrlPolicy(["nas.local:8080", "127.0.0.1", "[::1]:8443"])
    url_policy.check("http://nas.local:8080/x")
    url_policy.check("http://127.0.0.1:1234/x")
    url_policy.check("https://[::1]:8443/x")
    for url in ("http://nas.local/x", "http://[::1]/x", "http://127.0.0.2/x", "http://localhost/x"):
        assert refusal(url_policy, url).code is ErrorCode.HOST_REFUSED


def test_trust_does_not_make_a_bad_url_good() -> None:
    url_policy = UrlPolicy(["*"])
    for url in ("http://user@nas.local/", "ftp://nas.local/", "http://127.1/"):
        assert refusal(url_policy, url).code is ErrorCode.BAD_URL


def test_a_host_that_no_setting_allows_is_refused_and_the_setting_named() -> None:
    url_policy = UrlPolicy(["nas.local"], ["*.flora.ai"])
    url_policy.check("https://media.flora.ai/")
    error = refusal(url_policy, "https://evil.example/x?sig=1")
    assert error.code is ErrorCode.HOST_REFUSED
    assert str(error) == "host 'evil.example' is not allowed: if it is meant, add it to download.media_hosts"
    assert refusal(url_policy, "http://nas.local/").code is ErrorCode.HOST_REFUSED, (
        "trusted ones must match too"
    )


def test_a_private_or_plain_host_is_refused_with_what_to_add_to_which_setting() -> None:
    for url, entry in {
        "https://10.0.0.7/": "10.0.0.7:443",
        "http://10.0.0.7:81/": "10.0.0.7:81",
        "https://[::1]:8443/": "[::1]:8443",
        "https://nas.local/": "nas.local:443",
        "http://media.flora.ai/": "media.flora.ai:80",
    }.items():
        message = str(refusal(UrlPolicy(), url))
        assert message.endswith(f"if that is meant, add '{entry}' to network.trusted_private_hosts")
        UrlPolicy([entry]).check(url)


def test_a_bad_pattern_is_a_value_error_when_the_guard_is_made() -> None:
    with pytest.raises(ValueError, match="without https://"):
        UrlPolicy(["http://nas.local"])


@given(st.text(max_size=40), st.sampled_from(["https://", "https://media.flora.ai:", "https://[", ""]))
def test_whatever_a_url_says_it_passes_or_is_refused_without_its_query(text: str, start: str) -> None:
    refused: PermanentError | None = None
    try:
        UrlPolicy().check(f"{start}{text}?PLANTED")
    except PermanentError as error:
        refused = error
    assert "PLANTED" not in str(refused)
    assert refused is None or refused.__cause__ is None


def test_of_a_names_addresses_only_the_public_ones_are_kept_in_their_order() -> None:
    answers = Answers(
        ["10.0.0.1", "8.8.8.8", "::ffff:127.0.0.1", "2600:1901:0:1::", "fe80::1%eth0", "nonsense"]
    )
    url_policy = UrlPolicy(resolver=answers)
    assert url_policy.resolve("media.flora.ai", 443) == ("8.8.8.8", "2600:1901:0:1::")
    assert answers.asked == [("media.flora.ai", 443)]


def test_a_name_with_private_addresses_only_is_refused() -> None:
    url_policy = UrlPolicy(resolver=Answers(["10.0.0.1", "::1"]))
    with pytest.raises(PermanentError, match=r"is at a private address.*'evil.example:443'") as caught:
        url_policy.resolve("evil.example", 443)
    assert caught.value.code is ErrorCode.HOST_REFUSED


def test_a_trusted_name_keeps_all_its_addresses_at_its_port() -> None:
    url_policy = UrlPolicy(["nas.example:8080"], resolver=Answers(["10.0.0.1", "8.8.8.8"]))
    assert url_policy.resolve("nas.example", 8080) == ("10.0.0.1", "8.8.8.8")
    assert url_policy.resolve("nas.example", 443) == ("8.8.8.8",)


def test_an_address_is_judged_without_a_look_up() -> None:
    answers = Answers(["8.8.8.8"])
    url_policy = UrlPolicy(resolver=answers)
    assert url_policy.resolve("1.1.1.1", 443) == ("1.1.1.1",)
    with pytest.raises(PermanentError):
        url_policy.resolve("127.0.0.1", 443)
    assert answers.asked == []


def test_a_name_with_a_thousand_addresses_gets_a_few_tries() -> None:
    url_policy = UrlPolicy(
        ["nas.example"], resolver=Answers([f"8.8.{i // 250}.{i % 250}" for i in range(1000)])
    )
    assert len(url_policy.resolve("media.flora.ai", 443)) == 8
    assert len(url_policy.resolve("nas.example", 443)) == 8


def test_a_look_up_that_hangs_is_given_up_in_time() -> None:
    hanging = threading.Event()

    def resolver(_host: str, _port: int) -> Sequence[str]:
        hanging.wait(30)
        return ["8.8.8.8"]

    with pytest.raises(TimeoutError):
        UrlPolicy(resolver=resolver).resolve("media.flora.ai", 443, 0.05)
    hanging.set()


def test_what_a_resolver_raises_reaches_the_one_who_asked() -> None:
    def resolver(host: str, _port: int) -> Sequence[str]:
        raise OSError(f"nobody knows {host}")

    with pytest.raises(OSError, match=r"nobody knows media.flora.ai"):
        UrlPolicy(resolver=resolver).resolve("media.flora.ai", 443)


def test_the_system_knows_localhost() -> None:
    assert "127.0.0.1" in addresses("localhost", 443, 10)


def test_another_judgement_holds_from_the_change_on() -> None:
    url_policy = UrlPolicy([], ["*"])
    url_policy.check("https://media.example/a")
    with pytest.raises(PermanentError, match="private"):
        url_policy.check("https://127.0.0.1/a")
    url_policy.change(["127.0.0.1"], ["127.0.0.1"])
    url_policy.check("https://127.0.0.1/a")
    with pytest.raises(PermanentError, match="not allowed"):
        url_policy.check("https://media.example/a")


def test_a_change_that_makes_no_sense_changes_nothing() -> None:
    url_policy = UrlPolicy(["127.0.0.1"])
    with pytest.raises(ValueError, match="host"):
        url_policy.change(["127.0.0.2", "a b"], ["*"])
    url_policy.check("https://127.0.0.1/a")


def reading(url: httpx.URL) -> tuple[object, ...]:
    return url, str(url), url.raw_host, url.port, url.path, url.raw_path, url.query, url.params, url.fragment


@given(
    st.sampled_from(
        ["https://media.example", "http://127.0.0.1:80", "https://media.example:8443", "https://A.b"]
    ),
    st.text(st.sampled_from("aZ9-_~!$&'()*+,;=:@/?#%2Ff[{|^ \té"), max_size=30),
)
def test_the_shortcut_for_plain_urls_reads_them_as_httpx_does(origin: str, target: str) -> None:
    url = f"{origin}/{target}"
    try:
        expected = reading(httpx.URL(url))
    except httpx.InvalidURL:
        with pytest.raises(httpx.InvalidURL):
            parse(url)
    else:
        assert reading(parse(url)) == expected
