"""One table for several nodes, on a real Redis that comes and goes."""

from __future__ import annotations

import asyncio
import random

import pytest

from proxy.affinity.redis import RedisStore
from proxy.affinity.redis_client import CALLS_MAX
from proxy.affinity.store import NEVER, StoreEvent, Touch
from proxy.errors import StoreError
from tests.integration.redis_nodes import (
    HELD_MAX,
    Logins,
    insist,
    key,
    log_in,
    node,
    until,
    until_settled,
)
from tests.servers.redis import RedisServer


@pytest.mark.usefixtures("patience")
async def test_clients_that_come_to_two_nodes_at_one_instant_land_on_one_host(
    server: RedisServer,
) -> None:
    async with node(server.url) as one, node(server.url) as two:
        for number in range(60):
            pins = await asyncio.gather(
                one.store.claim(key(number), "a", expected=None, ttl_s=60.0),
                two.store.claim(key(number), "b", expected=None, ttl_s=60.0),
            )
            assert len({pin.host for pin in pins}) == 1


@pytest.mark.usefixtures("patience")
async def test_more_calls_at_once_than_connections_are_all_answered(server: RedisServer) -> None:
    async with node(server.url) as one:
        claims = [one.store.claim(key(n), "a", expected=None, ttl_s=60.0) for n in range(300)]
        assert {pin.host for pin in await asyncio.gather(*claims)} == {"a"}
        clients = server.cli("client", "list").count("id=")
        assert 1 < clients <= CALLS_MAX + 2


@pytest.mark.usefixtures("patience")
async def test_callers_that_give_up_leave_no_answer_to_others(server: RedisServer) -> None:
    async with node(server.url) as one:
        for n in range(50):
            await one.store.claim(key(n), f"host{n}", expected=None, ttl_s=60.0)
        chance = random.Random(7)
        for _ in range(30):
            calls = [asyncio.ensure_future(one.store.get(key(n))) for n in range(20)]
            await asyncio.sleep(chance.uniform(0.0, 0.002))
            for call in calls[::2]:
                call.cancel()
            pins = await asyncio.gather(*calls, return_exceptions=True)
            for n, pin in enumerate(pins):
                if n % 2:
                    assert not isinstance(pin, BaseException)
                    assert pin is not None
                    assert pin.host == f"host{n}"
        assert one.store.is_up


@pytest.mark.usefixtures("patience")
async def test_a_killed_server_that_returns_empty_is_seeded_again_by_touches(
    server: RedisServer,
) -> None:
    async with node(server.url) as one, node(server.url) as two:
        await one.store.claim(key(1), "a", expected=None, ttl_s=600.0)
        await two.store.get(key(1))
        server.kill()
        await until(lambda: not (one.store.is_up or two.store.is_up))
        # Closed: where a probe was on its way as the server died.
        with pytest.raises(StoreError, match=r"Connection refused|Error 111|[Cc]losed|reset"):
            await one.store.get(key(1))
        assert [one.store.recall(key(1)), two.store.recall(key(1))] == ["a", "a"]
        server.start()
        await until(lambda: StoreEvent.BACK in one.told and StoreEvent.BACK in two.told)
        assert one.told == [StoreEvent.AWAY, StoreEvent.BACK]
        assert await two.store.get(key(1)) is None
        assert await one.store.touch("one", [Touch(key(1), "a", 600.0)]) == ["a"]
        assert await two.store.touch("two", [Touch(key(1), "b", 600.0)]) == ["a"]


@pytest.mark.usefixtures("patience")
async def test_a_restart_between_two_calls_goes_unnoticed(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    await store.claim(key(1), "a", expected=None, ttl_s=600.0)
    server.kill()
    server.start()
    await asyncio.sleep(0.05)
    assert (await store.claim(key(1), "b", expected=None, ttl_s=600.0)).host == "b"
    await store.close()


async def test_a_server_that_stands_still_holds_nobody_up_for_long(server: RedisServer) -> None:
    async with node(server.url) as one:
        logins, claim = Logins(), one.store.claim
        await insist(lambda: claim(key(600), "a", expected=None, ttl_s=600.0))
        await until_settled(one)
        server.freeze()
        await log_in(one.store, logins, while_=lambda: logins.came < 2 * HELD_MAX)
        assert logins.failures == logins.came
        assert logins.longest < HELD_MAX
        assert not one.store.is_up
        server.thaw()
        await until(lambda: StoreEvent.BACK in one.told)
        pin = await insist(lambda: one.store.get(key(600)))
        assert pin is not None
        assert pin.host == "a"
    assert one.told[:2] == [StoreEvent.AWAY, StoreEvent.BACK]


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("break_", "mend", "why"),
    [
        (("config", "set", "maxmemory", "1"), ("config", "set", "maxmemory", "0"), "maxmemory"),
        (("replicaof", "127.0.0.1", "1"), ("replicaof", "no", "one"), "replica"),
        (
            ("config", "set", "min-replicas-to-write", "1"),
            ("config", "set", "min-replicas-to-write", "0"),
            "Not enough good replicas",
        ),
    ],
)
async def test_a_server_that_takes_no_writes_is_away(
    server: RedisServer, break_: tuple[str, ...], mend: tuple[str, ...], why: str
) -> None:
    async with node(server.url) as one:
        assert server.cli(*break_) == "OK"
        with pytest.raises(StoreError, match=why):
            await one.store.claim(key(1), "a", expected=None, ttl_s=60.0)
        await until(lambda: not one.store.is_up)
        assert server.cli(*mend) == "OK"
        await until(lambda: StoreEvent.BACK in one.told)
        await one.store.claim(key(1), "a", expected=None, ttl_s=60.0)
    assert one.told == [StoreEvent.AWAY, StoreEvent.BACK]


@pytest.mark.usefixtures("patience")
async def test_a_full_server_that_evicts_spares_the_pins_without_expiry(
    server: RedisServer,
) -> None:
    server.cli("config", "set", "maxmemory-policy", "volatile-lru")
    async with node(server.url) as one:
        await one.store.assign(key(60_000), "own", ttl_s=NEVER)
        used = int(server.cli("info", "memory").split("used_memory:")[1].split()[0])
        server.cli("config", "set", "maxmemory", str(used + 1_000_000))
        for start in range(0, 20_000, 5_000):
            numbers = range(start, start + 5_000)
            await one.store.touch("one", [Touch(key(n), "a", 600.0) for n in numbers])
        assert await one.store.size() < 20_000
        pin = await one.store.get(key(60_000))
        assert pin is not None
        assert pin.host == "own"


@pytest.mark.usefixtures("patience")
async def test_a_scan_of_many_pages_sees_each_pin(server: RedisServer) -> None:
    async with node(server.url) as one:
        await one.store.touch("one", [Touch(key(n), "a", 600.0) for n in range(3000)])
        server.cli("set", "somebody:else", "1")
        assert {k async for k, _pin in one.store.scan("desktops")} == {key(n) for n in range(3000)}
        assert [k async for k, _pin in one.store.scan("desk")] == []
