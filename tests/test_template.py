from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from hypothesis import given, strategies as st

from floradl.fs.names import part_name
from floradl.library.template import NameFields, Template, stem_of
from floradl.models import RunNames

DEFAULT = "{folder}/{technique}/{run_id}-{output_id}{ext}"
FIELDS = NameFields(
    folder="images",
    kind="image",
    type="imageUrl",
    technique="art-directors-critique",
    run_id="run_abc123",
    output_id="output_1",
    index=7,
    label="spring",
    date=dt.date(2026, 3, 9),
)
TAG = "01234567-89abcdef"


def path(template: str, extension: str = ".png", distinct: int = 1, **changes: object) -> str:
    fields = msgspec.structs.replace(FIELDS, **changes)
    return "/".join(Template.parse(template).render(fields, extension, 255, distinct))


def test_the_default_gives_the_path_of_the_documentation() -> None:
    assert path(DEFAULT) == "images/art-directors-critique/run_abc123-output_1.png"


def test_every_field_can_be_named() -> None:
    template = "{folder} {kind} {type} {technique}/{index} {label}/{date} {year} {month} {day}/{run_id}{ext}"
    assert path(template) == (
        "images image imageUrl art-directors-critique/7 spring/2026-03-09 2026 03 09/run_abc123.png"
    )


def test_an_index_can_be_padded() -> None:
    assert path("{index:03}{ext}") == "007.png"


def test_doubled_braces_stand_for_braces() -> None:
    assert path("{{{run_id}}}{ext}") == "{run_abc123}.png"


def test_the_extension_is_added_where_the_template_has_none() -> None:
    assert path("{run_id}") == "run_abc123.png"


def test_an_unknown_technique_or_day_has_a_name() -> None:
    assert path("{technique}/{date}/{run_id}", technique=None, date=None) == (
        "_unknown/_unknown/run_abc123.png"
    )


@pytest.mark.parametrize("label", [None, ""])
def test_an_absent_label_leaves_no_empty_folder_and_no_dangling_dash(label: str | None) -> None:
    assert path("{folder}/{label}/{label}-{run_id}", label=label) == "images/run_abc123.png"


def test_what_is_absent_leaves_no_separator_twice() -> None:
    assert path("{date}-{label}-{run_id}", label=None) == "2026-03-09-run_abc123.png"
    assert path("{date}-{label}_{meta.shot}_{run_id}", label=None) == "2026-03-09-_run_abc123.png"
    assert path("{label}--{run_id}") == "spring--run_abc123.png"


def test_a_file_that_has_only_an_absent_label_is_named_by_its_run() -> None:
    assert path("{folder}/{label}", label=None) == "images/run_abc123.png"


NAMES = RunNames(
    technique_id="tech_1",
    technique_name="Art director's critique",
    workspace_id="ws_1",
    project_id="prj_1",
    project_name="Spring",
    model_id="flux-2",
)
CREATED = dt.datetime(2026, 3, 8, 23, 59, tzinfo=dt.UTC)


def test_every_name_of_a_run_can_be_named() -> None:
    template = (
        "{project} {project_id} {workspace}/{technique_id} {technique_name} {model}/{created} {meta.shot}"
    )
    assert path(template, names=NAMES, created=CREATED, meta={"shot": "12"}) == (
        "Spring prj_1 ws_1/tech_1 Art director's critique flux-2/2026-03-08 12.png"
    )


def test_a_project_without_a_name_is_its_id() -> None:
    assert path("{project}/{run_id}", names=RunNames(project_id="prj_1")) == "prj_1/run_abc123.png"


def test_names_that_are_not_known_leave_no_empty_folder() -> None:
    template = "{project}/{workspace}/{technique_id}/{technique_name}/{model}/{meta.shot}/{stem}/{run_id}"
    assert path(template) == "run_abc123.png"
    assert path("{created}/{run_id}") == "_unknown/run_abc123.png"


def test_the_first_alternative_that_is_known_is_taken() -> None:
    template = "{label|technique|'none'}/{run_id}"
    assert path(template) == "spring/run_abc123.png"
    assert path(template, label=None) == "art-directors-critique/run_abc123.png"
    assert path(template, label="", technique=None) == "none/run_abc123.png"


