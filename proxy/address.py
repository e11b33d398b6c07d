"""Address: one TCP end point, an IP address or DNS name and a port."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple


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
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket:
                raise ValueError(f"{text!r} lacks the closing bracket of an IPv6 address")
            if not _is_ip(host, 6):
                raise ValueError(f"{host!r} is not an IPv6 address")
            port_text = rest[1:] if rest.startswith(":") else ""
            if rest and not port_text:
                raise ValueError(f"{text!r} has {rest!r} where ':port' is expected")
        elif text.count(":") > 1:
            if default_port is None or not _is_ip(text, 6):
                raise ValueError(f"write an IPv6 address in brackets, [{text}]:3389")
            host, port_text = text, ""
        else:
            host, _, port_text = text.partition(":")
        if not host:
            raise ValueError(f"{text!r} names no host")
        if port_text:
            if not (port_text.isascii() and port_text.isdigit()):
                raise ValueError(f"{port_text!r} is not a port number")
            port = int(port_text)
        elif default_port is not None:
            port = default_port
        else:
            raise ValueError(f"{text!r} lacks a port, as in {text}:3389")
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not between 0 and 65535")
        return cls(canonical_host(host), port)

    @property
    def is_ip(self) -> bool:
        """Whether `host` is an IP address, not a DNS name."""
        return _is_ip(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def canonical_host(host: str) -> str:
    """The one spelling of an IP address; IPv4-mapped IPv6 becomes IPv4; names in lower case."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".")
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip)


def _is_ip(host: str, version: int | None = None) -> bool:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return version is None or ip.version == version
