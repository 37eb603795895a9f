"""A guest of floradl's group drops jobs and uses the library. He does not decide what the daemon does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import DAEMON, GROUP, GUEST, Service, service
from studio import wait_until

from floradl.simulator import OutputSpec, Simulator

pytestmark = pytest.mark.root

PICTURE = (OutputSpec("a", "imageUrl", size=3000),)
HOOK = """#!/bin/sh
env > '{stolen}'
"""


@pytest.fixture
def guarded(simulator: Simulator) -> Iterator[Service]:
    """A service as its unit sets it up, with one run to fetch."""
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=0)
    with service(simulator) as found:
        yield found


@pytest.fixture
def of_old(guarded: Service) -> Service:
    """One as the units of old set it up: its group may write the home, where settings are looked for."""
    guarded.path.chmod(0o2770)
    del guarded.environ["FLORADL_CONFIG"]
    return guarded


def plant_settings(of: Service) -> Path:
    """Have the guest write settings into the home, with a hook of his; return what that would leave."""
    stolen = of.path / "inbox" / "stolen"
    hook = of.path / "hook"
    script = 'printf "%s" "$1" > "$2"; chmod 755 "$2"; printf "%s" "$3" > "$4"'
    settings = f"hooks: {{run_finished: ['{hook}']}}\n"
    assert of.guest(script, HOOK.format(stolen=stolen), hook, settings, of.path / "config.yaml") == ""
    return stolen


def once(of: Service, code: int = 0) -> str:
    """Run `floradl once`; return what it said."""
    done = of.run("once")
    assert done.returncode == code, done.stderr
    return done.stderr


# --- as it is set up today ----------------------------------------------------------------------------------


def test_a_guest_drops_a_job_and_may_use_what_came_but_nothing_else(guarded: Service) -> None:
    with guarded.daemon():
        guarded.hand_in("campaign/run_a")
        outputs = guarded.finished("campaign/run_a")["outputs"]
    file = guarded.library / outputs[0]["path"]
    assert guarded.guest('mv "$1" "$1.mine"', file) == ""
    for script in ('touch "$1/config.yaml"', 'mv "$1/state" "$1/mine"', 'echo > "$1/state/library-seen"'):
        assert "Permission denied" in guarded.guest(script, guarded.path), script


def test_a_home_that_floradl_makes_is_its_own_to_write_though_inbox_and_library_are_open(
    guarded: Service,
) -> None:
    above = guarded.path.parent / "srv"
    above.mkdir()
    os.chown(above, DAEMON, GROUP)
    guarded.environ["FLORADL_HOME"] = str(above / "floradl")
    once(guarded)
    places = (".", "inbox", "library", "state")
    modes = {name: oct((above / "floradl" / name).stat().st_mode & 0o777) for name in places}
    assert modes == {".": "0o755", "inbox": "0o775", "library": "0o775", "state": "0o755"}


def test_nothing_of_the_state_may_be_written_by_others_though_the_umask_lets_them(guarded: Service) -> None:
    with guarded.daemon():
        wait_until((guarded.state / "live.json").exists)
        modes = {path.name: path.stat().st_mode & 0o022 for path in guarded.state.iterdir()}
    assert {"lock", "journal.sqlite3", "live.json", "library-seen"} <= modes.keys()
    assert set(modes.values()) == {0}


def test_what_an_earlier_version_let_the_group_write_of_the_state_is_taken_back(guarded: Service) -> None:
    once(guarded)
    (guarded.state / "library-seen").chmod(0o664)
    once(guarded)
    assert (guarded.state / "library-seen").stat().st_mode & 0o777 == 0o644


def test_settings_in_the_home_are_not_read_where_others_are_named_and_that_is_said(guarded: Service) -> None:
    guarded.path.chmod(0o2770)
    stolen = plant_settings(guarded)
    state = guarded.path.parent / "state"  # as in the image, where it has a volume of its own
    state.mkdir()
    os.chown(state, DAEMON, GROUP)
    with guarded.daemon(FLORADL_STATE_DIR=str(state)):
        guarded.hand_in("campaign/run_a")
        guarded.finished("campaign/run_a")
        (said,) = guarded.events("config_passed_over")
    assert f"{guarded.path}/config.yaml is not read: {guarded.config}" in said["message"]
    assert not stolen.exists()


# --- settings, key and hooks --------------------------------------------------------------------------------


def test_settings_that_a_guest_wrote_into_the_home_are_refused_with_the_mend(of_old: Service) -> None:
    stolen = plant_settings(of_old)
    told = once(of_old, 2)
    assert (
        f"{of_old.path}/config.yaml: the configuration is not taken from there: {of_old.path} can be" in told
    )
    assert f"can be written by the group {GROUP}: chmod g-w {of_old.path}" in told
    of_old.path.chmod(0o2750)
    told = once(of_old, 2)
    assert f"{of_old.path}/config.yaml belongs to user {GUEST}" in told
    assert "if not, move it away" in told
    assert not stolen.exists()


def test_settings_that_become_writable_are_refused_at_a_reload_and_the_old_ones_hold(
    guarded: Service,
) -> None:
    with guarded.daemon() as process:
        guarded.config.write_text("download: {concurrency: 3}\n")
        os.chown(guarded.config, -1, GROUP)
        guarded.config.chmod(0o664)
        process.send_signal(signal.SIGHUP)
        said = wait_until(lambda: guarded.events("config_broken"))[0]["message"]
        assert f"{guarded.config} can be written by the group {GROUP}: as root: chmod g-w" in said
        assert "what held so far still holds" in said
        guarded.config.chmod(0o644)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: guarded.events("config_reloaded"))


@pytest.fixture
def key(guarded: Service, simulator: Simulator) -> Path:
    """The file of the key, root's, and readable for the service."""
    file = guarded.etc / "key"
    file.write_text(simulator.key)
    os.chown(file, 0, GROUP)
    file.chmod(0o640)
    del guarded.environ["FLORA_API_KEY"]
    guarded.environ["FLORA_API_KEY_FILE"] = str(file)
    return file


