from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, strategies as st

from floradl.net.addresses import HostPatterns, canonical_host, is_local_name, is_public, join_port

PUBLIC = [
    ("1.1.1.1", "assigned"),
    ("9.255.255.255", "below RFC 1918's 10/8"),
    ("11.0.0.0", "above it"),
    ("100.63.255.255", "below RFC 6598's 100.64/10"),
    ("100.128.0.0", "above it"),
    ("126.255.255.255", "below RFC 1122's 127/8"),
    ("128.0.0.0", "above it"),
    ("172.15.255.255", "below RFC 1918's 172.16/12"),
    ("172.32.0.0", "above it"),
    ("192.0.1.0", "above RFC 6890's 192.0.0/24"),
    ("198.17.255.255", "below RFC 2544's 198.18/15"),
    ("198.20.0.0", "above it"),
    ("223.255.255.255", "below RFC 5771's 224/4"),
    ("2600:1901:0:1::", "RFC 4291, global unicast"),
    ("2a00:1450:4001:80b::2010", "RFC 4291, global unicast"),
    ("3ffe:ffff::1", "RFC 4291, global unicast"),
    ("::ffff:8.8.8.8", "RFC 4291 2.5.5.2, mapped: public inside"),
    ("64:ff9b::8.8.8.8", "RFC 6052, NAT64: public inside"),
]
PRIVATE = [
    ("0.0.0.0", "RFC 791, this network"),
    ("0.1.2.3", "RFC 791, this network"),
    ("10.0.0.1", "RFC 1918"),
    ("100.64.0.1", "RFC 6598, carrier-grade NAT"),
    ("100.100.100.200", "RFC 6598, a cloud's metadata"),
    ("127.0.0.1", "RFC 1122, loopback"),
    ("127.255.255.254", "RFC 1122, loopback"),
    ("168.63.129.16", "Azure's host agent"),
    ("169.254.169.254", "RFC 3927, link-local: clouds' metadata"),
    ("172.16.0.1", "RFC 1918"),
    ("172.31.255.255", "RFC 1918"),
    ("192.0.0.1", "RFC 6890"),
    ("192.0.0.9", "RFC 7723, port control anycast"),
    ("192.0.0.170", "RFC 8880, NAT64 discovery"),
    ("192.0.2.1", "RFC 5737, documentation"),
    ("192.88.99.1", "RFC 7526, 6to4 relay"),
    ("192.168.1.1", "RFC 1918"),
    ("198.18.0.1", "RFC 2544, benchmarking"),
    ("198.19.255.255", "RFC 2544, benchmarking"),
    ("198.51.100.7", "RFC 5737, documentation"),
    ("203.0.113.7", "RFC 5737, documentation"),
    ("224.0.0.1", "RFC 5771, multicast"),
    ("239.255.255.250", "RFC 2365, multicast"),
    ("240.0.0.1", "RFC 1112, reserved"),
    ("255.255.255.255", "RFC 919, broadcast"),
    ("::", "RFC 4291, unspecified"),
    ("::1", "RFC 4291, loopback"),
    ("::8.8.8.8", "RFC 4291 2.5.5.1, IPv4-compatible"),
    ("::127.0.0.1", "RFC 4291 2.5.5.1, IPv4-compatible"),
    ("::ffff:127.0.0.1", "RFC 4291 2.5.5.2, mapped"),
    ("::ffff:169.254.169.254", "RFC 4291 2.5.5.2, mapped"),
    ("::ffff:0:8.8.8.8", "RFC 2765, IPv4-translated"),
    ("64:ff9b::127.0.0.1", "RFC 6052, NAT64: loopback inside"),
    ("64:ff9b::10.1.2.3", "RFC 6052, NAT64: private inside"),
    ("64:ff9b:1::1", "RFC 8215, local NAT64"),
    ("64:ff9b:1::8.8.8.8", "RFC 8215, local NAT64"),
    ("100::1", "RFC 6666, discard"),
    ("2001::1", "RFC 4380, Teredo"),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "RFC 4380, Teredo"),
    ("2001:2::1", "RFC 5180, benchmarking"),
    ("2001:10::1", "RFC 4843, ORCHID"),
    ("2001:db8::1", "RFC 3849, documentation"),
    ("2002:7f00:1::1", "RFC 3056, 6to4: loopback inside"),
    ("2002:808:808::1", "RFC 3056, 6to4"),
    ("3fff::1", "RFC 9637, documentation"),
    ("4000::1", "RFC 4291, not assigned"),
    ("5f00::1", "RFC 9602, segment routing"),
    ("fc00::1", "RFC 4193, unique local"),
    ("fd00:ec2::254", "RFC 4193, a cloud's metadata"),
    ("fe80::1", "RFC 4291, link-local"),
    ("fe80::1%eth0", "RFC 4007, with a scope"),
    ("2600:1901:0:1::%eth0", "RFC 4007, with a scope"),
    ("fec0::1", "RFC 3879, site-local"),
    ("ff02::1", "RFC 4291, multicast"),
]


@pytest.mark.parametrize(("text", "why"), PUBLIC)
def test_an_address_of_the_open_internet_is_public(text: str, why: str) -> None:
    assert is_public(ip_address(text)), why


@pytest.mark.parametrize(("text", "why"), PRIVATE)
def test_an_address_of_any_special_purpose_is_not_public(text: str, why: str) -> None:
    assert not is_public(ip_address(text)), why


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_inside_a_mapped_or_nat64_one_decides(number: int) -> None:
    inside = IPv4Address(number)
    assert is_public(IPv6Address(f"::ffff:{inside}")) == is_public(inside)
    assert is_public(IPv6Address(f"64:ff9b::{inside}")) == is_public(inside)


