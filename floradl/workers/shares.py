"""Shares of the bandwidth limit: which process may read how many bytes a second.

Each process limits its own reads by its share, so no read waits for another process. Shares go by transfers,
and what one process has no use for goes to the others. A share grows only by what others have given up, so
that the sum never exceeds the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from floradl.net.bandwidth import BandwidthLimiter
from floradl.workers.process import WorkerProcess

_KEPT: Final = 1 / 16  # of a fair share, by who has no use for it now: it can begin at once


class Claim(NamedTuple):
    """One process's `transfers`, and the bytes a second that they have use for, None for all."""

    transfers: int
    demand: float | None


def divide(limit: int, claims: Sequence[Claim]) -> list[int]:
    """Return the bytes a second of each claim, in their order: by transfers, but first by demand."""
    total = sum(claim.transfers for claim in claims)

    def wanted(claim: Claim) -> float:  # for each transfer
        demand = math.inf if claim.demand is None else claim.demand
        return max(demand / claim.transfers, limit / total * _KEPT)

    left, transfers = float(limit), total
    shares = [0.0] * len(claims)
    for place, claim in sorted(enumerate(claims), key=lambda each: wanted(each[1])):
        shares[place] = claim.transfers * min(wanted(claim), left / transfers)
        left -= shares[place]
        transfers -= claim.transfers
    return [int(share + left * claim.transfers / total) for share, claim in zip(shares, claims, strict=True)]


class BandwidthShares:
    """Divides the limit among this process (`bandwidth`) and workers. For one thread at a time."""

    def __init__(self, bandwidth: BandwidthLimiter) -> None:
        self._bandwidth = bandwidth
        self._limit: int | None = None
        self._shares: dict[WorkerProcess, int] = {}

    def update(self, workers: Sequence[WorkerProcess]) -> None:
        """Divide anew by what each process has use for: once a second, and when a worker gets to work."""
        self._limit = self._bandwidth.rate()
        self._shares = dict.fromkeys(workers, 1)
        busy = [worker for worker in workers if worker.busy]
        if self._limit is None:
            busy = []  # there is nothing to divide, nor to be reported for it
        elif busy:
            here = self._bandwidth.transfers
            claims = [Claim(max(here, 1), self._bandwidth.demand() if here else 0)]
            claims += [Claim(worker.busy, worker.demand) for worker in busy]
            self._shares |= zip(busy, divide(self._limit - len(workers), claims)[1:], strict=True)
        self._send(busy)

    def settle(self) -> None:
        """Raise shares that had to wait until another was lowered: when a worker has applied settings."""
        self._send([])

    def _send(self, reporting: Sequence[WorkerProcess]) -> None:
        """Send each worker its rate where that is another, and to those `reporting` in any case.

        One that has not applied the last settings is left alone: should it hang, it is not flooded.
        """
        settled = [worker for worker in self._shares if worker.is_settled]
        wanted = dict.fromkeys(settled, math.inf)
        rates = {worker: worker.rate for worker in self._shares}
        reserved = 0.0
        if self._limit is not None:
            free = max(sum(self._shares.values()) - sum(rates.values()), 0)
            for worker in settled:
                wanted[worker] = min(self._shares[worker], rates[worker] + free)
                free -= max(wanted[worker] - rates[worker], 0)
            reserved = sum(max(rate, wanted.get(worker, 0)) for worker, rate in rates.items())
        self._bandwidth.reserve(reserved)
        for worker, rate in wanted.items():
            if rate != rates[worker] or worker in reporting:
                worker.assign(rate)
