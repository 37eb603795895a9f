"""Whether people can get at a floradl that is a service, with a user of its own: its group lets them in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from floradl.app import build_library
from floradl.commands.check.finding import CheckResult, ok, warn
from floradl.commands.check.machine import state_writers
from floradl.config.load import passed_over
from floradl.config.settings import Config
from floradl.errors import FloradlError
from floradl.fs.permissions import exposure

_SHOWN = 3


def check_guests(config: Config) -> Iterator[CheckResult]:
    """Look at all of it: what decides what floradl does, and what its library says."""
    yield from _configuration(config)
    with suppress(OSError):  # a folder that cannot be reached is reported elsewhere
        if (found := exposure(config.home, state_writers(config))) is not None:
            message = (
                f"{found.place} {found.whom}, so what is in it can be renamed: inbox and library alone need "
                "to be open to others"
            )
            yield warn("home", message, found.mend)
    yield from _library(config)


def _configuration(config: Config) -> Iterator[CheckResult]:
    if (why := passed_over(config)) is not None:
        yield warn("configuration", why, "move what is right in it there, and remove it")


def _library(config: Config) -> Iterator[CheckResult]:
    library = build_library(config)
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
