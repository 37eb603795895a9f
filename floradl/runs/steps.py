"""What comes next for a run, once it was taken one step on."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from floradl.models import QueuedRun
from floradl.runs.progress import Brought


class Wait(msgspec.Struct, frozen=True):
    """Come back with `run` in `seconds`. `trouble` says why, where it is more than "not finished".

    `shared`: at a moment when others come back, too, since one question may answer for all of them.
    """

    run: QueuedRun
    seconds: float
    trouble: str | None = None
    shared: bool = True


class Finished(msgspec.Struct, frozen=True):
    """`run` is done, partial or failed; None was brought where all of it stood in the library already."""

    run: QueuedRun
    brought: Brought | None


class Held(msgspec.Struct, frozen=True):
    """Come back with `run` when there is a place for its outputs: `Pipeline.places` tells when."""

    run: QueuedRun


Step: TypeAlias = Wait | Finished | Held
