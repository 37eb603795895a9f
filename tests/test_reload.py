"""A daemon whose configuration changes under it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from studio import Home, command, wait_until

from floradl.config.load import Options
from floradl.config.source import Source
from floradl.errors import ConfigError
from floradl.net.throttle import Throttle
from floradl.net.timetable import Timetable
from floradl.reload import Reload, differing
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


@pytest.mark.anyio
async def test_only_what_needs_a_restart_is_told_to_need_one(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    before = source.load()
    throttle = Throttle(before.download.rate_limit)
    reload = Reload(before, source, throttle)
    write(tmp_path, "download: {rate_limit: 3MB, concurrency: 4}\npoll: {interval: 3s}")
    after = source.load()
    assert set(differing(before, after)) == {
        ("download", "rate_limit"),
        ("download", "concurrency"),
        ("poll", "interval"),
    }
    await reload.again()
    assert throttle.rate() == 3_000_000
    assert set(differing(reload._config, after)) == {("download", "concurrency"), ("poll", "interval")}


@pytest.mark.anyio
async def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    throttle = Throttle(Timetable.always(5000))
    reload = Reload(source.load(), source, throttle)
    write(tmp_path, "download: {rate_limit: 3MB\n")
    await reload.again()
    assert throttle.rate() == 5000


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
        assert "rate_limit: 'fast' is no size" in broken[0]["message"]
        assert home.sidecar("campaign/run_a") is None
        write(home.path, "download: {concurrency: 3}")
        assert home.finished("campaign/run_a")["result"] == "complete"
        wait_until(lambda: home.status()["rate_limit"] is None)
        assert len(home.events("config_broken")) == 1
        assert [event["settings"] for event in home.events("restart_needed")] == [["download.concurrency"]]
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
        wait_until(lambda: received(home.status()), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(8) == 0
    assert home.sidecar("campaign/run_a") is None


def test_a_terminal_that_is_closed_ends_the_daemon_in_it(home: Home) -> None:
    leader, follower = pty.openpty()
    log = (home.path / "daemon.log").open("a")
    script = (
        "import fcntl, os, sys, termios\n"
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
        assert process.wait(8) == 0
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
