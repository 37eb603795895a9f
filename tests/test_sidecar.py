from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, strategies as st

from floradl.errors import ErrorCode
from floradl.library.sidecar import (
    SCHEMA_ID,
    Sidecar,
    Times,
    completed,
    lacks,
    load_schema,
    names_of,
    public_run,
    read,
    render,
)
from floradl.models import (
    Integrity,
    OutputKind,
    QueuedRun,
    RemoteRun,
    Result,
    RunFailure,
    RunNames,
    SavedOutput,
    Skipped,
    SkipReason,
    bounded,
)

RUN = {
    "run_id": "run_abc123",
    "status": "completed",
    "progress": 100,
    "created_at": 1795460580120,
    "outputs": [
        {"output_id": "output_1", "type": "imageUrl", "url": "https://media.flora.ai/output.png?sig=s3cret"},
        {"output_id": "words", "type": "text", "url": "Why? See https://x/y?a=b#c"},
    ],
    "poll_url": "https://app.flora.ai/api/v1/runs/run_abc123?token=s3cret",
}
IMAGE = SavedOutput(
    output_id="output_1",
    type="imageUrl",
    kind=OutputKind.IMAGE,
    path="images/art-directors-critique/run_abc123-output_1.png",
    bytes=183204,
    sha256="ab" * 32,
    content_type="image/png",
    url="https://media.flora.ai/output.png",
    integrity=Integrity.VERIFIED,
    checked=("length", "crc32c"),
    downloaded_at="2026-11-23T19:03:11.120Z",
)
LOST = SavedOutput(
    output_id="output_2",
    type="videoUrl",
    kind=OutputKind.VIDEO,
    error=RunFailure(ErrorCode.NOT_MEDIA, "a page"),
)
LEFT_OUT = SavedOutput(
    output_id="output_3",
    type="videoUrl",
    kind=OutputKind.VIDEO,
    bytes=9,
    skipped=Skipped(SkipReason.TOO_LARGE),
)
COMPLETE = Sidecar(
    reference="art-directors-critique/run_abc123",
    technique="art-directors-critique",
    run_id="run_abc123",
    result=Result.COMPLETE,
    run=public_run(RUN),
    outputs=(IMAGE,),
    times=Times(queued_at="2026-11-23T19:03:00.000Z"),
)
PARTIAL = msgspec.structs.replace(COMPLETE, result=Result.PARTIAL, outputs=(IMAGE, LOST))
CHOSEN = msgspec.structs.replace(COMPLETE, outputs=(IMAGE, LEFT_OUT))
FAILED = Sidecar(
    reference="run_abc123",
    run_id="run_abc123",
    result=Result.FAILED,
    error=RunFailure(ErrorCode.NOT_FOUND, "FLORA does not know this run"),
)
VALIDATOR = jsonschema.Draft202012Validator(load_schema())


