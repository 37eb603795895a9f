"""The process in which Apprise sends one message: JSON in, JSON out, and nothing of it on stderr.

Apprise is an extra. It takes tens of megabytes, and what it logs may hold a URL: neither is for the daemon.
"""

from __future__ import annotations

import json
import logging
import sys

_LONGEST = 300


class _Said(logging.Handler):
    """Keeps the last that a library said of what went wrong."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.text = record.getMessage()[:_LONGEST]


def main() -> None:
    """Send what stdin asks for."""
    import apprise  # noqa: PLC0415 - an extra

    asked = json.load(sys.stdin)
    said = _Said()
    logging.getLogger().addHandler(said)
    sender = apprise.Apprise()
    if not sender.add(asked["url"]):
        outcome = {"ok": False, "message": "Apprise does not know such a URL: see its list of services"}
    else:
        # Without the format, services that take HTML get the text as it is: no lines, and no <words>.
        text = apprise.NotifyFormat.TEXT
        ok = bool(sender.notify(body=asked["body"], title=asked["title"], body_format=text))
        outcome = {"ok": ok, "message": "" if ok else said.text}
    json.dump(outcome, sys.stdout)


if __name__ == "__main__":
    main()