def test_a_key_that_others_may_replace_is_refused_at_the_start(guarded: Service, key: Path) -> None:
    once(guarded)
    os.chown(guarded.etc, -1, GROUP)
    guarded.etc.chmod(0o775)
    guarded.environ["FLORADL_CONFIG"] = "/dev/null"
    told = once(guarded, 2)
    assert f"{key}: the API key is not taken from there: {guarded.etc} can be written by" in told
    assert "sk_" not in told


def test_a_key_that_others_may_replace_is_refused_at_a_reload(guarded: Service, key: Path) -> None:
    with guarded.daemon() as process:
        key.chmod(0o660)
        process.send_signal(signal.SIGHUP)
        said = wait_until(lambda: guarded.events("config_broken"))[0]["message"]
    assert f"{key}: the API key is not taken from there" in said
    assert f"as root: chmod g-w {key}" in said


@pytest.fixture
def hook(guarded: Service) -> Path:
    """The program of a hook, in a folder of root's."""
    program = guarded.etc / "arrived"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    guarded.config.write_text(f"hooks: {{run_finished: ['{program}']}}\n")
    return program


def test_a_hook_that_others_may_write_is_refused_at_the_start_and_found_by_check(
    guarded: Service, hook: Path
) -> None:
    once(guarded)
    os.chown(hook, -1, GROUP)
    hook.chmod(0o775)
    why = f"hooks.run_finished: '{hook}' is not run: {hook} can be written by the group {GROUP}"
    assert why in once(guarded, 2)
    assert f"FAIL  hooks: {why}" in guarded.run("check").stdout


def test_a_hook_that_others_may_write_is_refused_at_a_reload(guarded: Service, hook: Path) -> None:
    with guarded.daemon() as process:
        os.chown(hook, GUEST, -1)
        process.send_signal(signal.SIGHUP)
        said = wait_until(lambda: guarded.events("config_broken"))[0]["message"]
    assert f"{hook} belongs to user {GUEST}" in said


def test_a_hook_that_a_guest_took_over_meanwhile_is_not_run(guarded: Service, hook: Path) -> None:
    with guarded.daemon():
        os.chown(hook, GUEST, -1)
        guarded.hand_in("campaign/run_a")
        wait_until(lambda: "is not run" in (guarded.path / "daemon.log").read_text())
    assert guarded.events("hook_done") == []


def test_a_script_that_others_may_write_is_refused_though_its_interpreter_is_safe(guarded: Service) -> None:
    guarded.inbox.mkdir()
    script = guarded.inbox / "arrived.py"
    script.write_text("")
    os.chown(script, GUEST, GROUP)
    guarded.config.write_text(f"hooks: {{paused: [python3, -u, '{script}']}}\n")
    os.chown(guarded.inbox, DAEMON, GROUP)
    assert f"'{script}' is not run: {script} belongs to user {GUEST}" in once(guarded, 2)


# --- the state folder ---------------------------------------------------------------------------------------


