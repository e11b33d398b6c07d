"""The preconnection PDU of [MS-RDPEPS]: recognised so that its refusal has a name.

Hyper-V's VMConnect, Devolutions Gateway and `xfreerdp /pcb` send it in front of everything else.
RD Session Hosts do not expect it, so the proxy refuses it, but an operator who pointed such a
client at the proxy by mistake should read more than "not RDP".

    0  cbSize   u32   whole PDU: 16 (version 1), or 18 and more (version 2)
    4  flags    u32   0
    8  version  u32   1 or 2
    12 id       u32
    16 cchPCB   u16   version 2 only: number of UTF-16 units that follow, NUL included
    18 wszPCB         UTF-16LE

All integers are little-endian ([MS-RDPEPS] 2.2.1.1, 2.2.1.2). It cannot be taken for a Connection
Request: a TPKT whose third and fourth byte are zero announces a length of zero.
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.errors import Cause, WireError
from proxy.wire.incomplete import Incomplete

IDENTIFYING_BYTES = 12  # size, flags and version: with them the PDU is told from noise
MAX_PDU_BYTES = 4096  # ours; [MS-RDPEPS] names no limit

_VERSION_1_BYTES = 16
_VERSION_2_MIN_BYTES = 18


class PreconnectionPdu(NamedTuple):
    """A decoded preconnection PDU; `blob` is None in version 1."""

    size: int
    version: int
    id: int
    blob: str | None


def looks_like_preconnection(prefix: bytes) -> bool:
    """Whether these first bytes (any number; 12 decide) can begin a preconnection PDU."""
    head = prefix[:IDENTIFYING_BYTES]
    if any(head[2:8]) or any(head[9:]):  # size below 64 KiB, flags zero, version below 256
        return False
    if len(head) >= 2:
        size = head[0] | head[1] << 8
        sized = size == _VERSION_1_BYTES or _VERSION_2_MIN_BYTES <= size <= MAX_PDU_BYTES
        if not sized:
            return False
    return head[8:9] in (b"", b"\x01", b"\x02")


def parse_preconnection(data: bytes) -> PreconnectionPdu | Incomplete:
    """Read one preconnection PDU; surplus bytes are ignored.

    Raises:
        WireError: NOT_TPKT where the bytes are not a preconnection PDU either.
    """
    if not looks_like_preconnection(data):
        raise WireError(Cause.NOT_TPKT, "not a preconnection PDU")
    if len(data) < IDENTIFYING_BYTES:
        return Incomplete(IDENTIFYING_BYTES - len(data))
    size = int.from_bytes(data[:2], "little")
    if len(data) < size:
        return Incomplete(size - len(data))
    version = data[8]
    number = int.from_bytes(data[12:16], "little")
    if size == _VERSION_1_BYTES:
        return PreconnectionPdu(size, version, number, None)
    units = int.from_bytes(data[16:18], "little")
    text = data[18 : min(size, 18 + 2 * units)].decode("utf-16-le", "replace")
    return PreconnectionPdu(size, version, number, text.rstrip("\0"))
