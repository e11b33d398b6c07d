"""The operator's will on several nodes with one table: told, obeyed, kept, and told again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.address import Address
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import NEVER, PinKey
from proxy.errors import Cause, StoreError
from proxy.routing.will import Will, Wish
from proxy.server.wills import IN_USE_S
from tests.unit.server.will_nodes import DRAIN, MARK, SHARED, Away, Node, Reads


async def test_what_is_said_counts_here_at_once_and_elsewhere_soon(
    nodes: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    a, b = nodes
    assert await b.keeper.tick()
    await a.wants(DRAIN)
    assert (a.host.wish, b.host.wish) == (DRAIN, Wish())
    assert await b.keeper.tick()
    assert b.host.wish == DRAIN
    assert a.turned == b.turned == [("a", True)]
    told = [record.__dict__ for record in caplog.records]
    assert [(line["message"], line["will"], line["pins"]) for line in told] == [
        ("host_wanted", "drain", "live")
    ] * 2


async def test_a_node_that_starts_knows_before_it_accepts(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    await nodes[0].wants(DRAIN)
    late = Node("n3", store)
    await late.keeper.learn(0)
    assert late.host.wish == DRAIN


async def test_while_the_table_is_away_the_last_known_will_stays(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, _ = nodes
    await a.wants(DRAIN)
    a.keeper.store = Away(store, 2)  # type: ignore[assignment]
    assert not await a.keeper.tick()
    assert a.host.wish == DRAIN
    with pytest.raises(StoreError):
        await a.wants(Wish())
    assert a.host.wish == DRAIN
    assert await a.keeper.tick()
    assert a.t.observed.store_failures == 1


async def test_a_start_waits_a_little_for_the_table_and_says_so(
    nodes: tuple[Node, Node], store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = nodes
    await a.wants(DRAIN)
    b.keeper.store = Away(store, 1)  # type: ignore[assignment]
    await b.keeper.learn(60)
    assert b.host.wish == DRAIN
    late = Node("n3", store)
    late.keeper.store = Away(store, 1)  # type: ignore[assignment]
    await late.keeper.learn(0)
    assert (late.host.wish, late.keeper.is_known) == (Wish(), False)
    assert warnings(caplog) == ["will_unknown"]
    await late.keeper.tick()
    assert (late.host.wish, late.keeper.is_known) == (DRAIN, True)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.message for line in caplog.records if line.levelname == "WARNING"]


async def started_without_the_table(name: str, store: SqliteStore) -> Node:
    """A node of that name, started anew, whose next question the table answers."""
    node = Node(name, store)
    node.keeper.store = Away(store, 1)  # type: ignore[assignment]
    await node.keeper.learn(0)
    return node


async def test_a_start_without_the_table_goes_by_what_the_node_knew_last(
    nodes: tuple[Node, Node], store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = nodes
    await a.keeper.tick()
    assert (await started_without_the_table("n1", store)).keeper.is_known, "all are ready"
    await a.wants(DRAIN)
    await a.keeper.tick()
    again = await started_without_the_table("n1", store)
    assert (again.host.wish, again.keeper.is_known) == (DRAIN, True)
    assert warnings(caplog) == ["wills_recalled"] * 2
    b.t.clock.now += 1
    await b.wants(Wish(Will.MAINTENANCE))
    await again.keeper.tick()
    assert again.host.wish == Wish(Will.MAINTENANCE), "the table overrules"
    b.t.clock.now += 1
    await b.wants(Wish())
    again = await started_without_the_table("n1", store)
    assert again.host.wish == Wish(Will.MAINTENANCE)
    await again.keeper.tick()
    assert again.host.wish == Wish()


async def test_a_table_that_loses_its_memory_is_told_again_also_by_who_starts_then(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, b = nodes
    await a.wants(DRAIN)
    for key in (MARK, PinKey("desktops", "will:a")):
        await store.clear(key)
    await a.keeper.tick()  # it said so a moment ago, and had no time to look since
    await b.keeper.tick()
    assert b.host.wish == DRAIN
    for key in (MARK, PinKey("desktops", "will:a")):
        await store.clear(key)
    again = Node("n1", store)
    await again.keeper.learn(0.0)
    await b.keeper.tick()
    assert (again.host.wish, b.host.wish) == (DRAIN, DRAIN)
    assert await store.get(PinKey("desktops", "will:a")) is not None


async def test_what_cannot_be_read_changes_nothing_and_is_told(
    nodes: tuple[Node, Node], store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    a, _ = nodes
    await a.wants(DRAIN)
    await store.assign(PinKey("desktops", "will:a"), "of the future", ttl_s=NEVER)
    await store.assign(MARK, "another", ttl_s=NEVER)
    await a.keeper.tick()
    assert a.host.wish == DRAIN
    assert "will_unknown" in [record.message for record in caplog.records]


async def test_what_is_known_of_a_host_waits_for_it(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, _ = nodes
    await a.wants(DRAIN)
    before, a.keeper.pools = a.keeper.pools, {}
    a.keeper.obey()
    a.keeper.pools = before
    a.t.pool.hosts[0].wish = Wish()  # as a host that the configuration has anew
    a.keeper.obey()
    assert a.host.wish == DRAIN


async def test_what_is_known_of_a_host_that_is_away_does_not_grow_old(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes
    await a.wants(DRAIN)
    await b.keeper.tick()
    host = b.t.pool.by_name["a"]
    b.t.pool.hosts, b.t.pool.by_name = (), {}
    a.t.clock.now += 50
    await a.wants(Wish(since=a.t.clock.now))
    await b.keeper.tick()
    b.t.pool.hosts, b.t.pool.by_name = (host,), {"a": host}
    b.keeper.obey()
    await b.keeper.tick()
    assert host.will is Will.READY


async def test_of_hosts_that_are_gone_and_wanted_no_otherwise_nothing_is_kept(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, _ = nodes
    for number in range(50):  # adopted hosts come and go
        a.t.pool.adopt(f"[10.0.0.{number}]", Address(f"10.0.0.{number}", 3389))
        await a.keeper.tick()
        a.t.pool.forget()
    read: list[str] = []
    await store.assign(MARK, "another", ttl_s=NEVER)
    a.keeper.store = Reads(store, read)  # type: ignore[assignment]
    await a.keeper.tick()
    assert read == ["wills", "will:a"]


async def test_a_host_that_is_about_to_come_comes_as_it_is_wanted(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, _ = nodes
    await store.assign(PinKey("desktops", "will:b"), DRAIN.pack(), ttl_s=NEVER)
    await a.keeper.foresee([("desktops", "a"), ("desktops", "b")])
    a.t.pool.adopt("b", Address("10.0.0.9", 3389))
    a.keeper.obey()
    assert a.t.pool.by_name["b"].wish == DRAIN
    await store.assign(PinKey("desktops", "will:c"), DRAIN.pack(), ttl_s=NEVER)
    a.keeper.store = Away(store, 1)  # type: ignore[assignment]
    await a.keeper.foresee([("desktops", "c")])
    a.t.pool.adopt("c", Address("10.0.0.10", 3389))
    a.keeper.obey()
    assert a.t.pool.by_name["c"].wish == DRAIN, "it was asked again"
    assert a.t.observed.store_failures == 1


async def test_hosts_that_come_while_the_table_is_away_are_as_they_were_known(
    nodes: tuple[Node, Node], store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = nodes
    await a.wants(DRAIN)
    await b.keeper.tick()
    b.t.pool.hosts, b.t.pool.by_name = (), {}
    b.keeper.store = Away(store, 2)  # type: ignore[assignment]
    await b.keeper.foresee([("desktops", "a")], 0)
    assert (b.keeper.is_known, warnings(caplog)) == (True, [])
    await b.keeper.foresee([("desktops", "a"), ("desktops", "b")], 0)
    assert (b.keeper.is_known, warnings(caplog)) == (False, ["will_unknown"])
    assert vars(caplog.records[-1])["host"] == "b"
    assert await b.keeper.wish_for("desktops", "a") == DRAIN
    await b.keeper.tick()
    assert b.keeper.is_known


async def test_what_is_wanted_of_five_hundred_hosts_is_read_in_one_go(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, _ = nodes
    table = Reads(store, [])
    a.keeper.store = table  # type: ignore[assignment]
    await a.keeper.foresee([("desktops", f"h{n}") for n in range(500)])
    assert (len(table.read), table.questions) == (500, 1)
    for n in range(500):
        a.t.pool.adopt(f"h{n}", Address("10.0.0.9", 3389))
    await a.keeper.foresee([("desktops", "h7")])
    assert table.questions == 1, "it is here already"
    await store.assign(MARK, "another", ttl_s=NEVER)
    await a.keeper.tick()
    assert table.questions == 4, "the mark, the wills, and nobody to ask for in use"


async def test_a_guest_is_wanted_as_the_table_says(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, _ = nodes
    overdue = replace(DRAIN, deadline=1_000_000.0, close=True)
    await store.assign(PinKey("desktops", "will:[10.0.0.7]"), overdue.pack(), ttl_s=NEVER)
    assert (await a.keeper.wish_for("desktops", "[10.0.0.7]")).will is Will.MAINTENANCE
    assert await a.keeper.wish_for("desktops", "[10.0.0.8]") == Wish()
    a.keeper.store = Away(store, 1)  # type: ignore[assignment]
    assert await a.keeper.wish_for("desktops", "[10.0.0.7]") == Wish()
    assert a.t.observed.store_failures == 1


async def test_connections_are_closed_at_the_deadline_only_if_asked(
    nodes: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    a, _ = nodes
    a.t.add(1)
    a.t.add(2)
    await a.wants(replace(DRAIN, deadline=1_000_100.0))
    a.t.clock.now += 200
    await a.keeper.tick()
    assert (a.closed, a.host.will) == ([], Will.DRAIN)
    caplog.clear()
    caplog.set_level("INFO")
    await a.wants(replace(DRAIN, deadline=1_000_300.0, close=True))
    assert a.closed == []
    assert [record.__dict__["deadline_s"] for record in caplog.records] == [100]
    a.t.clock.now += 100
    await a.keeper.tick()
    assert a.closed == [(1, Cause.STOPPED), (2, Cause.STOPPED)]
    (line,) = [line for line in caplog.records if line.message == "host_cleared"]
    assert (vars(line)["host"], vars(line)["connections"]) == (a.host.name, 2)
    assert a.host.will is Will.MAINTENANCE
    assert a.host.wish.since == 1_000_300.0


async def test_a_machine_is_emptied_of_connections_under_a_name_that_leaves(
    nodes: tuple[Node, Node],
) -> None:
    a, _ = nodes
    for conn_id, ip in enumerate(("10.0.0.21", "10.0.0.99")):
        at = Address(ip, 3389)
        a.t.table.relay_row(a.t.row(conn_id, pool="gone", host=ip, host_address=at))
    await a.wants(Wish(Will.MAINTENANCE, deadline=0.0, close=True))
    assert a.keeper.is_in_use(a.host)
    assert a.closed == [(0, Cause.STOPPED)]


async def test_a_node_knows_whether_any_node_has_connections_left(
    nodes: tuple[Node, Node],
) -> None:
    row = nodes[0].t.add(1)

    async def in_use(after_s: float) -> list[bool]:
        SHARED.now += after_s
        told = []
        for node in nodes:
            node.t.clock.now += after_s
            await node.keeper.tick()
            told.append(node.keeper.is_in_use(node.host))
        return told

    assert await in_use(0) == [True, False]  # of a host that is ready a node tells its own
    await nodes[1].wants(DRAIN)
    assert await in_use(0) == [True, True]
    assert await in_use(IN_USE_S + 1) == [True, True]
    nodes[0].t.table.drop(row)
    nodes[0].host.live -= 1
    assert await in_use(IN_USE_S - 1) == [True, True]
    assert await in_use(2) == [False, False]


async def test_a_node_that_cannot_hear_the_others_does_not_call_a_host_empty(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, _ = nodes
    await a.wants(DRAIN)
    assert a.keeper.is_in_use(a.host)
    await a.keeper.tick()
    a.t.clock.now += IN_USE_S + 1
    assert not a.keeper.is_in_use(a.host)
    a.keeper.store = Away(store, 1)  # type: ignore[assignment]
    await a.keeper.tick()
    assert a.keeper.is_in_use(a.host)
    await a.keeper.tick()
    assert a.keeper.is_in_use(a.host)
    a.t.clock.now += IN_USE_S + 1
    assert not a.keeper.is_in_use(a.host)


async def test_nothing_is_told_of_hosts_that_are_ready(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, _ = nodes
    a.t.add(1)
    await a.keeper.tick()
    assert await store.size() == 0
