"""A key's file that others may read is remarked; what systemd or a container engine put there is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from bystanders import open_to_all
from mounting import in_memory
from studio import Home, wait_until

from floradl.config.credentials import exposure
from floradl.simulator import OutputSpec, Simulator

WORDS = (OutputSpec("words", "text", text="Grown."),)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_to_all() as folder:
        yield folder


def key(folder: Path, mode: int) -> Path:
    file = folder / "key"
    file.write_text("sk_test_planted")
    file.chmod(mode)
    return file


def test_a_file_of_its_user_alone_is_nobody_else_s(folder: Path) -> None:
    assert exposure(key(folder, 0o600), {}) is None


def test_one_that_every_user_may_read_is_remarked(folder: Path) -> None:
    assert exposure(key(folder, 0o604), {}) == f"{folder}/key can be read by every user of this machine"


def test_one_that_the_group_may_read_is_remarked(folder: Path) -> None:
    assert str(exposure(key(folder, 0o640), {})).startswith(f"{folder}/key can be read by the group ")


def test_a_folder_that_nobody_else_can_enter_hides_it(folder: Path) -> None:
    folder.chmod(0o700)
    assert exposure(key(folder, 0o644), {}) is None


@pytest.mark.root
def test_one_of_root_s_that_a_service_s_group_may_read_is_as_it_should_be(folder: Path) -> None:
    file = key(folder, 0o640)
    os.chown(file, 12345, -1)
    assert exposure(file, {}) is None


def test_a_systemd_credential_is_not_remarked(folder: Path) -> None:
    assert exposure(key(folder, 0o644), {"CREDENTIALS_DIRECTORY": str(folder)}) is None


@pytest.mark.root
def test_a_secret_in_memory_is_not_remarked(folder: Path) -> None:
    with in_memory(folder / "disk", "1m"):
        assert exposure(key(folder / "disk", 0o444), {}) is None


def test_a_daemon_says_so_once_at_its_start(folder: Path, home: Home) -> None:
    del home.environ["FLORA_API_KEY"]
    with home.daemon(FLORA_API_KEY_FILE=str(key(folder, 0o644))):
        said = [event["message"] for event in home.events("key_file_readable")]
    assert said == [f"{folder}/key can be read by every user of this machine: chmod 600 '{folder}/key'"]


def test_a_key_that_is_replaced_is_used_from_the_next_request_on(home: Home, simulator: Simulator) -> None:
    file = key(home.path, 0o600)
    file.write_text(simulator.key)
    del home.environ["FLORA_API_KEY"]
    simulator.add_run("run_a", technique="campaign", outputs=WORDS, duration=0.1)
    simulator.add_run("run_b", technique="campaign", outputs=WORDS, duration=0.1)
    with home.daemon(FLORA_API_KEY_FILE=str(file)):
        home.drop("campaign/run_a\n")
        home.finished("campaign/run_a")
        simulator.key = "sk_test_rotated"
        new = home.path / "new"
        new.write_text("sk_test_rotated\n")
        new.rename(file)
        home.drop("campaign/run_b\n")
        home.finished("campaign/run_b")
        wait_until(lambda: home.status()["counts"]["done"] == 2)
        assert home.events("paused") == []
