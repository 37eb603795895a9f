"""What job files asked for that were accepted a while ago, for a journal that was lost.

They lie in `accepted/` as long as `queue.keep` says, in the order in which they were taken.
"""

from __future__ import annotations

import re
import stat
from contextlib import suppress
from pathlib import Path

from floradl.disk.folders import open_regular, open_root
from floradl.disk.names import SafeName
from floradl.errors import JobError
from floradl.incoming.jobs import parse_job
from floradl.incoming.listing import PLACES, dates
from floradl.models import Action, Order

_MOST = 1 << 20  # bytes; a larger one was never accepted
_COUNTED = re.compile(r"(.+)-[0-9]{1,13}(-[0-9]{1,3})?(\.[^.]*)?")


def accepted_orders(watch_dir: Path) -> list[Order]:
    """Read what is left to say of each run: `FORGET` where that was the last word, else `FETCH`.

    What cannot be read is left out; never raises for what lies there.
    """
    folder = watch_dir / PLACES[0]
    try:
        found = sorted((since, path.name) for path, since in dates(folder))
    except OSError:
        return []
    last: dict[str, Order] = {}
    for _, name in found:
        for order in _read(folder, name):
            run_id = order.reference.run_id
            known = last.get(run_id)
            # A fetch does not undo a forget, as in the journal; the first name is kept, as there.
            if known is None or order.action is not Action.FETCH:
                action = Action.FORGET if order.action is Action.FORGET else Action.FETCH
                first = known or order
                last[run_id] = Order(first.reference, first.label, action)
    return list(last.values())


def _read(folder: Path, name: str) -> tuple[Order, ...]:
    with suppress(OSError, JobError), open_root(folder) as root:
        file = open_regular(root, SafeName(name))
        if file is None:
            return ()
        with file:
            data = file.read(_MOST + 1)
        if not data and _is_second(folder, name):
            return ()
        return parse_job(data, name)
    return ()


def _is_second(folder: Path, name: str) -> bool:
    """Whether an empty file is a job by a name that a number was added to when it was put away."""
    counted = _COUNTED.fullmatch(name)
    if counted is None:
        return False
    first = folder / f"{counted[1]}{counted[3] or ''}"
    with suppress(OSError):
        found = first.lstat()
        return stat.S_ISREG(found.st_mode) and found.st_size == 0
    return False
