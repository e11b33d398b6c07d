"""Rows: what the embedded table holds, statement by statement.

What: the SQL of `proxy.affinity.sqlite`, on one connection. Each method is one synchronous step of
the event loop, of microseconds to a few milliseconds; transactions, waiting and errors are the
store's. What would take longer works on RANGE_ROWS rows at a time.

Invariant: no cursor outlives its call (an open one keeps the log from ever ending).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from proxy.affinity.entry import Entry, touched
from proxy.affinity.store import Pin, PinKey, Touch

RANGE_ROWS = 1000  # that a sweep or scan handles at once

_GET = """
    SELECT host, expires_at, touched_at, claimed_at, node, node_at, others_at
    FROM pins WHERE pool = ? AND key = ?
"""
_PUT = """
    INSERT OR REPLACE INTO pins
        (pool, key, host, expires_at, touched_at, claimed_at, node, node_at, others_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
# What `entry.touched` makes of a pin in force at the host of the touch, which nearly all are: a
# third of the time of reading and writing the row.
_EXTEND = """
    UPDATE pins SET
        expires_at = max(expires_at, ?1 + ?2), touched_at = ?1,
        others_at = CASE WHEN node IS ?3 THEN others_at ELSE node_at END, node = ?3, node_at = ?1
    WHERE pool = ?4 AND key = ?5 AND host = ?6 AND expires_at > ?1
"""
_DELETE = "DELETE FROM pins WHERE pool = ? AND key = ?"
_PAGE = """
    SELECT pool, key, host, expires_at, touched_at
    FROM pins WHERE (pool, key) > (?, ?) ORDER BY pool, key LIMIT ?
"""
_PAGE_OF_POOL = """
    SELECT pool, key, host, expires_at, touched_at
    FROM pins WHERE pool = ? AND key > ? ORDER BY key LIMIT ?
"""
# A sweep of a million rows as values of Python would take a second, every minute.
_LAST = "SELECT pool, key FROM pins WHERE (pool, key) > (?, ?) ORDER BY 1, 2 LIMIT 1 OFFSET ?"
_COUNT = """
    SELECT count(*), sum(expires_at <= ?)
    FROM pins WHERE (pool, key) > (?, ?) AND (pool, key) <= (?, ?)
"""
_EXPIRE = """
    DELETE FROM pins WHERE (pool, key) > (?, ?) AND (pool, key) <= (?, ?) AND expires_at <= ?
"""
_EVICT = """
    DELETE FROM pins WHERE (pool, key) IN (
        SELECT pool, key FROM pins WHERE expires_at < 9e999 ORDER BY touched_at LIMIT ?
    )
"""

_Changed = TypeVar("_Changed", bound=Entry | None)

END = ("\U0010ffff", "")
"""A place behind every pool, as `read_range` tells them."""


class Rows:
    """The rows of the table that `use` names.

    Attributes:
        count: how many there are, expired ones included; other processes' are seen by a sweep.
        inserted: how many are new since the last sweep began.
        evictions: how many made room for others.
    """

    def __init__(self, max_pins: int, now: Callable[[], float]) -> None:
        self.count = 0
        self.inserted = 0
        self.evictions = 0
        self._max_pins = max_pins
        self._now = now
        self._db: sqlite3.Connection

    def use(self, db: sqlite3.Connection) -> None:
        """Work on this table from now on."""
        self._db = db
        self.count = db.execute("SELECT count(*) FROM pins").fetchall()[0][0]

    def find(self, key: PinKey) -> Entry | None:
        """The row of `key`, expired or not."""
        rows = self._db.execute(_GET, (key.pool, key.key)).fetchall()
        return Entry(*rows[0]) if rows else None

    def get(self, key: PinKey) -> Pin | None:
        """The pin in force."""
        entry = self.find(key)
        return entry.pin if entry and entry.expires_at > self._now() else None

    def get_each(self, keys: Sequence[PinKey]) -> list[Pin | None]:
        """The pins in force under these keys, in order."""
        return [self.get(key) for key in keys]

    def page(self, after: tuple[str, str], pool: str | None) -> list[tuple[PinKey, Pin]]:
        """The next rows behind `after`, of one pool or of all, expired or not."""
        sql = _PAGE if pool is None else _PAGE_OF_POOL
        rows = self._db.execute(sql, (*after, RANGE_ROWS)).fetchall()
        return [(PinKey(*row[:2]), Pin(*row[2:])) for row in rows]

    def touch(self, node: str, chunk: Sequence[Touch]) -> list[str]:
        """Touch the pins of a chunk; the host in force for each."""
        now = self._now()
        hosts = []
        for one in chunk:
            host = one.host
            row = one.key.pool, one.key.key, host
            if not self._execute(_EXTEND, now, one.ttl_s, node, *row):
                change = partial(touched, node=node, host=host, ttl_s=one.ttl_s)
                host = self.put(one.key, change).host
            hosts.append(host)
        return hosts

    def put(self, key: PinKey, change: Callable[[Entry | None, float], _Changed]) -> _Changed:
        """Write what `change` makes of the entry in force, if anything."""
        now = self._now()
        found = self.find(key)
        entry = change(found if found and found.expires_at > now else None, now)
        if entry is None:
            return entry
        if found is None:
            if self.count >= self._max_pins:
                self.evict(self.count - self._max_pins + 1)
            self.count += 1
            self.inserted += 1
        self._execute(_PUT, key.pool, key.key, *entry)
        return entry

    def delete(self, key: PinKey) -> bool:
        """Delete the row of `key`; whether it was in force."""
        was = self.get(key)
        self.count -= self._execute(_DELETE, key.pool, key.key)
        return was is not None

    def read_range(self, after: tuple[str, str]) -> tuple[tuple[str, str], int, int]:
        """The last key of the next range, its rows, and how many of them have expired."""
        last = (self._db.execute(_LAST, (*after, RANGE_ROWS - 1)).fetchall() or [END])[0]
        ((rows, expired),) = self._db.execute(_COUNT, (self._now(), *after, *last)).fetchall()
        return last, rows, expired or 0

    def delete_range(self, after: tuple[str, str], last: tuple[str, str]) -> int:
        """Delete what has expired of a range; return how many rows that were."""
        deleted = self._execute(_EXPIRE, *after, *last, self._now())
        self.count -= deleted
        return deleted

    def evict(self, count: int) -> None:
        """Let the longest idle pins go, one range of them at most."""
        evicted = self._execute(_EVICT, min(count, RANGE_ROWS))
        # Where other processes deleted rows, the count is too high until the next sweep.
        self.count -= max(evicted, 1)
        self.evictions += evicted

    def _execute(self, sql: str, *args: object) -> int:
        """Run a statement that returns no rows; return how many it changed."""
        cursor = self._db.execute(sql, args)
        cursor.close()
        return cursor.rowcount
