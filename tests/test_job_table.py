"""Tables as jobs: what spreadsheets save, and what people write by hand."""

from __future__ import annotations

import codecs

import pytest

from floradl.errors import JobError
from floradl.models import OutputKind, Reference, RunRequest
from floradl.sources.job_file import described, parse_job, parse_queue


def parse(text: str) -> tuple[RunRequest, ...]:
    return parse_job(text.encode(), "job.csv")


def refusal(data: str) -> JobError:
    with pytest.raises(JobError) as caught:
        parse(data)
    return caught.value


def references(text: str) -> list[str]:
    return [str(order.reference) for order in parse(text)]


FULL = (
    RunRequest(Reference("run_a", "art"), "spring", kinds=(OutputKind.IMAGE,), meta={"Client": "ACME, Inc."}),
    RunRequest(Reference("run_b", "art"), meta={"Shot": "12"}),
)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_is_read_with_any_delimiter_line_end_and_mark(
    delimiter: str, end: str, encoding: str
) -> None:
    rows = [
        ["Run ID", "Technique", "LABEL", "kinds", "Client", "Shot"],
        ["run_a", "art", "spring", "image", '"ACME, Inc."', ""],
        ["run_b", "art", "", "", "", "12"],
    ]
    text = end.join(map(delimiter.join, rows)) + end
    assert parse_job(text.encode(encoding), "job.csv") == FULL


