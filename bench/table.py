"""What the affinity table costs: `python -m bench.table URL-or-FILE [--pins N] [--live N]`.

Fills a table with so many pins (SQLite where a file is named, Redis where a URL is), then measures
single questions one after the other, what a node spends to keep the pins of its live connections
(all of them idle, each with a user, so with two entries), and memory. The unit costs of
docs/scaling.md come from here. The table is to be a new one: what is in it stays.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from proxy.address import Address
from proxy.affinity.redis import RedisStore
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import AffinityStore, PinKey, Touch
from proxy.routing.pool import Pool
from proxy.server.gate import Gate
from proxy.server.pins import PinKeeper, touch_period_s
from proxy.server.record import ConnectionRecord
from proxy.server.table import ConnectionTable, Established
from proxy.settings import HostSettings, LimitSettings, PoolSettings

_QUESTIONS = 5_000
_FILL = 5_000
_TTL_S = 86_400.0
_CLIENTS = 1 << 20  # among them are those who are connected


def key(number: int) -> PinKey:
    """A client of its own."""
    return PinKey("desktops", f"source:10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")


def host(number: int) -> str:
    """The host of a client."""
    return f"rdsh{number % 20:02}"


async def fill(store: AffinityStore, pins: int) -> None:
    """So many pins."""
    for first in range(0, pins, _FILL):
        some = range(first, min(first + _FILL, pins))
        await store.touch("bench", [Touch(key(n), host(n), _TTL_S) for n in some])


async def ask(name: str, question: Callable[[int], Awaitable[object]], numbers: list[int]) -> None:
    """Ask one after the other; print median, 99th percentile and processor time."""
    took = []
    cpu = _cpu_s()
    for number in numbers:
        began = time.perf_counter()
        await question(number)
        took.append(time.perf_counter() - began)
    cpu = _cpu_s() - cpu
    took.sort()
    p50, p99 = (took[len(took) * percent // 100] * 1e6 for percent in (50, 99))
    print(f"{name:16} {p50:7.0f} us  {p99:7.0f} us  {cpu / len(took) * 1e6:7.0f} us CPU here")


class Nobody:
    """An Observer that does not want to know."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_: None


async def keep(store: AffinityStore, live: int) -> None:
    """Hold so many connections for one round of touches; print the processor time of it all."""
    hosts = (HostSettings(name=host(0), address=Address("10.0.0.1", 3389)),)
    pool = Pool(PoolSettings(name="desktops", hosts=hosts))
    pools = {"desktops": pool}
    nobody = Nobody()
    gate = Gate(LimitSettings(), [], time.monotonic)
    table = ConnectionTable(lambda *_: pool, gate, nobody, time.time)
    keeper = PinKeeper(store, "bench", table, pools, nobody, time.time)
    table.watchers.append(keeper)
    chance, at = random.Random(2), Address("10.0.0.2", 1)
    for number in range(live):
        client = chance.randrange(_CLIENTS)
        record = ConnectionRecord(number, "rdp", at, at, time.time() - 3600.0, host=host(client))
        entries = (key(client), PinKey("desktops", f"{key(client).key} user:user{number:05}"))
        table.add(Established(record, pool.hosts[0], entries))
    await keeper.flush()
    if isinstance(store, SqliteStore):
        await store.checkpoint_once()
    running = [asyncio.ensure_future(part) for part in (keeper.run(), store.maintain())]
    began, cpu = time.perf_counter(), _cpu_s()
    await asyncio.sleep(touch_period_s(pools.values()))
    cpu, took = _cpu_s() - cpu, time.perf_counter() - began
    for part in running:
        part.cancel()
    await asyncio.wait(running)
    print(f"{live} live connections: {cpu / took:.2%} of a core here")


async def measure(where: str, pins: int, live: int) -> None:
    """All of it."""
    store: AffinityStore
    if "://" in where:
        store = await RedisStore.open(where)
    else:
        store = await SqliteStore.open(where, max_pins=2 * pins + 1, now=time.time)
    began = time.perf_counter()
    await fill(store, pins)
    print(f"{pins} pins filled in {time.perf_counter() - began:.1f} s; {'p50':>6}, p99, CPU")
    chance = random.Random(1)
    known = [chance.randrange(pins) for _ in range(_QUESTIONS)]
    new = [pins + number for number in range(_QUESTIONS)]

    def claim(number: int) -> Awaitable[object]:
        return store.claim(key(number), "rdsh00", expected=None, ttl_s=600)

    await ask("get", lambda number: store.get(key(number)), known)
    await ask("claim, known", claim, known)
    await ask("claim, new", claim, new)
    await keep(store, live)
    await store.close()
    if "://" not in where:
        size = Path(where).stat().st_size  # noqa: ASYNC240 (nobody waits for us)
        print(f"{size / (pins + _QUESTIONS):.0f} bytes a pin on disk")
        began = time.perf_counter()
        store = await SqliteStore.open(where, max_pins=2 * pins + 1, now=time.time)
        print(f"opened again in {time.perf_counter() - began:.2f} s")
        await store.close()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("where", help="a new file, or redis://HOST:PORT/DB")
    parser.add_argument("--pins", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=20_000)
    options = parser.parse_args()
    uvloop.run(measure(options.where, options.pins, options.live))


if __name__ == "__main__":
    main()
