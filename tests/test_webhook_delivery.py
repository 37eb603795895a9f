"""What the body of a webhook says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from floradl.errors import JobError
from floradl.web.webhooks import parse_delivery


def body(**changes: Any) -> bytes:
    said = {
        "id": "whd_1",
        "type": "run.completed",
        "api_version": "2026-06-11",
        "created_at": 1_800_000_000_000,
        "data": {"run_id": "run_a", "run_type": "technique", "workspace_id": "ws_1", "status": "completed"},
    }
    return json.dumps(said | changes).encode()


def test_a_run_that_completed() -> None:
    delivery = parse_delivery(body())
    assert (delivery.id, str(delivery.order.reference)) == ("whd_1", "run_a")
    assert delivery.ended
    assert delivery.completed


def test_a_run_that_failed_is_over_and_has_no_outputs() -> None:
    data = {"run_id": "run_a", "status": "failed", "error_code": "x", "error_message": "a/b \U0001f600 é\n"}
    delivery = parse_delivery(body(type="run.failed", data=data))
    assert delivery.ended
    assert not delivery.completed


def test_a_type_that_is_not_known_yet_is_no_end() -> None:
    assert not parse_delivery(body(type="run.started")).ended


def test_what_is_new_in_the_body_is_let_be() -> None:
    assert parse_delivery(body(more={"of": ["it"]}, data={"run_id": "run_a", "cost": 1.5, "x": None})).ended


def test_escapes_that_only_json_has_are_read() -> None:
    raw = rb'{"id":"whd_1","type":"run.failed","data":{"run_id":"run_a","error_message":"a\/b \ud83d\ude00"}}'
    assert parse_delivery(raw).order.reference.run_id == "run_a"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"run_a",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"runs": ["run_a"]}',
        b'{"id": "whd_1", "type": "run.completed"}',
        body(data={}),
        body(data={"run_id": ""}),
        body(data={"run_id": "a b"}),
        body(data={"run_id": 7}),
        body(data=[]),
        body(id=""),
        body(id=7),
        body(id="x" * 201),
        b"[" * 60_000,
        b'{"a":' * 10_000,
    ],
)
def test_what_is_no_webhook_is_refused(raw: bytes) -> None:
    with pytest.raises(JobError):
        parse_delivery(raw)