def changed(sidecar: Sidecar, *path: str | int, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(render(sidecar))
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize("sidecar", [COMPLETE, PARTIAL, FAILED, CHOSEN])
def test_a_sidecar_is_what_its_schema_says(sidecar: Sidecar) -> None:
    VALIDATOR.validate(json.loads(render(sidecar)))


@pytest.mark.parametrize("sidecar", [COMPLETE, PARTIAL, FAILED, CHOSEN])
def test_a_sidecar_is_read_back_as_it_was(sidecar: Sidecar) -> None:
    assert read(render(sidecar)) == sidecar


def test_the_schema_is_a_schema_and_bears_the_id_that_sidecars_name() -> None:
    jsonschema.Draft202012Validator.check_schema(load_schema())
    assert load_schema()["$id"] == json.loads(render(COMPLETE))["$schema"] == SCHEMA_ID


def test_the_schema_knows_every_name_of_the_closed_lists() -> None:
    definitions = load_schema()["$defs"]
    output = definitions["output"]["properties"]
    assert definitions["failure"]["properties"]["code"]["enum"] == list(ErrorCode)
    assert output["kind"]["enum"] == list(OutputKind)
    assert output["integrity"]["enum"] == [*Integrity, None]
    assert output["skipped"]["properties"]["reason"]["enum"] == list(SkipReason)
    assert load_schema()["properties"]["result"]["enum"] == list(Result)


def test_the_schema_describes_every_key_and_no_other() -> None:
    schema = load_schema()
    document = json.loads(render(COMPLETE))
    assert list(schema["properties"]) == list(document)
    assert list(schema["$defs"]["output"]["properties"]) == list(document["outputs"][0])
    assert list(schema["properties"]["times"]["properties"]) == list(document["times"])


def test_the_keys_stand_in_the_order_of_the_documentation() -> None:
    assert list(json.loads(render(COMPLETE))) == [
        *("$schema", "schema_version", "floradl_version", "reference"),
        *(
            "technique",
            "technique_id",
            "technique_name",
            "workspace_id",
            "project_id",
            "project_name",
            "model_id",
        ),
        *("run_id", "label", "meta", "result", "run", "outputs", "error", "times"),
    ]


def unnamed(**fields: Any) -> Sidecar:
    return Sidecar(
        reference="run_a", run_id="run_a", result=Result.COMPLETE, run={"run_id": "run_a"}, **fields
    )


ROW = QueuedRun(
    run_id="run_a",
    technique="campaign",
    label="spring",
    queued_at=1.0,
    meta={"shot": "12"},
    names=RunNames(technique_id="tech_1", project_id="prj_1"),
)


def test_a_sidecar_is_completed_by_its_run_s_row_and_a_later_answer() -> None:
    answer = RemoteRun("run_a", "completed", 100.0, None, charged_cost=0.05, names=RunNames(model_id="m"))
    found = completed(unnamed(), ROW, answer)
    assert (found.reference, found.technique, found.label) == ("campaign/run_a", "campaign", "spring")
    assert (found.meta, names_of(found)) == (
        {"shot": "12"},
        RunNames(technique_id="tech_1", project_id="prj_1", model_id="m"),
    )
    assert found.run == {"run_id": "run_a", "charged_cost": 0.05}
    VALIDATOR.validate(json.loads(render(found)))


def test_what_a_sidecar_says_itself_stays_as_it_is() -> None:
    said = unnamed(technique="mine", label="first", meta={"a": "b"}, project_id="prj_0")
    said = msgspec.structs.replace(said, run={"run_id": "run_a", "charged_cost": 1})
    answer = RemoteRun("run_a", "completed", 100.0, None, charged_cost=0.05)
    found = completed(said, ROW, answer)
    assert (found.technique, found.label, found.meta, found.project_id) == (
        "mine",
        "first",
        {"a": "b"},
        "prj_0",
    )
    assert found.run == said.run


def test_a_late_cost_stands_in_an_answer_as_that_answer_spells_it() -> None:
    answer = RemoteRun("run_a", "completed", 100.0, None, charged_cost=0.0)
    camel = msgspec.structs.replace(unnamed(), run={"runId": "run_a"})
    assert completed(camel, ROW, answer).run == {"runId": "run_a", "chargedCost": 0.0}
    null = msgspec.structs.replace(unnamed(), run={"run_id": "run_a", "charged_cost": None})
    assert completed(null, ROW, answer).run == {"run_id": "run_a", "charged_cost": 0.0}
    assert completed(msgspec.structs.replace(unnamed(), run=None), ROW, answer).run is None


def test_a_sidecar_lacks_what_its_row_says_and_it_does_not() -> None:
    assert lacks(unnamed(), ROW)
    assert not lacks(completed(unnamed(), ROW), ROW)
    for field in ("technique", "label", "meta"):
        row = QueuedRun(run_id="run_a", queued_at=1.0, **{field: getattr(ROW, field)})
        assert lacks(unnamed(), row)
        assert not lacks(completed(unnamed(), row), row)


def test_the_file_is_indented_and_keeps_letters_readable() -> None:
    text = render(msgspec.structs.replace(COMPLETE, label="größer")).decode()
    assert '\n  "label": "größer",\n' in text
    assert text.endswith("\n}\n")


@pytest.mark.parametrize(
    "document",
    [
        changed(COMPLETE, "schema_version", value=2),
        changed(COMPLETE, "result", value="partly"),
        changed(COMPLETE, "run_id", value="abc"),
        changed(COMPLETE, "outputs", 0, "path", value="/etc/passwd"),
        changed(COMPLETE, "outputs", 0, "path", value="images/../../x"),
        changed(COMPLETE, "outputs", 0, "path", value=None),
        changed(COMPLETE, "outputs", 0, "sha256", value=None),
        changed(COMPLETE, "outputs", 0, "url", value="https://h/a?sig=s3cret"),
        changed(COMPLETE, "times", "queued_at", value="yesterday"),
        changed(PARTIAL, "outputs", 1, "error", value=None),
        changed(PARTIAL, "outputs", 1, "error", "code", value="no_such_code"),
        changed(PARTIAL, "result", value="complete"),
        changed(FAILED, "error", value=None),
        changed(CHOSEN, "outputs", 1, "skipped", value=None),
        changed(CHOSEN, "outputs", 1, "skipped", "reason", value="no_such_reason"),
        changed(CHOSEN, "outputs", 1, "error", value={"code": "network", "message": "x"}),
        changed(CHOSEN, "outputs", 0, "skipped", value={"reason": "kind"}),
    ],
)
def test_the_schema_refuses_what_a_sidecar_never_says(document: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(document)


def test_the_schema_lets_additions_pass() -> None:
    for path in [("new",), ("outputs", 0, "new"), ("times", "new"), ("run", "new")]:
        VALIDATOR.validate(changed(COMPLETE, *path, value=1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("new",), {"a": 1}),
        (("outputs", 0, "new"), 1),
        (("schema_version",), 2),
        (("outputs", 0, "kind"), "hologram"),
        (("outputs", 0, "integrity"), "notarised"),
        (("outputs", 1, "error", "code"), "eaten_by_dog"),
        (("error",), {"code": "eaten_by_dog", "message": "x", "new": 1}),
    ],
)
def test_a_later_sidecar_that_only_adds_is_read(path: tuple[str | int, ...], value: object) -> None:
    sidecar = read(json.dumps(changed(PARTIAL, *path, value=value)).encode())
    assert sidecar.outputs[0].path == IMAGE.path
    assert sidecar.outputs[1].error is not None


def test_a_reason_to_skip_that_a_later_version_adds_is_read_as_a_rule() -> None:
    document = changed(CHOSEN, "outputs", 1, "skipped", "reason", value="astrology")
    assert read(json.dumps(document).encode()).outputs[1].skipped == Skipped(SkipReason.RULE)


def test_a_sidecar_from_before_outputs_could_be_left_out_is_read_and_valid() -> None:
    document = json.loads(render(COMPLETE))
    del document["outputs"][0]["skipped"]
    VALIDATOR.validate(document)
    assert read(json.dumps(document).encode()) == COMPLETE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"outputs": 1}',
        b'{"outputs": [1]}',
        b"[" * 100_000,
        json.dumps(changed(COMPLETE, "result", value="partly")).encode(),
        json.dumps(changed(COMPLETE, "outputs", 0, "kind", value=["image"])).encode(),
        json.dumps(changed(COMPLETE, "outputs", 0, "bytes", value="many")).encode(),
        render(COMPLETE)[:-30],
    ],
)
def test_what_is_no_sidecar_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="sidecar"):
        read(data)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "", "a/.", "a\\b", "a\0b"])
