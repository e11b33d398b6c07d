"""The shared table behind Sentinels and over a Cluster, whose primaries die, freeze and move."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.cluster import NodesManager

from proxy.affinity.redis import name_of
from proxy.affinity.redis_client import FAILURES, RedisClient
from proxy.affinity.store import StoreEvent, Touch
from proxy.redis_url import RedisUrl
from tests.integration.redis_nodes import (
    HELD_MAX,
    Logins,
    Node,
    insist,
    key,
    log_in,
    node,
    until,
    until_settled,
)
from tests.patience import PATIENCE_S
from tests.servers.redis import (
    RedisFarm,
    RedisServer,
    start_cluster,
    start_sentinels,
    wait_for,
)

CLIENTS = 200


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[tuple[RedisFarm, str]]:
    farm, url = start_sentinels(tmp_path, down_after_ms=2500)
    yield farm, url
    farm.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[RedisFarm, str]]:
    farm, url = start_cluster(tmp_path, replicas=1, timeout_ms=2500)
    yield farm, url
    farm.close()


@pytest.fixture
def calm_cluster(tmp_path: Path) -> Iterator[tuple[RedisFarm, str]]:
    """One that does not fail over because the machine is busy."""
    farm, url = start_cluster(tmp_path, replicas=1, timeout_ms=10_000)
    yield farm, url
    farm.close()


def primaries_of(farm: RedisFarm) -> list[RedisServer]:
    """Those that are primaries now: on a busy machine the first ones may have been replaced."""
    return [one for one in farm.servers if "role:master" in one.cli("info", "replication")]


async def claimed(one: Node, number: int, host: str) -> str:
    """The host in force for a client of whom this node may know nothing."""
    claim = functools.partial(one.store.claim, key(number), host, expected=None, ttl_s=600.0)
    return (await insist(claim)).host


async def touched(one: Node) -> list[str]:
    """The hosts in force for all clients, after touches that say what it was at first."""
    touches = [Touch(key(n), f"host{n % 7}", 600.0) for n in range(CLIENTS)]
    return await insist(functools.partial(one.store.touch, "one", touches))


async def pin_everybody(one: Node) -> None:
    for number in range(CLIENTS):
        await claimed(one, number, f"host{number % 7}")
    await until_settled(one)


async def log_in_until_it_is_back(one: Node) -> Logins:
    """Clients come all the time, from before the table is away until after it is back."""
    logins = Logins()
    await log_in(one.store, logins, while_=lambda: StoreEvent.BACK not in one.told)
    return logins


def strayed(logins: Logins) -> list[int]:
    """Who was not placed on its host."""
    return [number for number, host in logins.hosts.items() if host != f"host{number % 7}"]


def primary_first(farm: RedisFarm) -> list[RedisServer]:
    """The two servers behind the Sentinels."""
    return sorted(farm.servers[:2], key=lambda one: one not in primaries_of(farm))


async def test_sentinels_name_a_new_primary_and_nobody_strays(
    sentinels: tuple[RedisFarm, str],
) -> None:
    farm, url = sentinels
    async with node(url) as one:
        await pin_everybody(one)
        primary, successor = primary_first(farm)
        primary.kill()
        logins = await log_in_until_it_is_back(one)
        assert one.told[:2] == [StoreEvent.AWAY, StoreEvent.BACK]
        assert strayed(logins) == []
        assert logins.failures > 0
        assert logins.longest < HELD_MAX
        assert await touched(one) == [f"host{n % 7}" for n in range(CLIENTS)]
        assert int(successor.cli("dbsize")) >= CLIENTS


async def test_a_primary_that_froze_and_was_replaced_is_left_alone_when_it_wakes(
    sentinels: tuple[RedisFarm, str],
) -> None:
    farm, url = sentinels
    async with node(url) as one:
        await pin_everybody(one)
        primary, successor = primary_first(farm)
        primary.freeze()
        logins = await log_in_until_it_is_back(one)
        primary.thaw()
        assert strayed(logins) == []
        assert logins.longest < HELD_MAX
        await claimed(one, 9999, "a")
        assert successor.cli("exists", name_of(key(9999)).decode()) == "1"


async def test_a_sentinel_that_is_gone_is_not_missed(sentinels: tuple[RedisFarm, str]) -> None:
    farm, url = sentinels
    farm.servers[2].kill()
    farm.servers[3].freeze()
    async with node(url) as one:
        await until(lambda: one.store.is_up)
        assert await claimed(one, 1, "a") == "a"


@pytest.mark.usefixtures("patience")
async def test_a_cluster_holds_pins_on_all_of_its_primaries(
    calm_cluster: tuple[RedisFarm, str],
) -> None:
    farm, url = calm_cluster
    async with node(url) as one, node(url) as two:
        for number in range(60):
            pins = await asyncio.gather(
                one.store.claim(key(number), "a", expected=None, ttl_s=60.0),
                two.store.claim(key(number), "b", expected=None, ttl_s=60.0),
            )
            assert len({pin.host for pin in pins}) == 1
        touches = [Touch(key(n), "a", 600.0) for n in range(60, 2000)]
        assert set(await one.store.touch("one", touches)) == {"a"}
        assert {k async for k, _pin in two.store.scan()} == {key(n) for n in range(2000)}
        assert await one.store.size() == 2000
        primaries = primaries_of(farm)
        assert all(int(server.cli("dbsize")) > 300 for server in primaries)
        assert await one.store.clear(key(1))


@pytest.mark.usefixtures("patience")
async def test_a_cluster_that_has_no_slots_yet_is_waited_for(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--cluster-enabled", "yes").start()
    try:
        async with node(f"redis+cluster://127.0.0.1:{server.port}") as one:
            assert one.told == [StoreEvent.AWAY]
            assert server.cli("cluster", "addslotsrange", "0", "16383") == "OK"
            await until(lambda: one.store.is_up)
            assert (await one.store.claim(key(1), "a", expected=None, ttl_s=60.0)).host == "a"
    finally:
        server.kill()


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_cluster_that_loses_a_primary_serves_the_other_slots_and_heals(
    cluster: tuple[RedisFarm, str], how: str
) -> None:
    farm, url = cluster
    async with node(url) as one:
        await pin_everybody(one)
        wait_for(lambda: sum(int(s.cli("dbsize")) for s in farm.servers) == 2 * CLIENTS)
        lost, *_ = primaries_of(farm)
        getattr(lost, how)()
        logins = await log_in_until_it_is_back(one)
        assert strayed(logins) == []
        assert logins.failures > 0
        assert logins.longest < HELD_MAX
        assert one.told[:2] == [StoreEvent.AWAY, StoreEvent.BACK]
        for number in range(CLIENTS):
            assert await claimed(one, number, "z") != "z"


@pytest.mark.usefixtures("patience")
async def test_the_map_of_a_cluster_is_read_only_where_it_has_changed(
    calm_cluster: tuple[RedisFarm, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    farm, url = calm_cluster
    reads = []
    read = NodesManager.initialize

    async def counted(manager: NodesManager, **options: Any) -> None:
        reads.append(options)
        await read(manager, **options)

    monkeypatch.setattr(NodesManager, "initialize", counted)
    lost, *others = primaries_of(farm)
    heir = next(s for s in farm.servers if f"master_port:{lost.port}" in s.cli("info"))
    heir.cli("config", "set", "cluster-replica-no-failover", "yes")
    client = RedisClient(RedisUrl.parse(url))
    try:
        await client.refresh()
        lost.kill()
        for _ in range(3):
            with pytest.raises(FAILURES):
                await client.probe(f"127.0.0.1:{lost.port}")
            await client.refresh()
        assert len(reads) == 1
        heir.cli("cluster", "failover", "takeover")
        async with asyncio.timeout(PATIENCE_S):
            while f"127.0.0.1:{heir.port}" not in client.servers():
                await client.refresh()
        await client.probe(f"127.0.0.1:{heir.port}")
        assert set(client.servers()) == {f"127.0.0.1:{s.port}" for s in (heir, *others)}
    finally:
        await client.close()


@pytest.mark.usefixtures("patience")
async def test_slots_that_move_are_followed(calm_cluster: tuple[RedisFarm, str]) -> None:
    farm, url = calm_cluster
    async with node(url) as one:
        await pin_everybody(one)
        name = name_of(key(1)).decode()
        slot = farm.servers[0].cli("cluster", "keyslot", name)
        primaries = primaries_of(farm)
        (source,) = [s for s in primaries if s.cli("cluster", "countkeysinslot", slot) != "0"]
        target = next(server for server in primaries if server is not source)
        ids = {s.port: s.cli("cluster", "myid") for s in (source, target)}
        assert target.cli("cluster", "setslot", slot, "importing", ids[source.port]) == "OK"
        assert source.cli("cluster", "setslot", slot, "migrating", ids[target.port]) == "OK"
        source.cli("migrate", "127.0.0.1", str(target.port), name, "0", "5000")
        on_its_way = await one.store.claim(key(1), "z", expected=None, ttl_s=600.0)
        assert on_its_way.host == "host1"
        touches = [Touch(key(n), f"host{n % 7}", 600.0) for n in range(CLIENTS)]
        assert await one.store.touch("one", touches) == [touch.host for touch in touches]
        for server in (target, source):
            assert server.cli("cluster", "setslot", slot, "node", ids[target.port]) == "OK"
        arrived = await one.store.claim(key(1), "z", expected=None, ttl_s=600.0)
        assert arrived.host == "host1"
        assert await one.store.touch("one", touches) == [touch.host for touch in touches]
        assert one.told == []
