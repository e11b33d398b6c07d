"""Three nodes, one table: a story of clients, hosts and a table that comes and goes.

While the table answers, nodes that see the same hosts never place one client's tokenless
connections on two hosts that serve. While it is away, not for clients whose pin is the hash's
first choice, or who return to a node that knows them; the rest is counted when it is back.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.address import Address
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import PinKey
from proxy.errors import Cause, ServerError, StoreError
from proxy.routing.policies import rendezvous
from proxy.routing.pool import Host, Pool
from proxy.routing.routes import Routes
from proxy.routing.will import Will, Wish
from proxy.server.claims import Claims
from proxy.server.gate import Gate
from proxy.server.learned import LearnedTokens
from proxy.server.pins import PinKeeper
from proxy.server.placement import Placer
from proxy.server.record import ConnectionRecord
from proxy.server.shared_sources import SharedSources
from proxy.server.table import ConnectionTable, Established
from proxy.server.visit import Visit
from proxy.settings import (
    Balance,
    HostSettings,
    LimitSettings,
    ListenerSettings,
    PoolSettings,
    TimeoutSettings,
)
from proxy.wire.x224 import ConnectionRequest, encode_connection_request, parse_connection_request
from tests.unit.server.stage import Clock, Networks, Observed

HOSTS = "abcd"
NODES = 3
CLIENTS = [f"203.0.113.{number}" for number in range(1, 5)]


class SharedTable:
    """One node's way to the table: answers take a moment, or do not come."""

    def __init__(self, store: SqliteStore, world: Nodes) -> None:
        self._store, self._world = store, world
        self._seen: dict[PinKey, str] = {}

    @property
    def is_up(self) -> bool:
        return not self._world.away

    async def _ask(self, verb: str, *args: Any, **named: Any) -> Any:
        await asyncio.sleep(0)  # others have their turn between a question and its answer
        if self._world.away:
            raise StoreError("away")
        answer = await getattr(self._store, verb)(*args, **named)
        await asyncio.sleep(0)
        return answer

    async def get(self, key: PinKey) -> Any:
        pin = await self._ask("get", key)
        if pin is not None:
            self._seen[key] = pin.host
        return pin

    async def claim(self, key: PinKey, host: str, **named: Any) -> Any:
        pin = await self._ask("claim", key, host, **named)
        self._seen[key] = pin.host
        return pin

    async def assign(self, key: PinKey, host: str, **named: Any) -> Any:
        return await self._ask("assign", key, host, **named)

    async def touch(self, node: str, touches: Any) -> Any:
        return await self._ask("touch", node, touches)

    async def move(self, *args: Any, **named: Any) -> Any:
        return await self._ask("move", *args, **named)

    def recall(self, key: PinKey) -> str | None:
        return self._seen.get(key)


class World:
    """Hosts as they really are."""

    def __init__(self) -> None:
        self.refusing: set[str] = set()


