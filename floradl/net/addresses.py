"""Which addresses lie on the open internet, which hosts a pattern means, and where floradl listens itself.

Pure: nothing is looked up. Python's `ipaddress.is_global` is no protection: its answer differs between patch
releases, and 3.11.7 lets NAT64, 6to4, site-local and multicast addresses pass. Hence own tables, from the
IANA special-purpose address registries (RFC 6890).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Self

from msgspec import Struct

_NOT_PUBLIC_4 = (
    IPv4Network("0.0.0.0/8"),  # "this network", RFC 791; Linux connects 0.0.0.0 to itself
    IPv4Network("10.0.0.0/8"),  # private, RFC 1918
    IPv4Network("100.64.0.0/10"),  # of carrier-grade NAT, RFC 6598; some clouds keep their metadata here
    IPv4Network("127.0.0.0/8"),  # loopback, RFC 1122
    IPv4Network("169.254.0.0/16"),  # link-local, RFC 3927; most clouds keep their metadata here
    IPv4Network("172.16.0.0/12"),  # private, RFC 1918
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments, RFC 6890
    IPv4Network("192.0.2.0/24"),  # documentation, RFC 5737
    IPv4Network("192.88.99.0/24"),  # 6to4 relays, deprecated by RFC 7526
    IPv4Network("192.168.0.0/16"),  # private, RFC 1918
    IPv4Network("198.18.0.0/15"),  # benchmarking, RFC 2544
    IPv4Network("198.51.100.0/24"),  # documentation, RFC 5737
    IPv4Network("203.0.113.0/24"),  # documentation, RFC 5737
    IPv4Network("224.0.0.0/4"),  # multicast, RFC 5771
    IPv4Network("240.0.0.0/4"),  # reserved, RFC 1112, with the broadcast address, RFC 919
    IPv4Network("168.63.129.16/32"),  # no RFC: Azure's host agent, the same inside each of its machines
)

# RFC 4291 section 2.4: IANA gives out global unicast addresses from this block only. What lies outside
# (::1, fc00::/7, fe80::/10, fec0::/10, ff00::/8, ::a.b.c.d, 64:ff9b:1::/48, 100::/64 ...) is not public.
_GLOBAL_UNICAST_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = (
    IPv6Network("2001::/23"),  # IETF protocol assignments, RFC 2928: Teredo, benchmarking, ORCHID
    IPv6Network("2001:db8::/32"),  # documentation, RFC 3849
    IPv6Network("2002::/16"),  # 6to4, RFC 3056: a tunnel to whatever IPv4 address it holds
    IPv6Network("3fff::/20"),  # documentation, RFC 9637
)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1: the translator connects to the IPv4 inside

# Last labels that the open internet has no names under. A proxy looks names up where we cannot see the
# answer, so what they mean there is never requested unseen.
_PRIVATE_SUFFIXES = (
    ".localhost",  # RFC 6761 section 6.3
    ".local",  # RFC 6762
    ".intranet", ".internal", ".private", ".corp", ".home", ".lan",  # in use without right: RFC 6762 app. G
    ".mail",  # as corp and home, for what leaks to them: ICANN's board, 2018-02-04
    ".arpa",  # infrastructure, RFC 3172; home.arpa (RFC 8375) is one network's own
    ".localdomain", ".localnet", ".workgroup",  # what routers and systems preset
    ".test", ".invalid",  # RFC 6761 sections 6.2, 6.4
    ".onion",  # RFC 7686: no name server may be asked
    ".alt",  # RFC 9476: no names of the DNS
)  # fmt: skip

_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PLACE = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+(?:%\w+)?)\]|(?P<name>[\w.-]+)):(?P<port>[0-9]{1,5})")
_WRITE = 'write it like 127.0.0.1:8787, or "[::1]:8787"'


def is_public(ip: IPv4Address | IPv6Address) -> bool:
    """Whether `ip` lies on the open internet.

    An IPv4-mapped (RFC 4291 section 2.5.5.2) or NAT64 address (RFC 6052) is judged by the IPv4 address
    inside, for that is what gets connected to; one with a scope (`fe80::1%eth0`, RFC 4007) is local.
    """
    if isinstance(ip, IPv4Address):
        return not any(ip in net for net in _NOT_PUBLIC_4)
    if ip.scope_id is not None:
        return False
    if ip.ipv4_mapped is not None:
        return is_public(ip.ipv4_mapped)
    if ip in _NAT64:
        return is_public(IPv4Address(int(ip) & 0xFFFF_FFFF))
    return ip in _GLOBAL_UNICAST_6 and not any(ip in net for net in _NOT_PUBLIC_6)


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that `host` spells out (no brackets around it), `None` where it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def canonical_host(text: str) -> str:
    """Return the one spelling of a host: an address, or a name in lower-case ASCII (IDNA) without a last dot.

    Raises `ValueError` for what is neither. So are the forms of an IPv4 address that C libraries read
    and others do not (`127.1`, `0177.0.0.1`, `2130706433`, `0x7f000001`): whoever writes them means to
    be misunderstood. What counts as one is the rule of the WHATWG URL standard, "ends in a number".
    """
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    ip = literal(host)
    if ip is not None:
        return str(ip)
    name = _ascii(host).lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError(f"{shown(text)} is no address in the usual form, as in 203.0.113.7")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):  # RFC 1035 section 2.3.4
        raise ValueError(f"{shown(text)} is no host name")
    return name


def is_local_name(host: str) -> bool:
    """Whether the canonical name `host` can only mean something inside a private network.

    Such are names of one label, and those under a last label that no registry gives names out under:
    of special use (RFC 6761 and its like), kept for private use (`internal`: ICANN's board, 2024-07-29), or
    in use without right.
    """
    return literal(host) is None and ("." not in host or host.endswith(_PRIVATE_SUFFIXES))


def is_loopback(host: str) -> bool:
    """Whether a host (an address without brackets, or a name) can only mean this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def join_port(host: str, port: int) -> str:
    """Return `host:port` as in a URL and a pattern: an IPv6 address stands in brackets (RFC 3986)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def shown(text: str) -> str:
    """Return `text` quoted, escaped and cut, for a message."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


class _Pattern(Struct, frozen=True):
    host: str  # canonical; empty: any
    subdomains: bool = False  # what lies below `host`, but not `host` itself
    port: int | None = None

    def match(self, host: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.subdomains:
            return literal(host) is None and host.endswith("." + self.host)
        return self.host in {"", host}


class HostPatterns(Struct, frozen=True):
    """A list of hosts as a setting has it.

    `example.com` is that host only, `*.example.com` what lies below it but not `example.com` itself,
    `*` any host. An IPv4 or IPv6 address is itself. Each may carry a port (`nas.local:8080`,
    `[2001:db8::7]:8080`); without one, any port matches. Case, a last dot, and whether a name is
    written in Unicode or as `xn--`, make no difference. Names are compared, never looked up.
    """

    patterns: tuple[_Pattern, ...]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> HostPatterns:
        """Read patterns. Raises `ValueError` with a message that says which is wrong, and why."""
        return cls(tuple(_parse(text) for text in texts))

    def match(self, host: str, port: int) -> bool:
        """Whether a pattern means `host` at `port`. What is no host at all matches nothing."""
        try:
            canonical = canonical_host(host)
        except ValueError:
            return False
        return any(pattern.match(canonical, port) for pattern in self.patterns)


def _parse(text: str) -> _Pattern:
    if "/" in text or "@" in text:
        raise ValueError(
            f"{shown(text)} is no host: write it without https://, path and user, host or host:port"
        )
    host, port = _split_port(text)
    if host == "*":
        return _Pattern("", port=port)
    subdomains = host.startswith("*.")
    name = host.removeprefix("*.")
    if "*" in name:
        raise ValueError(f"{shown(text)} is no pattern: a * stands alone, or first as in *.example.com")
    try:
        canonical = canonical_host(name)
    except ValueError as error:
        raise ValueError(str(error) if name == text else f"{shown(text)} is no host: {error}") from None
    if subdomains and literal(canonical) is not None:
        raise ValueError(f"{shown(text)} is no pattern: an address has no sub-domains")
    return _Pattern(canonical, subdomains, port)


def _split_port(text: str) -> tuple[str, int | None]:
    if literal(text) is not None:  # an IPv6 address without brackets has colons, but no port
        return text, None
    host, colon, digits = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, None
    if not re.fullmatch("[0-9]{1,5}", digits) or not 1 <= int(digits) <= 65535:
        raise ValueError(f"{shown(text)} is no host with a port: the port is a number from 1 to 65535")
    return host, int(digits)


def _ascii(name: str) -> str:
    if name.isascii():
        return name
    # As the HTTP client does it, or a name could be checked under one spelling and used under another;
    # late, because names that are not ASCII are rare and httpx takes longer to load than all else.
    import httpx  # noqa: PLC0415

    try:
        return httpx.URL(scheme="https", host=name).raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError(f"{shown(name)} is no host name") from None


class Endpoint(Struct, frozen=True):
    """A host (an address, or a name of this machine's) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_port(self.host, self.port)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST:PORT`. Raises `ValueError` that says what would be right."""
        match = _PLACE.fullmatch(text)
        if match is None:
            if re.fullmatch(":?[0-9]{1,5}", text):
                port = text.lstrip(":")
                raise ValueError(
                    f"names no address: write 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for all"
                )
            raise ValueError(f"is not an address and port: {_WRITE}")
        port_number = int(match["port"])
        if not 1 <= port_number <= 65535:
            raise ValueError(f"has a port out of range, which is 1 to 65535: {_WRITE}")
        return cls(match["six"] or match["name"], port_number)