def test_a_state_folder_that_a_guest_put_in_the_place_of_the_daemon_s_is_refused(of_old: Service) -> None:
    of_old.path.chmod(0o2750)
    once(of_old)
    of_old.path.chmod(0o2770)
    assert of_old.guest('mv "$1/state" "$1/.state"; cp -r "$1/.state" "$1/state"', of_old.path) == ""
    told = once(of_old, 2)
    assert f"the state folder {of_old.state} is not safe, others could replace it" in told
    assert f"chmod g-w {of_old.path} (in a systemd unit: StateDirectoryMode=2750)" in told
    of_old.path.chmod(0o2750)
    told = once(of_old, 2)
    assert f"{of_old.state} belongs to user {GUEST}: if it is as it should be, as root: chown" in told


@pytest.mark.parametrize("name", ["journal.sqlite3", "journal.sqlite3-wal", "lock", "library-seen"])
def test_a_file_of_the_state_that_is_a_guest_s_is_refused(guarded: Service, name: str) -> None:
    once(guarded)
    (guarded.state / name).touch()
    os.chown(guarded.state / name, GUEST, GROUP)
    assert f"{guarded.state / name} belongs to user {GUEST}" in once(guarded, 2)


def test_a_state_folder_below_a_sticky_one_is_safe_in_the_hands_of_its_owner(guarded: Service) -> None:
    guarded.path.chmod(0o3770)
    once(guarded)
    assert "not permitted" in guarded.guest('mv "$1/state" "$1/mine"', guarded.path)


def test_a_volume_that_is_sticky_and_open_to_all_holds_the_state(guarded: Service) -> None:
    volume = guarded.path.parent / "volume"
    volume.mkdir()
    volume.chmod(0o1777)
    guarded.environ["FLORADL_STATE_DIR"] = str(volume)
    once(guarded)
    assert (volume / "journal.sqlite3").stat().st_uid == DAEMON
    assert guarded.guest('touch "$1/journal.sqlite3-journal"', volume) == ""
    assert "journal.sqlite3-journal belongs to" in once(guarded, 2)


def test_check_tells_of_a_home_that_the_group_may_write(of_old: Service) -> None:
    once_new = of_old.run("check").stdout
    assert f"FAIL  state folder: the state folder {of_old.state} is not safe" in once_new
    assert f"warn  home: {of_old.path} can be written by the group {GROUP}" in once_new
    of_old.path.chmod(0o2750)
    mended = of_old.run("check").stdout
    assert "state folder: the state folder" not in mended
    assert "  home: " not in mended


# --- the library --------------------------------------------------------------------------------------------


def sidecar_of(run: str) -> str:
    """Return a sidecar as a guest would write it: the run is done, and has no outputs."""
    said: dict[str, Any] = {"reference": f"campaign/{run}", "technique": "campaign", "run_id": run}
    return json.dumps({"schema_version": 1, **said, "result": "complete", "outputs": []})


def plant_sidecar(of: Service, run: str = "run_a") -> Path:
    path = of.library / "runs/campaign" / f"{run}.json"
    script = 'mkdir -p "$(dirname "$2")"; printf "%s" "$1" > "$2"'
    assert of.guest(script, sidecar_of(run), path) == ""
    return path


def test_a_sidecar_that_a_guest_planted_makes_no_run_vanish(guarded: Service) -> None:
    once(guarded)
    plant_sidecar(guarded)
    (guarded.library / "runs/campaign").chmod(0o2775)
    guarded.hand_in("campaign/run_a")
    once(guarded)
    found = guarded.sidecar("campaign/run_a")
    assert found is not None
    assert [output["output_id"] for output in found["outputs"]] == ["a"]
    path = guarded.library / "runs/campaign/run_a.json"
    assert path.stat().st_uid == DAEMON
    assert path.with_name("run_a.json.foreign").read_text() == sidecar_of("run_a")


@pytest.mark.parametrize("sticky", [False, True])
def test_a_planted_sidecar_that_only_the_guest_may_read_or_move_holds_nothing_up(
    guarded: Service, *, sticky: bool
) -> None:
    once(guarded)
    path = plant_sidecar(guarded)
    path.chmod(0o600)
    path.parent.chmod(0o3777 if sticky else 0o2777)
    guarded.hand_in("campaign/run_a")
    once(guarded)
    assert guarded.status()["counts"]["done"] == 1
    own = [each for each in path.parent.iterdir() if each.stat().st_uid == DAEMON]
    assert len(own) == 1
    for file in guarded.state.iterdir():
        file.unlink()
    once(guarded)
    assert guarded.status()["counts"]["done"] == 1


