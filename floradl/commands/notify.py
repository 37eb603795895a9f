"""`floradl notify`: where messages go, and whether one gets there."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import TextIO

from floradl.commands.exits import Exit
from floradl.commands.streams import say
from floradl.config.settings import Config
from floradl.daemon.notify import notify_policy, notify_targets
from floradl.errors import ConfigError
from floradl.notify.news import Item, Kind, Pending, compose
from floradl.notify.sending import NotSentError, Sender
from floradl.notify.targets import Unusable

_NONE = (
    "no address is named: put URLs into a file, one a line, and name that in notify.urls_file; "
    "docs/notify.md has examples"
)


def notify(config: Config, environ: Mapping[str, str], stream: TextIO, *, test: bool) -> Exit:
    """Say for each address what is told there; with `test` send a message to each, at once.

    Returns `FOUND` where one does not take it, `USAGE` where a line names none; the others are told all the
    same. Raises `ConfigError` where no address is named, or the file is
    wrong.
    """
    targets = notify_targets(config, environ)
    if not targets:
        raise ConfigError(_NONE)
    wrong = any(isinstance(target, Unusable) for target in targets)
    topics = ", ".join(config.notify.on) or "nothing (notify.on is empty)"
    if not test:
        for target in targets:
            told = f" nothing: {target.why}" if isinstance(target, Unusable) else f": {topics}"
            say(stream, f"{target.name} is told{told}")
        say(stream, "Send a message to each with 'floradl notify --test'.")
        return Exit.USAGE if wrong else Exit.OK
    sender = Sender(notify_policy(config), environ)
    now = time.time()
    text = f"This is a test. Here floradl tells of: {topics}."
    message = compose(Pending([Item(Kind.TEST, now, text)]), f"{config.home} on {socket.gethostname()}", now)
    failed = False
    for target in targets:
        try:
            sender.send(message, target)
            said = "ok    the message was taken"
        except NotSentError as error:
            failed = True
            said = f"fail  {error}"
        level, _, what = said.partition("  ")
        say(stream, f"{level:4}  {target.name}: {what.strip()}")
        stream.flush()
    return Exit.USAGE if wrong else Exit.FOUND if failed else Exit.OK
