"""What the configuration says of hooks, as plain values."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from floradl.hooks.command import Command, environment_of, exposed, missing

RUN_FINISHED = "run_finished"
PAUSED = "paused"


class HookSettings(Struct, frozen=True):
    """The command of each event (a program and its arguments), without those that have none.

    `timeout` is in seconds; `environ` is what a hook's environment is chosen from.
    """

    commands: Mapping[str, tuple[str, ...]]
    timeout: float
    environ: Mapping[str, str]

    def command(self, event: str, argument: str, cwd: str) -> Command | None:
        """Return what to run for an event, with its last argument; None where nobody wants to know."""
        words = self.commands.get(event)
        if not words:
            return None
        return Command((*words, argument), environment_of(event, self.environ), cwd, self.timeout)

    def missing(self) -> dict[str, str]:
        """Say of each event whose command cannot be started, as far as one sees, why."""
        found = {}
        for event, words in self.commands.items():
            why = missing(words, environment_of(event, self.environ)) if words else None
            if why is not None:
                found[event] = why
        return found

    def exposed(self) -> dict[str, str]:
        """Say, for each event whose program or script others could write or replace, how to fix that."""
        found = {}
        for event, words in self.commands.items():
            why = exposed(words, environment_of(event, self.environ), "/") if words else None
            if why is not None:
                found[event] = why
        return found
