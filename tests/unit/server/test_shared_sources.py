"""Sources that turn out to be many people, and how nodes tell each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from proxy.address import Address
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import Pin, PinKey
from proxy.errors import StoreError
from proxy.routing.pool import Pool
from proxy.server.record import ConnectionRecord
from proxy.server.shared_sources import SharedSources
from proxy.server.table import Established
from proxy.settings import HostSettings, PoolAffinity, PoolSettings
from tests.unit.server.stage import Clock

NAT, GATEWAY = "203.0.113.7", "10.9.0.1"


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(":memory:", max_pins=100, now=Clock())
    yield opened
    await opened.close()


class Office:
    def __init__(self, store: SqliteStore, after: int | None = 3) -> None:
        hosts = (HostSettings(name="a", address=Address("10.0.0.21", 3389)),)
        affinity = PoolAffinity(shared_sources=(ip_network("10.9.0.0/24"),))
        desktops = Pool(PoolSettings(name="desktops", hosts=hosts, affinity=affinity))
        pools = {"desktops": desktops}
        (self.host,) = desktops.hosts
        self.clock = Clock()
        self.shared = SharedSources(after, pools, store, self.clock)
        self._ids = iter(range(1, 100))

    def connect(
        self, user: str | None = None, source: str = NAT, pool: str = "desktops"
    ) -> Established:
        at = Address(source, 5)
        record = ConnectionRecord(next(self._ids), "rdp", at, at, 0.0, user=user)
        record.pool = pool
        row = Established(record, self.host, ())
        self.shared.established(row)
        return row


async def test_a_few_connections_are_one_person(store: SqliteStore) -> None:
    office = Office(store)
    for number in range(3):
        office.connect(f"user{number}")
    assert not office.shared.knows(NAT)
    assert len(office.shared) == 0


async def test_many_connections_are_many_people_and_the_operator_is_told_once(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    office = Office(store)
    for user in ("anna", None, "carl", "dora", "emil"):
        office.connect(user)
    assert office.shared.knows(NAT)
    (line,) = caplog.records
    assert (line.message, line.__dict__["source"]) == ("source_shared", NAT)
    assert "shared_sources" in line.__dict__["detail"]


async def test_a_source_stays_shared_when_it_empties(store: SqliteStore) -> None:
    office = Office(store)
    for row in [office.connect("anna") for _ in range(4)]:
        office.shared.gone(row)
    assert office.shared.knows(NAT)
    office.connect("anna")
    assert len(office.shared) == 1


@pytest.mark.parametrize(("source", "pool"), [(GATEWAY, "desktops"), (NAT, "gone")])
async def test_sources_that_are_declared_or_nowhere_configured_are_no_news(
    store: SqliteStore, source: str, pool: str
) -> None:
    office = Office(store)
    for _ in range(9):
        office.connect("anna", source, pool)
    assert not office.shared.knows(source)


async def test_looking_can_be_switched_off(store: SqliteStore) -> None:
    office = Office(store, after=None)
    for _ in range(50):
        office.connect("anna")
    assert not office.shared.knows(NAT)
    assert not await office.shared.hold("desktops", NAT)


async def test_other_nodes_learn_it_from_the_table(store: SqliteStore) -> None:
    here, there = Office(store), Office(store)
    assert not await there.shared.hold("desktops", NAT)
    for user in ("anna", "bob", "carl", "dora"):
        here.connect(user)
    assert await here.shared.hold("desktops", NAT)
    assert not await there.shared.hold("desktops", NAT)  # it has asked a moment ago
    there.clock.now += 6
    assert await there.shared.hold("desktops", NAT)
    assert there.shared.knows(NAT)


async def test_a_table_that_is_away_is_told_when_it_is_back(store: SqliteStore) -> None:
    here, there = Office(store), Office(store)
    for user in ("anna", "bob", "carl", "dora"):
        here.connect(user)
    assign = store.assign

    async def away(*_: object, **__: object) -> Pin:
        raise StoreError("gone")

    store.assign = away  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        await here.shared.hold("desktops", NAT)
    store.assign = assign  # type: ignore[method-assign]
    assert await here.shared.hold("desktops", NAT)
    assert await there.shared.hold("desktops", NAT)


async def test_clients_that_come_while_the_table_is_told_are_not_in_each_others_way(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    office, assign = Office(store), store.assign
    for user in ("anna", "bob", "carl", "dora"):
        office.connect(user)

    async def slowly(key: PinKey, host: str, *, ttl_s: float) -> Pin:
        await asyncio.sleep(0)
        return await assign(key, host, ttl_s=ttl_s)

    monkeypatch.setattr(store, "assign", slowly)
    assert all(await asyncio.gather(*(office.shared.hold("desktops", NAT) for _ in range(5))))
