"""What a message says, and what is gathered until it can be sent."""

from __future__ import annotations

from floradl.notify.news import LONGEST_TEXT, Item, Kind, Pending, Topic, compose, item_of


def failed(number: int, why: str = "no credits") -> Item:
    return Item(
        Kind.RUN_FAILED, 1e9 + number, f"campaign/run_{number} failed: {why}", {"run_id": f"run_{number}"}
    )


def pending(*items: Item) -> Pending:
    found = Pending()
    for item in items:
        found.add(item)
    return found


def test_a_title_says_what_it_is_about_the_gravest_first() -> None:
    told = pending(
        failed(1),
        Item(Kind.JOB_REJECTED, 1e9, "job file a.txt is refused"),
        failed(2),
        Item(Kind.PAUSED, 1e9, "it waits", {"reason": "key_refused"}),
    )
    message = compose(told, "/srv/flora on nas", 1e9)
    assert message.title == "floradl: paused (key_refused), 2 runs failed, 1 job file refused"
    assert message.text.splitlines()[0] == "it waits"


def test_of_a_thousand_failures_ten_are_named_and_the_rest_counted() -> None:
    message = compose(pending(*map(failed, range(1000))), "here", 1e9)
    assert message.title == "floradl: 1,000 runs failed"
    assert message.text.count("no credits") == 10
    assert "… and 990 more" in message.text
    assert len(message.facts["events"]) == 10
    assert message.facts["more"] == {"run_failed": 990}


def test_a_message_fits_a_chat_however_long_its_lines_are() -> None:
    told = pending(*(failed(number, "x" * 5000) for number in range(9)), *map(failed, range(3)))
    message = compose(told, "/srv/flora on nas", 1e9)
    assert len(message.facts["content"]) <= 2000
    assert len(message.text) <= LONGEST_TEXT
    assert "lines more" in message.text
    assert message.text.endswith("(/srv/flora on nas)")


def test_no_message_shows_a_signed_url_or_a_key() -> None:
    told = pending(failed(1, "https://media.example/a.png?sig=abcdef0123 with sk_live_abcdefgh12345678"))
    message = compose(told, "here", 1e9)
    assert "sig=" not in message.text
    assert "sk_live_abc" not in message.text


def test_what_came_while_a_message_was_sent_is_told_by_the_next() -> None:
    told = pending(*map(failed, range(12)))
    sent = told.copy()
    told.add(failed(20))
    told.add(Item(Kind.HOOK_FAILED, 1e9, "hook paused fails"))
    told.take(sent)
    assert [item.text for item in told.items] == ["hook paused fails", "1 run failed meanwhile"]
    assert not told.more
    told.take(told.copy())
    assert not told


def test_events_that_people_should_hear_of_are_told_under_their_topic() -> None:
    error = {"code": "not_found", "message": "FLORA does not know it"}
    run = {"event": "run_finished", "run_id": "run_a", "reference": "campaign/run_a", "label": "look 07"}
    events: list[dict[str, object]] = [
        {**run, "result": "failed", "error": error},
        {**run, "result": "partial", "error": None},
        {"event": "job_rejected", "file": "a.txt", "message": "line 3: no reference"},
        {
            "event": "hook_failed",
            "hook": "run_finished",
            "run_id": "run_a",
            "message": "code 1",
            "final": True,
        },
        {"event": "hook_failed", "hook": "paused", "run_id": None, "message": "code 1", "final": False},
    ]
    found = [told for event in events if (told := item_of(event, 1.0))]
    topics = [Topic.FAILED, Topic.FAILED, Topic.REJECTED, Topic.HOOK_FAILED, Topic.HOOK_FAILED]
    assert [topic for topic, _ in found] == topics
    assert [item.text for _, item in found] == [
        "campaign/run_a “look 07” failed: FLORA does not know it (not_found)",
        "campaign/run_a “look 07” is incomplete",
        "job file a.txt is refused: line 3: no reference",
        "hook run_finished is not run any more for run_a: code 1",
        "hook paused fails, and is tried again: code 1",
    ]


def test_what_went_well_is_told_to_nobody() -> None:
    for event in ("run_accepted", "run_completed", "output_saved", "paused", "resumed", "of_a_later_version"):
        assert item_of({"event": event, "run_id": "run_a"}, 1.0) is None
    assert item_of({"event": "run_finished", "run_id": "run_a", "result": "complete"}, 1.0) is None
