"""What a webhook of FLORA's says, once it is known to be FLORA's: bytes -> a delivery.

    {"id": "whd_…", "type": "run.completed"|"run.failed", "data": {"run_id": …, "status": …}, …}

Which run it is about is read by `jobs`, as it is of such a body that lies in the watch folder. Source:
FLORA's reference of webhooks (contract of 2026-06-11).
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from floradl.errors import JobError
from floradl.incoming.jobs import described, parse_job
from floradl.models import Order

_LONGEST_ID = 200


class Delivery(Struct, frozen=True):
    """One delivery. FLORA may send it several times under the same `id`."""

    id: str
    type: str
    order: Order

    @property
    def ended(self) -> bool:
        """Whether it says that the run is over; other types may come, and are no news for us."""
        return self.type in {"run.completed", "run.failed"}

    @property
    def completed(self) -> bool:
        """Whether it says that there are outputs."""
        return self.type == "run.completed"


class _Body(Struct, frozen=True):
    id: str
    type: str
    data: dict[str, msgspec.Raw]


def parse_delivery(data: bytes) -> Delivery:
    """Read the body of a webhook. Raises `JobError` where it is none."""
    try:
        body = msgspec.json.decode(data, type=_Body)
        orders = parse_job(data, "webhook")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JobError(f"this is no webhook of FLORA's: {error}") from error
    except JobError as error:
        raise JobError(described(error)) from error
    if not 0 < len(body.id) <= _LONGEST_ID:
        raise JobError(f"this is no webhook of FLORA's: its id has {len(body.id)} characters")
    return Delivery(body.id, body.type, orders[0])
