from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from floradl.urls import BucketUrl, host_of, is_only_url, strip_queries, strip_query


@pytest.mark.parametrize(
    ("url", "stripped"),
    [
        ("https://media.flora.ai/output.png", "https://media.flora.ai/output.png"),
        ("https://h/a.png?Expires=1&Signature=s3cret", "https://h/a.png"),
        ("https://h/a.png#s3cret", "https://h/a.png"),
        ("https://h/a.png#x?s3cret", "https://h/a.png"),
        ("https://user:s3cret@h:8443/a.png", "https://h:8443/a.png"),
        ("https://a@s3cret@h/a.png", "https://h/a.png"),
        ("https:/\\user:s3cret@h/a", "https:/\\h/a"),
        ("https://h?s3cret", "https://h"),
        ("https://[::1]/a?s3cret", "https://[::1]/a"),
        ("https://[broken/a?s3cret", "https://[broken/a"),
        ("?s3cret", ""),
        ("", ""),
        ("https://h/mail@example", "https://h/mail@example"),
    ],
)
def test_a_url_is_told_without_its_secrets(url: str, stripped: str) -> None:
    assert strip_query(url) == stripped


def test_every_url_in_a_text_loses_its_query_and_the_words_stay() -> None:
    text = "cannot fetch https://h/a?sig=s3cret, nor gs://b/c?d=s3cret (why?)"
    assert strip_queries(text) == "cannot fetch https://h/a nor gs://b/c (why?)"


@pytest.mark.parametrize("text", ["https://h/a.txt", " HTTP://H/a?b \n", "https://h"])
def test_one_url_and_nothing_else_is_only_a_url(text: str) -> None:
    assert is_only_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "words",
        "see https://h/a",
        "https://h/a is it",
        "https://a/ https://b/",
        "https://a\nhttps://b",
        "ftp://h/a",
        "https://",
        "https:///a",
        "https://[broken/",
        "file:///etc/passwd",
        "<https://h/a>",
    ],
)
def test_words_are_not_only_a_url(text: str) -> None:
    assert not is_only_url(text)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Media.Flora.AI./x", "media.flora.ai"),
        ("https://user@h:8443/x", "h"),
        ("https://[2001:db8::1]:8443/x", "2001:db8::1"),
        ("words", None),
        ("https://[broken/x", None),
        ("https:///x", None),
    ],
)
def test_a_host_is_told_bare_and_in_lower_case(url: str, host: str | None) -> None:
    assert host_of(url) == host


@given(st.text() | st.text(alphabet="htps:/\\?#@[]. \nü", max_size=30))
def test_no_text_is_too_strange(text: str) -> None:
    assert not set(strip_query(text)) & set("?#")
    strip_queries(text)
    is_only_url(text)
    host_of(text)


@given(
    st.text(alphabet="abc/.-_%", max_size=20), st.text(alphabet="abcXYZ=&;,?#/@'`()[]{}|^%$!*~", max_size=20)
)
def test_no_query_survives_in_a_text(path: str, query: str) -> None:
    assert "s3cret" not in strip_queries(f"x_https://host/{path}?{query}s3cret y")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://media", BucketUrl("s3", "media")),
        ("gs://media/flora/", BucketUrl("gs", "media", "flora")),
        ("az://media/a/b", BucketUrl("az", "media", "a/b")),
    ],
)
def test_a_bucket_url_names_scheme_bucket_and_prefix(text: str, url: BucketUrl) -> None:
    assert BucketUrl.parse(text) == url
    assert str(url) == text.rstrip("/")


@pytest.mark.parametrize(
    "text", ["s3://", "s3:/media", "ftp://media", "s3://Media", "s3://media/a//b", "s3://m/../b"]
)
def test_what_is_no_bucket_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write s3|prefix"):
        BucketUrl.parse(text)
