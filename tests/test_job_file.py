from __future__ import annotations

import codecs
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings, strategies as st

from floradl.errors import JobError
from floradl.models import Action, OutputKind, Reference, RunRequest, bare
from floradl.sources.job_file import described, parse_job, parse_queue, render_jobs, render_orders


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
        ("run_a;run_b", 1, None, "several references"),
        ("art/run_a,art/run_b", 1, None, "several references"),
        ("run_a,https://app.flora.ai/runs/run_b", 1, None, "several references"),
        ("run_a\nrun_b,campaign", 2, None, "a table without a heading; a table is known by its first line"),
        ("run_a;campaign;spring", 1, None, "a table without a heading"),
        ("run_a,12", 1, None, "a table without a heading"),
        ("run_a;;spring", 1, None, "a table without a heading"),
        ('"run_a","campaign"', 1, None, "a table without a heading"),
        ("https://media.flora.ai/a.png?sig=s3cret", 1, None, "not one of a FLORA run"),
        ("HTTPS://app.flora.ai/runs/run_a?sig=s3cret", 1, None, "no reference has a '?'"),
        ("- run_a\n- nonsense\n", 2, "[1]", "not a run id"),
        ("runs:\n- run: run_a\n  tecnique: art\n", 3, "runs[0].tecnique", "did you mean 'technique'?"),
        ("id: run_a", 1, "id", "did you mean 'run'?"),
        ('{"reference": "run_a"}', 1, "reference", "did you mean 'run'?"),
        ("run: run_a\nkind: image", 2, "kind", "did you mean 'kinds'?"),
        ("run: run_a\nkinds: [image, vidoe]", 2, "kinds", "did you mean 'video'?"),
        ("run: run_a\nkinds: {image: yes}", 2, "kinds", "a list of kinds"),
        ("run: run_a\nmeta: red", 2, "meta", "a mapping of names to texts"),
        ("run: run_a\nmeta:\n  client: [a]", 3, "meta.client", "is one text"),
        ('{"run": "run_a", "label": "\\ud800"}', 1, "label", "no UTF-8 file can hold"),
        ('{"run": "run_a", "meta": {"a": "\\u0000"}}', 1, "meta.a", "a NUL character"),
        ('{"run": "run_a", "run": "run_b"}', 1, "run", "stands twice"),
        ('{"run": "run_a"}\n{"run": "run_b", "run": "run_c"}', 2, None, "stands twice"),
        ('{"run_id": "run_a"}\n{"run_id": "run b"}', 2, "run_id", "not a run id"),
        ('{"run_id": "run_a"}\n\n{"run_id": "run_b"', 3, None, "not valid JSON"),
        ('{"run_id": "run_a"}\n{"run_id": "run_b"\n\n{"run_id": "run_c"}', 2, None, "not valid JSON"),
        ('{"run_id": "run_a"}\n{"run_id": }', 2, None, "not valid JSON"),
        ("<!DOCTYPE html>\n<html></html>", None, None, "a web page, not FLORA's answer"),
        ("\n <HTML><head>\n", None, None, "a web page, not FLORA's answer"),
        ('{"run_id": "run_a"},\n{"run_id": "run_b"}', 1, None, "not valid JSON"),
        ('{"run": "run_a"}\n{\n"run": "run_b",\n"lable": "x"}', 4, "lable", "did you mean 'label'?"),
        ('[{"run_id": "run_a"},\n {"run_id": 7}]', 2, "[1].run_id", "'7' is not a run id"),
        (
            '{"technique_runs": [{"status": "running"}], "meta": {}}',
            1,
            "technique_runs[0].status",
            "by 'run_id'",
        ),
        ('{"generations": [], "meta": {"next_cursor": null}}', None, None, "names no run"),
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


START = {  # what `POST /techniques/{techniqueId}/runs` answers
    "run_id": "run_a",
    "type": "technique",
    "status": "pending",
    "project_id": "prj_1",
    "technique": {"technique_id": "tech_1", "name": "Art"},
    "action": None,
    "estimated_seconds": 12.5,
    "poll_url": "https://app.flora.ai/api/v1/techniques/art/runs/run_a",
}
FAILED = {"error": {"code": "insufficient_credits", "message": "Buy some at https://x/buy?token=s3cret"}}


