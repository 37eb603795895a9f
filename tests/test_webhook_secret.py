"""Where the secret of the webhooks is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from floradl import redaction
from floradl.config.credentials import FoundSecrets, find_webhook_secrets
from floradl.config.load import Options, load_config
from floradl.errors import ConfigError
from floradl.redaction import Secret, redact


@pytest.fixture(autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    known = list(redaction._known)
    yield
    redaction._known[:] = known


def find(folder: Path, **environ: str) -> FoundSecrets:
    environ = {"HOME": str(folder), **environ}
    config = load_config(Options(), environ, system_file=folder / "none.yaml")
    return find_webhook_secrets(config, environ, run_secrets=folder / "run-secrets")


def put(file: Path, text: str) -> str:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return str(file)


def test_without_any_there_is_none(tmp_path: Path) -> None:
    assert find(tmp_path).secrets == ()


def test_a_variable_with_far_more_than_a_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it has 100000 characters"):
        find(tmp_path, FLORA_WEBHOOK_SECRET="x" * 100_000)


def test_the_first_place_that_has_one_counts(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    put(tmp_path / "run-secrets" / "flora_webhook_secret", "whsec_container\n")
    assert find(tmp_path, **environ).secrets == (Secret("whsec_container"),)
    put(tmp_path / "credentials" / "flora_webhook_secret", "whsec_systemd\n")
    environ["CREDENTIALS_DIRECTORY"] = str(tmp_path / "credentials")
    assert find(tmp_path, **environ).secrets == (Secret("whsec_systemd"),)
    environ["FLORA_WEBHOOK_SECRET_FILE"] = put(tmp_path / "file", "whsec_file\n")
    assert find(tmp_path, **environ) == (str(tmp_path / "file"), (Secret("whsec_file"),))
    environ["FLORA_WEBHOOK_SECRET"] = "whsec_flora"
    assert find(tmp_path, **environ).secrets == (Secret("whsec_flora"),)
    environ["FLORADL_WEBHOOK_SECRET"] = "whsec_own"
    assert find(tmp_path, **environ) == ("the variable FLORADL_WEBHOOK_SECRET", (Secret("whsec_own"),))


def test_a_file_named_by_our_own_variable_wins_over_floras_variable(tmp_path: Path) -> None:
    file = put(tmp_path / "file", "whsec_file")
    found = find(tmp_path, FLORA_WEBHOOK_SECRET="whsec_flora", FLORADL_WEBHOOK_SECRET_FILE=file)
    assert found.secrets == (Secret("whsec_file"),)


def test_an_empty_variable_is_an_unset_one(tmp_path: Path) -> None:
    file = put(tmp_path / "file", "whsec_file")
    found = find(tmp_path, FLORA_WEBHOOK_SECRET=" ", FLORADL_WEBHOOK__SECRET_FILE=file)
    assert found.secrets == (Secret("whsec_file"),)


def test_while_it_changes_both_stand_in_the_file_one_a_line(tmp_path: Path) -> None:
    file = put(tmp_path / "file", "\ufeffwhsec_new\r\n\r\n  whsec_old  \n")
    found = find(tmp_path, FLORADL_WEBHOOK_SECRET_FILE=file)
    assert found.secrets == (Secret("whsec_new"), Secret("whsec_old"))


def test_a_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    file = put(tmp_path / "file", "whsec_old")
    assert find(tmp_path, FLORA_WEBHOOK_SECRET_FILE=file).secrets == (Secret("whsec_old"),)
    put(tmp_path / "file", "whsec_new")
    assert find(tmp_path, FLORA_WEBHOOK_SECRET_FILE=file).secrets == (Secret("whsec_new"),)


@pytest.mark.parametrize(
    ("text", "said"), [("", "empty"), (" \n", "empty"), ("two words", "not a webhook secret")]
)
def test_a_file_without_a_secret_is_named_and_not_shown(tmp_path: Path, text: str, said: str) -> None:
    file = put(tmp_path / "file", text)
    with pytest.raises(ConfigError, match=said) as caught:
        find(tmp_path, FLORA_WEBHOOK_SECRET_FILE=file)
    assert file in str(caught.value)
    assert "two words" not in str(caught.value)


def test_a_file_that_is_named_and_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"this file does not exist, but webhook\.secret_file"):
        find(tmp_path, FLORA_WEBHOOK_SECRET_FILE=str(tmp_path / "none"))


def test_it_is_hidden_from_then_on(tmp_path: Path) -> None:
    find(tmp_path, FLORA_WEBHOOK_SECRET="unusual-secret-text")
    assert redact("is unusual-secret-text shown?") == "is *** shown?"
