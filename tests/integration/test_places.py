"""Hosts that are full, backups, and hosts that come back: who goes where meanwhile."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from proxy.lab.farm import Farm
from tests.integration.running import running
from tests.integration.test_drain import connected, host_of, said


def hosts(farm: Farm, **changes: dict[str, Any]) -> list[dict[str, Any]]:
    """The hosts of the pool, `first` and `second` with other settings."""
    rows = [{"name": name, "address": str(host.address)} for name, host in farm.hosts.items()]
    return [
        row | changes.get(which, {}) for row, which in zip(rows, ("first", "second"), strict=True)
    ]


async def test_who_belongs_to_a_full_host_gets_the_first_place_that_comes_free(
    tmp_path: Path,
) -> None:
    async with Farm.start(hosts=2, redirect="none") as farm:
        first, second = farm.hosts
        pool = {"hosts": hosts(farm, first={"max_connections": 2})}
        async with (
            running(farm, tmp_path, pool=pool, timeouts={"no_host": "30s"}) as node,
            AsyncExitStack() as others,
        ):
            await said(node, "pins", "set", "--client", "127.66.0.9", "--host", first)
            for number in range(2):
                source = f"127.66.0.{number + 1}"
                await said(node, "pins", "set", "--client", source, "--host", first)
                await others.enter_async_context(connected(node, source))
            newcomers = {await host_of(node, f"127.66.1.{number + 1}") for number in range(4)}
            assert newcomers == {second}
            waiting = asyncio.create_task(host_of(node, "127.66.0.9"))

            async def waits() -> bool:
                return await node.metric("host_waiting_clients", host=first) == 1

            await node.until(waits)
            assert await node.metric("connections_active", host=first) == 2
            await others.aclose()
            assert await waiting == first
            assert not await waits()


async def test_a_client_that_waits_in_vain_is_refused_with_its_cause(tmp_path: Path) -> None:
    async with Farm.start(hosts=1, redirect="none") as farm:
        (name,) = farm.hosts
        rows = [{"name": name, "address": str(farm.hosts[name].address), "max_connections": 1}]
        async with (
            running(farm, tmp_path, pool={"hosts": rows}, timeouts={"no_host": "500ms"}) as node,
            connected(node, "127.66.2.1"),
        ):
            reader, writer = await asyncio.open_connection(*node.address)
            writer.write(bytes.fromhex("0300000b06e00000000000"))
            assert await reader.read() == b""
            writer.close()
            (line,) = await node.until_ended(1)
            assert line["ending"] == "place/local/host_full"
            assert await node.metric("connections_ended_total", cause="host_full") == 1


async def test_a_backup_serves_while_nobody_else_does_and_the_weight_comes_back_slowly(
    tmp_path: Path,
) -> None:
    async with Farm.start(hosts=2, redirect="none") as farm:
        first, second = farm.hosts
        pool = {"hosts": hosts(farm, second={"backup": True}), "slow_start": "1h"}
        async with running(farm, tmp_path, pool=pool) as node:
            landed = {await host_of(node, f"127.66.3.{number + 1}") for number in range(4)}
            assert landed == {first}
            await said(node, "maintenance", first)
            landed = {await host_of(node, f"127.66.3.{number + 1}") for number in range(8)}
            assert landed == {second}
            await said(node, "ready", first)
            assert await host_of(node, "127.66.4.1") == first
            await said(node, "drain", second)
            await said(node, "ready", second)
            for row in json.loads(await said(node, "hosts", "--json"))["hosts"]:
                assert row["weight"] == 100
                assert row["share"] < 10


async def test_a_host_that_drains_itself_gets_nobody_new_until_it_or_the_operator_says_so(
    tmp_path: Path,
) -> None:
    says = b"drain 50% #patching\n"

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with Farm.start(hosts=1, redirect="none") as farm:
        (name,) = farm.hosts
        address = farm.hosts[name].address
        agent = await asyncio.start_server(speak, address.host, 0)
        port = agent.sockets[0].getsockname()[1]
        health = {"check": "tcp", "interval": "200ms", "agent": {"port": port}}
        async with running(
            farm, tmp_path, pool={"health": health}, timeouts={"no_host": "200ms"}
        ) as node:

            async def drains() -> bool:
                return await node.metric("host_agent_will", host=name, will="drain") == 1

            await node.until(drains)
            assert await node.metric("host_will", host=name, will="ready") == 1
            (row,) = json.loads(await said(node, "hosts", "--json"))["hosts"]
            assert (row["will"], row["in_force"], row["share"]) == ("ready", "drain", 50)
            assert row["agent"]["detail"] == "patching"
            reader, writer = await asyncio.open_connection(*node.address)
            writer.write(bytes.fromhex("0300000b06e00000000000"))
            assert await reader.read() == b""
            writer.close()
            (line,) = await node.until_ended(1)
            assert line["cause"] == "no_host"
            await said(node, "ready", name)
            assert await host_of(node, "127.66.5.1") == name
            says = b"maint\n"

            async def is_out() -> bool:
                return await node.metric("host_agent_will", host=name, will="maintenance") == 1

            await node.until(is_out)
            (row,) = json.loads(await said(node, "hosts", "--json"))["hosts"]
            assert row["in_force"] == "maintenance"
            agent.close()
            await agent.wait_closed()

            async def is_silent() -> bool:
                return await node.metric("host_agent_up", host=name) == 0

            await node.until(is_silent)
            assert next(node.events("agent_said"))["detail"] == "patching"
            await said(node, "ready", name)
            assert await host_of(node, "127.66.5.2") == name
