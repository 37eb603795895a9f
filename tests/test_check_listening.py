"""What `floradl check` says of the places where floradl listens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Server
from ports import free_port
from studio import Home, wait_until

from floradl import redaction
from floradl.commands.check.machine import check_listening
from floradl.config.load import Options, load_config


@pytest.fixture(autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    known = list(redaction._known)
    yield
    redaction._known[:] = known


@pytest.fixture
def port() -> int:
    return free_port()


def findings(folder: Path, *, daemon: bool = False, **environ: str) -> dict[str, str]:
    environ = {"HOME": str(folder), **environ}
    config = load_config(Options(), environ, system_file=folder / "none.yaml")
    found = check_listening(config, environ, daemon=daemon)
    return {finding.name: str(finding) for finding in found}


def test_who_listens_nowhere_hears_nothing_of_it(tmp_path: Path) -> None:
    assert findings(tmp_path) == {}


def test_a_free_address_and_a_secret_are_well(tmp_path: Path, port: int) -> None:
    found = findings(
        tmp_path, FLORADL_WEBHOOK__LISTEN=f"127.0.0.1:{port}", FLORA_WEBHOOK_SECRET="whsec_a\nwhsec_b"
    )
    assert found["webhook.listen"].startswith("ok")
    assert found["webhook secret"].endswith("2 of them")
    assert "whsec_a" not in "".join(found.values())


def test_a_port_that_another_has_is_a_failure(tmp_path: Path) -> None:
    with Server() as other:
        address = f"127.0.0.1:{other.port}"
        for daemon in (False, True):
            found = findings(tmp_path, daemon=daemon, FLORADL_METRICS__LISTEN=address)
            assert found["metrics.listen"].startswith("FAIL")
            assert "another program has it" in found["metrics.listen"]


def test_a_daemon_that_does_not_listen_is_a_failure(tmp_path: Path, port: int) -> None:
    found = findings(tmp_path, daemon=True, FLORADL_METRICS__LISTEN=f"127.0.0.1:{port}")
    assert "nobody answers" in found["metrics.listen"]


def test_an_address_that_this_machine_does_not_have_is_a_failure(tmp_path: Path) -> None:
    found = findings(tmp_path, FLORADL_METRICS__LISTEN="192.0.2.1:8787")
    assert "no such address" in found["metrics.listen"]


@pytest.mark.parametrize(
    ("secret", "said"),
    [("", "FAIL  webhook secret: there is no"), ("planted", "warn  webhook secret: what")],
)
def test_a_secret_that_is_missing_or_strange_is_told(
    tmp_path: Path, port: int, secret: str, said: str
) -> None:
    listen = f"127.0.0.1:{port}"
    found = findings(tmp_path, FLORADL_WEBHOOK__LISTEN=listen, FLORA_WEBHOOK_SECRET=secret)
    assert found["webhook secret"].startswith(said)
    assert "planted" not in found["webhook secret"]


def test_a_daemon_that_listens_is_well_and_one_address_for_both_is_told_once(home: Home, port: int) -> None:
    address = f"127.0.0.1:{port}"
    home.environ |= {"FLORADL_WEBHOOK__LISTEN": address, "FLORADL_METRICS__LISTEN": address}
    home.environ["FLORA_WEBHOOK_SECRET"] = "whsec_a"
    with home.daemon():
        wait_until(lambda: home.events("listening"))
        text = home.run("check").stdout
    assert f"ok    webhook.listen and metrics.listen: the daemon listens at {address}" in text


def test_a_gallery_is_checked_for_its_address_its_token_and_its_extra(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = f"127.0.0.1:{port}"
    assert findings(tmp_path, FLORADL_WEB__LISTEN=listen)["web.listen"].startswith("ok")
    assert "nobody answers" in findings(tmp_path, daemon=True, FLORADL_WEB__LISTEN=listen)["web.listen"]
    (tmp_path / "token").write_text("short")
    told = findings(tmp_path, FLORADL_WEB__LISTEN=listen, FLORADL_WEB__TOKEN_FILE=str(tmp_path / "token"))
    assert told["web.token_file"].startswith("FAIL")
    assert "short" not in told["web.token_file"]
    monkeypatch.setattr("floradl.daemon.gallery.find_spec", lambda _: None)
    assert "the extra `web`" in findings(tmp_path, FLORADL_WEB__LISTEN=listen)["web.listen"]


def test_a_daemon_whose_gallery_answers_is_well(home: Home, port: int) -> None:
    home.environ["FLORADL_WEB__LISTEN"] = f"127.0.0.1:{port}"
    with home.daemon():
        told = f"ok    web.listen: the daemon listens at 127.0.0.1:{port}"
        wait_until(lambda: told in home.run("check").stdout)
