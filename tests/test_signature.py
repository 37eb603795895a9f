"""Whether a webhook is FLORA's."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from floradl.redaction import Secret
from floradl.web.webhooks import SignatureError, verify

NOW = 1_800_000_000
BODY = b'{"id": "whd_1"}'
OLD, NEW = Secret("whsec_old"), Secret("whsec_new")


def signed(secret: Secret = OLD, body: bytes = BODY, time: int = NOW) -> str:
    digest = hmac.new(secret.reveal().encode(), f"{time}.".encode() + body, hashlib.sha256)
    return f"t={time},v1={digest.hexdigest()}"


def refused(header: str | None, *secrets: Secret, body: bytes = BODY, now: float = NOW) -> str:
    with pytest.raises(SignatureError) as caught:
        verify(header, body, secrets or (OLD,), now)
    return str(caught.value)


def test_a_signature_known_from_elsewhere_is_accepted() -> None:
    # Computed with openssl dgst -sha256 -hmac whsec_old over "1800000000.{...}".
    known = "t=1800000000,v1=c06215c32a29d496ecf82accbf52f32c4b0ae7958ba8b126e2be113772803a9c"
    verify(known, BODY, [OLD], NOW)


def test_the_body_counts_byte_for_byte() -> None:
    verify(signed(body=b"\xff\x00 raw"), b"\xff\x00 raw", [OLD], NOW)
    assert "does not match" in refused(signed(), body=BODY + b" ")


def test_one_good_signature_of_several_is_enough_while_the_secret_changes() -> None:
    both = signed(OLD) + "," + signed(NEW).partition(",")[2]
    verify(both, BODY, [NEW], NOW)
    verify(both, BODY, [OLD], NOW)
    assert "does not match" in refused(both, Secret("whsec_other"))


def test_any_of_several_secrets_may_have_signed() -> None:
    verify(signed(OLD), BODY, [NEW, OLD], NOW)
    verify(signed(NEW), BODY, [NEW, OLD], NOW)


@pytest.mark.parametrize("off", [-300, 0, 301, 370, 900])
def test_a_signature_of_a_quarter_of_an_hour_ago_is_accepted_and_five_minutes_ahead(off: int) -> None:
    verify(signed(), BODY, [OLD], NOW + off)


@pytest.mark.parametrize(("off", "said"), [(901, "901 s ago"), (-301, "301 s ahead")])
def test_a_signature_further_off_is_refused_and_the_clock_named(off: int, said: str) -> None:
    message = refused(signed(), now=NOW + off)
    assert said in message
    assert "clock" in message


def test_the_time_is_part_of_what_is_signed() -> None:
    assert "does not match" in refused(signed().replace(f"t={NOW}", f"t={NOW + 1}"))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "v1=00",
        f"t={NOW}",
        f"t={NOW},v1=",
        f"t={NOW},v0=00",
        "t=soon,v1=00",
        "t=-1,v1=00",
        f"t={10**15},v1=00",
        "t=1e9,v1=00",
        "nonsense",
    ],
)
def test_what_is_no_signature_is_refused(header: str | None) -> None:
    assert "Flora-Signature" in refused(header)


def test_letters_that_no_signature_has_are_refused_and_nothing_else() -> None:
    assert "does not match" in refused(f"t={NOW},v1=ä€")


def test_without_a_secret_nothing_is_accepted() -> None:
    with pytest.raises(SignatureError):
        verify(signed(), BODY, [], NOW)


def test_no_message_holds_a_signature_or_a_secret() -> None:
    header = signed(NEW)
    message = refused(header, OLD)
    assert header.partition("v1=")[2] not in message
    assert "whsec" not in message
