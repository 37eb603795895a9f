"""Joins poller, processor and scheduler, in this process alone or for a queue that daemons share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from floradl.flora.client import FloraClient, WrongWorkspaceCheck
from floradl.library.base import LibraryStore
from floradl.polling.open_runs import OpenRuns
from floradl.polling.poller import Poller, PollOptions
from floradl.queue.base import RunQueue
from floradl.queue.sharing import RunSharing
from floradl.runs.events import RunEvents, RunReports
from floradl.runs.output_saver import OutputSaver
from floradl.runs.processor import ProcessOptions, Processor
from floradl.runs.scheduler import LocalScheduler, Scheduler, Service
from floradl.runs.slots import DownloadSlots, TransferSlots


class StageParts(Struct, frozen=True):
    """What both stages work with."""

    queue: RunQueue
    library: LibraryStore
    flora: FloraClient
    open_runs: OpenRuns
    saver: OutputSaver
    transfers: TransferSlots
    progress: RunEvents
    reports: RunReports
    workspace_check: WrongWorkspaceCheck


class StageOptions(Struct, frozen=True):
    """`may_poll` says whether this daemon can poll, where several share the queue: whether it has a key.

    `beside` is what else sends requests to FLORA all the time.
    """

    poll: PollOptions
    process: ProcessOptions
    may_poll: Callable[[], Awaitable[bool]]
    beside: Sequence[Service] = ()


class Stages(Struct, frozen=True):
    """The two stages; `close` drops what waits between them. `beside` is still to be served."""

    poller: Poller
    processor: Processor
    scheduler: Scheduler
    close: Callable[[], None]
    beside: Sequence[Service] = ()


def build_stages(parts: StageParts, options: StageOptions) -> Stages:
    """Return the stages that the queue needs."""
    sharing = parts.queue.sharing
    if sharing is not None:
        return _shared(parts, options, sharing)
    open_runs = parts.open_runs
    slots = DownloadSlots(open_runs.breaker, open_runs.put_first)
    poller = Poller(parts.flora, open_runs, parts.library, slots, options.poll, parts.workspace_check)
    processor = Processor(
        parts.flora, parts.library, parts.saver, parts.queue, parts.progress, options.process
    )
    scheduler = LocalScheduler(open_runs, poller, slots, processor, parts.reports)
    return Stages(poller, processor, scheduler, slots.close, options.beside)


def _shared(parts: StageParts, options: StageOptions, sharing: RunSharing) -> Stages:
    from floradl.polling.election import Election  # noqa: PLC0415 - most have a queue of their own
    from floradl.polling.hand_over import HandOver  # noqa: PLC0415 - as above
    from floradl.runs.ready_runs import NoRequests, ReadyRuns  # noqa: PLC0415 - as above
    from floradl.runs.shared_scheduler import (  # noqa: PLC0415 - as above
        Polling,
        SharedScheduler,
        keeps_from_polling,
    )

    open_runs = parts.open_runs
    hand_over = HandOver(sharing, open_runs.put_first)
    poller = Poller(parts.flora, open_runs, parts.library, hand_over, options.poll, parts.workspace_check)
    processor = Processor(
        NoRequests(), parts.library, parts.saver, parts.queue, parts.progress, options.process
    )
    ready = ReadyRuns(processor, parts.reports, lambda: parts.transfers.total, open_runs.clocks)

    async def stands() -> bool:
        pause = ready.breaker.now
        return (pause is None or not keeps_from_polling(pause)) and await options.may_poll()

    polling = Polling(open_runs, poller, hand_over, Election(sharing, stands), options.beside)
    scheduler = SharedScheduler(parts.queue, sharing, polling, ready, processor, parts.reports)
    return Stages(poller, processor, scheduler, hand_over.restart)