def test_a_sidecar_that_points_out_of_the_library_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="inside the library"):
        read(json.dumps(changed(COMPLETE, "outputs", 0, "path", value=path)).encode())


STEERING = "\x7f \x9b31m \x85 \u200e \u202e \u2066 \u2028 \ufeff \U000e0041"


def test_what_steers_a_terminal_or_turns_the_writing_is_escaped_and_stays_the_same() -> None:
    error = RunFailure(ErrorCode.RUN_FAILED, STEERING)
    text = SavedOutput(
        output_id="words", type="text", kind=OutputKind.TEXT, text=STEERING + "é \U0001f469\u200d\U0001f4bb"
    )
    made = Sidecar(
        reference="run_a", run_id="run_a", result=Result.FAILED, label=STEERING, outputs=(text,), error=error
    )
    data = render(made)
    assert read(data) == made
    assert not set(data.decode()) & (set(STEERING) - {" ", "3", "1", "m"})
    assert "é \U0001f469\u200d\U0001f4bb".encode() in data


def test_a_text_with_an_endless_id_whose_words_are_a_url_to_fetch_loses_its_query() -> None:
    output_id = "x" * 2000
    raw = {"outputs": [{"output_id": output_id, "type": "text", "url": "https://x.example/y?sig=s3cret"}]}
    assert "s3cret" not in str(public_run(raw, [bounded(output_id)]))


