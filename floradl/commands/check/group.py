"""Whether people can get at a floradl that is a service, with a user of its own: its group lets them."""

from __future__ import annotations

import grp
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from floradl.commands.check.finding import CheckResult, ok, warn
from floradl.config.settings import Config
from floradl.fs.permissions import FIRST_PERSON

_USE = stat.S_IRGRP | stat.S_IXGRP
_DROP = stat.S_IWGRP | stat.S_IXGRP
_UMASK = "set UMask=0002 in its unit (or umask 002 before it starts)"


def check_group(config: Config) -> Iterator[CheckResult]:
    """Look at inbox and library. Says nothing of a floradl that a person runs, nor before the first start."""
    inbox, library = config.queue.watch_dir, config.output.dir
    with suppress(OSError, KeyError):
        status = inbox.stat()
        if not 0 < status.st_uid < FIRST_PERSON:
            return
        group = grp.getgrgid(status.st_gid).gr_name
        faults = list(_faults(inbox, library, status.st_gid, group))
        for message, remedy in faults:
            yield warn("group", message, remedy)
        if not faults:
            owner = pwd.getpwuid(status.st_uid).pw_name
            joins = f"sudo usermod -aG {group} NAME"
            yield ok("group", f"of {owner}'s: people of {group} can drop jobs and use the library ({joins})")


def _faults(inbox: Path, library: Path, gid: int, group: str) -> Iterator[tuple[str, str]]:
    """Give what keeps people of the group out, and how to fix it."""
    for folder in (inbox, library):
        closed = next((above for above in folder.parents if not _may_enter(above, gid)), None)
        if closed is not None:
            remedy = f"as root: chgrp {group} '{closed}' && chmod g+x '{closed}'"
            yield f"people of {group} cannot get to {folder}: {closed} lets them not through", remedy
            return
    if not _may(inbox, gid, _DROP):
        message = f"people of {group} cannot put job files into {inbox}"
        yield message, f"{_UMASK}, and as root: chmod -R g+rwX '{inbox}'"
    if library.exists() and not _may(library, gid, _USE):
        message = f"people of {group} cannot open the library {library}"
        yield message, f"{_UMASK}, and as root: chgrp -R {group} '{library}' && chmod -R g+rX '{library}'"


def _may_enter(folder: Path, gid: int) -> bool:
    return folder == Path("/") or _may(folder, gid, stat.S_IXGRP)


def _may(folder: Path, gid: int, bits: int) -> bool:
    """Whether the group, or else everybody, has these rights; access control lists show as the group's."""
    status = folder.stat()
    ours = bits if status.st_gid == gid else bits >> 3
    return status.st_mode & ours == ours
