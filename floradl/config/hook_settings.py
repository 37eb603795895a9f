"""The section `hooks`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from floradl.config.command_line import CommandLine
from floradl.config.setting_types import Duration, Setting


class Hooks(Struct, frozen=True, kw_only=True):
    """Programs of yours that are run when something happened. `timeout` is in seconds."""

    run_finished: Annotated[
        tuple[str, ...],
        Setting(
            CommandLine(),
            (),
            "a program and its arguments, run for each run that ended, with its sidecar's path as last "
            "argument and its JSON on stdin; [] for none",
        ),
    ]
    paused: Annotated[
        tuple[str, ...],
        Setting(
            CommandLine(),
            (),
            "a program and its arguments, run when the daemon pauses, and each day while that lasts, with "
            "the reason as last argument and JSON on stdin; [] for none",
        ),
    ]
    timeout: Annotated[
        float,
        Setting(Duration(1, 3600), "1m", "how long a hook may take before it is ended, and tried again"),
    ]
