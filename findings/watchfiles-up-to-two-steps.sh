#!/usr/bin/env bash
# One would expect: `step` is how often watchfiles looks, so that a single change is reported after `step`
#   milliseconds at most; the kernel tells it at once, after all. What happens: it is reported after one to
#   two steps. Changes are looked at on a clock that runs since the last report, and handed out only once a
#   whole step has passed that brought no further one.
# Version: PyPI watchfiles 1.3.0, inotify.
# Why it matters: whoever wants a change within 100 ms must set step=50, and pays for a wake-up each 50 ms
#   while nothing happens at all.
# Instead: take 2 * step for the delay; where that and idle cost both count, read inotify in the event loop.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check watchfiles==1.3.0

"$work/venv/bin/python" - <<'PY'
import tempfile
import threading
import time
from pathlib import Path

import watchfiles

STEP = 800  # milliseconds


def delay(after: float) -> float:
    """Write one file `after` seconds into a step; return in how many milliseconds that is reported."""
    seen: list[float] = []
    watching = threading.Event()

    def watch() -> None:
        for changes in watchfiles.watch(folder, step=STEP, rust_timeout=100, yield_on_timeout=True):
            if changes:
                seen.append(time.monotonic())
                return
            if not watching.is_set():
                watching.set()

    with tempfile.TemporaryDirectory() as folder:
        thread = threading.Thread(target=watch)
        thread.start()
        watching.wait()
        time.sleep(after)
        written = time.monotonic()
        Path(folder, "one").write_text("")
        thread.join()
    return (seen[0] - written) * 1000


print(f"watchfiles {watchfiles.__version__}, step={STEP}")
delays = [delay(part / 10) for part in range(0, 8, 2)]
print("one file, written 0.0, 0.2, 0.4, 0.6 s into a step, is reported after (ms):")
print(*(f"{each:.0f}" for each in delays))
assert min(delays) > STEP, "it is reported within a step now"
assert max(delays) > 1.5 * STEP, "it takes no longer than a step and a half now"
PY
echo "As stated: a change is reported one to two steps after it, never within one."
# Output seen, after the version: 1600 1400 1200 1000, in milliseconds.
