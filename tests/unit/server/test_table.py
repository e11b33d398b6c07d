"""The table of established connections: adopted, counted and accounted exactly once."""

from __future__ import annotations

import pytest

from proxy.address import Address
from proxy.affinity.store import PinKey
from proxy.errors import Cause, Side
from proxy.relay.hand_off import RelayEnding, Row
from proxy.routing.farm import Farm
from proxy.routing.model import Reason, TokenFate
from proxy.server.gate import Gate
from proxy.server.record import ConnectionRecord, Ending, Phase
from proxy.server.table import ConnectionTable, Established
from proxy.settings import (
    HostSettings,
    LimitSettings,
    ListenerSettings,
    PoolSettings,
    Settings,
)
from tests.unit.server.stage import Clock, Observed

KEY = PinKey("desktops", "source:203.0.113.7")
CLOSED = RelayEnding(Side.CLIENT, Cause.CLOSED, 100, 2000)


class Table:
    def __init__(self) -> None:
        hosts = (HostSettings(name="a", address=Address("10.0.0.21", 3389)),)
        listener = ListenerSettings(name="rdp", bind=Address("10.0.1.1", 3389), pool="desktops")
        pool = PoolSettings(name="desktops", hosts=hosts)
        self.farm = Farm(Settings(listeners=(listener,), pools=(pool,)))
        self.pool = self.farm.pools["desktops"]
        self.clock = Clock()
        self.gate = Gate(LimitSettings(connections_per_source=5), [], self.clock)
        self.observed = Observed()
        self.table = ConnectionTable(
            self.farm.pool_of_connection, self.gate, self.observed, self.clock
        )

    def record(self, conn_id: int = 1, **more: object) -> ConnectionRecord:
        record = ConnectionRecord(
            conn_id, "rdp", Address("10.0.1.5", 4), Address("203.0.113.7", 5), self.clock.now
        )
        record.pool, record.host = "desktops", "a"
        record.host_address = record.proxy_address = Address("10.0.0.21", 3389)
        record.reason, record.fate = Reason.PIN, TokenFate.ABSENT
        for name, value in more.items():
            setattr(record, name, value)
        return record

    def row(self, conn_id: int = 1, **more: object) -> Row:
        return Row(conn_id, 10, 20, self.record(conn_id, **more).pack(), None)

    def add(self, conn_id: int = 1) -> Established:
        self.pool.hosts[0].live += 1
        self.gate.connections += 1
        self.gate.adopt("203.0.113.7")
        row = Established(self.record(conn_id), self.pool.hosts[0], (KEY,))
        self.table.add(row)
        return row


@pytest.fixture
def t() -> Table:
    return Table()


def test_an_ending_is_accounted_once(t: Table) -> None:
    t.add()
    t.clock.now += 90
    for _ in range(2):
        t.table.relay_ended(1, CLOSED)
    assert [str(record.ending) for record in t.observed.ended] == ["relay/client/closed"]
    record = t.observed.ended[0]
    assert (record.bytes_up, record.bytes_down, record.duration_s) == (100, 2000, 90)
    assert (t.pool.hosts[0].live, t.gate.connections, t.table.rows) == (0, 0, {})
    assert t.table.of_key(KEY) == []


def test_a_new_front_learns_the_connections_that_live_in_relays(t: Table) -> None:
    t.table.relay_row(t.row())
    assert t.pool.hosts[0].live == t.gate.connections == len(t.observed.accepted) == 1
    assert t.table.host_of(KEY) == "a"
    t.table.relay_row(t.row())
    assert t.gate.connections == 1
    t.table.relay_ended(1, CLOSED)
    assert t.pool.hosts[0].live == t.gate.connections == 0


def test_a_connection_that_ended_while_no_front_was_there_is_accounted(t: Table) -> None:
    row = t.row()
    t.table.relay_row(Row(row.conn_id, row.bytes_up, row.bytes_down, row.record, CLOSED))
    assert [str(record.ending) for record in t.observed.ended] == ["relay/client/closed"]
    assert t.table.rows == {}


def test_a_connection_brings_a_pool_that_is_not_configured_any_more(t: Table) -> None:
    t.table.relay_row(t.row(2, pool="gone"))
    (host,) = t.farm.pools["gone"].hosts
    assert (host.name, host.leaving, host.live) == ("a", True, 1)
    assert (t.pool.hosts[0].live, t.gate.connections) == (0, 1)
    assert t.table.rows[2].keys == ()
    t.table.relay_lost([2])
    assert (host.live, t.gate.connections) == (0, 0)
    assert t.farm.forget()
    assert list(t.farm.pools) == ["desktops"]


def test_a_connection_brings_a_host_that_is_not_configured_any_more(t: Table) -> None:
    t.table.relay_row(t.row(host="gone"))
    host = t.pool.by_name["gone"]
    assert (host.leaving, host.live) == (True, 1)
    t.table.relay_lost([1])
    assert host.live == 0
    assert t.pool.forget()


def test_an_unreadable_row_is_no_connection_of_ours(t: Table) -> None:
    t.table.relay_row(Row(1, 0, 0, b"[99]", None))
    t.table.relay_row(t.row(host=None))
    assert t.table.rows == {}


def test_connections_of_a_relay_that_died_end_with_it(t: Table) -> None:
    t.add(1)
    t.add(2)
    t.table.relay_lost([1, 3])
    assert [record.ending for record in t.observed.ended] == [
        Ending(Phase.RELAY, Side.LOCAL, Cause.RELAY_DIED)
    ]
    assert t.table.host_of(KEY) == "a"


def test_where_a_token_brought_a_client_is_known_only_where_nothing_else_is(t: Table) -> None:
    by_token = t.add()
    by_token.record.reason, by_token.record.host = Reason.TOKEN, "b"
    assert t.table.host_of(KEY) == "b"
    t.add(2)
    by_token = t.add(3)
    by_token.record.reason, by_token.record.host = Reason.TOKEN, "b"
    assert t.table.host_of(KEY) == "a"


def test_progress_is_noted_for_who_is_known(t: Table) -> None:
    row = t.add()
    t.table.relay_progress(1, 5, 6)
    t.table.relay_progress(9, 5, 6)
    assert (row.record.bytes_up, row.record.bytes_down) == (5, 6)
