"""SqliteStore: the embedded affinity table, the default of a single node.

What: the contract of `proxy.affinity.store` on a file in write-ahead-log mode. Verbs that write
share one transaction with all others of the same turn of the event loop, and return when it is
committed (`sqlite_turn`; the statements are in `sqlite_rows`). It begins with the write lock, so
each verb is atomic among all processes that have the file open; two fronts do for a moment during
an upgrade.

Why synchronous calls inside of coroutines: a verb takes microseconds, a thread would cost more
and lose the order. What takes longer is cut into pieces with a pause between them (touches,
sweeps, scans), and what waits for the disk (opening, checkpoints) runs in a thread. A busy table
is tried again after a short random pause: SQLite's own busy handler would stall the loop.

Invariants: a commit is not synced (a power cut may lose the last seconds, which the touch round
seeds again, and never damages the table); an expired row counts as absent whether or not it is
swept yet.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

from proxy.affinity.entry import assigned, claimed, moved
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
from proxy.affinity.sqlite_rows import END, Rows
from proxy.affinity.sqlite_turn import Turn
from proxy.affinity.store import OnEvent, Pin, PinKey, StoreEvent, Touch, ignore_event
from proxy.errors import StoreError

BUSY_LIMIT_S = 2.0  # how long a verb waits for a checkpoint, or for the writers of others
BUSY_PAUSE_S = (0.0005, 0.005)
CHUNK = 100  # rows read or touched at once: 2 ms of the loop in a table of a million
CHECKPOINT_EVERY_S = 2.0
SWEEP_EVERY_S = 60.0  # and as long again for each 250,000 rows

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


class SqliteStore:
    """A store in one file, or in memory with the path `:memory:`. Made by `open`.

    Attributes:
        corruptions: tables that were set aside.
    """

    def __init__(
        self, path: str, max_pins: int, now: Callable[[], float], on_event: OnEvent
    ) -> None:
        """Open nothing yet: callers use `open`."""
        self.corruptions = 0
        self._path = path
        self._max_pins = max_pins
        self._now = now
        self._on_event = on_event
        self._db: sqlite3.Connection
        self._turn: Turn
        self._rows = Rows(max_pins, now)
        self._rows_before = 0  # the transaction under way
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
            entry = self._rows.find(key)
        except sqlite3.Error:
            return None
        return entry.host if entry else None

    async def get(self, key: PinKey) -> Pin | None:
        """The pin in force, or None where it is absent or expired."""
        return await self._run(self._rows.get, key)

    async def get_each(self, keys: Sequence[PinKey]) -> list[Pin | None]:
        """As `get` for each of these keys, in order."""
        pins: list[Pin | None] = []
        for start in range(0, len(keys), CHUNK):
            pins += await self._run(self._rows.get_each, keys[start : start + CHUNK])
            await asyncio.sleep(0)
        return pins

    async def claim(self, key: PinKey, host: str, *, expected: str | None, ttl_s: float) -> Pin:
        """Pin `key` to `host` unless somebody else did; return the pin in force."""
        change = partial(claimed, host=host, expected=expected, ttl_s=ttl_s)
        return (await self._write(self._rows.put, key, change)).pin

    async def assign(self, key: PinKey, host: str, *, ttl_s: float) -> Pin:
        """Pin `key` to `host` whatever it was before."""
        change = partial(assigned, host=host, ttl_s=ttl_s)
        return (await self._write(self._rows.put, key, change)).pin

    async def touch(self, node: str, touches: Sequence[Touch]) -> list[str]:
        """Extend the pins of live connections; return the host in force for each, in order."""
        hosts: list[str] = []
        for start in range(0, len(touches), CHUNK):
            chunk = touches[start : start + CHUNK]
            hosts += await self._write(self._rows.touch, node, chunk)
        return hosts

    async def move(
        self, node: str, key: PinKey, host: str, *, expected: str, quiet_s: float, ttl_s: float
    ) -> bool:
        """Move a pin from `expected` to `host`; False where anybody else has a hand on it."""
        change = partial(
            moved, node=node, host=host, expected=expected, quiet_s=quiet_s, ttl_s=ttl_s
        )
        return await self._write(self._rows.put, key, change) is not None

    async def scan(self, pool: str | None = None) -> AsyncIterator[tuple[PinKey, Pin]]:
        """All pins in force, of one pool or of all; what changes meanwhile may be seen or not."""
        after = ("" if pool is None else pool, "")
        while page := await self._run(self._rows.page, after, pool):
            now = self._now()
            for key, pin in page:
                if pin.expires_at > now:
                    yield key, pin
            after = (key.pool, key.key)
            await asyncio.sleep(0)

    async def clear(self, key: PinKey) -> bool:
        """Forget one pin; False where there was none."""
        return await self._write(self._rows.delete, key)

    async def size(self) -> int:
        """How many pins the table holds; those that expired since the last sweep still count."""
        return self._rows.count

    async def maintain(self) -> None:
        """Sweep and checkpoint until cancelled. One task of its owner runs this."""
        loop = asyncio.get_running_loop()
        sweep_at = loop.time() + SWEEP_EVERY_S
        while True:
            await asyncio.sleep(CHECKPOINT_EVERY_S)
            try:
                if loop.time() >= sweep_at:
                    sweep_at = loop.time() + SWEEP_EVERY_S * (1 + self._rows.count // 250_000)
                    await self.sweep_once()
                await self.checkpoint_once()
            except StoreError as error:
                self._on_event(StoreEvent.MAINTENANCE_FAILED, error.detail)

    async def sweep_once(self) -> None:
        """Delete what expired, count what is left, and hold it to `max_pins`."""
        rows = self._rows
        rows.inserted = 0
        left, after = 0, ("", "")
        while after != END:
            last, found, expired = await self._run(rows.read_range, after)
            if expired:
                expired = await self._write(rows.delete_range, after, last)
            left, after = left + found - expired, last
            await asyncio.sleep(0)
        rows.count = left + rows.inserted
        while (surplus := rows.count - self._max_pins) > 0:
            await self._write(rows.evict, surplus)
        if evicted := rows.evictions - self._evictions_told:
            self._evictions_told = rows.evictions
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
                self._rows_before = self._rows.count
            return work(*args, **kwargs)

        result = await self._run(within)
        await self._turn.committed()
        return result

    # What follows is synchronous: each method is a whole step of the event loop.

    def _was_committed(self) -> None:
        self._committed = True

    def _undone(self) -> None:
        self._rows.count = self._rows_before
        self._is_up = False

    def _told(self, error: sqlite3.Error) -> StoreError:
        return StoreError(explain(error, self._path))

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
        self._rows.use(db)
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
