from __future__ import annotations

import copy
import json
import pickle
import string
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings, strategies as st

from floradl import redaction
from floradl.redaction import MASK, Secret, are_harmless, printable, redact, redact_value, remember


@pytest.fixture(autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    known = list(redaction._known)
    yield
    redaction._known[:] = known


# Letters that occur in no text around them, so that finding one means a leak.
_TOKENS = st.text(alphabet="QZXJ0123456789", min_size=6, max_size=40).map(lambda text: f"QZ{text}")
_QUERY_CHARACTERS = string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@/?%[]{}|\\^`"
_QUERIES = st.text(alphabet=_QUERY_CHARACTERS, max_size=30).map(lambda text: f"QZ{text}ZQ")
_SURROUNDINGS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30).filter(
    lambda text: "Q" not in text and "Z" not in text
)


def test_a_secret_shows_nowhere_but_where_it_is_revealed() -> None:
    secret = Secret("sk_live_planted")
    shown = f"{secret} {secret!r} {[secret]} {secret:>3} {secret!s}"
    assert "planted" not in shown
    assert secret.reveal() == "sk_live_planted"


def test_a_secret_cannot_be_written_to_disk() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret("sk_live_planted"))
    with pytest.raises(TypeError):
        copy.deepcopy(Secret("sk_live_planted"))


def test_equal_secrets_are_equal() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1


@given(_TOKENS, _SURROUNDINGS, _SURROUNDINGS)
def test_a_remembered_key_never_survives(token: str, before: str, after: str) -> None:
    remember(Secret(token))
    assert token not in redact(before + token + after)


@given(st.text(alphabet="QZ/+=%&", min_size=4, max_size=20))
def test_a_remembered_key_does_not_survive_percent_encoded_either(token: str) -> None:
    remember(Secret(token))
    safe = redact(f"see {quote(token, safe='')} there")
    assert safe == f"see {MASK} there"


def test_of_two_secrets_the_longer_is_hidden_whole() -> None:
    remember(Secret("planted"))
    remember(Secret("planted-and-more"))
    assert redact("a planted-and-more b") == f"a {MASK} b"


@pytest.mark.parametrize("prefix", ["sk_live_", "sk_test_", "whsec_"])
@given(token=_TOKENS, before=_SURROUNDINGS, after=_SURROUNDINGS)
def test_what_looks_like_a_flora_key_never_survives(prefix: str, token: str, before: str, after: str) -> None:
    assert token not in redact(f"{before}{prefix}{token} {after}")


@given(_QUERIES, _SURROUNDINGS, st.sampled_from([" ", '"', "'", ")", "\n", "", '",', "')"]))
def test_the_query_of_a_url_never_survives(query: str, before: str, after: str) -> None:
    safe = redact(f"{before}https://media.flora.ai/a/output.png?{query}{after}")
    assert "QZ" not in safe
    assert "ZQ" not in safe


@given(_QUERIES)
def test_the_fragment_of_a_url_never_survives(query: str) -> None:
    assert redact(f"to https://h.example/a#{query} now") == "to https://h.example/a#… now"


@given(_TOKENS, _TOKENS)
def test_a_password_in_a_url_never_survives(user: str, password: str) -> None:
    safe = redact(f"proxy http://{user}:{password}@proxy.example:3128/ and http://{user}@h.example, too")
    assert safe == "proxy http://***@proxy.example:3128/ and http://***@h.example, too"


def test_a_password_that_breaks_its_url_does_not_survive() -> None:
    assert "planted" not in redact("http://user:planted?x@host/")
    assert "planted" not in redact("http://user:planted#x@host/")


@pytest.mark.parametrize(
    "text",
    [
        "Coo\u212aie: id=QZ123456",
        "x-api-\u212aey: QZ123456",
        "Authorization: QZ123456 \u00e9",
        "ba\u017fic QZ123456QZ123456",
        "Bearer QZ123456 \u00e9",
    ],
)
def test_a_secret_behind_a_word_in_letters_of_other_scripts_does_not_survive(text: str) -> None:
    assert "QZ123456" not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "GET https://media.flora.ai/output.png 200",
        "https://[2001:db8::1]:8080/a, and http://h.example:80.",
        "what? a=b",
        "run_task_test_1 is done",
        "the query is in https://h.example/a (see above)",
        "art-directors-critique/run_abc123",
        "100 % of 3?",
        "the basic idea of a bearer",
    ],
)
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Redirected to https://x/y?sig=1.", "Redirected to https://x/y?…."),
        ("HTTP://X/y?sig=1", "HTTP://X/y?…"),
        ("URL('https://x/y?sig=1')", "URL('https://x/y?…')"),
        ('{"url":"https://x/y?sig=1","a":1}', '{"url":"https://x/y?…","a":1}'),
        ("GET /y.png?X-Goog-Signature=1 HTTP/1.1", "GET /y.png?… HTTP/1.1"),
        ("target=b'/y?sig=1'", "target=b'/y?…'"),
        ("https://img.example/https%3A%2F%2Fx%2Fy%3Fsig%3D1", "https://img.example/https%3A%2F%2Fx%2Fy?…"),
        ("Signature=abc&b=c", "Signature=***&b=c"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("{'authorization': 'Bearer abc', 'a': 'b'}", "{'authorization': '***', 'a': 'b'}"),
        ("[(b'Authorization', b'Bearer abc'), (b'a', b'b')]", "[(b'Authorization', b'***'), (b'a', b'b')]"),
        ('{"Authorization": "Basic YTpi", "a": 1}', '{"Authorization": "***", "a": 1}'),
        ("Set-Cookie: a=b; Path=/", "Set-Cookie: ***"),
        ("used bearer abcd1234 today", "used bearer *** today"),
        ("used Basic dXNlcjpwYXNz today", "used Basic *** today"),
    ],
)
def test_a_text_loses_its_secret_and_no_more(text: str, safe: str) -> None:
    assert redact(text) == safe


@given(
    st.text()
    | st.lists(st.sampled_from([*"?#@/:='\" ", "://", "a", "sk_live_", "%3f", "%3d", "token="])).map("".join)
)
@example("://TOKEN=/'@")
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


_PIECES = [
    *"?#@/:='\" \n\r",
    *(
        "://",
        "a",
        "sk_live_",
        "whsec_",
        "%3f",
        "%3d",
        "token=",
        "cookie",
        "Authorization",
        "bearer ",
        "Basic ",
    ),
    *("bearer ", "Basic ", "aGVsbG8xMjM=", "QZX12345", MASK, "b'", ","),
]


@settings(max_examples=400)
@given(st.lists(st.text() | st.lists(st.sampled_from(_PIECES)).map("".join)))
@example(["cookie:", MASK, "token=a"])
def test_texts_that_are_harmless_together_are_so_one_by_one(texts: list[str]) -> None:
    remember(Secret("QZX12345"))
    if are_harmless(texts):
        assert [redact(text) for text in texts] == texts


def test_one_text_with_a_secret_is_found_among_many() -> None:
    assert are_harmless(["images/a.png", "Label", "run_a"])
    assert not are_harmless(["images/a.png", "https://media.example/a?sig=1", "run_a"])


@pytest.mark.parametrize(
    "piece", ["a?", "://", "://@:", "'", "?'", "%3f", "token=", "authorization ", "bearer ", "basic ", "a.-"]
)
def test_a_long_hostile_text_costs_no_more_than_its_length(piece: str) -> None:
    text = "://a/" + piece * (1_000_000 // len(piece))
    redact(text)  # what is quadratic takes hours here


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
)


@given(_JSON)
def test_any_value_becomes_one_that_json_holds(value: object) -> None:
    assert json.loads(json.dumps(redact_value(value), allow_nan=False).encode()) is not ...


@given(_TOKENS, st.integers(0, 12))
def test_a_planted_key_survives_at_no_depth(token: str, depth: int) -> None:
    remember(Secret(token))
    value: object = (token.encode(), {token: token}, ValueError(token), {token}, [Secret(token)], {1: token})
    for _ in range(depth):
        value = {"a": [value]}
    assert token not in json.dumps(redact_value(value))


@pytest.mark.parametrize("name", ["authorization", "Authorization", "cookie", "api_key", "token", "password"])
def test_a_value_under_a_telling_name_is_hidden_whole(name: str) -> None:
    assert redact_value({"headers": {name: ["planted"], "accept": "*/*"}}) == {
        "headers": {name: MASK, "accept": "*/*"}
    }


def test_an_object_that_cannot_be_shown_does_not_cost_the_line() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    assert redact_value(Broken()) == "<unprintable Broken>"


@given(st.text())
def test_printable_text_is_one_line_that_steers_no_terminal(text: str) -> None:
    safe = printable(text)
    assert safe.isprintable()
    assert len(safe.splitlines()) <= 1