def test_half_a_surrogate_pair_does_not_keep_a_sidecar_from_being_written() -> None:
    sidecar = msgspec.structs.replace(COMPLETE, label="a\ud800b", run={"x\udfff": ["\ud800"]})
    document = json.loads(render(sidecar))
    assert document["label"] == "a?b"
    assert document["run"] == {"x?": ["?"]}


def test_an_outputs_url_never_keeps_its_query() -> None:
    output = msgspec.structs.replace(IMAGE, url="https://user:s3cret@h/a.png?sig=s3cret#s3cret")
    data = render(msgspec.structs.replace(COMPLETE, outputs=(output,)))
    assert b"s3cret" not in data
    assert json.loads(data)["outputs"][0]["url"] == "https://h/a.png"


def test_the_answer_stands_as_it_came_but_for_queries() -> None:
    before = copy.deepcopy(RUN)
    assert public_run(RUN) == {
        **RUN,
        "outputs": [
            {"output_id": "output_1", "type": "imageUrl", "url": "https://media.flora.ai/output.png"},
            {"output_id": "words", "type": "text", "url": "Why? See https://x/y?a=b#c"},
        ],
        "poll_url": "https://app.flora.ai/api/v1/runs/run_abc123",
    }
    assert before == RUN


def test_a_text_whose_words_are_a_url_to_fetch_loses_its_query() -> None:
    output = {"output_id": "words", "type": "text", "url": "https://media.flora.ai/a.txt?sig=s3cret"}
    assert public_run({"outputs": [output]}) == {"outputs": [output]}
    (stripped,) = public_run({"outputs": [output]}, {"words"})["outputs"]
    assert stripped["url"] == "https://media.flora.ai/a.txt"


def test_camel_case_answers_lose_their_queries_too() -> None:
    raw = {
        "pollUrl": "//h/a?sig=s3cret",
        "outputs": [{"outputId": "w", "type": "text", "url": "https://a?b"}],
    }
    assert public_run(raw)["pollUrl"] == "//h/a"
    assert public_run(raw)["outputs"] == raw["outputs"]
    assert public_run(raw, ["w"])["outputs"][0]["url"] == "https://a"


def test_words_of_a_type_yet_to_come_are_kept() -> None:
    output = {"output_id": "x", "type": "markdown", "url": "Why? Because. See https://h/a?sig=s3cret now"}
    (kept,) = public_run({"outputs": [output]})["outputs"]
    assert kept["url"] == "Why? Because. See https://h/a now"


@pytest.mark.parametrize(
    "raw",
    [
        {"new": "see https://h/a?sig=s3cret"},
        {"new": {"deep": [["https://h/a?sig=s3cret"]]}},
        {"preview_url": "/media/a.png?sig=s3cret"},
        {"preview_url": "//h/a.png?sig=s3cret with space"},
        {"urls": ["https://user:s3cret@h/"]},
        {"https://h/a?sig=s3cret": 1, "inner": {"https://h/a?sig=s3cret": 1}},
        {"outputs": {"type": "text", "output_id": ["x"], "thumbnail": "https://h/a?sig=s3cret"}},
        {"outputs": [{"type": "imageUrl", "url": "HTTPS://h/a?sig=s3cret"}]},
        {"error_message": "could not fetch 'gs://h/a?sig=s3cret'"},
    ],
)
def test_a_signed_url_anywhere_in_an_answer_loses_its_query(raw: dict[str, Any]) -> None:
    assert "s3cret" not in json.dumps(public_run(raw))


def test_an_answer_too_deep_to_be_one_is_cut() -> None:
    raw: dict[str, Any] = {}
    place = raw
    for _ in range(5000):
        place["a"] = {}
        place = place["a"]
    assert render(msgspec.structs.replace(COMPLETE, run=public_run(raw)))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(0, 1 << 53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["outputs", "url", "x"]) | st.text(max_size=8), json_values, max_size=5)
)
def test_any_answer_can_be_kept(raw: dict[str, Any]) -> None:
    assert read(render(msgspec.structs.replace(COMPLETE, run=public_run(raw)))).run_id == "run_abc123"


@given(st.text(), st.text(), st.text())
def test_any_words_survive_in_text_and_answer(output_id: str, words: str, label: str) -> None:
    raw = {"outputs": [{"output_id": output_id, "type": "text", "url": words}]}
    sidecar = msgspec.structs.replace(COMPLETE, label=label, run=public_run(raw))
    assert read(render(sidecar)) == sidecar
