from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from floradl.fs.names import (
    MIN_BYTES,
    PART_RESERVE,
    SafeName,
    fold,
    join_names,
    part_name,
    safe_name,
    stored_path,
)

HOSTILE = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\windows\\system32",
    "C:\\autoexec.bat",
    "a/b",
    "a:b",
    "a_b",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "photo\u202egnp.exe",
    "zero\u200bwidth",
    "\ufeffmarked",
    "lone\ud800surrogate",
    "\U0001f469\u200d\U0001f680" * 300,
    "\U0001f600" * 300,
    "x" * 300,
    "x" * 299 + "y",
    "e\u0301" * 300,
    "Z\u0335" + "\u0336" * 400,
    "caf\u00e9",
    "cafe\u0301",
    "CON",
    "con",
    "con.txt",
    "con .txt",
    "NUL",
    "nul.tar.gz",
    "COM1",
    "COM\u00b9",
    "LPT9.log",
    "CONIN$",
    "AUX.",
    ".hidden",
    "-rf",
    " space",
    "space ",
    "dot.",
    "dots...",
    "???",
    "***",
    "<script>",
    'quo"te',
    "pipe|",
    "\ue000private",
    "\u0378unassigned",
    "line\u2028separator",
    "~",
    "~root",
    "Run",
    "run",
    "RUN",
]

texts = st.text(max_size=80) | st.text(alphabet="./\\: ~-_a0\u0301\u00e9CONcon\0\u202e", max_size=12)


def looks_right(name: str, max_bytes: int) -> bool:
    return (
        0 < len(name.encode()) <= max_bytes
        and not set(name) & set('<>:"/\\|?*')
        and all(unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn"} for char in name)
        and name[0] not in ".- "
        and name[-1] not in ". "
        and unicodedata.is_normalized("NFC", name)
    )


@pytest.mark.parametrize(
    "plain",
    [
        "run_abc123",
        "output_1",
        "art-directors-critique",
        "tech_01HZX",
        "_unknown",
        "v1.2",
        "Zwölf Boxkämpfer",
        "写真",
        "123e4567-e89b-12d3-a456-426614174000",
        "shoot-20261123",
        "console",
        "common",
        "\U0001f600",
    ],
)
def test_a_plain_name_comes_through_unchanged(plain: str) -> None:
    assert safe_name(plain, 255) == plain


@pytest.mark.parametrize("limit", [MIN_BYTES, 143, 255])
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_text_becomes_a_name_that_every_system_takes(text: str, limit: int) -> None:
    assert looks_right(safe_name(text, limit), limit)


def test_every_hostile_text_gets_a_file_of_its_own_on_a_real_disk(tmp_path: Path) -> None:
    names = [safe_name(text, 255) for text in HOSTILE]
    for name in names:
        (tmp_path / name).open("x").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("device", ["CON", "nul", "Com1", "LPT³", "prn.png", "aux .png", "CONOUT$", "com0"])
def test_a_device_of_windows_is_not_named(device: str) -> None:
    before_dot = safe_name(device, 255).split(".")[0].rstrip().casefold()
    assert before_dot != device.split(".", maxsplit=1)[0].rstrip().casefold()


def test_what_was_changed_carries_a_hash_before_its_extension() -> None:
    name = safe_name("a:b.png", 255)
    assert name.startswith("a_b~")
    assert name.endswith(".png")
    assert len(name) == len("a_b~12345678.png")


def test_twins_that_differ_in_normalisation_stay_two() -> None:
    composed, decomposed = safe_name("caf\u00e9", 255), safe_name("cafe\u0301", 255)
    assert composed == "caf\u00e9"
    assert fold(composed) != fold(decomposed)


def test_a_text_cannot_pass_for_what_another_became() -> None:
    taken = safe_name("a:b", 255)
    assert safe_name(taken, 255) != taken


def test_a_cut_does_not_part_an_accent_from_its_letter() -> None:
    for limit in range(MIN_BYTES, MIN_BYTES + 6):
        stem = safe_name("q\u0323" * 300, limit).split("~")[0]
        assert stem == "q\u0323" * (len(stem) // 2)


def test_a_cut_keeps_the_extension() -> None:
    assert safe_name("x" * 300 + ".json", 255).endswith(".json")


def test_a_limit_too_short_for_any_name_is_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        safe_name("x", MIN_BYTES - 1)


@given(texts, st.integers(MIN_BYTES, 255))
def test_any_text_becomes_a_name_that_every_system_takes(text: str, limit: int) -> None:
    assert looks_right(safe_name(text, limit), limit)


@given(texts, texts)
def test_two_texts_become_two_names(one: str, other: str) -> None:
    assert (safe_name(one, 64) == safe_name(other, 64)) == (one == other)


@given(texts)
@settings(max_examples=30)
def test_any_name_can_be_made_on_a_real_disk(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("names")
    name = safe_name(text, 255)
    (folder / name).write_bytes(b"")
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize("text", ["con", "a" * 300, "e\u0301", "name."])
def test_names_put_together_are_checked_again(text: str) -> None:
    joined = join_names(text, 255)
    assert joined != text
    assert looks_right(joined, 255)


def test_a_hash_from_a_part_of_a_joined_name_is_not_hashed_again() -> None:
    part = safe_name("a:b", 255)
    assert join_names(f"run_x-{part}", 255) == f"run_x-{part}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Run_A", "run_a"),
        ("É", "é"),
        ("É", "E\u0301"),
        ("\u017f", "S"),
        ("straße", "STRASSE"),
        ("\u0131", "I"),
        ("Σίσυφος", "σίσυφοσ"),
    ],
)
def test_names_that_are_one_file_somewhere_fold_alike(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_names_that_are_two_files_everywhere_fold_apart() -> None:
    assert fold("run_a") != fold("run_b")


@given(texts)
def test_folding_again_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(texts)
def test_case_never_tells_two_folded_names_apart(text: str) -> None:
    assert fold(text.lower()) == fold(text.upper()) == fold(text) == fold(text.casefold())


def test_a_part_file_is_hidden_and_takes_the_reserved_room() -> None:
    part = part_name(SafeName("run_a-output_1"), "0123abcd-4567cdef")
    assert part == ".run_a-output_1.0123abcd-4567cdef.part"
    assert len(part) == len("run_a-output_1") + PART_RESERVE


def test_a_tag_that_is_no_tag_is_refused() -> None:
    with pytest.raises(ValueError, match="tag"):
        part_name(SafeName("x"), "../evil")


def test_a_stored_path_is_taken_as_it_stands() -> None:
    assert stored_path("images/x y/run_a:b.png") == ("images", "x y", "run_a:b.png")


@pytest.mark.parametrize("path", ["", "/", "/a", "a/", "a//b", ".", "a/..", "../a", "a/./b", "a\\b", "a\0b"])
def test_a_stored_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="inside the library"):
        stored_path(path)
