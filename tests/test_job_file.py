from __future__ import annotations

import codecs
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings, strategies as st

from floradl.errors import JobError
from floradl.models import Action, Reference, RunRequest, bare
from floradl.sources.job_file import described, parse_job, parse_queue, render_orders


def parse(text: str, name: str = "job.txt") -> list[str]:
    return [str(order.reference) for order in parse_job(text.encode(), name)]


def refusal(data: str | bytes, name: str = "job.txt") -> JobError:
    with pytest.raises(JobError) as caught:
        parse_job(data.encode() if isinstance(data, str) else data, name)
    return caught.value


def test_lines_of_references_are_read_with_comments_and_blanks() -> None:
    text = "# today\n\nart/run_a\n  run_b  # the second\nhttps://app.flora.ai/api/v1/runs/run_c?x=1\n\t\n"
    assert parse(text) == ["art/run_a", "run_b", "run_c"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_line_end_and_mark_is_read(end: str, encoding: str) -> None:
    data = end.join(["run_ä", "run_b"]).encode(encoding)
    assert [order.reference.run_id for order in parse_job(data, "x")] == ["run_ä", "run_b"]


def test_utf_16_of_either_order_is_read_with_its_mark() -> None:
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        assert parse_job(mark + "run_a\r\n".encode(encoding), "x")[0].reference == Reference("run_a")


@pytest.mark.parametrize(
    ("data", "line"),
    [(b"run_a\nrun_\xff\n", 2), ("run_a\n".encode("utf-16-le"), 1), (b"\x89PNG\r\n\x1a\n\0\0", 1)],
)
def test_what_is_not_utf_8_is_refused_and_says_so(data: bytes, line: int) -> None:
    error = refusal(data)
    assert "save the file as UTF-8" in str(error)
    assert error.line == line


@pytest.mark.parametrize(
    "text",
    [
        "- art/run_a\n- run_b\n",
        "runs:\n- technique: art\n  run: run_a\n- run_b\n",
        "# mine\n---\nruns: [art/run_a, {run: run_b}]\n",
        '{"runs": ["art/run_a", {"run": "run_b", "technique": null}]}',
        '[\n\t{"technique": "art", "run": "run_a"},\n\t"https://x/api/v1/runs/run_b"\n]',
        "- {technique: art, run: art/run_a}\n- 'run_b'",
    ],
)
def test_yaml_and_json_lists_are_read(text: str) -> None:
    assert parse(text) == ["art/run_a", "run_b"]


@pytest.mark.parametrize(
    "text",
    ["run: run_a\ntechnique: art", '{"technique": "art", "run": "run_a"}', "'art/run_a'", '"art/run_a"'],
)
def test_a_single_run_is_read(text: str) -> None:
    assert parse(text) == ["art/run_a"]


def test_label_and_action_are_read() -> None:
    text = (
        "- {run: run_a, label: 0123, action: retry}\n- {run: run_b, action: forget}\n- {run: run_c, label: }"
    )
    assert parse_job(text.encode(), "x") == (
        RunRequest(Reference("run_a"), "0123", Action.RETRY),
        RunRequest(Reference("run_b"), None, Action.FORGET),
        RunRequest(Reference("run_c")),
    )


@pytest.mark.parametrize("kind", ["run.completed", "run.failed"])
def test_a_webhook_body_names_its_run(kind: str) -> None:
    data = {
        "run_id": "run_a",
        "run_type": "technique",
        "workspace_id": "ws_1",
        "status": kind[4:],
        "new": [1],
    }
    body = {
        "id": "whd_1",
        "type": kind,
        "api_version": "2026-06-11",
        "created_at": 1764000000000,
        "data": data,
    }
    assert parse(json.dumps(body)) == ["run_a"]


def test_a_webhook_body_of_the_older_shape_names_its_run() -> None:
    assert parse('{"type": "run.completed", "data": {"runId": "run_a"}}') == ["run_a"]


@pytest.mark.parametrize(
    "name", ["run_abc123", "run_abc123.txt", "run_abc123.YML", "run_abc123.json", "run_abc123.job"]
)
@pytest.mark.parametrize("content", ["", "\n", "\ufeff"])
def test_an_empty_file_is_a_job_by_its_name(name: str, content: str) -> None:
    assert parse(content, name) == ["run_abc123"]


@pytest.mark.parametrize("name", ["notes.txt", "run_", "run_\udcff", "run_a b"])
def test_an_empty_file_of_another_name_is_refused(name: str) -> None:
    assert "its name is not a run id" in str(refusal("", name))


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("run_a\nnonsense here\nrun_c", 2, None, "not a run id"),
        ("run_a\rrun b", 2, None, "not a run id"),
        ("run_a,run_b", 1, None, "without commas"),
        ("run_a,\nrun_b,\n", 1, None, "without commas"),
        ("https://media.flora.ai/a.png?sig=s3cret", 1, None, "not one of a FLORA run"),
        ("HTTPS://app.flora.ai/runs/run_a?sig=s3cret", 1, None, "no reference has a '?'"),
        ("- run_a\n- nonsense\n", 2, "[1]", "not a run id"),
        ("runs:\n- run: run_a\n  tecnique: art\n", 3, "runs[0].tecnique", "did you mean 'technique'?"),
        ("run_id: run_a", 1, "run_id", "did you mean 'run'?"),
        ('{"runId": "run_a"}', 1, "runId", "did you mean 'run'?"),
        ("run: run_a\ncolour: red", 2, "colour", "technique, run, label, action"),
        ("technique: art", 1, None, "has no 'run'"),
        ("run: run_a\naction: delete", 2, "action", "'retry' or 'forget'"),
        ("run: [run_a]", 1, "run", "one text"),
        ("run: other/run_a\ntechnique: art", 1, "run", "another technique"),
        ("technique: a b\nrun: run_a", 1, "technique", "is not a technique"),
        ("runs: run_a", 1, "runs", "start each with"),
        ("label: x\nruns: [run_a]", 1, "label", "no other key"),
        ("- \n- run_a", 1, "[0]", "a run is a reference"),
        ("- [run_a]", 1, "[0]", "a run is a reference"),
        ("# nothing\n", None, None, "names no run"),
        ("[]", None, None, "names no run"),
        ("runs:", None, None, "names no run"),
        ("{run: run_a, run: run_b}", 1, "run", "stands twice"),
        ('{"type": "run.completed", "data": {"status": "completed"}}', 1, "data", "has no 'run_id'"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(
    text: str, line: int | None, key: str | None, words: str
) -> None:
    error = refusal(text)
    assert words in str(error)
    assert (error.line, error.key) == (line, key)
    assert "s3cret" not in str(error)


def test_a_described_refusal_begins_with_its_place() -> None:
    assert described(refusal("- run_a\n- run: x")).startswith("line 2, key [1].run: 'x' is not a run id")
    assert described(refusal("a b")).startswith("line 1: ")
    assert described(refusal("# only")).startswith("this names no run")


def test_a_run_that_stands_twice_is_one_order() -> None:
    text = "- {run: run_a, label: x}\n- run_b\n- art/run_a\n- {run: other/run_a, action: retry}"
    assert parse_job(text.encode(), "x") == (
        RunRequest(Reference("run_a", "art"), "x", Action.RETRY),
        RunRequest(Reference("run_b")),
    )


def test_run_ids_are_told_apart_by_case() -> None:
    assert parse("run_a\nrun_A\n") == ["run_a", "run_A"]


@pytest.mark.parametrize("data", [b"", b"\n", b"# none yet\n", b"runs: []", b"runs:\n"])
def test_a_queue_file_may_be_empty(data: bytes) -> None:
    assert parse_queue(data) == ()


def test_a_queue_file_cannot_retry() -> None:
    with pytest.raises(JobError) as caught:
        parse_queue(b"- run_a\n- {run: run_b, action: retry}")
    assert (caught.value.line, caught.value.key) == (2, "[1]")


def test_a_hundred_thousand_lines_are_read() -> None:
    lines = [f"run_{number}" for number in range(100_000)]
    assert parse("\n".join(lines)) == lines


def is_bare(text: str) -> bool:
    with suppress(ValueError):
        return bare(text) == text and Reference.of(f"run_{text}") is not None
    return False


REFERENCES = st.builds(
    Reference,
    # What a person does not see, and quotes at the end, falls away.
    st.from_regex(r"run_[^\s/\\?#\x00-\x1f\x7f\ud800-\udfff]{1,20}", fullmatch=True).filter(is_bare),
    st.none()
    | st.from_regex(r"[^\s/\\?#\x00-\x1f\x7f\ud800-\udfff]{1,20}", fullmatch=True).filter(
        lambda text: text not in {".", ".."} and is_bare(text)
    ),
)
LABELS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
ORDERS = st.lists(
    st.builds(RunRequest, REFERENCES)
    | st.builds(RunRequest, REFERENCES, st.none() | LABELS, st.sampled_from(list(Action))),
    min_size=1,
    max_size=6,
    unique_by=lambda order: order.reference.run_id,
)


@given(ORDERS)
@settings(max_examples=500)
def test_rendered_orders_are_read_back(orders: list[RunRequest]) -> None:
    assert parse_job(render_orders(orders).encode(), "x") == tuple(orders)


def test_plain_references_are_rendered_as_lines() -> None:
    assert (
        render_orders([RunRequest(Reference("run_a", "art")), RunRequest(Reference("run_b"))])
        == "art/run_a\nrun_b\n"
    )


@pytest.mark.parametrize("label", ["\udcff", "a\0b"])
def test_a_label_that_no_file_can_hold_is_refused(label: str) -> None:
    with pytest.raises(JobError):
        render_orders([RunRequest(Reference("run_a"), label)])


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=1000)
def test_any_bytes_give_orders_or_a_refusal(data: bytes) -> None:
    with suppress(JobError):
        assert parse_job(data, "job.txt")


@given(
    st.lists(st.sampled_from(["run_a", "- ", "\n", " ", ": ", "{", "}", "[", "]", ",", "run", "data", "#"]))
)
@settings(max_examples=1000)
def test_any_arrangement_of_known_pieces_gives_orders_or_a_refusal(pieces: list[str]) -> None:
    with suppress(JobError):
        assert parse_job("".join(pieces).encode(), "job.txt")


@given(REFERENCES)
def test_a_reference_reads_back_from_its_spelling(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "line",
    [
        "\u200brun_a",
        "run_a\u200b",
        "art\u2060/\u200brun_a",
        "ru\u00adn_a",
        "\u202arun_a\u202c",
        "\u200erun_a\u200f",
        "\ufeffrun_a",
        "\u00a0run_a\u202f",
        "\u201crun_a\u201d",
        "\u201erun_a\u201c",
        "\u2018run_a\u2019",
        "\u00abrun_a\u00bb",
        "\u00ab\u00a0run_a\u00a0\u00bb",
        "\u2039run_a\u203a",
        "`run_a`",
        "``` run_a ```",
        "\uff02run_a\uff02",
        "<https://app.flora.ai/api/v1/runs/run_a>",
        "\u201chttps://app.flora.ai/api/v1/runs/run_a?x=1\u201d",
        "\ufeff# a note\nrun_a",
        "\u200b\u201crun_a\u201d\ufe0f  # said so",
    ],
)
def test_what_text_programs_put_around_a_reference_falls_away(line: str) -> None:
    assert [reference.rpartition("/")[2] for reference in parse(f"run_first\n{line}\n")] == [
        "run_first",
        "run_a",
    ]
    assert [reference.rpartition("/")[2] for reference in parse(f"{line}\n")] == ["run_a"]


@pytest.mark.parametrize("text", ["\u201crun_a\u201d", "\u200brun_a", "\u00a0`run_a`"])
def test_it_falls_away_in_json_and_in_names_too(text: str) -> None:
    assert parse(json.dumps([text, {"run": text}])) == ["run_a"]
    assert parse("", f"{text}.txt") == ["run_a"]
    assert parse("", f"{text}") == ["run_a"]


def test_lines_in_plain_quotes_are_references() -> None:
    assert parse("\"art/run_a\"\n'run_b'\n") == ["art/run_a", "run_b"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("run\u00a0_a", "NO-BREAK SPACE (U+00A0)"),
        ("run_a\u202frun_b", "NARROW NO-BREAK SPACE (U+202F)"),
        ("run_\u201ca", "LEFT DOUBLE QUOTATION MARK (U+201C)"),
        ("run_a\u2019s", "RIGHT SINGLE QUOTATION MARK (U+2019)"),
        ("art\u00a0x/run_a", "NO-BREAK SPACE (U+00A0)"),
    ],
)
def test_what_is_taken_for_something_else_inside_a_reference_is_named(line: str, name: str) -> None:
    assert name in str(refusal(f"{line}\n"))


def test_a_file_of_marks_alone_is_a_job_by_its_name() -> None:
    assert parse("\ufeff\u200b\n", "run_a.txt") == ["run_a"]
