"""PROXY protocol v1 and v2: the client's address as told by a load balancer in front.

Source: doc/proxy-protocol.txt of HAProxy.

    v1  PROXY TCP4|TCP6 <source> <destination> <source port> <destination port> CRLF
        PROXY UNKNOWN … CRLF                            at most 107 bytes
    v2  0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A             signature
        version 2 (high nibble) and command             0 LOCAL, 1 PROXY
        family and transport                            11 TCP4, 21 TCP6, 31 unix, 00 unspecified
        length u16                                      of what follows; integers big-endian
        addresses                                       12, 36 or 216 bytes by family
        TLVs                                            type u8, length u16, value

Reading is strict: the header decides who the client is, so what two readers could understand
differently is refused. Where a header tells no IP address (LOCAL, UNKNOWN, unix, unspecified),
`source` is None and the connection's real peer counts. A CRC32C is verified when present.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from proxy.address import Address, canonical_host
from proxy.errors import Cause, WireError
from proxy.wire.incomplete import Incomplete

MAX_V1_BYTES = 107
MAX_V2_BYTES = 4096  # ours; the format allows 65,551
TLV_CRC32C = 0x03

_V1_PREFIX = b"PROXY "
_V1_MIN_BYTES = len(b"PROXY UNKNOWN\r\n")
_V1_VERSIONS = {b"TCP4": 4, b"TCP6": 6}
_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD_BYTES = 16
_V2_ADDRESS_BYTES = {0: 0, 1: 12, 2: 36, 3: 216}  # by family: unspecified, IPv4, IPv6, unix
_IP_BYTES = {1: 4, 2: 16}

_CRC32C_TABLE = [0] * 256
for _byte in range(256):
    _crc = _byte
    for _ in range(8):
        _crc = _crc >> 1 ^ (0x82F63B78 if _crc & 1 else 0)
    _CRC32C_TABLE[_byte] = _crc


class ProxyHeader(NamedTuple):
    """One header.

    Attributes:
        raw: the header as it came.
        source: the client; None where the connection's real peer counts.
        destination: the address that the client dialled; None together with `source`.
        tlvs: type and value of each TLV (v2), in order.
    """

    raw: bytes
    source: Address | None
    destination: Address | None
    tlvs: tuple[tuple[int, bytes], ...] = ()


def looks_like_proxy_header(prefix: bytes) -> bool:
    """Whether a stream's first four bytes begin a PROXY header; no RDP client sends these."""
    return prefix[:4] in (_V1_PREFIX[:4], _V2_SIGNATURE[:4])


def parse_proxy_header(data: bytes) -> ProxyHeader | Incomplete:
    """Read a header from the start of a stream; surplus is ignored.

    Raises:
        WireError: PROXY_HEADER_MISSING at the first byte that cannot begin a header,
            PROXY_HEADER_INVALID for a header that is not sound.
    """
    if not data:
        return Incomplete(_V1_MIN_BYTES)
    if _V1_PREFIX.startswith(data[: len(_V1_PREFIX)]):
        return _parse_v1(data)
    if _V2_SIGNATURE.startswith(data[: len(_V2_SIGNATURE)]):
        return _parse_v2(data)
    raise WireError(Cause.PROXY_HEADER_MISSING, "the stream does not begin with a PROXY header")


def encode_proxy_v1(source: Address | None, destination: Address | None) -> bytes:
    """Build a v1 header; `source` None makes it UNKNOWN.

    Raises:
        ValueError: the two are not IP addresses of one version.
    """
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    family, _ = _packed(source, destination)
    fields = f"{source.host} {destination.host} {source.port} {destination.port}"
    return f"PROXY TCP{4 if family == 1 else 6} {fields}\r\n".encode("ascii")


