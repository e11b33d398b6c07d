"""What the front and a relay say to each other: values <-> messages, and no I/O.

Each message begins with its version and its kind (one byte each); numbers are little-endian.
Sides and causes travel as their place in SIDES and CAUSES: new ones are appended, and none ever
changes its place.

Old relays outlive new fronts, and a relay that is started again may be newer than its front. So
everybody reads all versions from OLDEST to VERSION (this one and the one before it):
- HELLO names the newest version of the relay; its own form never changes, whoever reads it;
- a front speaks the older of that and its own;
- a relay speaks OLDEST until it has heard the front, and then as it is spoken to.

    front -> relay   HAND_OFF + 2 descriptors (client, server) · CLOSE · ACK · RETIRE
    relay -> front   HELLO, ROWS…, END when a front is new; then ROWS · PROGRESS · ENDED

A relay keeps an ending until it is acknowledged: so a front that is killed between receipt and
account loses none, its successor learns it as a row that has ended.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proxy.channel import MESSAGE_MAX_BYTES
from proxy.errors import Cause, Side

VERSION = 1
OLDEST = 1  # VERSION - 1 from the second version on
RECORD_MAX_BYTES = 512
SIDES = (Side.CLIENT, Side.SERVER, Side.LOCAL)
CAUSES = (
    Cause.CLOSED,
    Cause.RESET,
    Cause.TIMEOUT,
    Cause.UNREACHABLE,
    Cause.IDLE,
    Cause.HALF_CLOSE,
    Cause.STOPPED,
    Cause.LIMIT,
    Cause.INTERNAL,
)

_HAND_OFF, _CLOSE, _ACK, _RETIRE = 1, 2, 3, 4
_HELLO, _ROWS, _END, _PROGRESS, _ENDED = 65, 66, 67, 68, 69

_HEAD = struct.Struct("<BB")
_HAND_OFF_BODY = struct.Struct("<QIIQQ")
_CLOSE_BODY = struct.Struct("<QB")
_HELLO_BODY = struct.Struct("<I")
_ID = struct.Struct("<Q")
_ROW = struct.Struct("<QQQBBH")
_COUNTS = struct.Struct("<QQQ")
_ENDED_ITEM = struct.Struct("<QBBQQ")
_LIVE = 255  # in place of a side: the row has not ended
_ROOM = MESSAGE_MAX_BYTES - _HEAD.size


@dataclass(frozen=True, slots=True)
class RelayEnding:
    """How a connection ended in a relay, and its bytes in all (the front's own ones included)."""

    side: Side
    cause: Cause
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True)
class Row:
    """One connection of a relay; `ending` where it has ended and no front accounted for it."""

    conn_id: int
    bytes_up: int
    bytes_down: int
    record: bytes
    ending: RelayEnding | None = None


@dataclass(frozen=True, slots=True)
class HandOff:
    """Both sockets of a connection come with this. Times in milliseconds, 0 for none."""

    conn_id: int
    idle_ms: int
    half_close_ms: int
    bytes_up: int
    bytes_down: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """End this connection; the ending is `local` x `cause`."""

    conn_id: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Ack:
    """The front has accounted for these endings."""

    conn_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Retire:
    """Nothing new will come: end after the last connection."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The relay's first word; `version` is the newest that it speaks."""

    version: int
    pid: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Connections that live in the relay."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class End:
    """All rows have been told."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes so far, of connections that carried some: (conn_id, up, down)."""

    counts: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """Endings, each to be acknowledged."""

    endings: tuple[tuple[int, RelayEnding], ...]


ToRelay = HandOff | Close | Ack | Retire
ToFront = Hello | Rows | End | Progress | Ended


def version_of(data: bytes) -> int:
    """The version of a message that was decoded."""
    return data[0]


def encode_hand_off(message: HandOff, version: int = VERSION) -> bytes:
    """HAND_OFF. Raises ValueError where a field has no room."""
    if len(message.record) > RECORD_MAX_BYTES:
        raise ValueError(f"a record of {len(message.record)} bytes is over {RECORD_MAX_BYTES}")
    try:
        body = _HAND_OFF_BODY.pack(
            message.conn_id,
            message.idle_ms,
            message.half_close_ms,
            message.bytes_up,
            message.bytes_down,
        )
    except struct.error as error:
        raise ValueError(f"a number of {message} is out of range: {error}") from error
    return _HEAD.pack(version, _HAND_OFF) + body + message.record


def encode_close(conn_id: int, cause: Cause, version: int = VERSION) -> bytes:
    """CLOSE. Raises ValueError for a cause that is not in CAUSES."""
    return _HEAD.pack(version, _CLOSE) + _CLOSE_BODY.pack(conn_id, CAUSES.index(cause))


def encode_ack(conn_ids: Iterable[int], version: int = VERSION) -> Iterator[bytes]:
    """ACK, in as many messages as it needs."""
    return _batches(version, _ACK, map(_ID.pack, conn_ids))


def encode_retire(version: int = VERSION) -> bytes:
    """RETIRE."""
    return _HEAD.pack(version, _RETIRE)


