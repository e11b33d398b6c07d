"""X.224 Connection Request and Connection Confirm: the first message of each side.

    0  version   3          TPKT, RFC 1006; integers big-endian
    1  reserved             ignored
    2  length    u16        whole message, 11..4096 here
    4  LI        u8         X.224 length indicator: length - 5
    5  code      0xE0 / 0xD0    Connection Request / Connection Confirm
    6  DST-REF, SRC-REF, class  ignored: the session host judges them
    11 lines, each ended by CRLF: a routing token or `Cookie: mstshash=<user>`, or none
       RDP_NEG_REQ    01 | flags | 08 00 | requestedProtocols u32 (little-endian), optional
       RDP_NEG_CORRELATION_INFO    06 | 00 | 24 00 | id[16] | reserved[16], if flag 0x08

Source: [MS-RDPBCGR] 2.2.1.1, 2.2.1.2. Rules of reading:

1. Framing is refused exactly; content is never refused. What follows the frame is understood as
   far as possible and forwarded as it came: the session host decides.
2. LI is compared modulo 256. Observed: FreeRDP and rdesktop wrap it when a token or user name is
   long (vector `xfreerdp_li_wraps`). 255 is reserved by X.224 and refused.
3. RDP_NEG_REQ is looked for before CRLF, since binary data behind it may contain CRLF.
4. The specification allows one line. Where a client sends more, a token that names a host wins
   over one that does not, else the first line counts; a user name may stand in any line. Behind
   16 lines nothing is read.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from proxy.errors import Cause, WireError
from proxy.wire.incomplete import Incomplete
from proxy.wire.preconnection import IDENTIFYING_BYTES, looks_like_preconnection
from proxy.wire.tokens import RoutingToken, cookie_value, read_token

MAX_REQUEST_BYTES = 4096
MAX_LINES = 16  # ours: 4 KiB of tiny lines would cost a thousand times a real request

_TPKT_BYTES = 4
_HEAD_BYTES = 11
_CONNECTION_REQUEST = 0xE0
_CONNECTION_CONFIRM = 0xD0
_CORRELATION_INFO_PRESENT = 0x08


class Protocol(IntFlag):
    """Security protocols that a client offers ([MS-RDPBCGR] 2.2.1.1.1)."""

    RDP = 0
    SSL = 0x01
    HYBRID = 0x02
    RDSTLS = 0x04
    HYBRID_EX = 0x08
    RDSAAD = 0x10


class FailureCode(IntEnum):
    """Why a host refuses to negotiate ([MS-RDPBCGR] 2.2.1.2.2)."""

    SSL_REQUIRED_BY_SERVER = 1
    SSL_NOT_ALLOWED_BY_SERVER = 2
    SSL_CERT_NOT_ON_SERVER = 3
    INCONSISTENT_FLAGS = 4
    HYBRID_REQUIRED_BY_SERVER = 5
    SSL_WITH_USER_AUTH_REQUIRED_BY_SERVER = 6


class ResponseFlag(IntFlag):
    """What a session host can do, as its answer says ([MS-RDPBCGR] 2.2.1.2.1)."""

    EXTENDED_CLIENT_DATA = 0x01
    DYNVC_GFX = 0x02
    RESTRICTED_ADMIN = 0x08
    REDIRECTED_AUTHENTICATION = 0x10


class NegotiationRequest(NamedTuple):
    """RDP_NEG_REQ; `requested_protocols` is a set of `Protocol` bits, unknown ones included."""

    flags: int
    requested_protocols: int


class NegotiationResponse(NamedTuple):
    """RDP_NEG_RSP; `selected_protocol` is one `Protocol` value."""

    flags: int
    selected_protocol: int


class NegotiationFailure(NamedTuple):
    """RDP_NEG_FAILURE; `code` is a `FailureCode` or a number that is not assigned."""

    code: int


class ConnectionRequest(NamedTuple):
    """A client's first message.

    Attributes:
        raw: the message as it came, to be forwarded unchanged.
        routing_token: the token line, if any.
        cookie: value of `mstshash` as it came: a hint, cut and spoofed at will.
        negotiation: None for a client that knows only standard RDP security.
        correlation_id: 16 bytes that the client repeats in its UDP handshake.
    """

    raw: bytes
    routing_token: RoutingToken | None
    cookie: bytes | None
    negotiation: NegotiationRequest | None
    correlation_id: bytes | None

    @property
    def user(self) -> str | None:
        """The cookie as text, untrimmed; None where it is absent or empty."""
        return self.cookie.decode("utf-8", "replace") if self.cookie else None


class ConnectionConfirm(NamedTuple):
    """A session host's first message; `negotiation` is None where it carries no such data."""

    raw: bytes
    negotiation: NegotiationResponse | NegotiationFailure | None


