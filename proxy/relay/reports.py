"""Reports: what a relay tells the newest front, without ever waiting for it.

Messages that the front does not take yet wait here. Without a front, progress is dropped, because
the next one hears whole rows; endings are kept until a front has acknowledged them. One that was
told to a front is that front's to account for while it lives: its successor, which is there already
in an upgrade, hears of it only if the older one dies before it has.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Collection, Iterable

from proxy import channel
from proxy.errors import Cause, Side
from proxy.relay import contract
from proxy.relay.contract import RelayEnding, Row
from proxy.relay.legs import Connection
from proxy.relay.pump import Pump


class Reports:
    """The relay's voice.

    Attributes:
        unacknowledged: rows that have ended and that no front has accounted for, by id.
        version: of the messages, as the front speaks it.
    """

    def __init__(self) -> None:
        self.unacknowledged: dict[int, Row] = {}
        self.version = contract.OLDEST
        self._front: socket.socket | None = None
        self._outbox: deque[bytes] = deque()
        self._endings: list[tuple[int, RelayEnding]] = []
        self._telling: list[int] = []  # endings in the outbox
        self._told: dict[int, socket.socket] = {}  # unacknowledged, and by which front
        self._unsaid: dict[int, Connection] = {}
        self._waiting = False

    def greet(self, front: socket.socket, pump: Pump) -> None:
        """Talk to this front from now on; tell it all that is here."""
        if self._front is not None and self._waiting:
            pump.want_to_write(self._front.fileno(), False)
        self.forget_front()
        self._front = front
        self.version = contract.OLDEST
        others = {conn_id for conn_id, told in self._told.items() if told is not front}
        self._outbox.append(contract.encode_hello(os.getpid()))
        self._tell_rows(self.unacknowledged.keys() - others)
        live = map(_row, pump.connections.values())
        self._outbox.extend(contract.encode_rows(live, self.version))
        self._outbox.append(contract.encode_end(self.version))

    def forget_front(self) -> None:
        """It is gone, or replaced."""
        self._front = None
        self._waiting = False
        self._outbox.clear()
        self._endings.clear()
        self._telling.clear()
        self._unsaid.clear()

    def lost(self, front: socket.socket) -> None:
        """It has died: what it was told and has not accounted for is the present one's."""
        orphans = {conn_id for conn_id, told in self._told.items() if told is front}
        for conn_id in orphans:
            del self._told[conn_id]
        if self._front is not None:
            self._tell_rows(orphans)

    def _tell_rows(self, conn_ids: Collection[int]) -> None:
        """Rows of connections that have ended, in the order of their ends."""
        rows = [row for conn_id, row in self.unacknowledged.items() if conn_id in conn_ids]
        self._outbox.extend(contract.encode_rows(rows, self.version))
        self._telling += (row.conn_id for row in rows)

    def speaks_to(self, front: socket.socket) -> bool:
        """Whether this is the front that hears the reports."""
        return self._front is front

    @property
    def has_front(self) -> bool:
        """Whether somebody hears the reports."""
        return self._front is not None

    def handed_over(self, connection: Connection) -> None:
        """An older front handed this over: the newest has to know it."""
        if self._front is not None:
            self._outbox.extend(contract.encode_rows([_row(connection)], self.version))

    def ended(self, connection: Connection, side: Side, cause: Cause) -> None:
        """A connection has ended; told with the others of this batch by `flush`."""
        ending = RelayEnding(side, cause, connection.client.received, connection.server.received)
        self.refused(connection.id, connection.record, ending)

    def refused(self, conn_id: int, record: bytes, ending: RelayEnding) -> None:
        """As `ended`, for a connection that could not even begin here."""
        row = Row(conn_id, ending.bytes_up, ending.bytes_down, record, ending)
        self.unacknowledged[conn_id] = row
        self._unsaid.pop(conn_id, None)
        if self._front is not None:
            self._endings.append((conn_id, ending))

    def acknowledged(self, conn_ids: Iterable[int]) -> None:
        """A front has accounted for these."""
        for conn_id in conn_ids:
            self.unacknowledged.pop(conn_id, None)
            self._told.pop(conn_id, None)

    def progress(self, connections: list[Connection]) -> None:
        """These carried bytes since the last time."""
        if self._front is not None:
            self._unsaid.update((connection.id, connection) for connection in connections)

    def flush(self, pump: Pump) -> None:
        """Send what the front takes now; called after each batch, so it must be quick."""
        if self._endings:
            self._outbox.extend(contract.encode_ended(self._endings, self.version))
            self._telling += (conn_id for conn_id, _ in self._endings)
            self._endings.clear()
        if self._unsaid and not self._outbox:
            counts = map(_counts, self._unsaid.values())
            self._outbox.extend(contract.encode_progress(counts, self.version))
            self._unsaid.clear()
        if self._front is None or not (self._outbox or self._waiting):
            return
        try:
            while self._outbox and channel.send(self._front, self._outbox[0]):
                self._outbox.popleft()
        except ConnectionError:
            self._outbox.clear()  # its door meets the end
        if self._telling and not self._outbox:
            self._told.update(dict.fromkeys(self._telling, self._front))
            self._telling.clear()
        if bool(self._outbox) != self._waiting:
            self._waiting = bool(self._outbox)
            pump.want_to_write(self._front.fileno(), self._waiting)


def _row(connection: Connection) -> Row:
    counts = (connection.client.received, connection.server.received)
    return Row(connection.id, *counts, record=connection.record)


def _counts(connection: Connection) -> tuple[int, int, int]:
    return connection.id, connection.client.received, connection.server.received