def test_a_folder_of_sidecars_that_a_guest_closed_is_told_and_the_others_are_read(guarded: Service) -> None:
    once(guarded)
    guarded.hand_in("campaign/run_a")
    once(guarded)
    assert guarded.guest('mkdir -m 700 "$1"', guarded.library / "runs/aaa") == ""
    done = guarded.run("verify")
    assert f"foreign     runs/aaa: it belongs to user {GUEST}" in done.stdout
    assert "1 file of 1 run verified" in done.stdout
    for file in guarded.state.iterdir():
        file.unlink()
    once(guarded)
    assert guarded.status()["counts"]["done"] == 1


@pytest.mark.skipif(shutil.which("bindfs") is None, reason="needs bindfs")
def test_where_the_file_system_gives_all_files_to_one_user_its_sidecars_count(guarded: Service) -> None:
    # As an NFS server does that squashes all users: what the daemon writes is not the daemon's there.
    disk, behind = guarded.path.parent / "disk", guarded.path.parent / "behind"
    behind.mkdir()
    behind.chmod(0o777)
    disk.mkdir()
    options = [
        "--force-user=65534",
        "--force-group=65534",
        "--perms=a+rwX",
        "--chown-ignore",
        "--chmod-ignore",
    ]
    subprocess.run(["bindfs", *options, behind, disk], check=True)
    try:
        guarded.environ["FLORADL_OUTPUT__DIR"] = str(disk / "library")
        guarded.library = disk / "library"
        once(guarded)
        guarded.hand_in("campaign/run_a")
        once(guarded)
        assert (guarded.library / "runs/campaign/run_a.json").stat().st_uid == 65534
        assert guarded.run("verify").returncode == 0
        for file in guarded.state.iterdir():
            file.unlink()
        once(guarded)
        assert guarded.status()["counts"]["done"] == 1
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_planted_sidecar_is_told_by_verify_and_check(guarded: Service) -> None:
    once(guarded)
    path = plant_sidecar(guarded)
    told = guarded.run("verify")
    assert told.returncode == 1
    assert f"foreign     runs/campaign/run_a.json: it belongs to user {GUEST}" in told.stdout
    (problem,) = json.loads(guarded.run("verify", "--json").stdout)["problems"]
    assert (problem["problem"], problem["path"]) == ("foreign", "runs/campaign/run_a.json")
    assert (
        f"warn  sidecars: others may write the library, and these are not floradl's: {path}"
        in guarded.run("check").stdout
    )


def test_a_planted_sidecar_is_not_recalled_when_the_state_is_lost(guarded: Service) -> None:
    once(guarded)
    plant_sidecar(guarded)
    for file in guarded.state.iterdir():
        file.unlink()
    once(guarded)
    assert guarded.status()["counts"]["done"] == 0


def test_a_guest_cannot_rewrite_a_sidecar_of_the_daemon_s_though_the_files_are_open_to_him(
    guarded: Service,
) -> None:
    once(guarded)
    guarded.hand_in("campaign/run_a")
    once(guarded)
    sidecar = guarded.library / "runs/campaign/run_a.json"
    found = guarded.sidecar("campaign/run_a")
    assert found is not None
    assert "Permission denied" in guarded.guest('echo >> "$1"', sidecar)
    assert guarded.guest('echo >> "$1"', guarded.library / found["outputs"][0]["path"]) == ""


def test_what_the_daemon_writes_is_its_own_though_a_guest_left_a_file_for_it(guarded: Service) -> None:
    once(guarded)
    runs = guarded.library / "runs/campaign"
    assert guarded.guest('mkdir -p "$1"; chmod 2777 "$1"; umask 0; : > "$1/.run_a.json.part"', runs) == ""
    guarded.hand_in("campaign/run_a")
    once(guarded)
    assert (runs / "run_a.json").stat().st_uid == DAEMON


def test_sidecars_of_another_owner_count_where_the_daemon_alone_writes_the_library(guarded: Service) -> None:
    guarded.identity["umask"] = 0o022
    once(guarded)
    path = guarded.library / "runs/campaign/run_a.json"
    path.parent.mkdir(parents=True)
    path.write_text(sidecar_of("run_a"))
    os.chown(path, GUEST, GROUP)  # of a restore, say
    for folder in (path.parent, path.parent.parent):
        os.chown(folder, DAEMON, GROUP)
    guarded.drop("campaign/run_a")
    once(guarded)
    assert path.read_text() == sidecar_of("run_a")
    assert guarded.run("verify").returncode == 0


def test_the_daemon_s_sidecars_count_for_whoever_else_verifies(guarded: Service) -> None:
    once(guarded)
    guarded.hand_in("campaign/run_a")
    once(guarded)
    guarded.identity |= {"user": GUEST, "group": GUEST, "extra_groups": [GROUP]}
    done = guarded.run("verify")
    assert done.returncode == 0, done.stdout
