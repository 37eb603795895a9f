"""A folder that floradl may not use is told with what mends it; so is one that others may write."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from bystanders import open_to_all

from floradl.errors import ExposedError
from floradl.fs import permissions
from floradl.fs.permissions import Step, exposure, is_private, judge, open_unexposed, trusted_users

pytestmark = pytest.mark.root

# What it imports is read before the rights are gone: a checkout may be open to root alone.
_AS_ANOTHER = """
import os, sys
from pathlib import Path
import anyio, anyio._backends._asyncio, encodings.idna, shlex
from floradl.daemon.run import build_inbox
from floradl.errors import ConfigError
from floradl.daemon.startup import opened
from floradl.config.load import Options, load_config
config = load_config(Options(home=Path(sys.argv[1])), {"HOME": "/"}, system_file=Path("/nowhere"))
os.setgroups([]); os.setgid(4322); os.setuid(4321)
async def start():
    build_inbox(config)
    async with opened(config, "run"):
        pass
try:
    anyio.run(start)
except ConfigError as error:
    print(error)
"""


def start(home: Path) -> str:
    """Start as user 4321 of group 4322; return what is said."""
    command = [sys.executable, "-c", _AS_ANOTHER, str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_home_of_somebody_else_is_told() -> None:
    with open_to_all() as home:
        told = start(home)
        assert told.startswith(
            f"the watch folder {home}/inbox cannot be made: {home} (0:0, mode 755) is not open"
        )
        assert "to this user (4321:4322): give this user the right to it (chown)" in told


def test_a_watch_folder_of_somebody_else_is_told() -> None:
    with open_to_all() as home:
        (home / "inbox/accepted").mkdir(parents=True)
        assert f"{home}/inbox (0:0, mode 755) is not open to this user (4321:4322)" in start(home)


def test_a_journal_left_by_another_user_is_told() -> None:
    with open_to_all() as home:
        for name in ("inbox", "state"):
            (home / name).mkdir()
            os.chown(home / name, 4321, 4322)
        (home / "state/lock").touch(0o644)
        told = start(home)
        assert told.startswith(
            f"the state folder {home}/state cannot be used: {home}/state/lock (0:0, mode 644)"
        )
        assert "run floradl as its owner" in told


# --- who else may write a path ------------------------------------------------------------------------------

ME, OTHER, GROUP = 4321, 4323, 4322


def step(place: str, mode: int, uid: int = 0) -> Step:
    return Step(place, uid, GROUP, mode)


def judged(*way: Step, private: bool = False) -> str | None:
    found = judge((step("/", stat.S_IFDIR | 0o755), *way), {0, ME}, lambda _: private)
    return None if found is None else str(found)


def folder(mode: int, uid: int = ME) -> Step:
    return step("/srv", stat.S_IFDIR | mode, uid)


def file(mode: int, uid: int = ME) -> Step:
    return step("/srv/file", stat.S_IFREG | mode, uid)


def link(uid: int) -> Step:
    return step("/srv/link", stat.S_IFLNK | 0o777, uid)


@pytest.mark.parametrize("uid", [0, ME])
def test_a_file_of_root_s_or_of_this_user_s_in_folders_of_theirs_is_safe(uid: int) -> None:
    assert judged(folder(0o755, uid), file(0o644, uid)) is None


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ((folder(0o755), file(0o664)), "/srv/file can be written by the group 4322: "),
        ((folder(0o755), file(0o646)), "/srv/file can be written by every user: "),
        ((folder(0o775), file(0o644)), "/srv can be written by the group 4322: "),
        ((folder(0o777), file(0o644)), "/srv can be written by every user: "),
        ((folder(0o755), file(0o600, OTHER)), "/srv/file belongs to user 4323: "),
        ((folder(0o755, OTHER), file(0o600)), "/srv belongs to user 4323: "),
        ((folder(0o1777), file(0o600, OTHER)), "/srv/file belongs to user 4323: "),
        ((folder(0o1777), link(OTHER), file(0o600)), "/srv/link belongs to user 4323: "),
        ((folder(0o755), link(ME), folder(0o777), file(0o600)), "/srv can be written by every user: "),
    ],
)
def test_one_that_others_may_write_or_replace_is_told(way: tuple[Step, ...], told: str) -> None:
    assert str(judged(*way)).startswith(told)


def test_in_a_sticky_folder_an_entry_is_safe_in_the_hands_of_its_owner() -> None:
    assert judged(folder(0o1777, 0), file(0o600)) is None
    assert judged(folder(0o1777, 0), link(ME), folder(0o755), file(0o600)) is None


def test_a_link_in_a_folder_that_nobody_else_may_write_leads_where_its_owner_wants() -> None:
    assert judged(folder(0o755), link(OTHER), folder(0o755), file(0o644)) is None


def test_a_group_of_this_user_alone_may_write() -> None:
    assert judged(folder(0o775), file(0o664), private=True) is None
    assert str(judged(folder(0o777), private=True)).startswith("/srv can be written by every user")


def test_what_is_written_to_a_device_is_not_what_is_read_from_it() -> None:
    assert exposure(Path("/dev/null")) is None


def test_the_way_is_followed_over_links_and_up_again(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open/file").touch()
    (tmp_path / "link").symlink_to("open/../open/file")
    assert str(exposure(tmp_path / "link")).startswith(f"{tmp_path}/open can be written by every user")


def test_where_a_file_is_to_be_made_yet_its_folder_is_looked_at(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert str(exposure(tmp_path / "a/b")).startswith(f"{tmp_path} can be written by every user: chmod o-w")


def test_the_command_that_is_told_mends_it(tmp_path: Path) -> None:
    place = tmp_path / "it's mine"
    place.mkdir()
    place.chmod(0o2777)
    os.chown(place, -1, GROUP)
    found = exposure(place / "file")
    assert found is not None
    subprocess.run(["sh", "-c", found.remedy], check=True)
    assert exposure(place / "file") is None


def test_links_in_a_circle_are_an_error_as_they_are_to_the_system(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        exposure(tmp_path / "a")


def test_a_file_that_a_process_hands_on_is_opened(tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("log: {level: error}")
    with (tmp_path / "settings").open() as handed:
        fd = open_unexposed(Path(f"/proc/self/fd/{handed.fileno()}"), "configuration")
    with os.fdopen(fd) as opened:
        assert opened.read() == "log: {level: error}"


@pytest.mark.usefixtures("no_descriptor_is_left_open")
def test_no_folder_on_the_way_stays_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.close(open_unexposed(tmp_path / "file", "configuration"))
    (tmp_path / "file").chmod(0o666)
    with pytest.raises(ExposedError, match="the configuration is not taken from there"):
        open_unexposed(tmp_path / "file", "configuration")


_USERS = {"person": (1500, 1500), "other": (1501, 1501), "daemon": (998, 998)}
_GROUPS = {
    "person": (1500, ()),
    "shared": (1600, ("person", "other")),
    "daemon": (998, ()),
    "empty": (50, ()),
}


@pytest.mark.parametrize(
    ("user", "gid", "is_private_to"),
    [
        ("person", 1500, True),  # of Debian's and Fedora's users, with umask 002
        ("person", 1600, False),
        ("person", 1501, False),  # the number has no name
        ("person", 50, True),  # as staff is, which may write /usr/local of old Debians
        ("daemon", 998, False),  # it is there to let people in, whoever is of it today
        ("daemon", 50, True),
        (None, 1500, False),  # as in a container
    ],
)
def test_a_group_is_private_where_nobody_else_is_of_it(
    monkeypatch: pytest.MonkeyPatch, user: str | None, gid: int, *, is_private_to: bool
) -> None:
    people = {
        name: pwd.struct_passwd((name, "x", uid, own, "", "/", "/bin/sh"))
        for name, (uid, own) in _USERS.items()
    }
    groups = {
        number: grp.struct_group((name, "x", number, [*who])) for name, (number, who) in _GROUPS.items()
    }
    uid = _USERS[user][0] if user else 4321
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: uid)
    monkeypatch.setattr(os, "getgroups", list)
    monkeypatch.setattr(pwd, "getpwuid", {each.pw_uid: each for each in people.values()}.__getitem__)
    monkeypatch.setattr(pwd, "getpwall", lambda: [*people.values()])
    monkeypatch.setattr(grp, "getgrgid", groups.__getitem__)
    assert is_private(gid) is is_private_to


def test_in_a_sandbox_that_knows_no_root_the_real_one_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permissions, "_known_users", lambda: [(1000, 1000, 1)])
    assert trusted_users() == {os.geteuid(), 65534}
