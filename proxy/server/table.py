"""The table of established connections: one row each, changed by messages from the relays.

The front owns only what it can rebuild. When it starts anew, each relay tells the rows that live
there, and the counts of hosts, sources and relays are as before.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.affinity.store import PinKey
from proxy.errors import Cause, Side
from proxy.relay.hand_off import RelayEnding, Row
from proxy.routing.key import affinity_key
from proxy.routing.model import BY_BROKER
from proxy.routing.pool import Host, Pool
from proxy.server.gate import Gate
from proxy.server.record import CANARY_RECORD, ConnectionRecord, Ending, Observer, Phase

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Established:
    """One established connection: its record, its host, and the pins that speak of it."""

    record: ConnectionRecord
    host: Host
    keys: tuple[PinKey, ...]

    @property
    def came_from_broker(self) -> bool:
        return self.record.reason in BY_BROKER


class TableWatcher(Protocol):
    """Who wants to know of rows that come and go."""

    def established(self, row: Established) -> None: ...
    def gone(self, row: Established) -> None: ...


class ConnectionTable:
    """All established connections; what the relays say of them arrives here (RelayObserver).

    Args:
        pool_of: the pool of a connection that was here before, by the names of listener and pool.

    Attributes:
        rows: by connection id.
        watchers: told of every row that comes and goes.
    """

    def __init__(
        self,
        pool_of: Callable[[str, str], Pool],
        gate: Gate,
        observer: Observer,
        wall: Callable[[], float],
    ) -> None:
        self.rows: dict[int, Established] = {}
        self.watchers: list[TableWatcher] = []
        self._by_key: dict[PinKey, list[Established]] = {}  # most keys have one row
        self._pool_of = pool_of
        self._gate = gate
        self._observer = observer
        self._wall = wall

    def add(self, row: Established) -> None:
        """A connection is about to be handed to a relay."""
        self.rows[row.record.id] = row
        self._file(row)
        for watcher in self.watchers:
            watcher.established(row)

    def drop(self, row: Established) -> None:
        """It is no longer there."""
        del self.rows[row.record.id]
        self._unfile(row)
        for watcher in self.watchers:
            watcher.gone(row)

    def of_key(self, key: PinKey) -> list[Established]:
        """The live connections that a pin speaks of, oldest first."""
        return list(self._by_key.get(key, ()))

    def host_of(self, key: PinKey) -> str | None:
        """Where the newest live connection of a key is: what this node knows by itself.

        One that a token brought is asked last: the client's pin may well be elsewhere.
        """
        rows = sorted(self.of_key(key), key=lambda row: not row.came_from_broker)
        return rows[-1].record.host if rows else None

    # What relays say (proxy.relay.hand_off.RelayObserver)

    def relay_row(self, row: Row) -> None:
        """A relay has this connection; new to this front after it was started anew."""
        known = self.rows.get(row.conn_id)
        if known is None:
            known = self._adopt(row)
            if known is None:
                return
        if row.ending is not None:
            self.relay_ended(row.conn_id, row.ending)

    def relay_ready(self, index: int) -> None:
        """All rows of this relay were told."""

    def relay_progress(self, conn_id: int, bytes_up: int, bytes_down: int) -> None:
        row = self.rows.get(conn_id)
        if row is not None:
            row.record.bytes_up, row.record.bytes_down = bytes_up, bytes_down

    def relay_ended(self, conn_id: int, ending: RelayEnding) -> None:
        row = self.rows.get(conn_id)
        if row is not None:
            row.record.bytes_up, row.record.bytes_down = ending.bytes_up, ending.bytes_down
            self._end(row, Ending(Phase.RELAY, ending.side, ending.cause))

    def relay_lost(self, conn_ids: list[int]) -> None:
        """A relay died, and its connections with it."""
        for conn_id in conn_ids:
            row = self.rows.get(conn_id)
            if row is not None:
                self._end(row, Ending(Phase.RELAY, Side.LOCAL, Cause.RELAY_DIED))

    def _file(self, row: Established) -> None:
        for key in row.keys:
            siblings = self._by_key.get(key)
            if siblings is None:
                self._by_key[key] = [row]
            else:
                siblings.append(row)

    def _unfile(self, row: Established) -> None:
        for key in row.keys:
            siblings = self._by_key[key]
            siblings.remove(row)
            if not siblings:
                del self._by_key[key]

    def _adopt(self, told: Row) -> Established | None:
        if told.record == CANARY_RECORD:
            return None
        try:
            record = ConnectionRecord.unpack(told.conn_id, told.record)
            if record.pool is None or record.host is None or record.host_address is None:
                raise ValueError("it does not say to which host")  # noqa: TRY301
        except ValueError as error:
            log.warning("a relay holds a connection that this version cannot read: %s", error)
            return None
        source = ipaddress.ip_address(record.client.host)
        pool = self._pool_of(record.listener, record.pool)
        host = pool.adopt(record.host, record.host_address)
        keys: tuple[PinKey, ...] = ()
        if not pool.leaving:  # else nobody asks for its pins, and how they are filed is not known
            names = affinity_key(pool.settings.affinity, source, record.user)
            record.key = names.primary
            keys = tuple(PinKey(pool.name, name) for name in names.entries)
        row = Established(record, host, keys)
        host.live += 1
        self._gate.connections += 1
        self._gate.adopt(record.client.host)
        record.bytes_up, record.bytes_down = told.bytes_up, told.bytes_down
        self._observer.connection_accepted(record)
        self.add(row)
        return row

    def _end(self, row: Established, ending: Ending) -> None:
        record = row.record
        record.ending = ending
        record.duration_s = max(0.0, self._wall() - record.accepted_at)
        self.drop(row)
        row.host.live -= 1
        self._gate.connections -= 1
        self._gate.leave(record.client.host)
        self._observer.connection_ended(record)
