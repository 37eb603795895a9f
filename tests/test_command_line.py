"""Settings that are commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from floradl.config.load import Options, load_config
from floradl.config.settings import Config
from floradl.errors import ConfigError


def read(folder: Path, text: str = "", **environ: str) -> Config:
    (folder / "config.yaml").write_text(text)
    return load_config(Options(config=folder / "config.yaml"), {"HOME": str(folder), **environ})


def refusal(folder: Path, text: str = "", **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, **environ)
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "hooks:", "hooks: {run_finished: null}", "hooks: {run_finished: []}"])
def test_no_hook_is_the_default(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).hooks.run_finished == ()


def test_the_words_of_a_command_stay_as_they_are_written(tmp_path: Path) -> None:
    text = 'hooks: {run_finished: [notify, "a b", "$HOME", "*", "", 0123, no]}'
    assert read(tmp_path, text).hooks.run_finished == ("notify", "a b", "$HOME", "*", "", "0123", "no")


@pytest.mark.parametrize(
    ("program", "found"),
    [("notify", "notify"), ("./bin/notify", "/bin/notify"), ("~/notify", "/notify"), ("/x/y", None)],
)
def test_only_a_program_with_a_path_is_relative_to_the_file(
    tmp_path: Path, program: str, found: str | None
) -> None:
    expected = program if found is None or "/" not in found else f"{tmp_path}{found}"
    assert read(tmp_path, f"hooks: {{paused: ['{program}', ./x]}}").hooks.paused == (expected, "./x")


@pytest.mark.parametrize(
    ("text", "words"),
    [("/opt/notify", ("/opt/notify",)), ('[notify, "a b"]', ("notify", "a b")), ("null", ()), ("[]", ())],
)
def test_a_variable_holds_a_program_or_a_list(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    found = read(tmp_path, "hooks: {paused: [other]}", FLORADL_HOOKS__PAUSED=text).hooks.paused
    assert found == words


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("notify --quiet", 'no shell reads it: write it like ["notify", "--quiet"]'),
        ("{run: notify}", "is a mapping to YAML"),
        ("['', x]", "names no program"),
        ("[notify, {a: b}]", "put each word in quotes"),
        ("[notify, null]", "put each word in quotes"),
        ('[notify, "a\\0b"]', "NUL"),
    ],
)
def test_what_is_no_command_is_refused_in_words(tmp_path: Path, value: str, said: str) -> None:
    message = refusal(tmp_path, f"hooks:\n  run_finished: {value}")
    assert said in message
    assert "config.yaml, line 2" in message


def test_a_variable_with_spaces_is_not_split(tmp_path: Path) -> None:
    message = refusal(tmp_path, FLORADL_HOOKS__PAUSED="notify me")
    assert "the variable FLORADL_HOOKS__PAUSED" in message
    assert '["notify", "me"]' in message


def test_a_key_of_floras_is_no_argument_and_is_not_repeated(tmp_path: Path) -> None:
    key = "sk_live_0123456789abcdef"
    message = refusal(tmp_path, f"hooks: {{paused: [notify, {key}]}}")
    assert "process list" in message
    assert key not in message
