"""Rows: they are counted, found in order, and make room, on a connection of one's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest

from proxy.affinity import sqlite_rows
from proxy.affinity.entry import Entry, assigned, moved
from proxy.affinity.sqlite_file import IN_MEMORY, open_table
from proxy.affinity.sqlite_rows import END, Rows
from proxy.affinity.store import Pin, PinKey

NOW = 1_000.0


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    db, fault = open_table(IN_MEMORY, lambda: NOW)
    assert fault is None
    with closing(db):
        yield db


@pytest.fixture
def rows(db: sqlite3.Connection) -> Rows:
    rows = Rows(4, lambda: NOW)
    rows.use(db)
    return rows


def put(rows: Rows, name: str, pool: str = "desktops", ttl_s: float = 60.0) -> Entry:
    return rows.put(PinKey(pool, name), partial(assigned, host="a", ttl_s=ttl_s))


def test_rows_are_counted_and_counted_anew_on_another_table(
    rows: Rows, db: sqlite3.Connection
) -> None:
    put(rows, "x")
    put(rows, "x")
    put(rows, "y")
    assert (rows.count, rows.inserted) == (2, 2)
    assert rows.delete(PinKey("desktops", "x"))
    assert not rows.delete(PinKey("desktops", "x"))
    other = Rows(4, lambda: NOW)
    other.use(db)
    assert rows.count == other.count == 1


def test_a_change_to_nothing_writes_nothing(rows: Rows) -> None:
    change = partial(moved, node="n", host="b", expected="a", quiet_s=1.0, ttl_s=60.0)
    assert rows.put(PinKey("desktops", "x"), change) is None
    assert rows.count == 0


def test_what_has_expired_is_found_and_not_in_force(rows: Rows) -> None:
    put(rows, "x", ttl_s=0.0)
    key = PinKey("desktops", "x")
    assert rows.find(key) == Entry("a", NOW, NOW)
    assert rows.get(key) is None
    assert not rows.delete(key)
    assert rows.count == 0


def test_pages_and_ranges_follow_each_other(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_rows, "RANGE_ROWS", 2)
    for name in "abc":
        put(rows, name)
    put(rows, "a", pool="tools", ttl_s=0.0)
    first = rows.page(("", ""), None)
    assert first == [(PinKey("desktops", name), Pin("a", NOW + 60, NOW)) for name in "ab"]
    assert [key.key for key, _ in rows.page(("desktops", "b"), "desktops")] == ["c"]
    assert rows.read_range(("", "")) == (("desktops", "b"), 2, 0)
    assert rows.read_range(("desktops", "b")) == (("tools", "a"), 2, 1)
    assert rows.read_range(("tools", "a")) == (END, 0, 0)
    assert rows.delete_range(("desktops", "b"), END) == 1
    assert rows.count == 3


def test_a_full_table_makes_room(rows: Rows) -> None:
    for name in "abcde":
        put(rows, name)
    assert (rows.count, rows.evictions) == (4, 1)
