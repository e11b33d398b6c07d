"""Nodes that share a table in Redis, for tests: stores that are looked after, and what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from proxy.affinity.redis import RedisStore
from proxy.affinity.store import PinKey, StoreEvent
from proxy.errors import StoreError
from tests.patience import PATIENCE_S

HELD_MAX = 200  # two seconds: far above any limit of the store, far below a server's absence

T = TypeVar("T")


@dataclass(slots=True)
class Node:
    """A store that `maintain` runs for."""

    store: RedisStore
    events: list[tuple[StoreEvent, str]] = field(default_factory=list)

    @property
    def told(self) -> list[StoreEvent]:
        """The events so far, without their details."""
        return [event for event, _detail in self.events]


@asynccontextmanager
async def node(url: str) -> AsyncIterator[Node]:
    """Open a store and look after it meanwhile."""
    events: list[tuple[StoreEvent, str]] = []
    store = await RedisStore.open(url, on_event=lambda *event: events.append(event))
    maintenance = asyncio.create_task(store.maintain())
    try:
        yield Node(store, events)
    finally:
        maintenance.cancel()
        await asyncio.wait([maintenance])
        await store.close()
    assert maintenance.cancelled()


def key(number: int) -> PinKey:
    """A client."""
    return PinKey("desktops", f"source:10.0.{number >> 8}.{number & 255}")


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that is bound to happen."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until_settled(one: Node) -> None:
    """Wait until the table is there and nothing is left to tell of it; forget what was told."""
    away, back = StoreEvent.AWAY, StoreEvent.BACK
    await until(lambda: one.store.is_up and one.told.count(away) == one.told.count(back))
    one.events.clear()


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the table answers in time, as it does before and after it is away.

    A machine with much else to do may take longer than a client may be held.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(StoreError):
                return await call()
            await asyncio.sleep(0.02)


@dataclass(slots=True)
class Logins:
    """What became of clients that came one after the other: get, then claim.

    Attributes:
        longest: how many others came while one was held, at most. One comes every 10 ms of the
            event loop's own time, so a busy machine makes it less and never more.
    """

    hosts: dict[int, str] = field(default_factory=dict)
    failures: int = 0
    came: int = 0
    longest: int = 0

    async def come(self, store: RedisStore, number: int) -> None:
        """One client. It is placed by recollection, or at home, where the table is away."""
        self.came += 1
        before = self.came
        host = f"host{number % 7}"
        try:
            pin = await store.get(key(number))
            expected = pin.host if pin else None
            claimed = await store.claim(key(number), expected or host, expected=expected, ttl_s=600)
            host = claimed.host
        except StoreError:
            self.failures += 1
            host = store.recall(key(number)) or host
        self.hosts[number] = host
        self.longest = max(self.longest, self.came - before)


async def log_in(store: RedisStore, logins: Logins, *, while_: Callable[[], bool]) -> None:
    """Let a client come every 10 ms for as long as something holds; wait until all are placed."""
    numbers = iter(range(1_000_000))
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        while while_():
            tasks.create_task(logins.come(store, next(numbers) % 500))
            await asyncio.sleep(0.01)
