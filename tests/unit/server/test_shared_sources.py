"""Sources that turn out to be many people, and what becomes of those who are connected."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from proxy.address import Address
from proxy.routing.pool import Pool
from proxy.server.record import ConnectionRecord
from proxy.server.shared_sources import SharedSources
from proxy.server.table import Established
from proxy.settings import HostSettings, PoolAffinity, PoolSettings

NAT, GATEWAY = "203.0.113.7", "10.9.0.1"


class Office:
    def __init__(self, after: int | None = 3) -> None:
        hosts = (HostSettings(name="a", address=Address("10.0.0.21", 3389)),)
        affinity = PoolAffinity(shared_sources=(ip_network("10.9.0.0/24"),))
        pools = {"desktops": Pool(PoolSettings(name="desktops", hosts=hosts, affinity=affinity))}
        self.shared = SharedSources(after, pools)
        self._ids = iter(range(1, 100))

    def connect(
        self, user: str | None = None, source: str = NAT, pool: str = "desktops"
    ) -> Established:
        at = Address(source, 5)
        record = ConnectionRecord(next(self._ids), "rdp", at, at, 0.0, user=user)
        record.pool = pool
        row = Established(record, None, ())
        self.shared.established(row)
        return row


def test_a_few_connections_are_one_person() -> None:
    office = Office()
    for number in range(3):
        office.connect(f"user{number}")
    assert not office.shared.holds(NAT)
    assert len(office.shared) == 0


def test_many_connections_are_many_people_and_the_operator_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    office = Office()
    for user in ("anna", None, "carl", "dora", "emil"):
        office.connect(user)
    assert office.shared.holds(NAT)
    (line,) = caplog.records
    assert (line.message, line.__dict__["source"]) == ("source_shared", NAT)
    assert "shared_sources" in line.__dict__["advice"]


def test_a_source_stays_shared_when_it_empties() -> None:
    office = Office()
    for row in [office.connect("anna") for _ in range(4)]:
        office.shared.gone(row)
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


def test_looking_can_be_switched_off() -> None:
    office = Office(after=None)
    for _ in range(50):
        office.connect("anna")
    assert not office.shared.holds(NAT)
