"""How much work may be open at a time: what is beyond it waits where it lies until there is room.

Without a bound three job files of 1 MiB make 222,000 runs and 35 MB of journal, and the next three again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from floradl.incoming.inbox import Job

MAX_OPEN = "max_open"
STATE_DISK_FULL = "state_disk_full"
_FLOOR = 64 << 20  # bytes: what the largest job file makes of the journal and its log, several times
_NOTHING = 64 << 10  # bytes
_SHARE = 20  # of a small disk, as a part of it


class Held(msgspec.Struct, frozen=True):
    """Why job files wait: `reason` is one of the two words above, `since` unix seconds."""

    reason: str
    message: str
    since: float


class Admission(msgspec.Struct, frozen=True):
    """What is done with jobs. Those that wait, and those too large for ever, with how many runs they open."""

    taken: tuple[Job, ...] = ()
    waiting: tuple[tuple[Job, int], ...] = ()
    too_large: tuple[tuple[Job, int], ...] = ()


def admit(jobs: Iterable[Job], needs: Callable[[Job], int], open_runs: int, max_open: int) -> Admission:
    """Decide which jobs may be taken, in their order: an older one is not overtaken by one that needs less.

    `needs` says how many runs a job would open. What opens none is taken in any case: to forget runs makes
    room.
    """
    room = max_open - open_runs
    taken: list[Job] = []
    waiting: list[tuple[Job, int]] = []
    too_large: list[tuple[Job, int]] = []
    for job in jobs:
        wanted = needs(job)
        if wanted > max_open:
            too_large.append((job, wanted))
        elif wanted == 0 or (wanted <= room and not waiting and not job.behind):
            taken.append(job)
            room -= wanted
        else:
            waiting.append((job, wanted))
    return Admission(tuple(taken), tuple(waiting), tuple(too_large))


def too_many(wanted: int, max_open: int) -> str:
    """Say why a job can never be taken."""
    return (
        f"it would queue {wanted:,} runs at once, and queue.max_open allows {max_open:,}: split it, or raise "
        "queue.max_open"
    )


def full(open_runs: int, max_open: int) -> str:
    """Say why what is new waits for others to end."""
    return (
        f"{open_runs:,} runs are open, and queue.max_open allows {max_open:,}: what is new waits until some "
        "are finished (floradl forget drops runs, and is taken at once)"
    )


def short_of_room(state_dir: Path) -> str | None:
    """Say why the journal takes no more work, None where its disk has room: 64 MiB, or 5 % of a small disk.

    What is open already is recorded all the same: the room is kept for that. Where there is none at all the
    journal meets it by itself, and all work is paused.
    """
    try:
        found = os.statvfs(state_dir)
    except OSError:
        return None  # the journal itself tells what is wrong there
    free, floor = found.f_bavail * found.f_frsize, min(_FLOOR, found.f_blocks * found.f_frsize // _SHARE)
    if free >= floor or free < _NOTHING:
        return None
    return (
        f"the disk of the state folder {state_dir} has {free / 2**20:.0f} MiB free, and "
        f"{floor / 2**20:.0f} MiB are kept for the runs that are open: job files wait until there is room"
    )
