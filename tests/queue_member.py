"""A daemon of a shared queue in a process of its own: saves what is ready, and tells of it on stdout.

Arguments: the database's URL, the daemon's name, seconds of a lease. Before a run is finished a line is read
from stdin.
"""

from __future__ import annotations

import sys

import anyio
from anyio import to_thread
from databases import PASSWORD
from msgspec.structs import replace
from queues import postgres_queue

from floradl.errors import LeaseLostError
from floradl.models import FinishedRun, RunState
from floradl.queue.postgres import leases, sharing
from floradl.queue.postgres.connection import Server
from floradl.queue.sharing import Released, Room


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(url: str, name: str, lease: float) -> None:
    for module, setting, value in (
        (leases, "RUN_LEASE", lease),
        (sharing, "RUN_LEASE", lease),
        (sharing, "_STALLED_AFTER", lease),
        (sharing, "_RENEW_EVERY", lease / 3),
        (sharing, "_LOOK_EVERY", 0.1),
        (sharing, "_RESCUE_EVERY", 0.1),
        (sharing, "_FETCH_EVERY", 0.1),
    ):
        setattr(module, setting, value)
    async with postgres_queue(Server(url, lambda: PASSWORD), name) as queue:
        await queue.outbox.expect(finished=True)

        async def save(finished: FinishedRun) -> Released:
            run_id = finished.run.run_id
            found = await queue.begin_download(run_id, 2.0)
            tell("begun", run_id)
            try:
                await to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
                assert found is not None
                await queue.finish(replace(found[0], state=RunState.DONE), 5.0, f"runs/{name}.json")
            except (LeaseLostError, anyio.get_cancelled_exc_class()):
                tell("lost", run_id)
                raise
            tell("done", run_id)
            return Released(ended=True)

        await queue.sharing.serve_ready(save, lambda: Room(1, 1))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], float(sys.argv[3]))