@pytest.mark.parametrize("indent", [None, 2])
def test_the_answer_that_started_a_run_is_a_job_and_its_poll_url_names_the_technique(
    indent: int | None,
) -> None:
    assert parse_job(json.dumps(START, indent=indent).encode(), "x") == (
        RunRequest(Reference("run_a", "art")),
    )


@pytest.mark.parametrize(
    ("fields", "technique"),
    [
        ({}, None),
        ({"poll_url": None}, None),
        ({"poll_url": "https://app.flora.ai/api/v1/runs/run_a"}, None),
        ({"poll_url": "https://app.flora.ai/api/v1/techniques/art/runs/run_b"}, None),
        ({"pollUrl": "https://app.flora.ai/api/v1/techniques/art/runs/run_a", "technique": "x"}, "art"),
        ({"technique": "Art Director's Critique", "technique_id": "tech_1"}, "tech_1"),
        ({"technique": {"techniqueId": "tech_1", "name": "Art"}}, "tech_1"),
        ({"techniqueId": "tech_1"}, "tech_1"),
        ({"reference": "art/run_a", "technique": None}, "art"),
    ],
)
def test_floras_fields_name_the_technique_as_far_as_they_are_right(
    fields: dict[str, object], technique: str | None
) -> None:
    data = json.dumps({"run_id": "run_a", "status": "running", **fields}).encode()
    assert parse_job(data, "x")[0].reference == Reference("run_a", technique)


@pytest.mark.parametrize("page", ["technique_runs", "techniqueRuns", "generations"])
def test_a_page_of_a_list_is_a_job(page: str) -> None:
    runs = [{"run_id": "run_a", "outputs": [{"url": "https://x/a?sig=1"}]}, {"runId": "run_b"}]
    text = json.dumps({page: runs, "meta": {"next_cursor": "c"}})
    assert parse(text) == ["run_a", "run_b"]
    assert parse(f"[{text}]") == ["run_a", "run_b"]


@pytest.mark.parametrize("between", ["\n", "\r\n", "", " ", "\n\n# more\n", "\ufeff"])
def test_floras_objects_one_after_the_other_are_a_job(between: str) -> None:
    parts = [START, {"runId": "run_b"}, {"run": "c/run_c"}, {"generations": [{"run_id": "run_d"}]}]
    text = between.join(map(json.dumps, parts))
    assert parse(f"{text}\n") == ["art/run_a", "run_b", "c/run_c", "run_d"]


def test_a_label_kinds_meta_and_an_action_that_were_added_to_floras_object_count() -> None:
    added = {"label": "spring", "kinds": ["image", "text"], "meta": {"take": 3, "ok": True, "no": None}}
    data = json.dumps(START | added | {"action": "forget"}).encode()
    assert parse_job(data, "x") == (
        RunRequest(
            Reference("run_a", "art"),
            "spring",
            Action.FORGET,
            (OutputKind.IMAGE, OutputKind.TEXT),
            {"take": "3", "ok": "true"},
        ),
    )


def test_fields_of_floras_with_names_of_ours_are_left_alone() -> None:
    theirs = {"label": {"a": 1}, "meta": ["x"], "action": {"action_id": "upscale"}}
    assert parse_job(json.dumps(START | theirs).encode(), "x") == (RunRequest(Reference("run_a", "art")),)


def test_an_error_of_floras_is_told_as_one_without_its_secrets() -> None:
    message = str(refusal(json.dumps(FAILED)))
    assert "an error that FLORA answered with" in message
    assert "insufficient_credits: Buy some" in message
    assert "s3cret" not in message
    assert refusal(f"{json.dumps(START)}\n{json.dumps(FAILED)}").line == 2


def test_json_lines_of_more_than_a_megabyte_are_read_and_a_bad_one_is_named() -> None:
    lines = [json.dumps(START | {"run_id": f"run_{number}"}) for number in range(6000)]
    assert len("\n".join(lines)) > 1 << 20
    assert len(parse("\n".join(lines))) == 6000
    lines[4711] = lines[4711][:-1]
    error = refusal("\n".join(lines))
    assert (error.line, "not valid JSON" in str(error)) == (4712, True)
    array = f'[{",".join(lines[:4711])},\n{{"run_id": "x"}}]'
    assert refusal(array).key == "[4711].run_id"


