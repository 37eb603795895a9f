from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from floradl import redaction
from floradl.config import credentials
from floradl.config.credentials import read_api_key
from floradl.config.load import Options, load_config
from floradl.errors import ConfigError
from floradl.redaction import Secret, redact

_KEY = "sk_test_planted"


@pytest.fixture(autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    known = list(redaction._known)
    yield
    redaction._known[:] = known


class Places(msgspec.Struct, frozen=True):
    """Where keys may lie on this machine."""

    root: Path

    def file(self, name: str, text: str | bytes = _KEY) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def read(self, **environ: str) -> Secret | None:
        environ = {"HOME": str(self.root), **environ}
        config = load_config(Options(), environ, system_file=self.root / "config.yaml")
        return read_api_key(config, environ, run_secrets=self.root / "run/secrets")

    def key(self, **environ: str) -> str:
        secret = self.read(**environ)
        assert secret is not None
        return secret.reveal()

    def refusal(self, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            self.read(**environ)
        assert "planted" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_where_there_is_no_key_there_is_none(places: Places) -> None:
    assert (
        places.read(FLORA_API_KEY="", FLORA_API_KEY_FILE=" ", CREDENTIALS_DIRECTORY=str(places.root)) is None
    )


@pytest.mark.parametrize("name", ["FLORA_API_KEY", "FLORADL_API_KEY"])
def test_a_variable_may_hold_the_key(places: Places, name: str) -> None:
    assert places.key(**{name: f" {_KEY}\n"}) == _KEY


@pytest.mark.parametrize("name", ["FLORA_API_KEY_FILE", "FLORADL_API_KEY_FILE", "FLORADL_API__KEY_FILE"])
def test_a_variable_may_name_the_key_s_file(places: Places, name: str) -> None:
    assert places.key(**{name: str(places.file("key", f"\ufeff{_KEY}\r\n"))}) == _KEY


def test_the_configuration_may_name_the_key_s_file(places: Places) -> None:
    places.file("key")
    places.file("config.yaml", "api: {key_file: key}")
    assert places.key() == _KEY


def test_systemd_may_hand_the_key_over(places: Places) -> None:
    places.file("creds/flora_api_key")
    assert places.key(CREDENTIALS_DIRECTORY=str(places.root / "creds")) == _KEY


def test_an_empty_credential_of_systemd_s_names_the_file_to_fill(places: Places) -> None:
    places.file("creds/flora_api_key", "")
    told = places.refusal(CREDENTIALS_DIRECTORY=str(places.root / "creds"))
    assert "LoadCredential=flora_api_key:FILE" in told
    assert "/etc/floradl/flora_api_key" in told


def test_an_empty_credential_of_systemd_s_does_not_matter_where_the_key_is_elsewhere(places: Places) -> None:
    places.file("creds/flora_api_key", "\n")
    assert places.key(CREDENTIALS_DIRECTORY=str(places.root / "creds"), FLORA_API_KEY=_KEY) == _KEY


def test_a_container_s_secret_is_found(places: Places) -> None:
    places.file("run/secrets/flora_api_key", f"{_KEY}\n")
    assert places.key() == _KEY


def test_the_same_key_in_two_places_is_no_trouble(places: Places) -> None:
    places.file("run/secrets/flora_api_key", f"{_KEY}\n")
    assert places.key(FLORA_API_KEY=_KEY) == _KEY


def test_two_different_keys_are_an_error_that_names_both_places(places: Places) -> None:
    file = places.file("run/secrets/flora_api_key", "sk_test_planted_too")
    assert places.refusal(FLORA_API_KEY=_KEY) == (
        f"the variable FLORA_API_KEY and {file} hold different API keys: keep one of them"
    )
    named = places.file("named", "sk_test_planted_three")
    assert str(named) in places.refusal(FLORA_API_KEY=_KEY, FLORA_API_KEY_FILE=str(named))


def test_our_variables_win_over_flora_s_without_a_word(places: Places) -> None:
    other = str(places.file("other", "sk_test_planted_too"))
    assert places.key(FLORADL_API_KEY=_KEY, FLORA_API_KEY="sk_test_planted_too") == _KEY
    assert places.key(FLORADL_API_KEY=_KEY, FLORA_API_KEY_FILE=other) == _KEY
    file = str(places.file("key"))
    assert places.key(FLORADL_API__KEY_FILE=file, FLORA_API_KEY="sk_test_planted_too") == _KEY
    assert places.key(FLORADL_API__KEY_FILE=file, FLORA_API_KEY_FILE=other) == _KEY


def test_a_key_that_was_replaced_is_read_anew(places: Places) -> None:
    file = places.file("key")
    assert places.key(FLORA_API_KEY_FILE=str(file)) == _KEY
    places.file("key", "sk_test_planted_new")
    assert places.key(FLORA_API_KEY_FILE=str(file)) == "sk_test_planted_new"


def test_a_key_s_file_is_read_again_only_where_it_changed_or_a_second_later_or_when_forgotten(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = places.file("key")
    environ = {"HOME": str(places.root), "FLORA_API_KEY_FILE": str(file)}
    config = load_config(Options(), environ, system_file=places.root / "config.yaml")
    reads: list[Path] = []
    now = 100.0

    def read_text(path: Path, what: str, most: int = 4096) -> str:
        reads.append(path)
        return original(path, what, most)

    def key() -> str:
        secret = reader.read()
        assert secret is not None
        return secret.reveal()

    original = credentials.read_text
    monkeypatch.setattr(credentials, "read_text", read_text)
    reader = credentials.KeyReader(config, environ, lambda: now, run_secrets=places.root / "secrets")
    assert [key(), key(), reads.count(file)] == [_KEY, _KEY, 1]
    places.file("new", "sk_test_planted_new").replace(file)
    assert [key(), key(), reads.count(file)] == ["sk_test_planted_new", "sk_test_planted_new", 2]
    places.file("secrets/flora_api_key", "sk_test_planted_other")
    with pytest.raises(ConfigError, match="hold different API keys"):
        reader.read()
    (places.root / "secrets/flora_api_key").unlink()
    assert [key(), reads.count(file)] == ["sk_test_planted_new", 3]
    now += 1.0
    assert [key(), reads.count(file)] == ["sk_test_planted_new", 4]
    reader.forget()
    assert [key(), reads.count(file)] == ["sk_test_planted_new", 5]


def test_a_key_that_was_read_is_hidden_from_then_on(places: Places) -> None:
    places.read(FLORA_API_KEY="unusual+planted/key")
    assert redact("it is unusual+planted/key and unusual%2Bplanted%2Fkey") == "it is *** and ***"


def test_a_key_s_file_that_is_missing_is_an_error(places: Places) -> None:
    told = places.refusal(FLORA_API_KEY_FILE=str(places.root / "gone"))
    assert told == f"{places.root / 'gone'}: this file does not exist, but api.key_file names it"


def test_a_key_s_file_that_cannot_be_read_is_an_error(places: Places) -> None:
    told = places.refusal(FLORA_API_KEY_FILE="/proc/self/mem")
    assert told.startswith("/proc/self/mem: the API key's file cannot be read: Input/output error; give ")


def test_a_folder_in_the_key_s_place_is_an_error_that_says_why(places: Places) -> None:
    (places.root / "run/secrets/flora_api_key").mkdir(parents=True)
    assert "this is a folder" in places.refusal()


def test_a_common_place_that_cannot_be_read_does_not_matter_where_the_key_is_elsewhere(
    places: Places,
) -> None:
    (places.root / "run/secrets/flora_api_key").mkdir(parents=True)
    assert places.key(FLORA_API_KEY=_KEY) == _KEY


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"sk_test_planted\nsk_test_planted_too\n", "spaces, line ends"),
        (b"sk_test planted", "spaces"),
        (b"sk_test_planted\0x", "control characters"),
        ("sk_test_plantéd planted".encode(), "not ASCII"),
        (b"sk_test_planted\xff", "not plain text"),
        (b"x" * 5000, "more than 4096 bytes"),
        (b"FLORA_API_KEY=sk_test_planted", "the variable's name too"),
        (b'"sk_test_planted"', "in quotes"),
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(places: Places, data: bytes, fault: str) -> None:
    file = places.file("key", data)
    told = places.refusal(FLORA_API_KEY_FILE=str(file))
    assert told.startswith(f"{file}: ")
    assert fault in told


def test_a_variable_with_far_more_than_a_key_is_refused_and_not_looked_for_in_messages(
    places: Places,
) -> None:
    known = [*redaction._known]
    told = places.refusal(FLORA_API_KEY="x" * 100_000)
    assert "it has 100000 characters" in told
    assert redaction._known == known


@given(text=st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_key_that_is_taken_can_stand_in_a_header(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    places = Places(tmp_path_factory.getbasetemp())
    try:
        secret = places.read(FLORA_API_KEY=text)
    except ConfigError as error:
        assert len(text) < 12 or text.strip() not in str(error)  # noqa: PT017  # both outcomes are right
        return
    assert secret is None or (secret.reveal().isascii() and secret.reveal().isprintable())
