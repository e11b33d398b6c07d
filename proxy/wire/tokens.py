"""Routing tokens: the line of a Connection Request that names a session host or a collection.

A routing token is one line of text in front of the negotiation data ([MS-RDPBCGR] 2.2.1.1). Only
one form names a host, the `msts` form of Windows' token redirection:

    Cookie: msts=<A>.<B>.<R>    A = the four bytes of an IPv4 address read as a little-endian u32
                                B = the port with its two bytes swapped
                                R = 0000, reserved, may be absent or padded with blanks

`10.0.0.21:3389` is `352321546.15629.0000`. Source: the LoadBalanceInfo page of Microsoft's ActiveX
control and captures (vectors `ms_loadbalanceinfo_example`, `xfreerdp2_redirected_token`). No IPv6
form is documented. Decoding is strict, because a wrong guess sends a client to a wrong host: a
dotted quad read leniently would become another address. Every other text is opaque: it is
forwarded, and routing decides without an address.

Every other form is one function and one line in `TOKEN_FORMATS`. Prefixes are compared without
case, and any number of blanks may follow the colon, as HAProxy reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from proxy.address import Address

_PADDING = " \t\r\n\0"
_MSTS = re.compile(rb"([0-9]{1,10})\.([0-9]{1,5})\.[0-9]{0,4} *")


class RoutingToken(NamedTuple):
    """One routing token.

    Attributes:
        line: the bytes on the wire, without CRLF.
        format: the key of `TOKEN_FORMATS` that read it.
        address: the host that it names, decoded; not yet checked against any pool.
        collection: alias of the RDS collection that it asks for.
    """

    line: bytes
    format: str
    address: Address | None = None
    collection: str | None = None

    @property
    def is_issued_by_host(self) -> bool:
        """An msts value without an address: the host that issued it knows it, and nobody else."""
        return self.format == "msts_opaque"

    @property
    def text(self) -> str:
        """The line in printable ASCII, everything else escaped, 512 bytes at most: for logs."""
        return self.line[:512].decode("latin-1").encode("unicode_escape").decode("ascii")


def read_token(line: bytes) -> RoutingToken:
    """Read a routing token line (without CRLF); the first format that knows it answers."""
    for read in TOKEN_FORMATS.values():
        token = read(line)
        if token is not None:
            return token
    raise AssertionError("the last format answers for every line")


def cookie_value(line: bytes, name: bytes) -> bytes | None:
    """The value of `Cookie: <name>=<value>`, or None where the line is not that cookie.

    `name` is in lower case and ends in `=`.
    """
    if line[:7].lower() != b"cookie:":
        return None
    pair = line[7:].lstrip(b" ")
    return pair[len(name) :] if pair[: len(name)].lower() == name else None


def normal_alias(alias: str) -> str:
    """One spelling of a collection's alias: without padding, in one case."""
    return alias.strip(_PADDING).casefold()


def encode_msts(address: Address) -> bytes:
    """The routing token line (without CRLF) that names an IPv4 address and port.

    Raises:
        ValueError: the address is IPv6 or a DNS name, or its port cannot be dialled.
    """
    host, port = address
    if not address.is_ip:
        raise ValueError(f"a routing token holds an IPv4 address, {host!r} is a name: resolve it")
    if ":" in host:
        raise ValueError(f"a routing token holds an IPv4 address, {host} is IPv6")
    if not 0 < port <= 0xFFFF:
        raise ValueError(f"port {port} is not between 1 and 65535")
    number = int.from_bytes(bytes(map(int, host.split("."))), "little")
    if not number:
        raise ValueError(f"{host} is no address of a host")
    return b"Cookie: msts=%d.%d.0000" % (number, (port & 0xFF) << 8 | port >> 8)


def _decode_msts(value: bytes) -> Address | None:
    match = _MSTS.fullmatch(value)
    if match is None:
        return None
    number, port = int(match[1]), int(match[2])
    if not (0 < number <= 0xFFFFFFFF and 0 < port <= 0xFFFF):
        return None
    host = f"{number & 0xFF}.{number >> 8 & 0xFF}.{number >> 16 & 0xFF}.{number >> 24}"
    return Address(host, (port & 0xFF) << 8 | port >> 8)


def _msts(line: bytes) -> RoutingToken | None:
    """The documented form: names a host."""
    value = cookie_value(line, b"msts=")
    if value is None:
        return None
    address = _decode_msts(value)
    return None if address is None else RoutingToken(line, "msts", address)


def _msts_opaque(line: bytes) -> RoutingToken | None:
    """An msts value that only its issuer understands (gnome-remote-desktop, NSFOCUS)."""
    return None if cookie_value(line, b"msts=") is None else RoutingToken(line, "msts_opaque")


def _tsv(line: bytes) -> RoutingToken | None:
    """`tsv://MS Terminal Services Plugin.1.<alias>`: asks a connection broker for a collection.

    The alias may carry padding: callers of the ActiveX control add a blank, or the zero of a wide
    string, to make the length even.
    """
    if line[:4].lower() != b"tsv:":
        return None
    alias = line.rpartition(b".1.")[2] if b".1." in line else b""
    return RoutingToken(
        line, "tsv", collection=alias.decode("utf-8", "replace").strip(_PADDING) or None
    )


def _mth(line: bytes) -> RoutingToken | None:
    """`mth://localhost/<id>/<id>`: Azure Virtual Desktop."""
    return RoutingToken(line, "mth") if line[:6].lower() == b"mth://" else None


def _custom(line: bytes) -> RoutingToken:
    return RoutingToken(line, "custom")


TOKEN_FORMATS: dict[str, Callable[[bytes], RoutingToken | None]] = {
    "msts": _msts,
    "msts_opaque": _msts_opaque,
    "tsv": _tsv,
    "mth": _mth,
    "custom": _custom,
}
"""Asked in this order; a function answers None for a line that is not of its form."""
