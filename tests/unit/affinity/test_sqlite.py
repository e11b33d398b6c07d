"""What the embedded table does beyond the contract: room, sweeps, busy and full disks, its log."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.affinity import sqlite, sqlite_file, sqlite_rows
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import NEVER, PinKey, StoreEvent, Touch
from proxy.errors import StoreError


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Opened:
    """A table of four pins at most, and what it told its owner."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "affinity.db"
        self.clock = Clock()
        self.events: list[tuple[StoreEvent, str]] = []
        self.told = asyncio.Event()
        self.store: SqliteStore

    async def open(self, max_pins: int = 4) -> SqliteStore:
        return await SqliteStore.open(
            str(self.path), max_pins=max_pins, now=self.clock, on_event=self.tell
        )

    def tell(self, event: StoreEvent, detail: str) -> None:
        self.events.append((event, detail))
        self.told.set()

    def locked(self) -> closing[sqlite3.Connection]:
        """Another process in the middle of its transaction."""
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        return closing(other)

    def log_bytes(self) -> int:
        return Path(f"{self.path}-wal").stat().st_size


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    opened = Opened(tmp_path)
    opened.store = await opened.open()
    yield opened
    await opened.store.close()


def key(name: object) -> PinKey:
    return PinKey("desktops", f"source:{name}")


async def claim(store: SqliteStore, name: object, ttl_s: float = 600.0) -> str:
    return (await store.claim(key(name), "a", expected=None, ttl_s=ttl_s)).host


async def names(store: SqliteStore) -> set[str]:
    return {found.key.removeprefix("source:") async for found, _pin in store.scan()}


async def test_the_longest_idle_pin_makes_room_in_a_full_table(opened: Opened) -> None:
    for name in "wxyz":
        await claim(opened.store, name)
        opened.clock.now += 1.0
    await opened.store.touch("node", [Touch(key("w"), "a", 600.0)])
    opened.clock.now += 1.0
    await claim(opened.store, "new")
    assert await names(opened.store) == {"w", "y", "z", "new"}
    assert await opened.store.size() == 4
    assert opened.store._rows.evictions == 1


async def test_pins_that_made_room_are_told_once_a_sweep(opened: Opened) -> None:
    for n in range(7):
        await claim(opened.store, n)
    assert opened.events == []
    await opened.store.sweep_once()
    await opened.store.sweep_once()
    assert opened.events == [(StoreEvent.EVICTED, "3 pins made room, 4 stay")]


async def test_a_pin_without_expiry_is_never_the_one_that_makes_room(opened: Opened) -> None:
    await opened.store.assign(key("own"), "a", ttl_s=NEVER)
    for n in range(7):
        opened.clock.now += 1.0
        await claim(opened.store, n)
    assert await names(opened.store) == {"own", "4", "5", "6"}


async def test_a_failure_is_seen_until_a_success(opened: Opened) -> None:
    await claim(opened.store, "x")
    with opened.locked(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "BUSY_LIMIT_S", 0.001)
        with pytest.raises(StoreError):
            await claim(opened.store, "x")
        assert not opened.store.is_up
        assert opened.store.recall(key("x")) == "a"
    assert await opened.store.get(key("x")) is not None
    assert opened.store.is_up


async def test_a_table_that_cannot_be_read_recalls_nothing(opened: Opened) -> None:
    await claim(opened.store, "x")
    opened.store._db.close()
    assert opened.store.recall(key("x")) is None
    opened.store._db = sqlite3.connect(":memory:", check_same_thread=False)


async def test_a_known_pin_needs_no_room(opened: Opened) -> None:
    for name in "wxyzwxyz":
        await claim(opened.store, name)
    assert await names(opened.store) == set("wxyz")
    assert opened.store._rows.evictions == 0


async def test_more_touches_than_there_is_room_for_leave_the_last_ones(opened: Opened) -> None:
    opened.clock.now += 1.0
    touches = [Touch(key(n), "a", 600.0) for n in range(10)]
    assert await opened.store.touch("node", touches) == ["a"] * 10
    assert len(await names(opened.store)) == 4


async def test_a_sweep_deletes_what_expired_and_nothing_else(opened: Opened) -> None:
    await claim(opened.store, "short", ttl_s=10.0)
    await claim(opened.store, "long", ttl_s=1000.0)
    opened.clock.now += 10.0
    assert await opened.store.size() == 2
    await opened.store.sweep_once()
    assert await opened.store.size() == 1
    with closing(sqlite3.connect(opened.path)) as db:
        assert db.execute("SELECT key FROM pins").fetchall() == [("source:long",)]


async def test_a_sweep_and_a_scan_pass_over_all_ranges(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_rows, "RANGE_ROWS", 10)
    store = await opened.open(max_pins=1000)
    for pool in ("apps", "desktops"):
        await store.touch("node", [Touch(PinKey(pool, f"{n}"), "a", 10.0 + n) for n in range(95)])
    assert len([found async for found in store.scan()]) == 190
    assert len([found async for found in store.scan("apps")]) == 95
    opened.clock.now += 50.0
    await store.sweep_once()
    assert await store.size() == len([found async for found in store.scan()]) == 2 * 54
    await store.close()


async def test_a_sweep_learns_what_others_wrote_and_holds_the_table_to_its_size(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_rows, "RANGE_ROWS", 10)
    other = await opened.open(max_pins=1000)
    await other.touch("node", [Touch(key(n), "a", 600.0) for n in range(50)])
    await other.close()
    await opened.store.sweep_once()
    assert await opened.store.size() == len(await names(opened.store)) == 4
    assert opened.store._rows.evictions == 46