class Dialler:
    """Reaches a host without sockets."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def dial(self, visit: Visit, host: Host) -> None:
        await asyncio.sleep(0)
        if host.name in self._world.refusing:
            raise ServerError(Cause.REFUSED)

    async def pause(self, visit: Visit, at_most_s: float, earlier: object = None) -> None:
        await asyncio.sleep(0)


class Node:
    """One front without its sockets."""

    def __init__(self, name: str, world: World, store: Any, clock: Clock, balance: Balance) -> None:
        hosts = tuple(
            HostSettings(name=host, address=Address(f"10.0.0.{number}", 3389))
            for number, host in enumerate(HOSTS)
        )
        self.pool = Pool(PoolSettings(name="desktops", balance=balance, hosts=hosts))
        pools = {"desktops": self.pool}
        listener = ListenerSettings(name="rdp", bind=Address("127.0.0.1", 1), pool="desktops")
        self.routes = Routes(listener, pools)
        self.observed = Observed()
        self.clock = clock
        gate = Gate(LimitSettings(), [], clock)
        self.table = ConnectionTable(lambda *_: self.pool, gate, self.observed, clock)
        self.keeper = PinKeeper(store, name, self.table, pools, self.observed, clock)
        shared = SharedSources(8, pools, store, clock)
        self.table.watchers += [self.keeper, shared]
        self.placer = Placer(
            Claims(
                store,
                name,
                self.observed,
                LearnedTokens(store, self.observed, clock),
                self.table.host_of,
                shared,
                clock,
            ),
            Dialler(world),  # type: ignore[arg-type]
            TimeoutSettings(no_host_s=0),
            self.observed,
            Networks(self.pool, self.routes),
        )

    async def place(self, conn_id: int, client: str) -> Established | None:
        """A tokenless connection; None where no host could be had."""
        at = Address(client, 1)
        record = ConnectionRecord(conn_id, "rdp", at, at, self.clock.now)
        request = parse_connection_request(encode_connection_request(requested_protocols=3))
        assert isinstance(request, ConnectionRequest)
        nobody: Any = None
        source = ip_address(client)
        visit = Visit(nobody, source, self.routes, request, record, None, self.pool)
        try:
            placed = await self.placer.place(visit)
        except ServerError:
            return None
        row = Established(record, placed.host, visit.pin_keys())
        self.table.add(row)
        return row


class Nodes(RuleBasedStateMachine):
    """The story. `live` has every connection as (node, row), `parted` those that ended."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock, self.world, self.away = Clock(), World(), False
        self.was_away: set[str] = set()  # clients that were placed without the table, until settled
        self.live: dict[int, tuple[Node, Established]] = {}
        self.parted: list[Established] = []
        self.unsettled: set[int] = set()  # placed since the table went
        self.ids = iter(range(1, 100_000))

    @initialize(balance=st.sampled_from(Balance))
    def open(self, balance: Balance) -> None:
        self.balance = balance
        self.store = self.runner.run(SqliteStore.open(":memory:", max_pins=1000, now=self.clock))
        self.nodes = [
            Node(f"n{n}", self.world, SharedTable(self.store, self), self.clock, balance)
            for n in range(NODES)
        ]

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    @rule(
        client=st.sampled_from(CLIENTS),
        at=st.lists(st.integers(0, NODES - 1), min_size=1, max_size=4),
    )
    def come_at_the_same_instant(self, client: str, at: list[int]) -> None:
        knows = self._is_bound_to_agree(client, at)

        async def come() -> list[Established | None]:
            return await asyncio.gather(
                *(self.nodes[node].place(next(self.ids), client) for node in at)
            )

        came = [
            (self.nodes[node], row)
            for node, row in zip(at, self.runner.run(come()), strict=True)
            if row is not None
        ]
        hosts = {row.record.host for _, row in came}
        assert hosts or not self.nodes[0].pool.ready()
        self.live |= {row.record.id: (node, row) for node, row in came}
        if self.away:
            self.was_away.add(client)
        self.unsettled |= {row.record.id for _, row in came if row.record.table_was_away}
        if knows:
            assert len(hosts) <= 1, hosts

    def _is_bound_to_agree(self, client: str, at: list[int]) -> bool:
        if not self.away:
            return True
        key = PinKey("desktops", f"source:{client}")
        known = {
            self.nodes[n].placer.claims.store.recall(key) or self.nodes[n].table.host_of(key)
            for n in at
        }
        ready = self.nodes[0].pool.ready()
        first = rendezvous(ready, key.key)[0].name if ready else None
        return len({host or first for host in known}) == 1 and known <= {None, first}

    @invariant()
    def a_client_is_on_one_host(self) -> None:
        for client in set(CLIENTS) - self.was_away:
            assert len({row.record.host for row in self._rows_of(client)}) <= 1, client

    def _rows_of(self, client: str) -> list[Established]:
        return [row for _, row in self.live.values() if row.record.client.host == client]

    @rule(host=st.sampled_from(HOSTS), up=st.booleans(), will=st.sampled_from(Will))
    def a_host_turns(self, host: str, up: bool, will: Will) -> None:
        """All nodes see it at once, and what was on a host that fell is gone."""
        if not up or will is Will.MAINTENANCE:
            self._end([i for i, (_, row) in self.live.items() if row.record.host == host])
        (self.world.refusing.discard if up else self.world.refusing.add)(host)
        for node in self.nodes:
            node.pool.by_name[host].up, node.pool.by_name[host].wish = up, Wish(will)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def a_connection_ends(self, data: st.DataObject) -> None:
        self._end([data.draw(st.sampled_from(sorted(self.live)))])

    def _end(self, conn_ids: list[int]) -> None:
        for conn_id in conn_ids:
            node, row = self.live.pop(conn_id)
            node.table.drop(row)
            self.parted.append(row)
            row.host.live -= 1

    @rule()
    def the_table_goes(self) -> None:
        self.away = True

    @rule()
    def the_table_comes_back(self) -> None:
        """Touches settle what differs: counted, and nothing that lives moves."""
        if not self.away:
            return
        self.away = False
        where = {i: row.record.host for i, (_, row) in self.live.items()}
        rows = [row for _, row in self.live.values()] + self.parted
        blind = [row for row in rows if row.record.id in self.unsettled]
        before = self._disagreements()
        for node in self.nodes:
            self.runner.run(node.keeper.flush())
        assert {i: row.record.host for i, (_, row) in self.live.items()} == where
        elsewhere = [row for row in blind if self._is_elsewhere(row)]
        alive = [row for row in elsewhere if row.record.id in self.live]
        # One that ended with its host had the pin until those took it who came after.
        assert len(alive) <= self._disagreements() - before <= len(elsewhere)
        self.parted.clear()
        self.unsettled.clear()
        # Who was counted goes where the table says from now on, so may be on two hosts for a while.
        self.was_away = {client for client in self.was_away if self._strays(client)}

    def _is_elsewhere(self, row: Established) -> bool:
        pin = self.runner.run(self.store.get(row.keys[0]))
        return pin is not None and pin.host != row.record.host

    def _strays(self, client: str) -> bool:
        return any(self._is_elsewhere(row) for row in self._rows_of(client))

    def _disagreements(self) -> int:
        return sum(len(node.observed.disagreed) for node in self.nodes)

    @rule(seconds=st.sampled_from([1, 30, 61, 700]))
    def time_passes(self, seconds: int) -> None:
        for _ in range(-(-seconds // 60)):
            self.clock.now += min(60, seconds)
            for node in self.nodes:
                self.runner.run(node.keeper.flush())


Nodes.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
test_nodes_with_one_table_agree = Nodes.TestCase
