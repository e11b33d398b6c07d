"""MCS and GCC: the packets between TLS and the session, client's and host's side. Pure.

Source: [MS-RDPBCGR] 2.2.1.3 to 2.2.1.9 (basic settings exchange, channel connection), T.125
(MCS, connect PDUs in BER, domain PDUs in PER) and T.124 (GCC). Each packet here is a whole TPKT
with its X.224 data header. Only what a lab session needs is understood; anything else raises
ValueError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

IO_CHANNEL = 1003
SERVER_USER = 1002
FIRST_STATIC_CHANNEL = 1004

_ERECT_DOMAIN, _ATTACH_USER, _CHANNEL_JOIN, _SEND_DATA_REQUEST = 1, 10, 14, 25
_CS_CORE, _CS_SECURITY, _CS_NET, _CS_CLUSTER = 0xC001, 0xC002, 0xC003, 0xC004
_T124_OID = bytes.fromhex("000500147c0001")
_REDIRECTION_SUPPORTED_V4 = 0x0D
_REDIRECTED_SESSION_ID_VALID = 0x02


def data_packet(payload: bytes) -> bytes:
    """Put an X.224 data header (class 0, end of TSDU) and a TPKT header before `payload`."""
    return struct.pack(">BxH", 3, 7 + len(payload)) + b"\x02\xf0\x80" + payload


def data_payload(packet: bytes) -> bytes:
    """Take both headers off again."""
    if packet[4:7] != b"\x02\xf0\x80":
        raise ValueError("not an X.224 data packet")
    return packet[7:]


@dataclass(frozen=True, slots=True)
class ConnectInitial:
    """What a host takes from the client's first MCS packet."""

    channels: tuple[str, ...] = ()  # names of the static virtual channels
    selected_protocol: int = 1
    redirected_session_id: int | None = None  # CS_CLUSTER: set by a redirected client

    def encode(self) -> bytes:
        core = struct.pack(
            "<IHHHHII32sIII64sHHIHHH64sBBI",
            0x00080004, 1024, 768, 0xCA01, 0xAA03, 0x409, 19041,
            "LAB".encode("utf-16-le"), 4, 0, 12, b"",
            0xCA01, 1, 0, 24, 7, 1, b"", 0, 0, self.selected_protocol,
        )  # fmt: skip
        flags = _REDIRECTION_SUPPORTED_V4
        if self.redirected_session_id is not None:
            flags |= _REDIRECTED_SESSION_ID_VALID
        net = struct.pack("<I", len(self.channels)) + b"".join(
            struct.pack("<8sI", name.encode(), 0x80000000) for name in self.channels
        )
        blocks = (
            _block(_CS_CORE, core)
            + _block(_CS_CLUSTER, struct.pack("<II", flags, self.redirected_session_id or 0))
            + _block(_CS_SECURITY, bytes(8))
            + _block(_CS_NET, net)
        )
        gcc = bytes.fromhex("0008001000 01c000") + b"Duca" + _per_length(len(blocks)) + blocks
        user_data = _T124_OID + _per_length(len(gcc)) + gcc
        parameters = bytes.fromhex(
            "0401010401010101ff"
            "301a020122020102020100020101020100020101020300ffff020102"
            "30190201010201010201010201010201000201010202042002 0102"
            "3020020300ffff020300fc17020300ffff020101020100020101020300ffff020102"
        )
        content = parameters + b"\x04" + _ber_length(len(user_data)) + user_data
        return data_packet(b"\x7f\x65" + _ber_length(len(content)) + content)

    @classmethod
    def parse(cls, packet: bytes) -> ConnectInitial:
        payload = data_payload(packet)
        start = payload.find(b"Duca")
        if payload[:2] != b"\x7f\x65" or start < 0:
            raise ValueError("not an MCS Connect-Initial")
        blocks, channels, protocol, session_id = (
            _per_string(payload, start + 4),
            list[str](),
            0,
            None,
        )
        while len(blocks) >= 4:
            kind, length = struct.unpack_from("<HH", blocks)
            if not 4 <= length <= len(blocks):
                raise ValueError(f"block {kind:#06x} announces {length} bytes")
            body, blocks = blocks[4:length], blocks[length:]
            if kind == _CS_CORE and len(body) >= 212:
                protocol = struct.unpack_from("<I", body, 208)[0]
            elif kind == _CS_NET:
                names = [body[4 + 12 * i : 12 + 12 * i] for i in range(_u32(body))]
                channels = [name.rstrip(b"\0").decode("ascii", "replace") for name in names]
            elif kind == _CS_CLUSTER and _u32(body) & _REDIRECTED_SESSION_ID_VALID:
                session_id = _u32(body[4:])
        return cls(tuple(channels), protocol, session_id)


