from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from floradl import yaml_reader
from floradl.yaml_reader import Document, DocumentError, load


def refusal(text: str) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        load(text)
    return caught.value


def test_scalars_stay_as_they_were_written() -> None:
    text = "[0123, 18:00, no, 1e3, 0x1F, 2026-11-24, .inf, True, 'quoted', \"\"]"
    assert load(text).value == [
        *("0123", "18:00", "no", "1e3", "0x1F", "2026-11-24", ".inf", "True", "quoted", "")
    ]


def test_json_numbers_and_booleans_stay_as_they_were_written() -> None:
    assert load('[1e3, 10.50, true, null, "null"]').value == ["1e3", "10.50", "true", None, "null"]


@pytest.mark.parametrize("written", ["null", "~", "", "Null", "NULL"])
def test_a_plain_null_is_none(written: str) -> None:
    assert load(f"a: {written}").value == {"a": None}


def test_a_quoted_null_is_text() -> None:
    assert load("a: 'null'\nb: \"~\"").value == {"a": "null", "b": "~"}


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "\ufeff"])
def test_an_empty_text_is_none(text: str) -> None:
    assert load(text).value is None


def test_lines_are_those_of_keys_and_items() -> None:
    document = load("# top\nhome: x\ndownload:\n\n  concurrency: 4\nhosts:\n  - a\n  - b:\n      1\n")
    assert document.lines == {
        (): 2,
        ("home",): 2,
        ("download",): 3,
        ("download", "concurrency"): 5,
        ("hosts",): 6,
        ("hosts", 0): 7,
        ("hosts", 1): 8,
        ("hosts", 1, "b"): 8,
    }


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_json_indented_with_tabs_is_read_with_its_lines(end: str) -> None:
    text = end.join(['{"runs": [', '\t"run_a",', '\t{"run":', '\t\t"run_b"}', "]}"])
    document = load(text)
    assert document.value == {"runs": ["run_a", {"run": "run_b"}]}
    assert document.lines == {
        (): 1,
        ("runs",): 1,
        ("runs", 0): 2,
        ("runs", 1): 3,
        ("runs", 1, "run"): 3,
    }


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "b.c"),
        ('{"a": [{"x": 1,\n"x": 2}]}', 2, "a[0].x"),
        ("null: 1\n", 1, None),
        ("? [a]\n: 1\n", 1, None),
        ("a: {{folder}}\n", 1, "a"),
        ("a: 1\n---\nb: 2\n", 2, None),
        ("a: 1\nb: \0\n", 2, None),
        ("a: 1\nb: \x1b[0m\n", 2, None),
        ("a: \ud800\n", 1, None),
        ('a: "\\0"\n', 1, None),
        ('["\\u0000"]', 1, None),
        ("[" * 10_000, 1, None),
        ("[" * 21 + "]" * 21, 1, None),
        ("- " * 21 + "x", 1, None),
        ("{" + '"a":{' * 30 + "}" * 31, 1, None),
    ],
)
def test_what_cannot_be_read_strictly_is_refused_with_its_place(
    text: str, line: int, key: str | None
) -> None:
    error = refusal(text)
    assert (error.line, error.key) == (line, key)


def test_twenty_levels_are_read() -> None:
    assert load("[" * 20 + "]" * 20).lines[(0,) * 19] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hosts: [*.flora.ai]", "must be quoted: '*.flora.ai'"),
        ("hosts:\n  - *\n", "must be quoted: '*.flora.ai'"),
        ("a: &x 1\nb: *x", "anchors"),
        ("b: *x", "aliases"),
        ("b: {<<: {c: 1}}", "merge keys"),
        ("a: !!python/object:os.system x", "tags"),
        ("a: !x y", "tags"),
        ("a:\n\tb: 1", "spaces only"),
        ('a: "x', "not closed"),
        ("a: [1, 2\nb: 3", "not closed"),
        ("a: b: c", "quote the value"),
        ("a: @x", "must be quoted"),
        ('a: "C:\\temp\\dir"', "single quotes"),
        ("a: 1\nnonsense\nb: 2", "no ':'"),
        ("a: - b", "new line"),
        ("x" * (yaml_reader.MAX_BYTES + 1), "1 MiB"),
        ("ü" * (yaml_reader.MAX_BYTES // 2 + 1), "1 MiB"),
    ],
)
def test_a_refusal_says_what_to_do(text: str, words: str) -> None:
    assert words in str(refusal(text))


HOSTILE = {
    "merge keys": "a: &a {}\n"
    + "".join(f"b{n}: &b{n} {{<<: [{', '.join(['*a'] * 9)}]}}\n" for n in range(20)),
    "an alias bomb": "a: &a [x]\n"
    + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefg", "bcdefgh", strict=True)),
    "open brackets": "[" * yaml_reader.MAX_BYTES,
    "open braces": "{" * yaml_reader.MAX_BYTES,
    "nested dashes": "- " * (yaml_reader.MAX_BYTES // 2),
    "nested questions": "? " * (yaml_reader.MAX_BYTES // 2),
    "many empty items": "- \n" * (yaml_reader.MAX_BYTES // 3),
    "many flow items": "[" + "a," * (yaml_reader.MAX_BYTES // 2 - 1) + "]",
    "many documents": "---\n" * (yaml_reader.MAX_BYTES // 4),
    "deep JSON": "[" * 100_000 + "]" * 100_000,
    "wide JSON": "[" + "0," * (yaml_reader.MAX_BYTES // 2 - 2) + "0]",
    "one open quote": '"' + "x" * (yaml_reader.MAX_BYTES - 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_refused_after_no_more_events_than_a_valid_one_may_have(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    build = yaml_reader._build

    def counted(tokens: Iterator[yaml_reader._Token]) -> yaml_reader.Document:
        def each() -> Iterator[yaml_reader._Token]:
            nonlocal taken
            for token in tokens:
                taken += 1
                yield token

        return build(each())

    monkeypatch.setattr(yaml_reader, "_build", counted)
    refusal(HOSTILE[name])
    assert taken <= 2 * yaml_reader.MAX_VALUES


def test_a_full_megabyte_of_run_ids_is_read() -> None:
    text = "- run_abc12\n" * (yaml_reader.MAX_BYTES // 12)
    value = load(text).value
    assert isinstance(value, list)
    assert len(value) == yaml_reader.MAX_BYTES // 12


@given(st.text(st.characters(), max_size=200))
@settings(max_examples=500)
def test_any_text_gives_a_document_or_a_refusal(text: str) -> None:
    with suppress(DocumentError):
        assert isinstance(load(text), Document)


@given(st.text(st.sampled_from(list("ab:-?*&!|>'\"%@`{}[], \t\n\r#<0~\\")), max_size=40))
@settings(max_examples=1500)
def test_any_punctuation_gives_a_document_or_a_refusal(text: str) -> None:
    with suppress(DocumentError):
        assert isinstance(load(text), Document)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def nested(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
        max_leaves=12,
    )


DUMPS = (json.dumps, partial(json.dumps, ensure_ascii=False), partial(json.dumps, indent="\t"))


@given(nested(st.none() | TEXTS), st.sampled_from(DUMPS))
def test_json_is_read_back(value: Any, dump: Callable[[Any], str]) -> None:
    assert load(dump(value)).value == value


@given(nested(TEXTS))
def test_yaml_is_read_back(value: Any) -> None:
    assert load(yaml.safe_dump(value, default_style='"')).value == value
