"""Turn: writes of one turn of the loop stand or fall together, and nobody is told too early."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.affinity.sqlite_turn import Turn
from proxy.errors import StoreError


class Writers:
    """Two connections to one table: one with a Turn, one that looks from outside."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, timeout=0)
        self.outside = sqlite3.connect(path, isolation_level=None, timeout=0)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("CREATE TABLE seen (name)")
        self.happened: list[str] = []
        self.turn = Turn(
            self.db,
            on_committed=lambda: self.happened.append("committed"),
            on_undone=lambda: self.happened.append("undone"),
            told=lambda error: StoreError(str(error)),
        )

    async def write(self, name: str) -> None:
        if self.turn.join():
            self.happened.append("begun")
        self.db.execute("INSERT INTO seen VALUES (?)", (name,))
        await self.turn.committed()

    def seen_outside(self) -> list[str]:
        return [name for (name,) in self.outside.execute("SELECT name FROM seen")]


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    made = Writers(tmp_path / "table.db")
    with closing(made.db), closing(made.outside):
        yield made


async def test_writes_of_one_turn_share_a_transaction(writers: Writers) -> None:
    await asyncio.gather(writers.write("a"), writers.write("b"), writers.write("c"))
    assert writers.happened == ["begun", "committed"]
    assert writers.seen_outside() == ["a", "b", "c"]


async def test_a_writer_hears_of_it_only_when_others_can_see_it(writers: Writers) -> None:
    async def write_and_look() -> list[str]:
        await writers.write("a")
        return writers.seen_outside()

    writing = asyncio.ensure_future(write_and_look())
    assert writers.seen_outside() == []
    assert await writing == ["a"]


async def test_the_next_turn_begins_another_transaction(writers: Writers) -> None:
    await writers.write("a")
    await writers.write("b")
    assert writers.happened == ["begun", "committed"] * 2


async def test_a_failed_transaction_fails_for_all_in_it(writers: Writers) -> None:
    async def fail() -> None:
        writers.turn.join()
        writers.turn.undo(sqlite3.OperationalError("disk full"))

    told = await asyncio.gather(
        writers.write("a"), writers.write("b"), fail(), return_exceptions=True
    )
    assert [getattr(one, "detail", None) for one in told] == ["disk full", "disk full", None]
    assert writers.happened == ["begun", "undone"]
    assert writers.seen_outside() == []
    await writers.write("c")
    assert writers.seen_outside() == ["c"]


async def test_a_commit_that_fails_is_told(writers: Writers) -> None:
    writers.db.execute("CREATE TABLE parent (name PRIMARY KEY)")
    writers.db.execute("PRAGMA foreign_keys = ON")
    deferred = "REFERENCES parent (name) DEFERRABLE INITIALLY DEFERRED"
    writers.db.execute(f"CREATE TABLE child (name {deferred})")

    async def write_what_cannot_be_committed() -> None:
        writers.turn.join()
        writers.db.execute("INSERT INTO child VALUES ('orphan')")
        await writers.turn.committed()

    with pytest.raises(StoreError, match="FOREIGN KEY"):
        await write_what_cannot_be_committed()
    assert writers.happened == ["undone"]
    assert not writers.db.in_transaction


async def test_a_cancelled_writer_leaves_the_others_alone(writers: Writers) -> None:
    cancelled = asyncio.ensure_future(writers.write("a"))
    other = asyncio.ensure_future(writers.write("b"))
    asyncio.get_running_loop().call_soon(cancelled.cancel)
    await other
    assert cancelled.cancelled()
    assert writers.seen_outside() == ["a", "b"]


async def test_a_table_that_others_hold_cannot_be_joined(writers: Writers) -> None:
    writers.outside.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        writers.turn.join()
    writers.outside.execute("COMMIT")
    await writers.write("a")
    assert writers.seen_outside() == ["a"]


async def test_without_a_transaction_there_is_nothing_to_end(writers: Writers) -> None:
    writers.turn.commit()
    writers.turn.undo(sqlite3.OperationalError("somewhere else"))
    assert writers.happened == []