def test_kinds_and_meta_are_read_as_they_are_written() -> None:
    text = (
        "- run: run_a\n  kinds: [image, Video]\n  meta: {client: ACME, take: 007, empty: ''}\n"
        "- {run: run_b, kinds: 'text,video'}"
    )
    assert parse_job(text.encode(), "x") == (
        RunRequest(
            Reference("run_a"),
            kinds=(OutputKind.IMAGE, OutputKind.VIDEO),
            meta={"client": "ACME", "take": "007"},
        ),
        RunRequest(Reference("run_b"), kinds=(OutputKind.TEXT, OutputKind.VIDEO)),
    )


def test_meta_has_64_keys_of_a_hundred_characters_and_of_a_value_a_thousand_are_kept() -> None:
    meta = {f"key {number}": "x" for number in range(64)}
    assert parse_job(json.dumps({"run": "run_a", "meta": meta}).encode(), "x")[0].meta == meta
    assert "at most 64 keys" in str(refusal(json.dumps({"run": "run_a", "meta": meta | {"more": "x"}})))
    assert "1 to 100 characters" in str(refusal(json.dumps({"run": "run_a", "meta": {"k" * 101: "x"}})))
    long = parse_job(json.dumps({"run": "run_a", "meta": {"brief": "x" * 1001}}).encode(), "x")[0].meta
    assert len(long["brief"]) == 1000


@pytest.mark.parametrize("data", [b"PK\x03\x04\x14\0", b"\xd0\xcf\x11\xe0\xa1\xb1"])
def test_a_spreadsheet_programs_own_file_is_told_as_one(data: bytes) -> None:
    assert "(.xlsx or the like): save it as CSV" in str(refusal(data))


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


def test_of_a_run_that_stands_twice_the_last_kinds_and_values_of_meta_count() -> None:
    text = (
        '{"run": "run_a", "kinds": "text", "meta": {"a": "1", "b": "1"}}\n'
        '{"run": "run_a", "meta": {"b": "2"}}\n'
    )
    assert parse_job(text.encode(), "x") == (
        RunRequest(Reference("run_a"), kinds=(OutputKind.TEXT,), meta={"a": "1", "b": "2"}),
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
META = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=100)
    .map(str.strip)
    .filter(bool),
    LABELS.map(str.strip).filter(bool),
    max_size=3,
)
KINDS = st.lists(st.sampled_from(OutputKind), unique=True, max_size=3).map(tuple)
ORDERS = st.lists(
    st.builds(RunRequest, REFERENCES)
    | st.builds(RunRequest, REFERENCES, st.none() | LABELS, st.sampled_from(list(Action)), KINDS, META),
    min_size=1,
    max_size=6,
    unique_by=lambda order: order.reference.run_id,
)


@given(ORDERS)
@settings(max_examples=500)
def test_rendered_orders_are_read_back(orders: list[RunRequest]) -> None:
    assert parse_job(render_orders(orders).encode(), "x") == tuple(orders)


def test_a_run_whose_id_looks_like_a_heading_is_rendered_so_that_it_is_none() -> None:
    orders = (RunRequest(Reference("run_id")), RunRequest(Reference("run_b")))
    assert parse_job(render_orders(orders).encode(), "x") == orders


def test_many_orders_are_rendered_into_job_files_that_the_inbox_takes() -> None:
    heavy = {f"{number:0100}": "\x01" * 1000 for number in range(64)}
    orders = [RunRequest(Reference(f"run_{number}"), meta=heavy) for number in range(4)]
    orders += [RunRequest(Reference(f"run_{number}"), "spring") for number in range(4, 30_000)]
    jobs = [job.encode() for job in render_jobs(orders)]
    assert max(map(len, jobs)) <= 1 << 20
    assert [order for job in jobs for order in parse_job(job, "x")] == orders


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


def test_a_label_keeps_no_key_and_no_signed_query() -> None:
    label = "of sk_live_0123456789abcdef https://x.example/a.png?X-Goog-Signature=s3cret"
    [run] = parse_job(json.dumps({"run": "run_a", "label": label}).encode(), "job.json")
    assert run.label is not None
    assert run.label.startswith("of ")
    assert not any(secret in run.label for secret in ("0123456789", "s3cret"))
