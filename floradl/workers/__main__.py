"""`python -m floradl.workers FD`: a worker, started by a daemon, which holds the other end of that socket."""

import sys

# `import httpx` would import its own command line, and all of rich: 5 MB and 70 ms, for each worker.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

from floradl.workers.child import run  # noqa: E402 - only now

run(int(sys.argv[1]))