def test_where_no_alternative_is_known_the_last_one_says_what_stands_there() -> None:
    assert path("{label|technique}/{run_id}", label=None, technique=None) == "_unknown/run_abc123.png"
    assert path("{technique|label}/{run_id}", label=None, technique=None) == "run_abc123.png"


@pytest.mark.parametrize("template", ["{label | 'no | label'}", '{label|"no | label"}'])
def test_text_among_alternatives_stands_in_quotes_and_may_hold_a_bar(template: str) -> None:
    with pytest.raises(ValueError, match=r"'\|' cannot be in a name"):
        Template.parse(template)
    assert path(template.replace("no | label", "no label"), label=None) == "no label.png"


def test_a_date_is_formatted_and_a_slash_in_its_format_makes_folders() -> None:
    assert path("{created:%Y-%m}/{run_id}", created=CREATED) == "2026-03/run_abc123.png"
    assert path("{created:%Y/%m}/{date:%d}-{run_id}", created=CREATED) == "2026/03/09-run_abc123.png"
    assert path("{label|created:%Y}/{run_id}", created=CREATED, label=None) == "2026/run_abc123.png"


def test_meta_is_looked_up_by_its_whole_name() -> None:
    meta = {"Shot No": "12/a", "a.b": "c"}
    assert path("{meta.a.b}/{run_id}", meta=meta) == "c/run_abc123.png"
    (folder, _) = path("{meta.Shot No}/{run_id}", meta=meta).split("/")
    assert folder.startswith("12_a~")


@pytest.mark.parametrize(
    ("url", "stem"),
    [
        ("https://media.flora.ai/a/hero%20shot.final.png?sig=s3cret#x", "hero shot.final"),
        ("https://media.flora.ai/a/hero", "hero"),
        ("https://media.flora.ai/", ""),
        ("https://media.flora.ai", ""),
        ("https://user:pass@host/.png", ".png"),
        ("data:image/png;base64,AAAA", ""),
        ("Words, not a URL/file.txt", ""),
    ],
)
def test_the_stem_is_the_name_of_the_file_at_the_url(url: str, stem: str) -> None:
    assert stem_of(url) == stem
    assert "s3cret" not in path("{stem}-{run_id}", url=url)


def test_the_users_folder_may_be_nested() -> None:
    assert path("{folder}/{run_id}", folder="media/images/") == "media/images/run_abc123.png"


def test_a_value_never_adds_a_folder() -> None:
    rendered = Template.parse(DEFAULT).render(
        msgspec.structs.replace(FIELDS, technique="../..", output_id="a/../../b"), ".png", 255
    )
    assert len(rendered) == 3
    assert not any("/" in name or name.startswith(".") for name in rendered)


def test_a_taken_name_has_a_counter_before_its_extension() -> None:
    assert path(DEFAULT, distinct=2).endswith("/run_abc123-output_1-2.png")


def test_an_extension_that_is_none_becomes_bin() -> None:
    assert path("{run_id}", extension=".p/../ng") == "run_abc123.bin"


def test_without_an_extension_the_stem_alone_is_given() -> None:
    assert path("{run_id}", extension="") == "run_abc123"


@pytest.mark.parametrize("technique", ["runs", "Runs", "RUNS"])
def test_no_output_goes_where_the_sidecars_are(technique: str) -> None:
    assert path("{technique}/{run_id}", technique=technique) == f"_{technique}/run_abc123.png"