def connect_response(requested_protocols: int, channel_count: int) -> bytes:
    """The host's answer: no encryption under TLS, static channels numbered from 1004."""
    ids = [
        IO_CHANNEL,
        channel_count,
        *range(FIRST_STATIC_CHANNEL, FIRST_STATIC_CHANNEL + channel_count),
    ]
    net = struct.pack(f"<{len(ids)}H", *ids) + bytes(2 * (channel_count % 2))
    blocks = (
        _block(0x0C01, struct.pack("<III", 0x00080004, requested_protocols, 0))
        + _block(0x0C03, net)
        + _block(0x0C02, bytes(8))
    )
    gcc = bytes.fromhex("14760a01010001c000") + b"McDn" + _per_length(len(blocks)) + blocks
    user_data = _T124_OID + _per_length(len(gcc)) + gcc
    content = (
        bytes.fromhex("0a0100 020100 301a020122020103020100020101020100020101020300fff8020102")
        + b"\x04"
        + _ber_length(len(user_data))
        + user_data
    )
    return data_packet(b"\x7f\x66" + _ber_length(len(content)) + content)


def is_connect_response(packet: bytes) -> bool:
    return data_payload(packet)[:2] == b"\x7f\x66" and b"McDn" in packet


ERECT_DOMAIN_REQUEST = data_packet(bytes.fromhex("0401000100"))
ATTACH_USER_REQUEST = data_packet(bytes.fromhex("28"))


def attach_user_confirm(user: int) -> bytes:
    return data_packet(struct.pack(">BBH", 0x2E, 0, user - 1001))


def attached_user(packet: bytes) -> int:
    """The user channel that an Attach User Confirm gives."""
    choice, result, user = struct.unpack(">BBH", data_payload(packet))
    if choice != 0x2E or result != 0:
        raise ValueError("not an Attach User Confirm")
    return int(user) + 1001


def channel_join_request(user: int, channel: int) -> bytes:
    return data_packet(struct.pack(">BHH", 0x38, user - 1001, channel))


def channel_join_confirm(user: int, channel: int) -> bytes:
    return data_packet(struct.pack(">BBHHH", 0x3E, 0, user - 1001, channel, channel))


def send_data(channel: int, data: bytes, *, user: int = SERVER_USER, to_client: bool) -> bytes:
    """A Send Data Indication (host to client) or Request (client to host)."""
    head = struct.pack(">BHHB", 0x68 if to_client else 0x64, user - 1001, channel, 0x70)
    return data_packet(head + _per_length(len(data)) + data)


def sent_data(packet: bytes) -> tuple[int, bytes]:
    """Channel and content of a Send Data packet, either way."""
    payload = data_payload(packet)
    if payload[0] not in (0x64, 0x68):
        raise ValueError(f"MCS choice {payload[0] >> 2} where data was expected")
    channel = struct.unpack_from(">H", payload, 3)[0]
    return channel, _per_string(payload, 6)


@dataclass(frozen=True, slots=True)
class DomainRequest:
    """A client's MCS domain packet, as far as the host has to answer it."""

    kind: str  # "erect" | "attach" | "join" | "data" | "other"
    user: int = 0
    channel: int = 0


def domain_request(packet: bytes) -> DomainRequest:
    payload = data_payload(packet)
    choice = payload[0] >> 2
    if choice == _CHANNEL_JOIN:
        user, channel = struct.unpack_from(">HH", payload, 1)
        return DomainRequest("join", user + 1001, channel)
    kinds = {_ERECT_DOMAIN: "erect", _ATTACH_USER: "attach", _SEND_DATA_REQUEST: "data"}
    return DomainRequest(kinds.get(choice, "other"))


def _block(kind: int, body: bytes) -> bytes:
    return struct.pack("<HH", kind, 4 + len(body)) + body


def _ber_length(length: int) -> bytes:
    return bytes([length]) if length < 0x80 else b"\x82" + struct.pack(">H", length)


def _per_length(length: int) -> bytes:
    return bytes([length]) if length < 0x80 else struct.pack(">H", length | 0x8000)


def _per_string(data: bytes, offset: int) -> bytes:
    """What follows a PER length at `offset`; ValueError where it is cut short."""
    length, start = data[offset], offset + 1
    if length & 0x80:
        length, start = struct.unpack_from(">H", data, offset)[0] & 0x7FFF, offset + 2
    if start + length > len(data):
        raise ValueError(f"{length} bytes announced, {len(data) - start} there")
    return data[start : start + length]


def _u32(data: bytes) -> int:
    return int.from_bytes(data[:4], "little")
