"""`python -m floradl.workers FD`: a worker, started by a daemon, which holds the other end of that socket."""

import gc
import sys

from floradl.slim_imports import complete, slim

gc.disable()  # imports make much that stays, and nothing to collect
slim()

from floradl.workers.child import run  # noqa: E402 - only now

complete()
gc.freeze()
gc.enable()
run(int(sys.argv[1]))
