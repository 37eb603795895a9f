"""`python long_elections.py run`: floradl as ever, but a poller is elected for ten minutes."""

from __future__ import annotations

import sys
import time

from floradl.__main__ import main
from floradl.polling.election import Election
from floradl.queue.postgres import sharing

sharing.POLLER_LEASE = 600.0  # type: ignore[attr-defined]
Election.__init__.__defaults__ = (600.0, time.monotonic)

if __name__ == "__main__":
    sys.exit(main())
