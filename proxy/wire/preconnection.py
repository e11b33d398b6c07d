"""The preconnection PDU of [MS-RDPEPS]: recognised so that its refusal has a name.

Hyper-V's VMConnect, Devolutions Gateway and `xfreerdp /pcb` send it in front of everything else.
RD Session Hosts do not expect it, so the proxy refuses it, but an operator who pointed such a
client at the proxy by mistake should read more than "not RDP".

    0  cbSize   u32   whole PDU: 16 (version 1), or 18 and more (version 2)
    4  flags    u32   0
    8  version  u32   1 or 2
    12 an id; in version 2 a text follows

All integers are little-endian ([MS-RDPEPS] 2.2.1.1, 2.2.1.2). It cannot be taken for a Connection
Request: a TPKT whose third and fourth byte are zero announces a length of zero.
"""

from __future__ import annotations

IDENTIFYING_BYTES = 12  # size, flags and version: with them the PDU is told from noise
_MAX_PDU_BYTES = 4096  # ours; [MS-RDPEPS] names no limit

_VERSION_1_BYTES = 16
_VERSION_2_MIN_BYTES = 18


def looks_like_preconnection(prefix: bytes) -> bool:
    """Whether these first bytes (any number; 12 decide) can begin a preconnection PDU."""
    head = prefix[:IDENTIFYING_BYTES]
    if any(head[2:8]) or any(head[9:]):  # size below 64 KiB, flags zero, version below 256
        return False
    if len(head) >= 2:
        size = head[0] | head[1] << 8
        sized = size == _VERSION_1_BYTES or _VERSION_2_MIN_BYTES <= size <= _MAX_PDU_BYTES
        if not sized:
            return False
    return head[8:9] in (b"", b"\x01", b"\x02")
