"""`python short_leases.py run`: floradl as ever, but each run is leased for three seconds only."""

from __future__ import annotations

import sys

from floradl.__main__ import main
from floradl.queue.postgres import leases, sharing

for module in (leases, sharing):
    module.RUN_LEASE = 3.0  # type: ignore[attr-defined]
sharing._RENEW_EVERY = sharing._LOOK_EVERY = 0.5  # type: ignore[misc]
sharing._STALLED_AFTER = 3.0  # type: ignore[misc]
sharing._RESCUE_EVERY = 1.0  # type: ignore[misc]
sharing._SEEN_WITHIN = 15.0  # type: ignore[misc]

if __name__ == "__main__":
    sys.exit(main())
