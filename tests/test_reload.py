"""A daemon whose configuration changes under it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from studio import TEST_TIMEOUT, Home, command, wait_until

from floradl.config.load import Options, Source
from floradl.config.settings import Config, Key
from floradl.daemon.reload import Reload, applicable, differing
from floradl.errors import ConfigError
from floradl.net.bandwidth import RateSchedule
from floradl.simulator import OutputSpec, Simulator

BIG = OutputSpec("big", "videoUrl", size=1_000_000)


def source_of(folder: Path) -> Source:
    return Source(Options(home=folder), {"HOME": str(folder)}, system_file=folder / "none.yaml")


def write(folder: Path, text: str) -> None:
    """Put a configuration in place as editors do: whole, under another name first."""
    new = folder / "new.yaml"
    new.write_text(text)
    new.rename(folder / "config.yaml")


# Noticing


def test_a_file_that_is_as_it_was_is_no_change(tmp_path: Path) -> None:
    write(tmp_path, "download: {rate_limit: 1MB}")
    source = source_of(tmp_path)
    source.load()
    assert [source.changed() for _ in range(3)] == [False] * 3


def test_a_file_counts_as_changed_once_it_is_quiet(tmp_path: Path) -> None:
    write(tmp_path, "download: {rate_limit: 1MB}")
    source = source_of(tmp_path)
    source.load()
    for _ in range(3):
        with (tmp_path / "config.yaml").open("a") as file:
            file.write("# still being written\n")
        assert not source.changed()
    assert source.changed()
    source.load()
    assert not source.changed()


@pytest.mark.parametrize("in_place", [False, True])
def test_other_words_of_the_same_size_and_time_are_a_change(tmp_path: Path, *, in_place: bool) -> None:
    write(tmp_path, "download: {rate_limit: 1MB}")
    source = source_of(tmp_path)
    source.load()
    file = tmp_path / "config.yaml"
    before = file.stat()
    if in_place:
        file.write_text("download: {rate_limit: 2MB}")
    else:
        write(tmp_path, "download: {rate_limit: 2MB}")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    source.changed()
    assert source.changed()


def test_a_file_that_comes_later_is_noticed_and_one_that_goes_too(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    assert source.load().file is None
    write(tmp_path, "download: {rate_limit: 1MB}")
    source.changed()
    assert source.changed()
    assert source.load().file == tmp_path / "config.yaml"
    (tmp_path / "config.yaml").unlink()
    source.changed()
    assert source.changed()


def test_a_broken_file_is_told_once_until_it_changes(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    source.load()
    write(tmp_path, "download: {rate_limit: fast}")
    source.changed()
    assert source.changed()
    with pytest.raises(ConfigError, match="rate_limit"):
        source.load()
    assert not source.changed()
    assert not source.changed()


# Applying


class Owner:
    """A `Change` that notes what it was told."""

    def __init__(self, *keys: Key, trouble: str | None = None) -> None:
        self.keys = keys
        self.told: list[tuple[Config, set[Key]]] = []
        self._trouble = trouble

    def check(self, config: Config, changed: Collection[Key]) -> None:
        assert config.home.is_absolute()
        assert changed
        if self._trouble is not None:
            raise ConfigError(self._trouble)

    async def apply(self, config: Config, changed: Collection[Key]) -> None:
        self.told.append((config, set(changed)))


RATE: Key = ("download", "rate_limit")
AT_ONCE: Key = ("download", "concurrency")


@pytest.mark.anyio
async def test_what_can_change_does_and_all_else_is_as_it_was(tmp_path: Path) -> None:
    source, owner = source_of(tmp_path), Owner(RATE)
    reload = Reload(source.load(), source, owner)
    write(tmp_path, "download: {rate_limit: 3MB, concurrency: 4}\npoll: {interval: 3s}")
    await reload.again()
    ((config, changed),) = owner.told
    assert changed == {RATE}
    assert config.download.rate_limit == RateSchedule.always(3_000_000)
    assert (config.download.concurrency, config.poll.interval) == (16, 2.0)
    assert set(differing(config, source.load())) == {AT_ONCE, ("poll", "interval")}


@pytest.mark.anyio
async def test_what_changed_once_is_not_told_again(tmp_path: Path) -> None:
    source, owner = source_of(tmp_path), Owner(RATE, AT_ONCE)
    reload = Reload(source.load(), source, owner)
    write(tmp_path, "download: {rate_limit: 3MB}")
    await reload.again()
    write(tmp_path, "download: {rate_limit: 3MB, concurrency: 4}")
    await reload.again()
    assert [changed for _, changed in owner.told] == [{RATE}, {AT_ONCE}]


@pytest.mark.anyio
async def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    source, owner = source_of(tmp_path), Owner(RATE)
    reload = Reload(source.load(), source, owner)
    write(tmp_path, "download: {rate_limit: 3MB\n")
    await reload.again()
    assert owner.told == []


@pytest.mark.anyio
async def test_what_would_not_work_changes_nothing(tmp_path: Path) -> None:
    source, owner = source_of(tmp_path), Owner(RATE, trouble="no such key")
    reload = Reload(source.load(), source, owner)
    write(tmp_path, "download: {rate_limit: 3MB}")
    await reload.again()
    assert owner.told == []


def test_another_api_gets_its_key_and_its_trust_with_the_restart_that_it_needs(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    before = source.load()
    with_it: list[Key] = [("api", "key_file"), ("network", "trusted_private_hosts")]
    text = "{key_file: k, base_url: https://other.example}\nnetwork: {trusted_private_hosts: [nas.local]}"
    write(tmp_path, f"api: {text}\ndownload: {{concurrency: 4}}")
    assert applicable(before, source.load(), [*with_it, AT_ONCE]) == [AT_ONCE]
    write(tmp_path, f"api: {text.replace(', base_url: https://other.example', '')}")
    assert applicable(before, source.load(), [*with_it, AT_ONCE]) == with_it


@pytest.mark.anyio
async def test_who_listens_hears_of_the_beginning_and_the_end(tmp_path: Path) -> None:
    heard: list[str | None] = []

    class Listener:
        def reloading(self) -> None:
            heard.append("begins")

        def reloaded(self, trouble: str | None) -> None:
            heard.append(trouble)

    source, owner = source_of(tmp_path), Owner(RATE)
    reload = Reload(source.load(), source, owner, Listener())
    write(tmp_path, "download: {rate_limit: fast}")
    await reload.again()
    write(tmp_path, "download: {rate_limit: 1MB}")
    await reload.again()
    assert heard[::2] == ["begins", "begins"]
    assert "rate_limit" in str(heard[1])
    assert heard[3] is None


# As a process


def received(status: Mapping[str, Any]) -> int:
    """How many bytes have come of what is under way."""
    return sum(output["bytes"] for run in status["runs"] for output in run["outputs"])


def test_a_change_of_the_file_reaches_transfers_under_way(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=[BIG, BIG], duration=0.1)
    write(home.path, "download: {rate_limit: 2kB}")
    with home.daemon():
        home.drop("campaign/run_a")
        status = wait_until(lambda: found if received(found := home.status()) else None)
        assert status["rate_limit"] == 2000
        write(home.path, "download: {rate_limit: fast}")
        broken = wait_until(lambda: home.events("config_broken"))
        assert "rate_limit: 'fast' is not a size" in broken[0]["message"]
        assert home.sidecar("campaign/run_a") is None
        write(home.path, "download: {stall_timeout: 20s}")
        assert home.finished("campaign/run_a")["result"] == "complete"
        wait_until(lambda: home.status()["rate_limit"] is None)
        assert len(home.events("config_broken")) == 1
        assert [event["settings"] for event in home.events("restart_needed")] == [["download.stall_timeout"]]
    # Nothing was given up or asked for anew on the way.
    assert len(simulator.asked("media", "run_a")) == 2


def test_sighup_applies_a_change_at_once_and_sigterm_ends_a_capped_daemon(
    home: Home, simulator: Simulator
) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=[BIG], duration=0.1)
    with home.daemon() as process:
        write(home.path, "download: {rate_limit: 1kB}")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: home.events("config_reloaded"))
        home.drop("campaign/run_a")
        wait_until(lambda: received(home.status()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    assert home.sidecar("campaign/run_a") is None


def test_a_terminal_that_is_closed_ends_the_daemon_in_it(home: Home) -> None:
    leader, follower = pty.openpty()
    log = (home.path / "daemon.log").open("a")
    script = (
        "import fcntl, os, signal, sys, termios\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # the tests may run under nohup
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [command()[0], "-c", script, *command("run")],
        env=home.environ,
        stdin=follower,
        stderr=log,
        start_new_session=True,
    )
    try:
        os.close(follower)
        wait_until(lambda: home.events("started"))
        os.kill(process.pid, signal.SIGHUP)
        wait_until(lambda: home.events("config_reloaded"))
        os.close(leader)
        assert process.wait(TEST_TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
        log.close()


def test_get_keeps_to_the_rate(home: Home, simulator: Simulator) -> None:
    outputs = [OutputSpec(f"o{number}", "imageUrl", size=100_000) for number in range(3)]
    simulator.add_run("run_a", technique="campaign", outputs=outputs, duration=0.1)
    began = simulator.now()
    assert home.run("get", "campaign/run_a", FLORADL_DOWNLOAD__RATE_LIMIT="100kB").returncode == 0
    assert simulator.now() - began > 2.7
