"""Nodes with one table and a host each, for tests of the operator's will."""

from __future__ import annotations

import asyncio
from pathlib import Path

from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import Pin, PinKey
from proxy.affinity.wills_file import WillsFile
from proxy.errors import Cause, StoreError
from proxy.routing.pool import Host
from proxy.routing.will import Pins, Will, Wish
from proxy.server.wills import WillKeeper
from tests.unit.server.test_table import Table

MARK = PinKey("desktops", "wills")
DRAIN = Wish(Will.DRAIN, Pins.LIVE, since=1_000_000.0)


class Shared:
    now = 1_000_000.0
    home: Path


SHARED = Shared()


class Node:
    """A node's keeper, its table and its one host, `a`. Of one name they are one, started anew."""

    def __init__(self, name: str, store: SqliteStore) -> None:
        self.t = Table()
        self.closed: list[tuple[int, Cause]] = []
        self.turned: list[tuple[str, bool]] = []
        self.keeper = WillKeeper(
            store,
            WillsFile(SHARED.home / f"{name}.json"),
            name,
            self.t.farm.pools,
            self.t.table,
            self.t.observed,
            lambda conn_id, cause: self.closed.append((conn_id, cause)),
            lambda host, took: self.turned.append((host.name, took)),
            self.t.clock,
        )

    @property
    def host(self) -> Host:
        return self.t.pool.hosts[0]

    async def wants(self, wish: Wish) -> None:
        await self.keeper.say(self.host, lambda _: wish)


class Reads:
    """A table that tells what is read."""

    def __init__(self, store: SqliteStore, read: list[str]) -> None:
        self.store, self.read = store, read
        self.questions = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def get(self, key: PinKey) -> Pin | None:
        return (await self.get_each([key]))[0]

    async def get_each(self, keys: list[PinKey]) -> list[Pin | None]:
        self.questions += 1
        self.read += [key.key for key in keys]
        pins = await self.store.get_each(keys)
        await asyncio.sleep(0)  # as a table on another machine
        await self.may_answer.wait()
        return pins

    def __getattr__(self, verb: str) -> object:
        return getattr(self.store, verb)


class Away:
    """A table that does not answer until it is told to."""

    def __init__(self, store: SqliteStore, times: int) -> None:
        self.store, self.times = store, times

    def __getattr__(self, verb: str) -> object:
        if self.times:
            self.times -= 1
            raise StoreError("away")
        return getattr(self.store, verb)
