"""Address: one TCP end point, an IP address or DNS name and a port."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?\.?", re.IGNORECASE | re.ASCII)
_WILDCARDS = {"0.0.0.0": False, "::": True}  # -> is IPv6
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# What `ipaddress` takes for IPv4, in a twentieth of its time: a reload reads thousands of them.
_IPV4 = re.compile(rf"{_OCTET}(\.{_OCTET}){{3}}", re.ASCII)
_ENDS_IN_NUMBER = re.compile(r"(.*\.)?[0-9]+\.?", re.ASCII)


class Address(NamedTuple):
    """An end point such as `10.0.0.21:3389`, `[2001:db8::5]:3389` or `rdsh01.example:3389`.

    `host` carries no brackets. IP addresses are in their canonical text form, so that two
    spellings of one address are equal.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> Address:
        """Read `host:port`, `[ipv6]:port`, or a bare host where `default_port` is given.

        Raises:
            ValueError: the text is not an address; the message says what is missing.
        """
        text = text.strip()
        host, port_text = _split(text)
        if port_text is None:
            if default_port is None:
                raise ValueError(f"{text!r} lacks a port, as in {cls(host, 3389)}")
            return cls(canonical_host(host), default_port)
        if not (port_text.isascii() and port_text.isdigit()):
            raise ValueError(f"{port_text!r} is not a port number")
        if len(port_text) > 5 or int(port_text) > 65535:
            raise ValueError(f"port {port_text} is not between 0 and 65535")
        return cls(canonical_host(host), int(port_text))

    @property
    def is_ip(self) -> bool:
        """Whether `host` is an IP address, not a DNS name."""
        return _is_ip(self.host)

    def overlaps(self, other: Address) -> bool:
        """Whether the system cannot give both of two addresses to listen on to different owners."""
        if self.port != other.port or self.port == 0:  # port 0 is a free one each time
            return False
        return self.host == other.host or any(
            wild.host in _WILDCARDS and _WILDCARDS[wild.host] == (":" in narrow.host)
            for wild, narrow in ((self, other), (other, self))
        )

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _split(text: str) -> tuple[str, str | None]:
    """Host and port as they are written; no port where the text has none."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError(f"{text!r} lacks the closing bracket of an IPv6 address")
        if not _is_ip(host, 6):
            raise ValueError(f"{host!r} is not an IPv6 address")
        if rest and (rest[0] != ":" or rest == ":"):
            raise ValueError(f"{text!r} has {rest!r} where ':port' is expected")
        return host, rest[1:] or None
    if text.count(":") > 1:
        if not _is_ip(text, 6):
            raise ValueError(f"{text!r} is no address: write host:port or [ipv6]:port")
        return text, None
    host, colon, port = text.partition(":")
    if not host:
        raise ValueError(f"{text!r} names no host")
    if colon and not port:
        raise ValueError(f"{text!r} has no port behind its colon")
    _check_name(host)
    return host, port or None


def _check_name(host: str) -> None:
    """Refuse what a resolver would misread: `010.0.0.1` is octal to it, `10.0.0` is 10.0.0.0."""
    if _ENDS_IN_NUMBER.fullmatch(host):
        if not _is_ip(host, 4):
            raise ValueError(f"{host!r} is not an IPv4 address")
    elif not _NAME.fullmatch(host):
        raise ValueError(f"{host!r} is neither an IP address nor a DNS name")


def canonical_host(host: str) -> str:
    """The one spelling of an IP address; IPv4-mapped IPv6 becomes IPv4; names in lower case."""
    if _IPV4.fullmatch(host):
        return host
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".")
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip)


def _is_ip(host: str, version: int | None = None) -> bool:
    if _IPV4.fullmatch(host):
        return version != 6
    if ":" not in host:
        return False
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return version != 4