@pytest.mark.parametrize(
    "heading", ["run", "run_id", "run id", "RUN ID", "runId", "Run-ID", "Reference", "URL"]
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_heading_of_a_run_makes_a_table(heading: str, quote: str) -> None:
    assert references(f"{quote}{heading}{quote}\nart/run_a\nrun_b\n") == ["art/run_a", "run_b"]
    assert references(f"note;{quote}{heading}{quote}\nx;run_a\n") == ["run_a"]


def test_lines_of_references_are_no_table() -> None:
    assert references("run_a\nrun_id\n") == ["run_a", "run_id"]
    assert "without commas" in str(refusal("run_a,run_b\n"))


def test_json_is_no_table_whatever_its_words() -> None:
    assert references('{"run_id": "run_a", "inputs": ["text","url","run"]}') == ["run_a"]
    assert references('[{"run_id": "run_a", "inputs": ["text","url","run"]}]') == ["run_a"]


def test_a_table_whose_heading_names_no_run_is_told_what_it_lacks() -> None:
    for text in ("id;technique\nrun_a;art\n", "# mine\nName\tID\nx\trun_a\n"):
        assert "in which a column is headed 'run_id'" in str(refusal(text))
    assert "headed" not in str(refusal("run a\n"))


def test_what_stands_above_the_heading_is_left_out() -> None:
    assert references("sep=;\n\n# exported today\nrun_id;label\nrun_a;x\n") == ["run_a"]


def test_api_urls_and_references_stand_in_the_column_of_a_run() -> None:
    url = "https://app.flora.ai/api/v1/techniques/art/runs/run_a?x=1"
    assert references(f"url\n{url}\n") == ["art/run_a"]
    assert parse("reference,technique\nart/run_a,art\n")[0].reference == Reference("run_a", "art")


def test_of_several_headings_of_a_run_the_surest_counts_and_others_go_into_meta() -> None:
    assert parse("run,url,run_id\n7,https://x/brief,run_a\n") == (
        RunRequest(Reference("run_a"), meta={"run": "7", "url": "https://x/brief"}),
    )


def test_columns_of_floras_name_the_technique_where_no_other_does() -> None:
    url = "https://app.flora.ai/api/v1/techniques/art/runs/run_a"
    found = parse(
        f"run_id,technique,technique_id,poll_url\nrun_a,,tech_1,{url}\nrun_b,,tech_1,\nrun_c,mine,,\n"
    )
    assert [each.reference.technique for each in found] == ["art", "tech_1", "mine"]
    assert found[0].meta == {"technique_id": "tech_1", "poll_url": url}


def test_meta_keeps_no_signed_query_and_no_key_but_what_a_person_links_to() -> None:
    cells = [
        "https://storage.googleapis.com/b/a.png?X-Goog-Signature=s3cret&X-Goog-Expires=9",
        "https://media.flora.ai/a.png?GoogleAccessId=x&Expires=9&Signature=s3cret",
        "with sk_live_0123456789abcdef",
        "https://docs.example/document?id=7&tab=2",
    ]
    [run] = parse("run\tout\tagain\tkey\tbrief\nrun_a\t" + "\t".join(cells) + "\n")
    assert not any(
        "s3cret" in text or "Signature" in text or "0123456789" in text for text in run.meta.values()
    )
    assert run.meta["out"].startswith("https://storage.googleapis.com/b/a.png")
    assert run.meta["brief"] == cells[3]


def test_several_kinds_stand_in_one_cell() -> None:
    [run] = parse('run,kinds\nrun_a,"image, Video;text"\n')
    assert run.kinds == (OutputKind.IMAGE, OutputKind.VIDEO, OutputKind.TEXT)


def test_empty_rows_comments_and_columns_without_a_heading_are_left_out() -> None:
    assert references("run_id,label,,\n,,,\n\nrun_a,x,,\n# off: run_z,,,\nrun_b\n  ,\nrun_c,,,,,\n") == [
        "run_a",
        "run_b",
        "run_c",
    ]


def test_a_text_in_quotes_may_have_lines_and_quotes_and_the_next_row_keeps_its_line() -> None:
    text = 'run_id,brief\nrun_a,"two\nlines, ""quoted"""\nnonsense,x\n'
    error = refusal(text)
    assert (error.row, error.line, error.column) == (2, 4, "run_id")
    assert parse(text.replace("nonsense", "run_b"))[0].meta == {"brief": 'two\nlines, "quoted"'}


def test_a_bad_row_of_a_hundred_refuses_the_table_and_is_named_with_its_column() -> None:
    rows = [f"run_{number},art,spring" for number in range(1, 101)]
    rows[72] = "run_73,a b,spring"
    error = refusal("\n".join(["run_id,Technique,label", *rows]))
    assert described(error).startswith("row 73 (line 74), column Technique: 'a b' is not a technique")


@pytest.mark.parametrize(
    ("text", "row", "column", "words"),
    [
        ("run_id\nx\n", 1, "run_id", "not a run id"),
        ("run_id,label\nrun_a,x\n,y\n", 2, "run_id", "here is no run"),
        ("Run,technique\nart/run_a,other\n", 1, "Run", "another technique"),
        ("run,kinds\nrun_a,imgae\n", 1, "kinds", "did you mean 'image'?"),
        ("run,label\nrun_a,x,y\n", 1, None, "more cells than the heading"),
        ("run,,label\nrun_a,x,y\n", 1, None, "without a heading"),
        ('run,label\nrun_a,x\nrun_b,"y\n', 2, None, "a quote in it not closed"),
        ('run,label\nrun_a,"x"y\n', 1, None, "a quote in it not closed"),
        ("run,Label,label\nrun_a,x,y\n", None, "label", "two columns"),
        ("run_id,Run ID\nrun_a,run_b\n", None, "Run ID", "two columns have the run, this one and 'run_id'"),
        ("run,client,client\nrun_a,x,y\n", None, "client", "two columns"),
        (f"run,{'k' * 101}\nrun_a,x\n", None, "k" * 101, "1 to 100 characters"),
        (f"run,{','.join(map(str, range(65)))}\nrun_a\n", None, None, "65 columns"),
        ("run\n", None, None, "this table has a heading, and no row below it"),
        (
            "Run;technique\nother/run_a;art\n",
            1,
            "Run",
            "column Run names another technique than column technique",
        ),
        ("url\nhttps://media.flora.ai/a.png?sig=s3cret\n", 1, "url", "not one of a FLORA run"),
    ],
)
def test_a_mistake_is_named_by_row_and_column(
    text: str, row: int | None, column: str | None, words: str
) -> None:
    error = refusal(text)
    assert words in str(error)
    assert (error.row, error.column) == (row, column)
    assert "s3cret" not in str(error)


def test_a_queue_file_may_be_a_table() -> None:
    assert parse_queue(b"run_id,technique\nrun_a,art\n") == (RunRequest(Reference("run_a", "art")),)


def test_a_hundred_thousand_rows_are_read() -> None:
    rows = [f"run_{number},art,client {number}" for number in range(100_000)]
    found = parse("\n".join(["run_id,technique,client", *rows]))
    assert len(found) == 100_000
    assert found[-1] == RunRequest(Reference("run_99999", "art"), meta={"client": "client 99999"})


@pytest.mark.parametrize(
    "text",
    [
        "run" + "," * 1_000_000,
        "," * 500_000 + "run" + "\n" * 500_000,
        "run" + "," * 500_000 + "\n" + ",\n" * 250_000,
        "run," + ",".join(map(str, range(150_000))),
        "," * 999 + "run\n" + "run_a\n" * 150_000,
        "run,a\n" + ",\n" * 500_000,
        "run," + '"' * 1_000_000,
        "\n" * 500_000 + "run\nx",
        "run\nrun_a" + ";" * 1_000_000,
    ],
    ids=[
        "columns",
        "far column",
        "columns and rows",
        "headings",
        "short rows",
        "empty rows",
        "quotes",
        "empty lines",
        "cells",
    ],
)
def test_a_costly_table_is_refused(text: str) -> None:
    with pytest.raises(JobError):
        parse_job(codecs.BOM_UTF8 + text.encode(), "job.csv")


def test_a_text_that_is_too_long_for_a_cell_is_told_as_that() -> None:
    message = str(refusal("run,note\nrun_a," + "x" * 200_000 + "\n"))
    assert "a text in it has over 131,072 characters" in message
    assert "shorten that text" in message
