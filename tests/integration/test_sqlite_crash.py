"""The embedded table among real processes: races, a writer that is killed, files that break."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from proxy.affinity import sqlite
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import PinKey, Touch
from tests.patience import PATIENCE_S

CLAIMS = """
import asyncio, sys
from proxy.affinity import sqlite
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import PinKey

async def main(path, me):
    sqlite.BUSY_LIMIT_S = 60.0
    store = await SqliteStore.open(path, max_pins=10_000, now=lambda: 1.8e9)
    print("ready", flush=True)
    sys.stdin.readline()
    hosts = []
    for n in range(300):
        pin = await store.claim(PinKey("desktops", f"k{n}"), me, expected=None, ttl_s=600.0)
        hosts.append(pin.host)
        if n % 50 == 0:
            await store.checkpoint_once()
    print(",".join(hosts), flush=True)
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""

HALF_A_TRANSACTION = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")  # so that the half goes to the file before any COMMIT
db.execute("BEGIN IMMEDIATE")
db.executemany(
    "INSERT INTO pins (pool, key, host, expires_at, touched_at) VALUES ('half', ?, 'x', 9e9, 1)",
    ((f"k{n}",) for n in range(5000)),
)
print("ready", flush=True)
sys.stdin.readline()
"""

ENDLESS_CLAIMS = """
import asyncio, itertools, sys
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import PinKey

async def main(path):
    store = await SqliteStore.open(path, max_pins=100_000, now=lambda: 1.8e9)
    for n in itertools.count():
        await store.claim(PinKey("desktops", f"k{n}"), "a", expected=None, ttl_s=600.0)
        if n % 20 == 19:
            await store.checkpoint_once()
            print(n, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""

# A limit of this process on the size of its files stands for the disk's.
FULL_DISK = """
import asyncio, resource, sys
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import PinKey
from proxy.errors import StoreError

async def main(path):
    store = await SqliteStore.open(path, max_pins=100_000, now=lambda: 1.8e9)
    known = PinKey("desktops", "known")
    await store.claim(known, "a", expected=None, ttl_s=600.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
    try:
        for n in range(10_000):
            await store.claim(PinKey("desktops", f"k{n}"), "a", expected=None, ttl_s=600.0)
    except StoreError as error:
        pin = await store.get(known)
        print("refused,", pin and pin.host, error.detail, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    pin = await store.claim(PinKey("desktops", "later"), "b", expected=None, ttl_s=600.0)
    print("goes on,", pin.host, flush=True)
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


def now() -> float:
    return 1.8e9


async def opened(path: Path) -> SqliteStore:
    return await SqliteStore.open(str(path), max_pins=100_000, now=now)


@contextmanager
def running(program: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs `program`; it is dead afterwards."""
    command = [sys.executable, "-c", program, *args]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def lose_the_end_of(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096 - 100)


def is_sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchall() == [("ok",)])


def test_processes_that_claim_at_once_agree_on_every_pin(tmp_path: Path) -> None:
    path = tmp_path / "affinity.db"
    with ExitStack() as stack:
        processes = [stack.enter_context(running(CLAIMS, str(path), f"host{n}")) for n in range(4)]
        assert [line_of(process) for process in processes] == ["ready"] * 4
        go(processes)
        answers = [line_of(process).split(",") for process in processes]
        assert [process.wait(PATIENCE_S) for process in processes] == [0] * 4
    assert len(answers[0]) == 300
    assert all(answer == answers[0] for answer in answers)
    assert is_sound(path)


async def test_a_writer_killed_within_its_transaction_leaves_no_lock_and_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_LIMIT_S", PATIENCE_S)
    path = tmp_path / "affinity.db"
    store = await opened(path)
    key = PinKey("desktops", "source:203.0.113.7")
    await store.claim(key, "a", expected=None, ttl_s=600.0)
    with running(HALF_A_TRANSACTION, str(path)) as writer:
        assert line_of(writer) == "ready"
        waiting = asyncio.get_running_loop().create_task(
            store.claim(key, "b", expected="a", ttl_s=600.0)
        )
        await asyncio.sleep(0.01)
        assert not waiting.done()
        writer.kill()  # SIGKILL
        assert (await waiting).host == "b"
    assert [found async for found, _pin in store.scan()] == [key]
    await store.close()
    assert is_sound(path)


async def test_a_proxy_killed_at_any_point_keeps_the_pins_that_it_gave(tmp_path: Path) -> None:
    path = tmp_path / "affinity.db"
    for _ in range(5):
        with running(ENDLESS_CLAIMS, str(path)) as writer:
            given = [int(line_of(writer)) for _ in range(5)][-1]
            writer.kill()
        store = await opened(path)
        assert store.corruptions == 0
        touches = [Touch(PinKey("desktops", f"k{n}"), "other", 600.0) for n in range(given + 1)]
        assert await store.touch("node", touches) == ["a"] * (given + 1)
        await store.close()


async def test_a_table_that_lost_its_end_while_nobody_had_it_open_is_begun_anew(
    tmp_path: Path,
) -> None:
    path = tmp_path / "affinity.db"
    with running(ENDLESS_CLAIMS, str(path)) as writer:
        given = [int(line_of(writer)) for _ in range(20)][-1]
        writer.kill()
    lose_the_end_of(path)
    store = await opened(path)
    assert (store.corruptions, await store.size()) == (1, 0)
    touches = [Touch(PinKey("desktops", f"k{n}"), "a", 600.0) for n in range(given)]
    await store.touch("node", touches)  # live connections seed it again
    assert await store.size() == given
    await store.close()
    assert is_sound(path)


def test_a_disk_without_room_refuses_claims_answers_reads_and_recovers(tmp_path: Path) -> None:
    with running(FULL_DISK, str(tmp_path / "affinity.db")) as process:
        refused, goes_on = line_of(process), line_of(process)
        assert process.wait(PATIENCE_S) == 0
    assert refused.startswith("refused, a affinity table")
    assert goes_on == "goes on, b"
