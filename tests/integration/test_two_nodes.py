"""Two nodes before one farm, one table in Redis: they act as one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.login import LoginResult
from proxy.wire.tokens import encode_msts
from tests.integration.running import RunningProxy, knock, two_nodes
from tests.servers.redis import RedisServer


async def hosts_of_clients(*nodes: RunningProxy) -> dict[str, set[str]]:
    """By client address, the hosts where the nodes' logs say it was placed."""
    hosts: dict[str, set[str]] = {}
    for node in nodes:
        for line in node.events("connection_placed"):
            client = Address.parse(line["client"]).host
            hosts.setdefault(client, set()).add(line["host"])
    return hosts


@pytest.mark.usefixtures("patient_nodes")
async def test_sixty_new_clients_at_both_nodes_in_one_instant_land_on_one_host_each(
    tmp_path: Path, server: RedisServer
) -> None:
    sources = [f"127.40.0.{number + 1}" for number in range(60)]
    async with (
        Farm.start(hosts=4, redirect="none") as farm,
        two_nodes(farm, tmp_path, server) as (a, b),
    ):
        async with asyncio.TaskGroup() as tasks:
            for source in sources:
                tasks.create_task(knock(a.address, source))
                tasks.create_task(knock(b.address, source))
        await a.until_ended(60)
        await b.until_ended(60)
        hosts = await hosts_of_clients(a, b)
        assert len(hosts) == 60
        assert {source: found for source, found in hosts.items() if len(found) > 1} == {}
        assert len(set.union(*hosts.values())) == 4


@pytest.mark.usefixtures("patient_nodes")
async def test_users_who_probe_at_one_node_log_in_at_the_other_on_the_same_host(
    tmp_path: Path, server: RedisServer
) -> None:
    async with (
        Farm.start(hosts=4, redirect="none") as farm,
        two_nodes(farm, tmp_path, server) as (a, b),
    ):
        slots = asyncio.Semaphore(12)

        async def come(number: int) -> LoginResult:
            source = f"127.41.0.{number + 1}"
            async with slots:
                await knock(a.address, source, b"Cookie: mstshash=user%d" % number)
                return await farm.client(b.address, f"user{number}", source=source).login()

        results = await asyncio.gather(*(come(number) for number in range(100)))
        assert [result.words() for result in results if not result.ok] == []
        await a.until_ended(100)
        hosts = await hosts_of_clients(a, b)
        assert {client: found for client, found in hosts.items() if len(found) > 1} == {}


async def test_a_token_that_was_given_behind_one_node_is_honoured_at_the_other(
    tmp_path: Path, server: RedisServer
) -> None:
    async with (
        Farm.start(hosts=4) as farm,
        two_nodes(farm, tmp_path, server) as (a, b),
    ):
        for number, host in enumerate(farm.hosts.values()):
            source = f"127.42.0.{number + 1}"
            await knock(a.address, source)
            await knock(b.address, source, encode_msts(host.address))
        lines = await b.until_ended(4)
        met = {line["token_address"]: line["host"] for line in lines}
        assert met == {str(host.address): name for name, host in farm.hosts.items()}
        assert {line["token_fate"] for line in lines} == {"honoured"}


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_no_login_fails_while_the_table_is_away(
    tmp_path: Path, server: RedisServer, fault: str
) -> None:
    async with (
        Farm.start(hosts=4, redirect="none") as farm,
        two_nodes(farm, tmp_path, server, pool={"balance": "hash"}) as (a, b),
    ):
        results: list[LoginResult] = []

        async def users(first: int) -> None:
            for number in range(first, first + 60):
                node = (a, b)[number % 2]
                source = f"127.43.{number // 200}.{number % 200 + 1}"
                await knock((b, a)[number % 2].address, source)
                client = farm.client(node.address, f"user{number}", source=source)
                results.append(await client.login())
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as tasks:
            for first in (0, 60, 120, 180):
                tasks.create_task(users(first))
            await asyncio.sleep(0.3)
            getattr(server, fault)()
            await asyncio.sleep(1.0)

            async def says_so() -> bool:
                return await a.metric("affinity_store_up") == 0

            await a.until(says_so)
            if fault == "freeze":
                server.thaw()
            else:
                server.start()
        assert len(results) == 240
        assert [result.words() for result in results if not result.ok] == []
        hosts = await hosts_of_clients(a, b)
        assert {client: found for client, found in hosts.items() if len(found) > 1} == {}

        async def is_back() -> bool:
            up = [await node.metric("affinity_store_up") for node in (a, b)]
            return up == [1, 1]

        await a.until(is_back)
        assert await a.metric("affinity_disagreements_total") == 0
