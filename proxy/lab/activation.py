"""Activation: from Client Info to an active session, the host's and the client's packets. Pure.

Source: [MS-RDPBCGR] 2.2.1.11 (Client Info), 2.2.1.12 and [MS-RDPELE] (licensing done),
2.2.1.13.1 (Demand Active), 2.2.1.13.2 (Confirm Active), 2.2.1.14 to 2.2.1.22 (finalization).

The host offers the least capability sets with which FreeRDP becomes active. It never draws.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from proxy.lab import mcs

LICENSE_DONE = mcs.send_data(
    mcs.IO_CHANNEL,
    bytes.fromhex("80000000 ff031000 07000000 02000000 04000000"),
    to_client=True,
)

_SEC_INFO_PKT = 0x0040
_INFO_UNICODE = 0x10
_DEMAND_ACTIVE, _DATA = 0x11, 0x17
_PDU2_CONTROL, _PDU2_SYNCHRONIZE, _PDU2_FONT_LIST, _PDU2_FONT_MAP = 20, 31, 39, 40
_SHARE_ID = 0x000103EA


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """Who logs in. A lab host asks for no password and keeps none."""

    username: str
    domain: str = ""

    def encode(self, user: int) -> bytes:
        names = [self.domain, self.username, "", "", ""]
        texts = [name.encode("utf-16-le") for name in names]
        packet = struct.pack("<HHII", _SEC_INFO_PKT, 0, 0, _INFO_UNICODE)
        packet += struct.pack("<5H", *map(len, texts)) + b"".join(text + b"\0\0" for text in texts)
        return mcs.send_data(mcs.IO_CHANNEL, packet, user=user, to_client=False)

    @classmethod
    def parse(cls, data: bytes) -> ClientInfo:
        """Read the content of the packet (security header first). Raises ValueError."""
        try:
            security, _, _, flags, *sizes = struct.unpack_from("<HHII5H", data)
        except struct.error as error:
            raise ValueError(f"Client Info is cut short: {error}") from None
        if not security & _SEC_INFO_PKT:
            raise ValueError("not a Client Info packet")
        unicode = bool(flags & _INFO_UNICODE)
        at, names = 22, []
        for size in sizes[:2]:
            names.append(data[at : at + size].decode("utf-16-le" if unicode else "cp1252"))
            at += size + (2 if unicode else 1)
        return cls(username=names[1], domain=names[0])


def demand_active() -> bytes:
    """The host opens a session of 1024x768 with next to no capabilities."""
    sets = [
        _capability(1, "<HHHHHHHHHBB", 1, 3, 0x200, 0, 0, 0x0401, 0, 0, 0, 0, 0),  # general
        _capability(2, "<9HBBHH", 16, 1, 1, 1, 1024, 768, 0, 1, 1, 0, 0, 1, 0),  # bitmap
        # order: its granularity, level and flags; all else is zero
        _capability(3, "<20x6H52x", 1, 20, 0, 1, 0, 0x22),
        _capability(8, "<HHH", 1, 20, 20),  # pointer
        _capability(9, "<HH", mcs.SERVER_USER, 0),  # share
        _capability(13, "<HHIIII64s", 0x21, 0, 0x409, 4, 0, 12, b""),  # input
        _capability(20, "<I", 0),  # virtual channel
    ]
    capabilities = struct.pack("<HH", len(sets), 0) + b"".join(sets)
    body = struct.pack("<IHH4s", _SHARE_ID, 4, len(capabilities), b"RDP") + capabilities
    pdu = _share_control(_DEMAND_ACTIVE, body + bytes(4), mcs.SERVER_USER)
    return mcs.send_data(mcs.IO_CHANNEL, pdu, to_client=True)


def is_demand_active(share_pdu: bytes) -> bool:
    return share_pdu[2:4] == struct.pack("<H", _DEMAND_ACTIVE)


def font_list(user: int) -> bytes:
    """The client's last packet of the activation, the only one that a lab host waits for."""
    body = struct.pack("<HHHH", 0, 0, 3, 50)
    return mcs.send_data(
        mcs.IO_CHANNEL, _share_data(_PDU2_FONT_LIST, body, user), user=user, to_client=False
    )


def is_font_list(share_pdu: bytes) -> bool:
    return _is_data(share_pdu, _PDU2_FONT_LIST)


def is_font_map(share_pdu: bytes) -> bool:
    """Whether this is the host's last packet of the activation: the session is active."""
    return _is_data(share_pdu, _PDU2_FONT_MAP)


def finalization() -> list[bytes]:
    """The host's four answers: Synchronize, Control (cooperate, granted), Font Map."""
    bodies = (
        (_PDU2_SYNCHRONIZE, struct.pack("<HH", 1, mcs.SERVER_USER)),
        (_PDU2_CONTROL, struct.pack("<HHI", 4, 0, 0)),
        (_PDU2_CONTROL, struct.pack("<HHI", 2, mcs.SERVER_USER, mcs.SERVER_USER)),
        (_PDU2_FONT_MAP, struct.pack("<HHHH", 0, 0, 3, 4)),
    )
    return [
        mcs.send_data(mcs.IO_CHANNEL, _share_data(kind, body, mcs.SERVER_USER), to_client=True)
        for kind, body in bodies
    ]


def _capability(kind: int, layout: str, *values: object) -> bytes:
    body = struct.pack(layout, *values)
    return struct.pack("<HH", kind, 4 + len(body)) + body


def _share_control(kind: int, body: bytes, source: int) -> bytes:
    return struct.pack("<HHH", 6 + len(body), kind, source) + body


def _share_data(kind: int, body: bytes, source: int) -> bytes:
    head = struct.pack("<IBBHBBH", _SHARE_ID, 0, 1, 4 + len(body), kind, 0, 0)
    return _share_control(_DATA, head + body, source)


def _is_data(share_pdu: bytes, kind: int) -> bool:
    """Whether a share PDU is a data PDU of that kind ([MS-RDPBCGR] 2.2.8.1.1.1.2)."""
    return (
        share_pdu[2:4] == struct.pack("<H", _DATA) and len(share_pdu) > 14 and share_pdu[14] == kind
    )
