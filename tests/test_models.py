from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from floradl.models import OutputKind, Reference, RemoteOutput, RemoteRun, SavedOutput, bounded


@pytest.mark.parametrize(
    ("text", "run_id", "technique"),
    [
        ("run_abc", "run_abc", None),
        (" run_abc ", "run_abc", None),
        ("campaign/run_abc", "run_abc", "campaign"),
        ("tech_1/run_abc", "run_abc", "tech_1"),
        ("https://app.flora.ai/api/v1/runs/run_abc", "run_abc", None),
        ("https://app.flora.ai/api/v1/techniques/campaign/runs/run_abc", "run_abc", "campaign"),
        ("HTTPS://APP.flora.ai/api/v1/techniques/a%20b/runs/run_abc?x=1", None, None),
        ("http://127.0.0.1:1234/api/v1/techniques/campaign/runs/run_abc?x=1#y", "run_abc", "campaign"),
    ],
)
def test_a_reference_is_read_in_each_spelling(text: str, run_id: str | None, technique: str | None) -> None:
    if run_id is None:
        with pytest.raises(ValueError, match="technique"):
            Reference.parse(text)
    else:
        assert Reference.parse(text) == Reference(run_id, technique)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "run_",
        "run_a b",
        "a/b/run_c",
        "../run_c",
        "./run_c",
        "/run_c",
        "run_a?x",
        "run_\0",
        "run_\ud800",
    ],
)
def test_what_is_no_reference_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"run id|technique"):
        Reference.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://media.flora.ai/out.png?X-Goog-Signature=TOPSECRET",
        "HTTPS://media.flora.ai/out.png?X-Goog-Signature=TOPSECRET",
        "media.flora.ai/runs/run_a?sig=TOPSECRET",
    ],
)
def test_a_signed_url_that_is_no_reference_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|run id") as caught:
        Reference.parse(text)
    assert "TOPSECRET" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_reference_or_a_value_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ValueError:
        return
    assert Reference.parse(str(reference)) == reference


def test_an_unknown_type_is_kept_under_other() -> None:
    assert RemoteOutput("a", "modelUrl", "https://x/").kind is OutputKind.OTHER


@pytest.mark.parametrize("status", ["pending", "running", "paused_by_moderator", ""])
def test_an_unknown_status_is_not_finished(status: str) -> None:
    assert not RemoteRun("run_a", status, 0.0, None).finished


def test_a_text_of_a_thousand_characters_stays_and_a_longer_one_ends_in_its_hash() -> None:
    assert bounded("x" * 1000) == "x" * 1000
    long = bounded("x" * 1001)
    assert len(long) == 1000
    assert bounded(long) == long
    assert long != bounded("x" * 1002)


def test_a_field_of_a_host_s_is_bounded_in_what_is_kept() -> None:
    saved = SavedOutput(
        output_id="o", type="t", kind=OutputKind.IMAGE, content_type="x" * 60_000, etag="y" * 60_000
    )
    assert (len(saved.content_type or ""), len(saved.etag or "")) == (1000, 1000)