async def test_a_busy_table_is_waited_for_without_stalling_the_loop(opened: Opened) -> None:
    with opened.locked() as other:
        waiting = asyncio.get_running_loop().create_task(claim(opened.store, "x"))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        assert await opened.store.get(key("x")) is None  # reads do not wait
        # SQLite's own way of waiting would sleep within the loop.
        assert opened.store._db.execute("PRAGMA busy_timeout").fetchall() == [(0,)]
        other.execute("ROLLBACK")
        assert await waiting == "a"


async def test_a_table_that_stays_busy_is_a_store_error(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_LIMIT_S", 0.02)
    with opened.locked(), pytest.raises(StoreError, match="another process holds it locked"):
        await claim(opened.store, "x")
    assert await claim(opened.store, "x") == "a"


async def test_a_full_disk_is_a_store_error_and_reads_go_on(opened: Opened) -> None:
    store = await opened.open(max_pins=100_000)
    await claim(store, "before")
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(StoreError, match="make room on its disk"):
        await store.touch("node", [Touch(key(n), "a" * 50, 600.0) for n in range(1000)])
    assert (await store.size(), await names(store)) == (1, {"before"})
    store._db.execute("PRAGMA max_page_count = 100000").fetchall()
    assert await claim(store, "after") == "a"
    await store.close()


async def test_a_table_that_may_not_be_written_is_a_store_error_and_reads_go_on(
    opened: Opened,
) -> None:
    await claim(opened.store, "before")
    opened.store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match=r"where uid .* may write"):
        await claim(opened.store, "after")
    assert await opened.store.get(key("before")) is not None


async def test_a_closed_store_is_a_store_error(opened: Opened) -> None:
    other = await opened.open()
    await other.close()
    with pytest.raises(StoreError, match="closed database"):
        await other.get(key("x"))


async def test_the_log_does_not_grow_without_bound_while_others_scan_and_write(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_rows, "RANGE_ROWS", 10)
    monkeypatch.setattr(sqlite_file, "LONG_LOG_PAGES", 50)
    store = await opened.open(max_pins=1000)
    await store.touch("node", [Touch(key(n), "a", 600.0) for n in range(300)])
    await opened.store.close()  # it alone might checkpoint otherwise
    sizes = []
    async for number, _found in numbered(store):
        await claim(store, number % 300)
        if number % 50 == 49:
            await store.checkpoint_once()
            sizes.append(opened.log_bytes())
    assert sizes == [0] * 6  # each time 50 commits of two pages and more
    await store.close()


async def numbered(store: SqliteStore) -> AsyncIterator[tuple[int, object]]:
    number = 0
    async for found in store.scan():
        yield number, found
        number += 1


async def test_one_process_alone_checkpoints_until_it_closes(opened: Opened) -> None:
    other = await opened.open()
    await opened.store.checkpoint_once()  # it has the right from now on
    await claim(other, "x")
    table_bytes = opened.path.read_bytes()
    await other.checkpoint_once()
    assert opened.path.read_bytes() == table_bytes
    await opened.store.close()
    await other.checkpoint_once()
    assert opened.path.read_bytes() != table_bytes
    await other.close()


async def test_nothing_is_checkpointed_unless_something_was_committed_since(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(sqlite, "checkpoint", done.append)
    await opened.store.checkpoint_once()
    await claim(opened.store, "x")
    await opened.store.checkpoint_once()
    await opened.store.checkpoint_once()
    assert done == [str(opened.path)]


async def test_a_checkpoint_that_fails_is_a_store_error(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite, "checkpoint", fail)
    await claim(opened.store, "x")
    with pytest.raises(StoreError, match="disk I/O error"):
        await opened.store.checkpoint_once()


async def test_maintenance_sweeps_checkpoints_and_outlives_its_failures(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(sqlite, "checkpoint", lambda path: loop.call_soon_threadsafe(done.set))
    monkeypatch.setattr(sqlite, "CHECKPOINT_EVERY_S", 0.001)
    monkeypatch.setattr(sqlite, "SWEEP_EVERY_S", 0.002)
    monkeypatch.setattr(sqlite, "BUSY_LIMIT_S", 0.001)
    await claim(opened.store, "x", ttl_s=10.0)
    opened.clock.now += 10.0
    with opened.locked():
        task = loop.create_task(opened.store.maintain())
        await opened.told.wait()
        assert opened.events[0][0] is StoreEvent.MAINTENANCE_FAILED
        assert await opened.store.size() == 1
    while await opened.store.size():  # each checkpoint is followed by a sweep
        await claim(opened.store, "y", ttl_s=0.0)
        done.clear()
        await done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_table_that_breaks_while_it_is_open_is_replaced(opened: Opened) -> None:
    await claim(opened.store, "x")
    await opened.store.checkpoint_once()
    with opened.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (opened.path.stat().st_size - 4096))
    opened.store._db.execute("PRAGMA shrink_memory")  # what it read before is forgotten
    assert await opened.store.get(key("x")) is None
    assert await claim(opened.store, "x") == "a"
    assert (opened.store.corruptions, opened.events[0][0]) == (1, StoreEvent.SET_ASIDE)
    assert len(list(opened.path.parent.glob("*.corrupt-*Z"))) == 1


async def test_a_table_in_memory_needs_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(":memory:", max_pins=10, now=Clock())
    await claim(store, "x")
    await store.checkpoint_once()
    await store.sweep_once()
    assert await names(store) == {"x"}
    await store.close()
