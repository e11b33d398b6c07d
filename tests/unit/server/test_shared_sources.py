"""Sources that turn out to be many people, and what becomes of those who are connected."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from proxy.address import Address
from proxy.affinity.store import PinKey
from proxy.routing.pool import Pool
from proxy.server.gate import Gate
from proxy.server.record import ConnectionRecord
from proxy.server.shared_sources import SharedSources
from proxy.server.table import ConnectionTable, Established
from proxy.settings import HostSettings, LimitSettings, PoolAffinity, PoolSettings
from tests.unit.server.stage import Clock, Observed

NAT, GATEWAY = "203.0.113.7", "10.9.0.1"
BY_SOURCE = PinKey("desktops", f"source:{NAT}")


class Office:
    def __init__(self, after: int | None = 3) -> None:
        hosts = (HostSettings(name="a", address=Address("10.0.0.21", 3389)),)
        affinity = PoolAffinity(shared_sources=(ip_network("10.9.0.0/24"),))
        pools = {"desktops": Pool(PoolSettings(name="desktops", hosts=hosts, affinity=affinity))}
        gate = Gate(LimitSettings(), [], Clock())
        self.table = ConnectionTable(pools, gate, Observed(), Clock())
        self.touched: list[Established] = []
        self.shared = SharedSources(after, self.table, pools, self.touched.append)
        self.table.watchers.append(self.shared)
        self._ids = iter(range(1, 100))

    def connect(self, user: str | None, source: str = NAT, pool: str = "desktops") -> Established:
        at = Address(source, 5)
        record = ConnectionRecord(next(self._ids), "rdp", at, at, 0.0, user=user)
        record.pool, record.host = pool, "a"
        row = Established(record, None, (PinKey("desktops", f"source:{source}"),))
        self.table.add(row)
        return row


def test_a_few_connections_are_one_person() -> None:
    office = Office()
    for number in range(3):
        office.connect(f"user{number}")
    assert not office.shared.holds(NAT)
    assert len(office.shared) == 0


def test_many_connections_are_many_people_and_each_keeps_the_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    office = Office()
    rows = [office.connect(user) for user in ("anna", None, "carl", "dora")]
    assert office.shared.holds(NAT)
    assert [record.message for record in caplog.records] == ["source_shared"]
    assert office.touched == rows
    assert rows[0].keys == (PinKey("desktops", f"source:{NAT} user:anna"), BY_SOURCE)
    assert rows[1].keys == (BY_SOURCE,)
    assert office.table.of_key(rows[0].keys[0]) == [rows[0]]
    assert office.table.of_key(BY_SOURCE) == rows


def test_a_source_stays_shared_when_it_empties() -> None:
    office = Office()
    for row in [office.connect("anna") for _ in range(4)]:
        office.table.drop(row)
    assert office.shared.holds(NAT)
    office.connect("anna")
    assert len(office.shared) == 1


@pytest.mark.parametrize(("source", "pool"), [(GATEWAY, "desktops"), (NAT, "gone")])
def test_sources_that_are_declared_or_nowhere_configured_are_no_news(
    source: str, pool: str
) -> None:
    office = Office()
    for _ in range(9):
        office.connect("anna", source, pool)
    assert not office.shared.holds(source)


def test_connections_of_a_pool_that_is_gone_keep_their_pins() -> None:
    office = Office()
    old = office.connect("anna", pool="gone")
    for _ in range(3):
        office.connect("bob")
    assert old.keys == (BY_SOURCE,)


def test_looking_can_be_switched_off() -> None:
    office = Office(after=None)
    for _ in range(50):
        office.connect("anna")
    assert not office.shared.holds(NAT)