def answer_word(negotiation: NegotiationResponse | NegotiationFailure | None) -> str:
    """What a Connection Confirm says, as a bounded word: `rdp`, `ssl`, `hybrid`, … `failure_5`.

    None is an answer without negotiation data: standard RDP security.
    """
    if negotiation is None:
        return "rdp"
    if isinstance(negotiation, NegotiationFailure):
        return f"failure_{negotiation.code}" if 1 <= negotiation.code <= 6 else "failure"
    name = Protocol(negotiation.selected_protocol).name
    return "other" if name is None or "|" in name else name.lower()


def flag_words(flags: int) -> tuple[str, ...]:
    """The known flags of a Connection Confirm, in lower case; unknown ones are passed over."""
    return tuple((flag.name or "").lower() for flag in ResponseFlag if flags & flag)


def parse_connection_request(data: bytes) -> ConnectionRequest | Incomplete:
    """Read a Connection Request from the start of a client's stream; surplus is ignored.

    Raises:
        WireError: NOT_TPKT, PRECONNECTION_BLOB, TPKT_LENGTH, LENGTH_INDICATOR or
            NOT_CONNECTION_REQUEST, as soon as the bytes seen allow no other answer.
    """
    if data and (data[0] != 3 or data[2:4] == b"\0\0") and looks_like_preconnection(data):
        if len(data) < IDENTIFYING_BYTES:
            missing = (_TPKT_BYTES if len(data) < _TPKT_BYTES else IDENTIFYING_BYTES) - len(data)
            return Incomplete(missing)
        raise WireError(Cause.PRECONNECTION_BLOB, "a preconnection PDU comes first")
    missing = _missing(data, _CONNECTION_REQUEST)
    if missing:
        return Incomplete(missing)
    length = data[2] << 8 | data[3]
    return _read_request(data if len(data) == length else data[:length])


def parse_connection_confirm(data: bytes) -> ConnectionConfirm | Incomplete:
    """Read a Connection Confirm from the start of a host's stream; surplus is ignored.

    Raises:
        WireError: the same causes as for a request; NOT_CONNECTION_REQUEST stands for another TPDU.
    """
    missing = _missing(data, _CONNECTION_CONFIRM)
    if missing:
        return Incomplete(missing)
    raw = data[: data[2] << 8 | data[3]]
    negotiation: NegotiationResponse | NegotiationFailure | None = None
    if len(raw) >= _HEAD_BYTES + 8 and raw[13:15] == b"\x08\x00":
        value = int.from_bytes(raw[15:19], "little")
        if raw[11] == 2:
            negotiation = NegotiationResponse(raw[12], value)
        elif raw[11] == 3:
            negotiation = NegotiationFailure(value)
    return ConnectionConfirm(raw, negotiation)


def encode_connection_request(
    *,
    line: bytes | None = None,
    requested_protocols: int | None = Protocol.SSL | Protocol.HYBRID,
    flags: int = 0,
    correlation_id: bytes | None = None,
) -> bytes:
    """Build a Connection Request as a client does; `line` is without CRLF.

    `requested_protocols` None leaves RDP_NEG_REQ out. LI wraps above 259 bytes, as FreeRDP's does.

    Raises:
        ValueError: the fields cannot stand together, or the message would not be read back.
    """
    body = b"" if line is None else line + b"\r\n"
    if requested_protocols is None:
        if correlation_id is not None:
            raise ValueError("correlation info follows RDP_NEG_REQ only: name protocols")
    else:
        if correlation_id is not None:
            if len(correlation_id) != 16:
                raise ValueError(f"a correlation id has 16 bytes, not {len(correlation_id)}")
            flags |= _CORRELATION_INFO_PRESENT
        body += bytes((1, flags, 8, 0)) + requested_protocols.to_bytes(4, "little")
        if correlation_id is not None:
            body += b"\x06\x00\x24\x00" + correlation_id + bytes(16)
    return _frame(_CONNECTION_REQUEST, 0, body)