def encode_proxy_v2(
    source: Address | None,
    destination: Address | None,
    tlvs: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """Build a v2 header; `source` None makes it LOCAL. A CRC32C TLV is filled in, whatever it has.

    Raises:
        ValueError: the two are not IP addresses of one version.
    """
    if source is None or destination is None:
        command, family, body = 0x20, 0x00, b""
    else:
        number, body = _packed(source, destination)
        command, family = 0x21, number << 4 | 1
    crc_at = -1
    for kind, value in tlvs:
        if kind == TLV_CRC32C:
            crc_at = _V2_HEAD_BYTES + len(body) + 3
        filled = bytes(4) if kind == TLV_CRC32C else value
        body += bytes((kind,)) + len(filled).to_bytes(2, "big") + filled
    raw = _V2_SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body
    if crc_at < 0:
        return raw
    return raw[:crc_at] + _crc32c(raw).to_bytes(4, "big") + raw[crc_at + 4 :]


def _parse_v1(data: bytes) -> ProxyHeader | Incomplete:
    end = data.find(b"\r\n", 0, MAX_V1_BYTES)
    if end < 0:
        if len(data) >= MAX_V1_BYTES:
            raise _invalid(f"no line end within {MAX_V1_BYTES} bytes")
        return Incomplete(max(_V1_MIN_BYTES - len(data), 1))
    raw = data[: end + 2]
    protocol, *fields = data[len(_V1_PREFIX) : end].split(b" ")
    if protocol == b"UNKNOWN":
        return ProxyHeader(raw, None, None)
    version = _V1_VERSIONS.get(protocol)
    if version is None or len(fields) != 4:
        raise _invalid("a line of version 1 has TCP4 or TCP6, two addresses and two ports")
    source, destination, source_port, destination_port = fields
    return ProxyHeader(
        raw,
        _v1_address(version, source, source_port),
        _v1_address(version, destination, destination_port),
    )


def _v1_address(version: int, host: bytes, port: bytes) -> Address:
    canonical_port = port.isdigit() and len(port) <= 5 and (port[:1] != b"0" or port == b"0")
    if not canonical_port or int(port) > 0xFFFF:
        raise _invalid(f"{port!r} is not a port")
    try:
        text = host.decode("ascii")
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise _invalid(f"{host!r} is not an IP address") from None
    if ip.version != version or "%" in text:
        raise _invalid(f"{host!r} is not an IPv{version} address")
    return Address(canonical_host(text), int(port))


def _parse_v2(data: bytes) -> ProxyHeader | Incomplete:
    seen = len(data)
    if seen > 12 and data[12] not in (0x20, 0x21):
        raise _invalid(f"version and command 0x{data[12]:02x}")
    if seen > 13 and (data[13] >> 4 > 3 or data[13] & 0xF > 2):
        raise _invalid(f"family and transport 0x{data[13]:02x}")
    if seen < _V2_HEAD_BYTES:
        return Incomplete(_V2_HEAD_BYTES - seen)
    size = _V2_HEAD_BYTES + (data[14] << 8 | data[15])
    if size > MAX_V2_BYTES:
        raise _invalid(f"{size} bytes, more than {MAX_V2_BYTES}")
    local, family = data[12] == 0x20, data[13] >> 4
    tlvs_at = _V2_HEAD_BYTES + _V2_ADDRESS_BYTES[family]
    if not local and size < tlvs_at:
        raise _invalid(f"{size} bytes do not hold the addresses of family {family}")
    if seen < size:
        return Incomplete(size - seen)
    raw = data[:size]
    if local or not family:
        return ProxyHeader(raw, None, None)
    tlvs = _read_tlvs(raw, tlvs_at)
    if family not in _IP_BYTES:
        return ProxyHeader(raw, None, None, tlvs)
    destination_at = _V2_HEAD_BYTES + _IP_BYTES[family]
    ports_at = destination_at + _IP_BYTES[family]
    return ProxyHeader(
        raw,
        _v2_address(raw[_V2_HEAD_BYTES:destination_at], raw[ports_at : ports_at + 2]),
        _v2_address(raw[destination_at:ports_at], raw[ports_at + 2 : tlvs_at]),
        tlvs,
    )


def _v2_address(packed: bytes, port: bytes) -> Address:
    host = ".".join(map(str, packed)) if len(packed) == 4 else str(ipaddress.IPv6Address(packed))
    return Address(canonical_host(host), int.from_bytes(port, "big"))


def _read_tlvs(raw: bytes, at: int) -> tuple[tuple[int, bytes], ...]:
    tlvs = []
    while at < len(raw):
        value_at = at + 3
        end = value_at + int.from_bytes(raw[at + 1 : value_at], "big")
        if value_at > len(raw) or end > len(raw):
            raise _invalid("a TLV reaches past the end")
        kind, value = raw[at], raw[value_at:end]
        if kind == TLV_CRC32C:
            blank = raw[:value_at] + bytes(len(value)) + raw[end:]
            if value != _crc32c(blank).to_bytes(4, "big"):
                raise _invalid("the CRC32C does not match")
        tlvs.append((kind, value))
        at = end
    return tuple(tlvs)


def _crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of RFC 3720 appendix B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _packed(source: Address, destination: Address) -> tuple[int, bytes]:
    """Family number and address block of two IP addresses of one version."""
    ips = [ipaddress.ip_address(address.host) for address in (source, destination)]
    if ips[0].version != ips[1].version:
        raise ValueError(f"{source} and {destination} are not of one IP version")
    ports = source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")
    return (1 if ips[0].version == 4 else 2), ips[0].packed + ips[1].packed + ports


def _invalid(detail: str) -> WireError:
    return WireError(Cause.PROXY_HEADER_INVALID, detail)
