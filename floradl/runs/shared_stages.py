"""Joins poller, processor and scheduler for a queue that daemons share."""

from __future__ import annotations

from floradl.polling.election import Election
from floradl.polling.hand_over import HandOver
from floradl.polling.poller import Poller
from floradl.queue.sharing import RunSharing
from floradl.runs.processor import Processor
from floradl.runs.ready_runs import NoRequests, ReadyRuns
from floradl.runs.scheduler import StageOptions, StageParts, Stages
from floradl.runs.shared_scheduler import Polling, SharedScheduler, keeps_from_polling


def shared_stages(parts: StageParts, options: StageOptions, sharing: RunSharing) -> Stages:
    """Return stages that meet in the queue."""
    open_runs = parts.open_runs
    hand_over = HandOver(sharing, open_runs.put_first)
    poller = Poller(parts.flora, open_runs, parts.library, hand_over, options.poll, parts.workspace_check)
    processor = Processor(
        NoRequests(), parts.library, parts.saver, parts.queue, parts.progress, options.process
    )
    transfers, most_large = parts.transfers, parts.library.most_large
    ready = ReadyRuns(processor, parts.reports, lambda: transfers.total, open_runs.clocks, most_large)

    async def stands() -> bool:
        pause = ready.breaker.now
        return (pause is None or not keeps_from_polling(pause)) and await options.may_poll()

    polling = Polling(open_runs, poller, hand_over, Election(sharing, stands), options.beside)
    scheduler = SharedScheduler(parts.queue, sharing, polling, ready, processor, parts.reports)
    return Stages(poller, processor, scheduler, hand_over.restart)