def encode_connection_confirm(
    negotiation: NegotiationResponse | NegotiationFailure | None = None,
) -> bytes:
    """Build a Connection Confirm as Windows does (source reference 0x1234)."""
    body = b""
    if isinstance(negotiation, NegotiationResponse):
        flags, protocol = negotiation
        body = bytes((2, flags, 8, 0)) + protocol.to_bytes(4, "little")
    elif isinstance(negotiation, NegotiationFailure):
        body = b"\x03\x00\x08\x00" + negotiation.code.to_bytes(4, "little")
    return _frame(_CONNECTION_CONFIRM, 0x1234, body)


def _missing(data: bytes, code: int) -> int:
    """Judge the frame as far as it was seen; how many bytes to read next, 0 when it is whole."""
    seen = len(data)
    if seen and data[0] != 3:
        raise WireError(Cause.NOT_TPKT, f"first byte is 0x{data[0]:02x}, not 3")
    if seen < _TPKT_BYTES:
        return _TPKT_BYTES - seen
    length = data[2] << 8 | data[3]
    if not _HEAD_BYTES <= length <= MAX_REQUEST_BYTES:
        raise WireError(Cause.TPKT_LENGTH, f"length {length} is not in 11..{MAX_REQUEST_BYTES}")
    if seen > 4 and (data[4] == 0xFF or data[4] != (length - 5) & 0xFF):
        raise WireError(
            Cause.LENGTH_INDICATOR, f"length indicator {data[4]} in a TPKT of {length} bytes"
        )
    if seen > 5 and data[5] != code:
        raise WireError(
            Cause.NOT_CONNECTION_REQUEST, f"TPDU 0x{data[5]:02x} where 0x{code:02x} is expected"
        )
    return max(length - seen, 0)


def _read_request(raw: bytes) -> ConnectionRequest:
    token: RoutingToken | None = None
    cookie: bytes | None = None
    at = _HEAD_BYTES
    lines = 0
    while not _is_negotiation_request(raw, at):
        end = raw.find(b"\r\n", at)
        if end < 0 or lines == MAX_LINES:
            return ConnectionRequest(raw, token, cookie, None, None)
        line, at, lines = raw[at:end], end + 2, lines + 1
        user = cookie_value(line, b"mstshash=")
        if user is not None:
            cookie = cookie or user
        elif line and (token is None or token.address is None):
            other = read_token(line)
            if token is None or other.address is not None:
                token = other
    flags = raw[at + 1]
    negotiation = NegotiationRequest(flags, int.from_bytes(raw[at + 4 : at + 8], "little"))
    correlation_id = _correlation_id(raw, at + 8) if flags & _CORRELATION_INFO_PRESENT else None
    return ConnectionRequest(raw, token, cookie, negotiation, correlation_id)


def _is_negotiation_request(raw: bytes, at: int) -> bool:
    return len(raw) >= at + 8 and raw[at] == 1 and raw[at + 2 : at + 4] == b"\x08\x00"


def _correlation_id(raw: bytes, at: int) -> bytes | None:
    info = raw[at : at + 36]
    known = len(info) == 36 and info[0] == 6 and info[2:4] == b"\x24\x00"
    return info[4:20] if known else None


def _frame(code: int, source_reference: int, body: bytes) -> bytes:
    length = _HEAD_BYTES + len(body)
    indicator = (length - 5) & 0xFF
    if length > MAX_REQUEST_BYTES or indicator == 0xFF:
        raise ValueError(f"{length} bytes do not make a readable X.224 message")
    head = b"\x03\x00" + length.to_bytes(2, "big") + bytes((indicator, code, 0, 0))
    return head + source_reference.to_bytes(2, "big") + b"\0" + body
