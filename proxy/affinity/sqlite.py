"""SqliteStore: the embedded affinity table, the default of a single node.

What: the contract of `proxy.affinity.store` on a file in write-ahead-log mode. Verbs that write
share one transaction with all others of the same turn of the event loop, and return when it is
committed (`sqlite_turn`). It begins with the write lock, so each verb is atomic among all processes
that have the file open; two fronts do for a moment during an upgrade.

Why synchronous calls inside of coroutines: a verb takes microseconds, a thread would cost more
and lose the order. What takes longer is cut into pieces with a pause between them (touches,
sweeps, scans), and what waits for the disk (opening, checkpoints) runs in a thread. A busy table
is tried again after a short random pause: SQLite's own busy handler would stall the loop.

Invariants: no cursor outlives its call (an open one keeps the log from ever ending); a commit is
not synced (a power cut may lose the last seconds, which the touch round seeds again, and never
damages the table); an expired row counts as absent whether or not it is swept yet.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

from proxy.affinity.entry import Entry, assigned, claimed, moved, touched
from proxy.affinity.sqlite_file import (
    IN_MEMORY,
    CheckpointerLock,
    checkpoint,
    explain,
    is_busy,
    is_corruption,
    open_table,
    replace_table,
)
from proxy.affinity.sqlite_turn import Turn
from proxy.affinity.store import OnEvent, Pin, PinKey, StoreEvent, Touch, ignore_event
from proxy.errors import StoreError

BUSY_LIMIT_S = 2.0  # how long a verb waits for a checkpoint, or for the writers of others
BUSY_PAUSE_S = (0.0005, 0.005)
TOUCH_CHUNK = 100  # rows a transaction: 2 ms of the loop in a table of a million
RANGE_ROWS = 1000  # rows that a sweep or scan handles at once
CHECKPOINT_EVERY_S = 2.0
SWEEP_EVERY_S = 60.0  # and as long again for each 250,000 rows

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

_END = ("\U0010ffff", "")  # behind every pool
_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
_Changed = TypeVar("_Changed", bound=Entry | None)


class SqliteStore:
    """A store in one file, or in memory with the path `:memory:`. Made by `open`.

    Attributes:
        corruptions: tables that were set aside.
        evictions: pins that made room for others.
    """

    def __init__(
        self, path: str, max_pins: int, now: Callable[[], float], on_event: OnEvent
    ) -> None:
        """Open nothing yet: callers use `open`."""
        self.corruptions = 0
        self.evictions = 0
        self._path = path
        self._max_pins = max_pins
        self._now = now
        self._on_event = on_event
        self._db: sqlite3.Connection
        self._turn: Turn
        self._rows = 0  # expired ones included; each sweep corrects it
        self._rows_before = 0  # the transaction under way
        self._inserted = 0  # since the last sweep began
        self._evictions_told = 0  # a flood of strangers must not become a flood of events
        self._lock = CheckpointerLock(path)
        self._checkpointing = threading.Lock()
        self._committed = False  # since the last checkpoint ended
        self._is_up = True

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        max_pins: int,
        now: Callable[[], float],
        on_event: OnEvent = ignore_event,
    ) -> SqliteStore:
        """Open the table at `path`; it is made where it is absent, and begun anew where corrupt.

        Raises:
            StoreError: the file cannot be used; the message says what to do.
        """
        store = cls(path, max_pins, now, on_event)
        store._use(*await asyncio.to_thread(open_table, path, now))
        return store

    @property
    def is_up(self) -> bool:
        """Whether the last verb succeeded."""
        return self._is_up

    def recall(self, key: PinKey) -> str | None:
        """What the table itself still says, expired or not: it is nowhere else to be had."""
        try:
            entry = self._row(key)
        except sqlite3.Error:
            return None
        return entry.host if entry else None

    async def get(self, key: PinKey) -> Pin | None:
        """The pin in force, or None where it is absent or expired."""
        entry = await self._run(self._row, key)
        return entry.pin if entry and entry.expires_at > self._now() else None

    async def claim(self, key: PinKey, host: str, *, expected: str | None, ttl_s: float) -> Pin:
        """Pin `key` to `host` unless somebody else did; return the pin in force."""
        change = partial(claimed, host=host, expected=expected, ttl_s=ttl_s)
        return (await self._write(self._put, key, change)).pin

    async def assign(self, key: PinKey, host: str, *, ttl_s: float) -> Pin:
        """Pin `key` to `host` whatever it was before."""
        change = partial(assigned, host=host, ttl_s=ttl_s)
        return (await self._write(self._put, key, change)).pin

    async def touch(self, node: str, touches: Sequence[Touch]) -> list[str]:
        """Extend the pins of live connections; return the host in force for each, in order."""
        hosts: list[str] = []
        for start in range(0, len(touches), TOUCH_CHUNK):
            chunk = touches[start : start + TOUCH_CHUNK]
            hosts += await self._write(self._touch_chunk, node, chunk)
        return hosts

    async def move(
        self, node: str, key: PinKey, host: str, *, expected: str, quiet_s: float, ttl_s: float
    ) -> bool:
        """Move a pin from `expected` to `host`; False where anybody else has a hand on it."""
        change = partial(
            moved, node=node, host=host, expected=expected, quiet_s=quiet_s, ttl_s=ttl_s
        )
        return await self._write(self._put, key, change) is not None

    async def scan(self, pool: str | None = None) -> AsyncIterator[tuple[PinKey, Pin]]:
        """All pins in force, of one pool or of all; what changes meanwhile may be seen or not."""
        after = ("" if pool is None else pool, "")
        sql = _PAGE if pool is None else _PAGE_OF_POOL
        while page := await self._run(self._fetch, sql, *after, RANGE_ROWS):
            now = self._now()
            for pool_name, key, host, expires_at, touched_at in page:
                if expires_at > now:
                    yield PinKey(pool_name, key), Pin(host, expires_at, touched_at)
            after = page[-1][:2]
            await asyncio.sleep(0)

    async def clear(self, key: PinKey) -> bool:
        """Forget one pin; False where there was none."""
        return await self._write(self._delete, key)

    async def size(self) -> int:
        """How many pins the table holds; those that expired since the last sweep still count."""
        return self._rows

    async def maintain(self) -> None:
        """Sweep and checkpoint until cancelled. One task of its owner runs this."""
        loop = asyncio.get_running_loop()
        sweep_at = loop.time() + SWEEP_EVERY_S
        while True:
            await asyncio.sleep(CHECKPOINT_EVERY_S)
            try:
                if loop.time() >= sweep_at:
                    sweep_at = loop.time() + SWEEP_EVERY_S * (1 + self._rows // 250_000)
                    await self.sweep_once()
                await self.checkpoint_once()
            except StoreError as error:
                self._on_event(StoreEvent.MAINTENANCE_FAILED, error.detail)

    async def sweep_once(self) -> None:
        """Delete what expired, count what is left, and hold it to `max_pins`."""
        self._inserted = 0
        left, after = 0, ("", "")
        while after != _END:
            last, rows, expired = await self._run(self._read_range, after)
            if expired:
                expired = await self._write(self._delete_range, after, last)
            left, after = left + rows - expired, last
            await asyncio.sleep(0)
        self._rows = left + self._inserted
        while (surplus := self._rows - self._max_pins) > 0:
            await self._write(self._evict, min(surplus, RANGE_ROWS))
        if evicted := self.evictions - self._evictions_told:
            self._evictions_told = self.evictions
            self._on_event(StoreEvent.EVICTED, f"{evicted} pins made room, {self._max_pins} stay")

    async def checkpoint_once(self) -> None:
        """Copy the log into the table, if that is this process's task and there is anything."""
        if self._path == IN_MEMORY or not self._lock.take():
            return
        try:
            await asyncio.to_thread(self._checkpoint)
        except sqlite3.Error as error:
            raise StoreError(explain(error, self._path)) from error

    async def close(self) -> None:
        """Give back what the store holds. The table stays."""
        self._turn.commit()
        await asyncio.to_thread(self._close)

    async def _run(
        self, work: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs
    ) -> _Result:
        """Do `work`, again while other processes hold the table, once more on a new one if broken.

        Raises:
            StoreError: any failure of SQLite, or a table busy for too long.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BUSY_LIMIT_S
        begun_anew = False
        while True:
            try:
                result = work(*args, **kwargs)
            except sqlite3.Error as error:
                self._turn.undo(error)
                if is_corruption(error) and not begun_anew:
                    begun_anew = True
                    self._begin_anew(str(error))
                elif is_busy(error) and loop.time() < deadline:
                    await asyncio.sleep(random.uniform(*BUSY_PAUSE_S))  # noqa: S311
                else:
                    self._is_up = False
                    raise self._told(error) from error
            else:
                self._is_up = True
                return result

    async def _write(
        self, work: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs
    ) -> _Result:
        """As `_run`, within the transaction of this turn of the loop; wait for its commit."""

        def within() -> _Result:
            if self._turn.join():
                self._rows_before = self._rows
            return work(*args, **kwargs)

        result = await self._run(within)
        await self._turn.committed()
        return result

    # What follows is synchronous: each method is a whole step of the event loop.

    def _was_committed(self) -> None:
        self._committed = True

    def _undone(self) -> None:
        self._rows = self._rows_before
        self._is_up = False

    def _told(self, error: sqlite3.Error) -> StoreError:
        return StoreError(explain(error, self._path))

    def _execute(self, sql: str, *args: object) -> int:
        """Run a statement that returns no rows; return how many it changed."""
        cursor = self._db.execute(sql, args)
        cursor.close()
        return cursor.rowcount

    def _fetch(self, sql: str, *args: object) -> list[tuple[str, str, str, float, float]]:
        return self._db.execute(sql, args).fetchall()

    def _row(self, key: PinKey) -> Entry | None:
        """The row of `key`, expired or not."""
        rows = self._db.execute(_GET, (key.pool, key.key)).fetchall()
        return Entry(*rows[0]) if rows else None

    def _touch_chunk(self, node: str, chunk: Sequence[Touch]) -> list[str]:
        now = self._now()
        hosts = []
        for one in chunk:
            host = one.host
            row = one.key.pool, one.key.key, host
            if not self._execute(_EXTEND, now, one.ttl_s, node, *row):
                change = partial(touched, node=node, host=host, ttl_s=one.ttl_s)
                host = self._put(one.key, change).host
            hosts.append(host)
        return hosts

    def _put(self, key: PinKey, change: Callable[[Entry | None, float], _Changed]) -> _Changed:
        """Write what `change` makes of the entry in force, if anything."""
        now = self._now()
        found = self._row(key)
        entry = change(found if found and found.expires_at > now else None, now)
        if entry is None:
            return entry
        if found is None:
            if self._rows >= self._max_pins:
                self._evict(self._rows - self._max_pins + 1)
            self._rows += 1
            self._inserted += 1
        self._execute(_PUT, key.pool, key.key, *entry)
        return entry

    def _delete(self, key: PinKey) -> bool:
        found = self._row(key)
        self._rows -= self._execute(_DELETE, key.pool, key.key)
        return found is not None and found.expires_at > self._now()

    def _read_range(self, after: tuple[str, str]) -> tuple[tuple[str, str], int, int]:
        """The last key of the next range, its rows, and how many of them have expired."""
        last = (self._db.execute(_LAST, (*after, RANGE_ROWS - 1)).fetchall() or [_END])[0]
        ((rows, expired),) = self._db.execute(_COUNT, (self._now(), *after, *last)).fetchall()
        return last, rows, expired or 0

    def _delete_range(self, after: tuple[str, str], last: tuple[str, str]) -> int:
        """Delete what has expired of a range; return how many rows that were."""
        deleted = self._execute(_EXPIRE, *after, *last, self._now())
        self._rows -= deleted
        return deleted

    def _evict(self, count: int) -> None:
        """Let the longest idle pins go, one range of them at most."""
        evicted = self._execute(_EVICT, min(count, RANGE_ROWS))
        # Where other processes deleted rows, the count is too high until the next sweep.
        self._rows -= max(evicted, 1)
        self.evictions += evicted

    def _checkpoint(self) -> None:
        """In a thread. See `sqlite_file` for why nothing is done unless something was committed."""
        with self._checkpointing:
            if self._committed:
                try:
                    checkpoint(self._path)
                finally:
                    self._committed = False

    def _use(self, db: sqlite3.Connection, fault: str | None) -> None:
        self._db = db
        self._turn = Turn(db, self._was_committed, self._undone, self._told)
        self._rows = db.execute("SELECT count(*) FROM pins").fetchall()[0][0]
        if fault is not None:
            self.corruptions += 1
            self._on_event(StoreEvent.SET_ASIDE, fault)

    def _begin_anew(self, fault: str) -> None:
        """Replace a table that broke under our hands. Blocks the loop, once, for milliseconds."""
        with self._checkpointing:
            self._db.close()
            self._committed = False
            self._use(*replace_table(self._path, self._now, fault))

    def _close(self) -> None:
        with self._checkpointing:
            self._db.close()
            self._lock.give_back()
