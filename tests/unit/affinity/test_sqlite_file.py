"""Opening the embedded table on whatever lies at its path."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from proxy.affinity import sqlite_file
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.sqlite_file import CheckpointerLock, open_table, replace_table
from proxy.affinity.store import PinKey, StoreEvent, Touch
from proxy.errors import StoreError


def now() -> float:
    return 1_800_000_000.0


async def filled(path: Path) -> None:
    store = await SqliteStore.open(str(path), max_pins=1000, now=now)
    touches = [Touch(PinKey("desktops", f"source:{n}"), "a", 600.0) for n in range(500)]
    await store.touch("node", touches)
    await store.close()


def header(content: bytes) -> bytes:
    return b"\0" * 100 + content[100:]


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_to_the_middle_of_a_page(content: bytes) -> bytes:
    return content[:6000]


def noise(content: bytes) -> bytes:
    return b"\xa5" * len(content)


def text(content: bytes) -> bytes:
    return b"this is not a table\n"


def broken_pages(content: bytes) -> bytes:
    return content[:4096] + b"\xff" * (len(content) - 4096)


@pytest.mark.parametrize(
    "damage", [header, halved, cut_to_the_middle_of_a_page, noise, text, broken_pages]
)
async def test_a_corrupt_file_is_set_aside_counted_and_replaced(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "affinity.db"
    await filled(path)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    events: list[tuple[StoreEvent, str]] = []
    store = await SqliteStore.open(
        str(path), max_pins=10, now=now, on_event=lambda *event: events.append(event)
    )
    assert await store.size() == 0
    pin = await store.claim(PinKey("p", "k"), "a", expected=None, ttl_s=9.0)
    assert (pin.host, store.corruptions) == ("a", 1)
    await store.close()
    aside = tmp_path / "affinity.db.corrupt-20270115T080000.000000Z"
    assert aside.read_bytes() == damaged
    ((event, detail),) = events
    assert event is StoreEvent.SET_ASIDE
    assert str(aside) in detail


def test_the_log_of_a_broken_table_is_not_read_into_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "affinity.db"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").write_bytes(b"left over")
    db, fault = replace_table(str(path), now, "broken")
    db.close()
    stamp = "affinity.db.corrupt-20270115T080000.000000Z"
    assert fault == f"broken; the file is kept as {tmp_path}/{stamp}"
    kept = sorted(found.name for found in tmp_path.glob("*corrupt*"))
    assert kept == [stamp, f"{stamp}-shm", f"{stamp}-wal"]


async def test_an_empty_file_is_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "affinity.db"
    path.touch()
    db, fault = open_table(str(path), now)
    db.close()
    assert fault is None


async def test_a_new_table_is_private_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "affinity.db"
    await filled(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_directory_that_is_missing_or_no_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, said in (
        (tmp_path / "no" / "a.db", "No such"),
        (tmp_path / "file" / "a.db", "Not a"),
    ):
        with pytest.raises(StoreError, match=f"{said}.*must name a file in an existing") as caught:
            open_table(str(path), now)
        assert str(path) in str(caught.value)


def test_a_path_that_is_a_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"affinity\.path must name a file"):
        open_table(str(tmp_path), now)
    assert list(tmp_path.parent.glob(f"{tmp_path.name}*")) == [tmp_path]


def test_a_directory_where_nothing_can_be_written_is_told() -> None:
    with pytest.raises(StoreError, match=r"affinity\.path must name a file .* may write"):
        open_table("/sys/affinity.db", now)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bookkeeping.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE invoices (number INTEGER)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program's database: name another"):
        open_table(str(path), now)
    assert path.read_bytes() == before


async def test_a_table_of_a_newer_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "affinity.db"
    await filled(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=r"version 99 of the table, this program knows \d"):
        open_table(str(path), now)


def test_a_file_system_without_shared_memory_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite_file._value
    monkeypatch.setattr(
        sqlite_file,
        "_value",
        lambda db, sql: "delete" if "journal_mode" in sql else real(db, sql),
    )
    with pytest.raises(StoreError, match=r"put affinity\.path on a local disk"):
        open_table(str(tmp_path / "affinity.db"), now)


def test_an_old_sqlite_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 7, 17))
    with pytest.raises(StoreError, match=r"SQLite 3\.24\.0 or newer is needed"):
        open_table(str(tmp_path / "affinity.db"), now)


def test_a_table_that_another_process_keeps_opening_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "OPEN_WAIT_S", 0.05)
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match="another process has been opening"):
        open_table(str(tmp_path / "affinity.db"), now)
    os.close(fd)
    open_table(str(tmp_path / "affinity.db"), now)[0].close()


def test_a_table_in_memory_is_replaced_by_an_empty_one() -> None:
    db, fault = replace_table(":memory:", now, "broken")
    assert (db.execute("SELECT count(*) FROM pins").fetchall(), fault) == ([(0,)], "broken")
    db.close()


def test_the_right_to_checkpoint_belongs_to_one_at_a_time(tmp_path: Path) -> None:
    path = str(tmp_path / "affinity.db")
    first, second = CheckpointerLock(path), CheckpointerLock(path)
    assert first.take()
    assert first.take()
    assert not second.take()
    second.give_back()
    assert not second.take()
    first.give_back()
    assert second.take()
    second.give_back()


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        CheckpointerLock(str(tmp_path / "no" / "affinity.db")).take()
