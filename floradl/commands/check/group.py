"""Who besides the daemon's user may use it: the service's group, and others who may write its files."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from floradl.commands.check import CheckResult, ok, warn
from floradl.config.load import passed_over
from floradl.config.settings import Config
from floradl.errors import FloradlError
from floradl.fs.permissions import FIRST_PERSON, exposure, trusted_users
from floradl.library_builder import folder_library

_SHOWN = 3
_USE = stat.S_IRGRP | stat.S_IXGRP
_DROP = stat.S_IWGRP | stat.S_IXGRP
_UMASK = "set UMask=0002 in its unit (or umask 002 before it starts)"


def state_writers(config: Config) -> Collection[int]:
    """Return who may write the state: who asks, root, and the home's owner, as whom floradl mostly runs.

    Where the state folder is this user's, floradl runs as this user, and the home's owner is another.
    """
    with suppress(OSError):
        if not config.state_dir.exists() or config.state_dir.stat().st_uid != os.geteuid():
            return trusted_users() | {config.home.stat().st_uid}
    return trusted_users()


def check_guests(config: Config) -> Iterator[CheckResult]:
    """Check who else can change the state, the hooks' programs or the library."""
    if (why := passed_over(config)) is not None:
        yield warn("configuration", why, "move what is right in it there, and remove it")
    with suppress(OSError):  # a folder that cannot be reached is reported elsewhere
        if (found := exposure(config.home, state_writers(config))) is not None:
            message = (
                f"{found.place} {found.whom}, so what is in it can be renamed: inbox and library alone need "
                "to be open to others"
            )
            yield warn("home", message, found.remedy)
    yield from _library(config)


def _library(config: Config) -> Iterator[CheckResult]:
    place = config.output.dir
    if not isinstance(place, Path):
        return  # who may write a bucket is its owner's to say
    library = folder_library(config, place)
    try:
        if not library.others_may_write():
            return
        theirs = (entry.path for entry in library.scan() if entry.foreign is not None)
        found = [library.location(path) for path in islice(theirs, _SHOWN + 1)]
    except FloradlError:  # reported elsewhere
        return
    if found:
        more = ", …" if len(found) > _SHOWN else ""
        message = (
            f"others may write the library, and these are not floradl's: {', '.join(found[:_SHOWN])}{more}"
        )
        yield warn("sidecars", message, "'floradl verify' lists each: none of them counts")
    else:
        yield ok("sidecars", "others may write the library too: what they put there says nothing of a run")


def check_group(config: Config) -> Iterator[CheckResult]:
    """Check inbox and library. Nothing of a floradl that a person runs, nor before the first start."""
    inbox, library = config.queue.watch_dir, config.output.dir
    with suppress(OSError, KeyError):
        status = inbox.stat()
        if not 0 < status.st_uid < FIRST_PERSON:
            return
        group = grp.getgrgid(status.st_gid).gr_name
        folders = [folder for folder in (inbox, library) if isinstance(folder, Path)]
        faults = list(_faults(folders, status.st_gid, group))
        for message, remedy in faults:
            yield warn("group", message, remedy)
        if not faults:
            owner = pwd.getpwuid(status.st_uid).pw_name
            joins = f"sudo usermod -aG {group} NAME"
            yield ok("group", f"of {owner}'s: people of {group} can drop jobs and use the library ({joins})")


def _faults(folders: Sequence[Path], gid: int, group: str) -> Iterator[tuple[str, str]]:
    """Look at the inbox and, where that is a folder, the library."""
    inbox, *libraries = folders
    for folder in folders:
        ways = [above for above in folder.parents if above != Path("/")]
        closed = next((above for above in ways if not _may(above, gid, stat.S_IXGRP)), None)
        if closed is not None:
            remedy = f"as root: chgrp {group} '{closed}' && chmod g+x '{closed}'"
            yield f"people of {group} cannot get to {folder}: {closed} lets them not through", remedy
            return
    if not _may(inbox, gid, _DROP):
        message = f"people of {group} cannot put job files into {inbox}"
        yield message, f"{_UMASK}, and as root: chmod -R g+rwX '{inbox}'"
    for library in libraries:
        if library.exists() and not _may(library, gid, _USE):
            message = f"people of {group} cannot open the library {library}"
            yield message, f"{_UMASK}, and as root: chgrp -R {group} '{library}' && chmod -R g+rX '{library}'"


def _may(folder: Path, gid: int, bits: int) -> bool:
    """Whether the group, or else everybody, has these rights; access control lists show as the group's."""
    status = folder.stat()
    ours = bits if status.st_gid == gid else bits >> 3
    return status.st_mode & ours == ours
