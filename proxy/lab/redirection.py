"""Server redirection: the PDU by which a broker sends a client to another host. Pure.

Source: [MS-RDPBCGR] 2.2.13.1 (RDP_SERVER_REDIRECTION_PACKET) inside 2.2.13.3.1 (Enhanced
Security Server Redirection PDU, used when TLS is in force).
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

from proxy.lab import mcs

_SEC_REDIRECTION_PKT = 0x0400
_PDU_TYPE = 0x001A  # PDUTYPE_SERVER_REDIR_PKT with protocol version 1
_CERTIFICATE_ELEMENT, _DER = 32, 1

_TARGET_NET_ADDRESS = 0x1
_LOAD_BALANCE_INFO = 0x2
_USERNAME = 0x4
_DOMAIN = 0x8
_REDIRECTION_GUID = 0x8000
_TARGET_CERTIFICATE = 0x10000
# The order on the wire; it is not the order of the flags' values.
_FIELDS = (
    _TARGET_NET_ADDRESS,
    _LOAD_BALANCE_INFO,
    _USERNAME,
    _DOMAIN,
    0x10,  # password
    0x100,  # target FQDN
    0x200,  # target NetBIOS name
    0x1000,  # client TSV URL
    _REDIRECTION_GUID,
    _TARGET_CERTIFICATE,
)


@dataclass(frozen=True, slots=True)
class Redirection:
    """One redirection. Absent fields are not sent."""

    session_id: int
    load_balance_info: bytes | None = None  # the whole line with its CRLF
    target_net_address: str | None = None
    username: str | None = None
    domain: str | None = None
    redirection_guid: bytes | None = None  # 16 bytes
    target_certificate: bytes | None = None  # DER

    def encode(self) -> bytes:
        """The whole packet, TPKT header first."""
        values = {
            _TARGET_NET_ADDRESS: _text(self.target_net_address),
            _LOAD_BALANCE_INFO: self.load_balance_info,
            _USERNAME: _text(self.username),
            _DOMAIN: _text(self.domain),
            _REDIRECTION_GUID: _base64(self.redirection_guid),
            _TARGET_CERTIFICATE: _base64(_element(self.target_certificate)),
        }
        flags, fields = 0, b""
        for flag in _FIELDS:
            value = values.get(flag)
            if value is not None:
                flags |= flag
                fields += struct.pack("<I", len(value)) + value
        fields += bytes(8)
        packet = struct.pack(
            "<HHII", _SEC_REDIRECTION_PKT, 12 + len(fields), self.session_id, flags
        )
        packet += fields
        head = struct.pack("<HHHH", 8 + len(packet), _PDU_TYPE, mcs.SERVER_USER, 0)
        return mcs.send_data(mcs.IO_CHANNEL, head + packet, to_client=True)

    @classmethod
    def parse(cls, share_pdu: bytes) -> Redirection | None:
        """Read a share control PDU; None where it is none of these.

        Raises:
            ValueError: a redirection that is cut short.
        """
        if len(share_pdu) < 20 or share_pdu[2:4] != struct.pack("<H", _PDU_TYPE):
            return None
        security, length, session_id, flags = struct.unpack_from("<HHII", share_pdu, 8)
        if security != _SEC_REDIRECTION_PKT or 8 + length > len(share_pdu):
            raise ValueError("redirection packet is cut short")
        values: dict[int, bytes] = {}
        at = 20
        for flag in _FIELDS:
            if flags & flag:
                size = int.from_bytes(share_pdu[at : at + 4], "little")
                if at + 4 + size > len(share_pdu):
                    raise ValueError(f"redirection field {flag:#x} is cut short")
                values[flag] = share_pdu[at + 4 : at + 4 + size]
                at += 4 + size
        guid, element = values.get(_REDIRECTION_GUID), values.get(_TARGET_CERTIFICATE)
        return cls(
            session_id,
            values.get(_LOAD_BALANCE_INFO),
            _untext(values.get(_TARGET_NET_ADDRESS)),
            _untext(values.get(_USERNAME)),
            _untext(values.get(_DOMAIN)),
            base64.b64decode(guid.decode("utf-16-le").rstrip("\0")) if guid else None,
            _certificate(base64.b64decode(element.decode("utf-16-le").rstrip("\0")))
            if element
            else None,
        )


def _text(value: str | None) -> bytes | None:
    return None if value is None else (value + "\0").encode("utf-16-le")


def _untext(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-16-le").rstrip("\0")


def _base64(value: bytes | None) -> bytes | None:
    return None if value is None else _text(base64.b64encode(value).decode())


def _element(der: bytes | None) -> bytes | None:
    """TARGET_CERTIFICATE_CONTAINER with one element ([MS-RDPBCGR] 2.2.13.1.2)."""
    return None if der is None else struct.pack("<III", _CERTIFICATE_ELEMENT, _DER, len(der)) + der


def _certificate(container: bytes) -> bytes | None:
    while len(container) >= 12:
        kind, encoding, size = struct.unpack_from("<III", container)
        if (kind, encoding) == (_CERTIFICATE_ELEMENT, _DER):
            return container[12 : 12 + size]
        container = container[12 + size :]
    return None