@pytest.mark.parametrize(
    ("pattern", "host", "port", "match"),
    [
        ("*", "anything.example", 443, True),
        ("*", "8.8.8.8", 443, True),
        ("*:8080", "anything.example", 443, False),
        ("media.flora.ai", "media.flora.ai", 443, True),
        ("media.flora.ai", "MEDIA.flora.AI.", 443, True),
        ("Media.Flora.AI.", "media.flora.ai", 443, True),
        ("media.flora.ai", "x.media.flora.ai", 443, False),
        ("media.flora.ai", "media.flora.ai.evil.example", 443, False),
        ("*.flora.ai", "media.flora.ai", 443, True),
        ("*.flora.ai", "a.b.flora.ai", 443, True),
        ("*.flora.ai", "flora.ai", 443, False),
        ("*.flora.ai", "evilflora.ai", 443, False),
        ("*.flora.ai", "flora.ai.evil.example", 443, False),
        ("nas.local:8080", "nas.local", 8080, True),
        ("nas.local:8080", "nas.local", 80, False),
        ("nas.local", "nas.local", 8080, True),
        ("*.flora.ai:443", "media.flora.ai", 443, True),
        ("127.0.0.1", "127.0.0.1", 80, True),
        ("127.0.0.1", "localhost", 80, False),
        ("127.0.0.1", "::ffff:127.0.0.1", 80, False),
        ("::1", "::1", 80, True),
        ("[::1]:8080", "0:0:0:0:0:0:0:1", 8080, True),
        ("[::1]:8080", "[::1]", 8080, True),
        ("[::1]:8080", "::1", 80, False),
        ("bücher.example", "xn--bcher-kva.example", 443, True),
        ("xn--bcher-kva.example", "BÜCHER.example", 443, True),
        ("*", "", 443, False),
        ("*", "127.1", 443, False),
    ],
)
def test_a_pattern_means_these_hosts_and_not_those(
    pattern: str, host: str, port: int, *, match: bool
) -> None:
    assert HostPatterns.parse([pattern]).match(host, port) is match


def test_one_pattern_of_several_is_enough_and_none_match_nothing() -> None:
    patterns = HostPatterns.parse(["*.flora.ai", "nas.local:8080"])
    assert patterns.match("nas.local", 8080)
    assert not HostPatterns.parse([]).match("nas.local", 8080)


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("", "no host name"),
        ("https://media.flora.ai", "without https://"),
        ("media.flora.ai/path", "without https://"),
        ("user@media.flora.ai", "without https://"),
        ("*flora.ai", "a * stands alone"),
        ("media.*.ai", "a * stands alone"),
        ("*.*.ai", "a * stands alone"),
        ("*.10.0.0.1", "no sub-domains"),
        ("media.flora.ai:", "from 1 to 65535"),
        ("media.flora.ai:0", "from 1 to 65535"),
        ("media.flora.ai:65536", "from 1 to 65535"),
        ("media.flora.ai:https", "from 1 to 65535"),
        ("media.flora.ai:0000004430000", "from 1 to 65535"),
        ("127.1", "usual form"),
        ("10.0.0.0/8", "without https://"),
        ("a b", "no host name"),
        ("a..b", "no host name"),
        ("[::1", "no host"),
        ("x" * 300, "no host name"),
    ],
)
def test_a_bad_pattern_is_refused_with_what_would_be_right(pattern: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)) as caught:
        HostPatterns.parse(["media.flora.ai", pattern])
    assert repr(pattern[:70])[:-1] in str(caught.value)


@given(st.text(), st.integers(1, 65535))
def test_whatever_a_pattern_says_it_is_read_or_refused_with_a_value_error(text: str, port: int) -> None:
    try:
        patterns = HostPatterns.parse([text])
    except ValueError:
        return
    if "*" not in text and ":" not in text:
        assert patterns.match(text, port)


@pytest.mark.parametrize(
    "host", ["127.1", "0177.0.0.1", "0x7f.1", "2130706433", "017700000001", "1.2.3.4.5", "x.0x7f"]
)
def test_an_ipv4_address_in_any_but_its_usual_form_is_no_host(host: str) -> None:
    with pytest.raises(ValueError, match="usual form"):
        canonical_host(host)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "x.localhost", "nas", "nas.local", "db.internal", "pi.home.arpa", "home.arpa"),
        *("nas.lan", "x.corp", "x.home", "x.mail", "x.intranet", "x.private", "host.localdomain"),
        *("x.localnet", "x.workgroup", "x.test", "x.invalid", "x.onion", "x.alt", "1.0.0.10.in-addr.arpa"),
        "metadata.google.internal",
    ],
)
def test_a_name_that_only_a_private_network_knows_is_local(host: str) -> None:
    assert is_local_name(host)


@pytest.mark.parametrize(
    "host", ["flora.ai", "local.flora.ai", "lan.example", "x.atlan", "corp.com", "home.com", "8.8.8.8", "::1"]
)
def test_other_names_and_addresses_are_not_local_names(host: str) -> None:
    assert not is_local_name(host)


def test_an_ipv6_address_with_a_port_stands_in_brackets() -> None:
    assert join_port("::1", 443) == "[::1]:443"
    assert join_port("flora.ai", 443) == "flora.ai:443"
