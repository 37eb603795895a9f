"""Whose a path is: who may not use it, and who else may write what stands there, or put another in its place.

A path is as safe as the weakest place on the way to it. Whoever may write a folder can rename what is in it,
however that is protected; whoever owns a file or folder can give himself the right; and whoever may make a
link decides where it leads. In a sticky folder an entry is safe in the hands of its owner.

Sources: path_resolution(7), inode(7) (sticky), acl(5): where a path has an access control list, the group's
bits are the most that it grants to anyone named in it. Of groups: `secure_permissions` of Debian's OpenSSH
(user-group-modes.patch), for users with a group of their own and umask 002.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from floradl.errors import ExposedError
from floradl.portability import SEARCH_ONLY

_MOST_LINKS = 40  # as many as Linux follows, path_resolution(7)
_PASS = SEARCH_ONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ITSELF = "."
_ROOT: Final = 0
_ALL_USERS: Final = (0, 0, 2**32 - 1)  # of the first user namespace
FIRST_PERSON: Final = 1000
"""The first number of a user whom somebody logs in as, login.defs(5): those of services are below."""


class Step(Struct, frozen=True):
    """What stands at one place of the way to a path, as lstat(2) has it."""

    place: str
    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, place: str, status: os.stat_result) -> Step:
        """Take what concerns us out of `status`."""
        return cls(place, status.st_uid, status.st_gid, status.st_mode)


class Exposure(Struct, frozen=True):
    """Where on the way to a path others get in: the `place`, who they are, and the command against it."""

    place: str
    whom: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place} {self.whom}: {self.remedy}"


def judge(
    way: Iterable[Step], trusted: Collection[int], is_private: Callable[[int], bool]
) -> Exposure | None:
    """Say where on the `way` to a path others get in, None where nobody does; the way begins at the root.

    `trusted` are the users who may: whoever asks, and root. `is_private` says of a group's number whether
    nobody else is of it. The last step may be a sticky folder: who keeps something there must look whose
    it is.
    """
    shared = False
    for step in way:
        if stat.S_ISLNK(step.mode):
            if shared and step.uid not in trusted:
                return _theirs(step)
            continue
        if step.uid not in trusted:
            return _theirs(step)
        letters = _writers(step, is_private)
        is_folder = stat.S_ISDIR(step.mode)
        if letters and not (is_folder and step.mode & stat.S_ISVTX):
            return _open_to(step, letters)
        if is_folder:
            shared = bool(letters)
    return None


def may_write(status: os.stat_result, trusted: Collection[int]) -> bool:
    """Whether others than the `trusted` users may write a file, or put something into a folder."""
    step = Step.of("", status)
    return step.uid not in trusted or bool(_writers(step, is_private))


def trusted_users() -> frozenset[int]:
    """Return who may write what this process relies on: itself and root.

    In a sandbox that knows no root (user_namespaces(7)) the real one goes by the number for all the unknown.
    """
    return frozenset(
        {os.geteuid(), _ROOT if any(first == _ROOT for first, *_ in _known_users()) else _overflow()}
    )


def exposure(path: Path, trusted: Collection[int] | None = None) -> Exposure | None:
    """Say who else may write `path`, or put something else in its place; what is missing counts, too.

    Raises `OSError` where that is not known.
    """
    with _way(path) as (steps, _, _):
        return judge(steps, trusted_users() if trusted is None else trusted, is_private)


def open_unexposed(path: Path, what: str) -> int:
    """Open the file `path` for reading, whom nobody else may write or replace; return its descriptor.

    What is judged is what is opened: each folder on the way is held open meanwhile. Raises `ExposedError`,
    which names `what` it holds, and `OSError`.
    """
    trusted = trusted_users()
    with _way(path) as (steps, folder, name):
        _refuse(judge(steps, trusted, is_private), path, what)
        if name is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if name == _ITSELF:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        follow = 0 if _is_descriptor(steps[-1]) else os.O_NOFOLLOW
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | follow, dir_fd=folder)
        try:
            opened = Step.of(steps[-1].place, os.fstat(fd))
            _refuse(judge((*steps[:-1], opened), trusted, is_private), path, what)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _refuse(found: Exposure | None, path: Path, what: str) -> None:
    if found is not None:
        raise ExposedError(f"{path}: the {what} is not taken from there: {found}")


def make_above(path: Path) -> None:
    """Make the folders above `path` that are missing: this user's alone to write, whatever the umask gives.

    So a home is, though what is made in it may be open to a group. Raises `OSError`.
    """
    for folder in reversed(path.parents):
        if not os.path.lexists(folder):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o755)


def is_private(gid: int) -> bool:
    """Whether nobody but this user is of the group, as that of a person with umask 002 mostly is.

    Where user and group have no names, as in most containers, it is not known, and no group is private. Nor
    is a group that a service runs with, whoever is of it today: it is there to let others in.
    """
    try:
        me, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    of_a_service = 0 < me.pw_uid < FIRST_PERSON
    if of_a_service and gid in {me.pw_gid, os.getegid(), *os.getgroups()}:
        return False
    if {*group.gr_mem} - {me.pw_name}:
        return False
    return all(each.pw_gid != gid or each.pw_uid == me.pw_uid for each in pwd.getpwall())


def user_name(uid: int) -> str:
    """Name a user as `user alice`, or by the number."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def group_name(gid: int) -> str:
    """Name a group, by its number where it has no name."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def refusal(path: Path) -> str:
    """Say in numbers who may not use `path`, or make it, and whose it is, or what it would be made in.

    Numbers, because they are what a container and the machine around it have in common.
    """
    user = f"this user ({os.geteuid()}:{os.getegid()})"
    for place in (path, *path.parents):
        with suppress(OSError):
            found = place.stat()
            owner = f"{found.st_uid}:{found.st_gid}, mode {found.st_mode & 0o7777:o}"
            return (
                f"{place} ({owner}) is not open to {user}: give this user the right to it (chown), "
                "or run floradl as its owner"
            )
    return f"{path} is not open to {user}"


@contextmanager
def _way(path: Path) -> Iterator[tuple[list[Step], int, str | None]]:
    """Go to `path` link by link; gives the way, an open folder, and the name in it that the way ends at.

    Where something is missing the way ends early, and the name is None.
    """
    with ExitStack() as stack:

        def enter(name: str, above: int | None, place: str) -> int:
            fd = os.open(name, _PASS, dir_fd=above)
            stack.callback(os.close, fd)
            steps.append(Step.of(place, os.fstat(fd)))
            return fd

        steps: list[Step] = []
        here, folder = "/", enter("/", None, "/")
        ahead = _parts(os.path.join(os.getcwd(), path))  # noqa: PTH109, PTH118 - links are followed below
        links = 0
        while ahead:
            name = ahead.pop()
            place = os.path.join(here, name)  # noqa: PTH118 - a text it is
            if name == "..":
                here = os.path.dirname(here)  # noqa: PTH120
                folder = enter("..", folder, here)
                continue
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                yield steps, folder, None
                return
            if stat.S_ISDIR(status.st_mode):
                here, folder = place, enter(name, folder, place)
                continue
            steps.append(Step.of(place, status))
            if not stat.S_ISLNK(status.st_mode) or (not ahead and _is_descriptor(steps[-1])):
                if ahead:
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place)
                yield steps, folder, name
                return
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = os.readlink(name, dir_fd=folder)
            if target.startswith("/"):
                here, folder = "/", enter("/", None, "/")
            ahead += _parts(target)
        yield steps, folder, _ITSELF


def _parts(path: str) -> list[str]:
    """Return the components of a path, the first one last."""
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def _is_descriptor(step: Step) -> bool:
    """Whether it is a link of proc_pid_fd(5): it leads to what this process has open, by no path."""
    parts = step.place.split("/")
    return stat.S_ISLNK(step.mode) and len(parts) == 5 and parts[1] == "proc" and parts[3] == "fd"


def _writers(step: Step, is_private: Callable[[int], bool]) -> str:
    """Return the letters of chmod(1) for those who may write besides the owner.

    What is written to a device like /dev/null is not what is read from it.
    """
    if stat.S_ISCHR(step.mode):
        return ""
    group = step.mode & stat.S_IWGRP and not is_private(step.gid)
    return ("g" if group else "") + ("o" if step.mode & stat.S_IWOTH else "")


def _open_to(step: Step, letters: str) -> Exposure:
    from shlex import quote  # noqa: PLC0415 - where something is wrong

    whom = "every user" if "o" in letters else f"the group {group_name(step.gid)}"
    by_root = "" if os.geteuid() in {step.uid, _ROOT} else "as root: "
    remedy = f"{by_root}chmod {letters}-w {quote(step.place)}"
    return Exposure(step.place, f"can be written by {whom}", remedy)


def _theirs(step: Step) -> Exposure:
    from shlex import quote  # noqa: PLC0415 - where something is wrong

    place = quote(step.place)
    me = user_name(os.geteuid()).removeprefix("user ")
    what = "a link" if stat.S_ISLNK(step.mode) else "it"
    hidden = step.uid == _overflow() and _known_users() != [_ALL_USERS]
    unknown = ", somebody whom this container does not know" if hidden else ""
    remedy = f"if {what} is as it should be, as root: chown -h {me} {place}; if not, move it away"
    return Exposure(step.place, f"belongs to {user_name(step.uid)}{unknown}", remedy)


def _known_users() -> list[tuple[int, ...]]:
    """Return which numbers of users this process's user namespace knows: first, first outside, how many."""
    try:
        lines = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:
        return [_ALL_USERS]
    return [tuple(map(int, line.split())) for line in lines]


def _overflow() -> int:
    """Return the number by which all users go whom this namespace does not know."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    return 65534
