"""Notifications of a real daemon, the command `notify`, and what `status` and `check` say of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from bystanders import open_to_all
from hooked import configure
from loopback import Certificate
from receivers import WebSite, web_site
from studio import Home, queue, wait_until

from floradl.simulator import Do, Fault, Match, Simulator

SECRETS = ("Secret123Token", "QuerySecret456")


@pytest.fixture
def site(certificate: Certificate) -> Iterator[WebSite]:
    with web_site(certificate) as site:
        yield site


@pytest.fixture
def urls(home: Home, site: WebSite, tls: dict[str, str]) -> Path:
    """A file with the address, which the home's configuration names."""
    file = home.path / "urls"
    file.write_text(f"# the studio's\n{site.url}\n")
    file.chmod(0o600)
    home.environ |= tls
    configure(home, notify={"urls_file": "urls"})
    return file


def test_a_test_message_gets_there_and_says_what_is_told(home: Home, site: WebSite, urls: Path) -> None:
    done = home.run("notify", "--test")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ok    line 2 (https): the message was taken\n"
    (body,) = site.got()
    assert body["title"] == "floradl: a test"
    assert "paused, failed, rejected, hook_failed" in body["text"]
    assert f"({home.path} on " in body["text"]
    said = home.run("notify").stdout
    assert said.startswith("line 2 (https) is told: paused, failed")
    assert urls.exists()
    assert site.tries == 1


def test_a_test_message_that_does_not_get_there_ends_with_1_and_shows_no_url(
    home: Home, site: WebSite, urls: Path
) -> None:
    site.statuses = [404]
    done = home.run("notify", "--test")
    assert done.returncode == 1
    assert "fail  line 2 (https): it answers HTTP 404: is the URL still right?" in done.stdout
    urls.write_text(f"https://user:Secret123Token@chat.example/\n{site.url}\n")
    wrong = home.run("notify", "--test")
    assert wrong.returncode == 2
    assert "fail  line 1: a user and password" in wrong.stdout
    assert "ok    line 2 (https): the message was taken" in wrong.stdout
    assert not any(secret in done.stdout + done.stderr + wrong.stderr for secret in SECRETS)


def test_without_an_address_notify_says_how_to_name_one(home: Home) -> None:
    done = home.run("notify", "--test")
    assert done.returncode == 2
    assert "notify.urls_file" in done.stderr


def test_check_says_where_messages_go_and_what_is_wrong_with_the_file(home: Home, urls: Path) -> None:
    said = home.run("check").stdout
    assert "to line 2 (https)" in said
    assert "can be read by" not in said
    urls.write_text("chat.example\n")
    assert "line 1: this is not a URL" in home.run("check").stdout


def test_check_says_who_else_may_read_the_urls(home: Home, urls: Path) -> None:
    with open_to_all() as shared:
        file = Path(shutil.copy(urls, shared / "urls"))
        file.chmod(0o644)
        configure(home, notify={"urls_file": str(file)})
        assert f"{file} can be read by every user of this machine" in home.run("check").stdout


def test_a_daemon_tells_of_a_pause_of_failures_and_of_refused_jobs(
    home: Home, simulator: Simulator, site: WebSite, urls: Path
) -> None:
    simulator.add_run("run_bad", technique="campaign", fail=("unlucky", "out of luck"), duration=0)
    with home.daemon():
        home.drop("campaign/run_bad\n")
        home.drop("campaign/ not a reference\n", "bad.txt")
        (body,) = site.got()
        assert "campaign/run_bad failed: " in body["text"]
        assert "job file bad.txt is refused: " in body["text"]
        simulator.faults.add(Fault(do=Do(status=401), match=Match(host="api")))
        queue(home, simulator, "run_paused")
        wait_until(lambda: "key_refused" in (home.state / "notify.json").read_text())
    assert not any(
        secret in path.read_text()
        for path in (home.state / "notify.json", home.path / "daemon.log")
        for secret in SECRETS
    )
    # The minute is not over: a later daemon tells what this one had no time to.
    memory = json.loads((home.state / "notify.json").read_text())
    memory["outboxes"]["line 2 (https)"]["sent_at"] -= 60
    (home.state / "notify.json").write_text(json.dumps(memory))
    with home.daemon():
        assert site.got(2)[1]["title"] == "floradl: paused (key_refused)"
    assert site.events.count("paused") == 1
    assert urls.exists()


def test_status_and_check_say_that_an_address_takes_no_message(
    home: Home, simulator: Simulator, site: WebSite, urls: Path
) -> None:
    site.statuses = [500] * 9
    simulator.add_run("run_bad", technique="campaign", fail=("unlucky", "out of luck"), duration=0.1)
    with home.daemon():
        home.drop("campaign/run_bad\n")
        (hint,) = wait_until(lambda: home.status()["hints"])
        assert "notify: line 2 (https) of notify.urls_file takes no message since" in hint
        assert "it answers HTTP 500" in hint
        assert hint in home.run("check").stdout
    assert urls.exists()


def test_a_reload_takes_another_file_and_a_broken_one_changes_nothing(
    home: Home, simulator: Simulator, site: WebSite, urls: Path
) -> None:
    other = home.path / "other"
    other.write_text("chat.example\n")
    configure(home, notify={"on": []})
    with home.daemon() as process:
        configure(home, notify={"urls_file": "other", "on": ["rejected"]})
        process.send_signal(signal.SIGHUP)
        (broken,) = wait_until(lambda: home.events("config_broken"))
        assert "other, line 1: this is not a URL" in broken["message"]
        configure(home, notify={"urls_file": str(urls), "on": ["rejected"]})
        process.send_signal(signal.SIGHUP)
        (reloaded,) = wait_until(lambda: home.events("config_reloaded"))
        assert reloaded["settings"] == ["notify.urls_file", "notify.on"]
        simulator.add_run("run_bad", technique="campaign", fail=("unlucky", "out of luck"), duration=0.1)
        home.drop("campaign/run_bad\n")
        home.finished("campaign/run_bad")
        home.drop("campaign/ not a reference\n", "bad.txt")
        site.got()
    assert site.events == ["job_rejected"]


def test_the_file_of_urls_is_not_read_where_others_could_write_it(home: Home, urls: Path) -> None:
    os.chmod(urls, 0o666)  # noqa: PTH101
    done = home.run("notify", "--test")
    assert done.returncode == 2
    assert "can be written by" in done.stderr or "chmod" in done.stderr