def test_a_device_of_windows_that_only_comes_about_by_joining_is_not_named() -> None:
    assert not path("co{label}", label="n").startswith("con")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{run_i}{ext}", "did you mean {run_id}"),
        ("{zzz}", "the fields are folder kind"),
        ("{}", "the fields are"),
        ("/abs/{run_id}", "relative to output.dir"),
        ("../{run_id}", "lead out"),
        ("a/../{run_id}", "lead out"),
        ("~/{run_id}", "lead out"),
        ("./{run_id}", "must not start with '.'"),
        (".hidden/{run_id}", "must not start with '.'"),
        ("-{run_id}", "must not start with"),
        ("{run_id}./x", "not end with '.'"),
        ("{run_id}.{ext}", "not end with '.'"),
        ("con/{run_id}", "device"),
        ("{ext}/{run_id}", "very end"),
        ("{run_id}{ext}.bak", "very end"),
        ("{ext}{ext}", "very end"),
        ("a//{run_id}", "is empty"),
        ("{run_id}/", "is empty"),
        ("", "is empty"),
        ("{ext}", "is empty"),
        ("a\\{run_id}", "write '/'"),
        ("C:{run_id}", "':' cannot be in a name"),
        ("a\0{run_id}", "cannot be in a name"),
        ("{run_id", "braces"),
        ("run_id}", "braces"),
        ("{run_id:>9}", "only the index"),
        ("{index!r}", "only the index"),
        ("{run_id.__class__}", "not a field"),
        ("{index:9999999999}", "only the index"),
        ("{lable|technique}", "did you mean {label}"),
        ("{label|tecnique}", "did you mean {technique}"),
        ("{project_nam}", "did you mean {project"),
        ("{creatd}", "did you mean {created}"),
        ("{meta}", "{meta.shot}"),
        ("{meta.}", "{meta.shot}"),
        ("{meta.KEY}", "{meta.shot}"),
        ("{label|ext}", "very end"),
        ("{label|}", "not a field"),
        ("{label|'a/b'}", "cannot be in a name"),
        ("{label|'a}", "not a field"),
        ("{created:%Q}", "not a part of a date"),
        ("{created:%H:%M}", "':' cannot be in a name"),
        ("{created:%Y//%m}", "is empty"),
        ("{created:day}", "not the format of a date"),
        ("{label|created:%Y/%m}", "among alternatives"),
        ("{technique:%Y}", "only the index"),
        ("{year:%Y}", "only the index"),
        ("runs/{run_id}", "kept for the sidecars"),
        ("Runs/{run_id}", "kept for the sidecars"),
    ],
)
def test_a_template_that_is_wrong_is_refused_with_what_would_be_right(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("{", r"\{")):
        Template.parse(template)


hostile = st.text(max_size=300) | st.sampled_from(["..", "/", "\0", "con", "\U0001f600" * 300, "a\u202eb"])


@given(hostile, hostile, hostile | st.none(), st.integers(1, 999), st.sampled_from([64, 143, 255]))
def test_any_values_stay_inside_and_leave_room_for_the_part_file(
    output_id: str, technique: str, label: str | None, distinct: int, max_bytes: int
) -> None:
    fields = msgspec.structs.replace(FIELDS, output_id=output_id, technique=technique, label=label)
    template = Template.parse("{folder}/{label}/{technique}/{run_id}-{output_id}{ext}")
    names = template.render(fields, ".jpeg", max_bytes, distinct)
    (*_, stem) = template.render(fields, "", max_bytes, distinct)
    assert all("/" not in name and name[0] != "." and "\0" not in name for name in names)
    assert all(len(name.encode()) <= max_bytes for name in names)
    assert names[-1] == f"{stem}.jpeg"
    assert len(part_name(stem, TAG).encode()) <= max_bytes
    assert len(names) == 4 - (not label)


@given(hostile, hostile, hostile, hostile)
def test_hostile_names_meta_and_urls_stay_inside(name: str, project: str, meta: str, stem: str) -> None:
    fields = msgspec.structs.replace(
        FIELDS,
        names=RunNames(technique_name=name, project_id=project),
        meta={"shot": meta},
        url=f"https://media.flora.ai/{stem}",
    )
    template = Template.parse("{technique_name}/{project|technique}/{meta.shot}/{stem|output_id}{ext}")
    names = template.render(fields, ".png", 143)
    assert 2 <= len(names) <= 4
    assert all(name and "/" not in name and name[0] != "." and "\0" not in name for name in names)
    assert all(len(name.encode()) <= 143 for name in names)


@given(st.text(max_size=200), st.text(max_size=200))
def test_two_outputs_of_a_run_get_two_paths(one: str, other: str) -> None:
    assert (path(DEFAULT, output_id=one) == path(DEFAULT, output_id=other)) == (one == other)


@given(st.text(alphabet="{}/.~-:!ab0\0\\ ", max_size=12) | st.text(max_size=20))
def test_any_template_is_read_or_refused_in_words(text: str) -> None:
    try:
        template = Template.parse(text)
    except ValueError as error:
        assert len(str(error)) > 10  # noqa: PT017 - either outcome is right, the words are looked at
    else:
        assert template.render(FIELDS, ".png", 255)
