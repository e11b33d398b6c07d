"""Keeping pins: live connections touch theirs, so that a pin outlives the connection and not the
other way round.

Each node touches the keys of its live connections every min(ttl / 4, 60 s), spread evenly, and
once when they end; only those that end within five seconds of a claim are not worth another write.
A pin gets its full time to live once a connection has lived a minute. While the table is away the
ended ones wait, so that a table that comes back empty knows them too.

A token routes its own connection and leaves the pin alone: with a hundred users behind one address
a pin that jumps to the host of somebody else's token fails logins. Only a key whose single live
connection came by token, a minute ago or longer, and that has seen no tokenless connection since,
moves to that connection's host; the store refuses where another node knows better. So after one
redirection the same user's next login needs none.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from proxy.affinity.store import AffinityStore, PinKey, Touch
from proxy.errors import StoreError
from proxy.routing.pool import Pool
from proxy.server.claims import NEW_PIN_TTL_S
from proxy.server.record import Observer
from proxy.server.table import ConnectionTable, Established

log = logging.getLogger(__name__)

SETTLED_S = 60.0  # a connection that lived so long is a session, not a probe
SLICES = 120  # of the live connections: one is touched at a time, for an even load
TICK_S = 60.0 / SLICES
YOUNG_S = 5.0  # its pin was claimed a moment ago: a touch at its end would add nothing
ENDED_MAX = 20_000  # that wait for the table


def touch_period_s(pools: Iterable[Pool]) -> float:
    """How often each live connection's pin is touched: often enough for the shortest ttl."""
    return min([60.0, *(pool.settings.affinity.ttl_s / 4 for pool in pools)])


@dataclass(slots=True)
class PinKeeper:
    """Touches the pins of the connections in `table`, and moves those that a token outgrew."""

    store: AffinityStore
    node: str
    table: ConnectionTable
    pools: dict[str, Pool]
    observer: Observer
    wall: Callable[[], float]
    _slices: list[dict[int, Established]] = field(
        default_factory=lambda: [{} for _ in range(SLICES)]
    )
    _settling: deque[int] = field(default_factory=deque)
    _ended: list[Established] = field(default_factory=list)
    _unsettled: set[int] = field(default_factory=set)  # placed without the table, by id

    async def run(self) -> None:
        """One tick after the other, for ever."""
        for slice_ in itertools.cycle(self._slices):
            await asyncio.sleep(touch_period_s(self.pools.values()) / SLICES)
            await self.tick(slice_.values())

    async def flush(self) -> None:
        """Touch everything once: before the process ends."""
        await self.tick(self.table.rows.values())

    async def tick(self, round_: Iterable[Established]) -> None:
        """Touch the rows whose turn it is, those that just settled, and those that ended."""
        live = [*round_, *self._just_settled()]
        ended = list(self._ended) if self.store.is_up else []
        touches = {
            (key, row.record.host): Touch(key, row.record.host or "", self._ttl_s(row))
            for row in (*live, *ended)
            for key in row.keys
            if row.record.host and key.pool in self.pools  # it may be gone by now
        }
        if not touches:
            return
        try:
            in_force = await self.store.touch(self.node, list(touches.values()))
            del self._ended[: len(ended)]
            pins = {touch.key: host for touch, host in zip(touches.values(), in_force, strict=True)}
            for row in (*live, *ended):
                await self._settle(row, pins)
            for row in live:
                for key in row.keys:
                    if key in pins:
                        await self._move(row, key, pins[key])
        except StoreError:
            self.observer.store_failed()

    async def _move(self, row: Established, key: PinKey, pinned: str) -> None:
        host = row.record.host
        if host is None or pinned == host or not row.came_from_broker or not self._is_settled(row):
            return
        if len(self.table.of_key(key)) != 1 or key.pool not in self.pools:
            return
        moved = await self.store.move(
            self.node,
            key,
            host,
            expected=pinned,
            quiet_s=SETTLED_S,
            ttl_s=self._ttl_s(row),
        )
        if moved:
            self.observer.pin_moved(key.pool, "token")
            connection = f"{row.record.id:016x}"  # its lines say who it is, as far as they may
            log.info("pin_moved", extra={"id": connection, "pool": key.pool, "to": host})

    async def _settle(self, row: Established, pins: dict[PinKey, str]) -> None:
        """Nodes that had to place without the table may have disagreed.

        The table wins, counted once, and nothing that lives moves; only a pin to a host that
        cannot serve gives way to the host where the client is.
        """
        if row.record.id not in self._unsettled or not row.keys:
            return
        self._unsettled.remove(row.record.id)
        key, host = row.keys[0], row.record.host
        pool, pinned = self.pools.get(key.pool), pins.get(key)
        if pool is None or pinned is None or host is None or pinned == host or row.came_from_broker:
            return
        at = pool.by_name.get(pinned)
        if at is None or not at.serves:
            ttl_s = self._ttl_s(row)
            pin = await self.store.claim(key, host, expected=pinned, ttl_s=ttl_s)
            pins[key] = pin.host
        if pins[key] != host:
            self.observer.pin_disagreed(key.pool)
            fields = {"pool": key.pool, "host": host, "pinned": pins[key]}
            log.info("pin_disagreed", extra={"id": f"{row.record.id:016x}", **fields})

    def established(self, row: Established) -> None:
        """A connection came (TableWatcher)."""
        self._slice_of(row)[row.record.id] = row
        if row.record.table_was_away:
            self._unsettled.add(row.record.id)
        self._settling.append(row.record.id)

    def gone(self, row: Established) -> None:
        """A connection ended (TableWatcher)."""
        del self._slice_of(row)[row.record.id]
        # What was placed without the table has claimed nothing; a token that did not may be silent:
        # it would only come before the client's other connections, with another host than theirs.
        has_spoken = row.came_from_broker or not row.record.table_was_away
        is_young = self.wall() - row.record.accepted_at < YOUNG_S
        if (is_young and has_spoken) or len(self._ended) >= ENDED_MAX:
            self._unsettled.discard(row.record.id)
        else:
            self._ended.append(row)

    def _slice_of(self, row: Established) -> dict[int, Established]:
        return self._slices[row.record.id % SLICES]

    def _just_settled(self) -> list[Established]:
        """In the order in which they came, so one that was adopted may be late by a minute."""
        # A little later than the minute, so that the claim of the same login is past it too.
        before = self.wall() - SETTLED_S - TICK_S
        rows = []
        while self._settling:
            row = self.table.rows.get(self._settling[0])
            if row is not None:
                if row.record.accepted_at > before:
                    break
                rows.append(row)
            self._settling.popleft()
        return rows

    def _is_settled(self, row: Established) -> bool:
        return self.wall() - row.record.accepted_at >= SETTLED_S

    def _ttl_s(self, row: Established) -> float:
        ttl_s = self.pools[row.keys[0].pool].settings.affinity.ttl_s
        return ttl_s if self._is_settled(row) else min(NEW_PIN_TTL_S, ttl_s)