def encode_hello(pid: int) -> bytes:
    """HELLO, with the newest version that is spoken here."""
    return _HEAD.pack(VERSION, _HELLO) + _HELLO_BODY.pack(pid)


def encode_rows(rows: Iterable[Row], version: int = VERSION) -> Iterator[bytes]:
    """ROWS, in as many messages as they need."""
    return _batches(version, _ROWS, map(_encode_row, rows))


def encode_end(version: int = VERSION) -> bytes:
    """END."""
    return _HEAD.pack(version, _END)


def encode_progress(
    counts: Iterable[tuple[int, int, int]], version: int = VERSION
) -> Iterator[bytes]:
    """PROGRESS, in as many messages as it needs."""
    return _batches(version, _PROGRESS, (_COUNTS.pack(*item) for item in counts))


def encode_ended(
    endings: Iterable[tuple[int, RelayEnding]], version: int = VERSION
) -> Iterator[bytes]:
    """ENDED, in as many messages as it needs."""
    return _batches(
        version, _ENDED, (_encode_ending(conn_id, ending) for conn_id, ending in endings)
    )


def decode_to_relay(data: bytes) -> ToRelay:
    """Read what a front sent. Raises ValueError where it is no message of a known version."""
    kind, body = _open(data)
    try:
        if kind == _HAND_OFF:
            conn_id, idle_ms, half_close_ms, up, down = _HAND_OFF_BODY.unpack_from(body)
            record = bytes(body[_HAND_OFF_BODY.size :])
            return HandOff(conn_id, idle_ms, half_close_ms, up, down, record)
        if kind == _CLOSE:
            conn_id, cause = _CLOSE_BODY.unpack(body)
            return Close(conn_id, CAUSES[cause])
        if kind == _ACK:
            return Ack(tuple(item[0] for item in _ID.iter_unpack(body)))
        if kind == _RETIRE:
            return Retire()
    except (struct.error, IndexError) as error:
        raise ValueError(f"message {kind} to a relay is damaged: {error}") from error
    raise ValueError(f"message {kind} is not one to a relay")


def decode_to_front(data: bytes) -> ToFront:
    """Read what a relay sent. Raises ValueError where it is no message of a known version."""
    kind, body = _open(data)
    try:
        if kind == _PROGRESS:
            return Progress(tuple(_COUNTS.iter_unpack(body)))
        if kind == _ENDED:
            return Ended(tuple(map(_decode_ending, _ENDED_ITEM.iter_unpack(body))))
        if kind == _ROWS:
            return Rows(tuple(_decode_rows(body)))
        if kind == _HELLO:
            return Hello(data[0], *_HELLO_BODY.unpack_from(body))
        if kind == _END:
            return End()
    except (struct.error, IndexError) as error:
        raise ValueError(f"message {kind} to a front is damaged: {error}") from error
    raise ValueError(f"message {kind} is not one to a front")


def _open(data: bytes) -> tuple[int, memoryview]:
    if len(data) < _HEAD.size:
        raise ValueError("a message lacks its head")
    version, kind = _HEAD.unpack_from(data)
    if not OLDEST <= version <= VERSION and kind != _HELLO:
        spoken = f"versions {OLDEST} to {VERSION} are"
        raise ValueError(f"a message of version {version}, where {spoken} spoken")
    return kind, memoryview(data)[_HEAD.size :]


def _batches(version: int, kind: int, items: Iterable[bytes]) -> Iterator[bytes]:
    head = _HEAD.pack(version, kind)
    batch: list[bytes] = []
    size = 0
    for item in items:
        if size + len(item) > _ROOM:
            yield head + b"".join(batch)
            batch.clear()
            size = 0
        batch.append(item)
        size += len(item)
    if batch:
        yield head + b"".join(batch)


def _encode_row(row: Row) -> bytes:
    side, cause = _LIVE, 0
    if row.ending is not None:
        side, cause = SIDES.index(row.ending.side), CAUSES.index(row.ending.cause)
    head = _ROW.pack(row.conn_id, row.bytes_up, row.bytes_down, side, cause, len(row.record))
    return head + row.record


def _decode_rows(body: memoryview) -> Iterator[Row]:
    place = 0
    while place < len(body):
        conn_id, up, down, side, cause, size = _ROW.unpack_from(body, place)
        place += _ROW.size + size
        if place > len(body):
            raise struct.error("a record is cut")
        ending = None if side == _LIVE else RelayEnding(SIDES[side], CAUSES[cause], up, down)
        yield Row(conn_id, up, down, bytes(body[place - size : place]), ending)


def _encode_ending(conn_id: int, ending: RelayEnding) -> bytes:
    return _ENDED_ITEM.pack(
        conn_id,
        SIDES.index(ending.side),
        CAUSES.index(ending.cause),
        ending.bytes_up,
        ending.bytes_down,
    )


def _decode_ending(fields: tuple[int, int, int, int, int]) -> tuple[int, RelayEnding]:
    conn_id, side, cause, up, down = fields
    return conn_id, RelayEnding(SIDES[side], CAUSES[cause], up, down)
