"""A host is taken out while clients come and go: nobody new lands there, who belongs there does."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from proxy.lab.farm import Farm
from proxy.wire.tokens import encode_msts
from proxy.wire.x224 import encode_connection_request
from tests.integration.running import RunningProxy, running, two_nodes
from tests.servers.redis import RedisServer

REQUEST = encode_connection_request(requested_protocols=3)


async def command(node: RunningProxy, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", *words, "--admin", f"unix:{node.directory}/admin.sock"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": ""},  # as where nobody has set it
    )


def runs(process: asyncio.subprocess.Process) -> bool:
    return process.returncode is None


async def said(node: RunningProxy, *words: str) -> str:
    """What a command that goes well prints."""
    process = await command(node, *words)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def wills(node: RunningProxy) -> dict[str, str]:
    rows = json.loads(await said(node, "hosts", "--json"))["hosts"]
    return {row["host"]: row["will"] for row in rows}


@asynccontextmanager
async def connected(
    node: RunningProxy, source: str, line: bytes | None = None
) -> AsyncIterator[None]:
    """A client that a host has answered, and that stays."""
    reader, writer = await asyncio.open_connection(*node.address, local_addr=(source, 0))
    request = encode_connection_request(line=line, requested_protocols=3) if line else REQUEST
    writer.write(request)
    await reader.readexactly(19)
    try:
        yield
    finally:
        writer.close()


async def host_of(node: RunningProxy, source: str, line: bytes | None = None) -> str:
    """Where a client from `source` lands now."""
    before = len(list(placed(node, source)))
    async with connected(node, source, line):

        async def told() -> bool:
            return len(list(placed(node, source))) > before

        await node.until(told)
    return list(placed(node, source))[-1]


def placed(node: RunningProxy, source: str) -> list[str]:
    lines = node.events("connection_placed")
    return [line["host"] for line in lines if line["client"].startswith(f"{source}:")]


async def test_a_drain_under_load_lets_nobody_new_in_and_ends_when_the_host_is_empty(
    tmp_path: Path,
) -> None:
    async with (
        Farm.start(hosts=3, redirect="none") as farm,
        running(farm, tmp_path) as node,
        AsyncExitStack() as living,
    ):
        name, host = next(iter(farm.hosts.items()))
        for number in range(12):
            await living.enter_async_context(connected(node, f"127.60.0.{number + 1}"))

        async def all_are_told() -> bool:
            return len(list(node.events("connection_placed"))) == 12

        await node.until(all_are_told)
        residents = [f"127.60.0.{n + 1}" for n in range(12)]
        mine = [source for source in residents if placed(node, source) == [name]]
        assert len(mine) == 4

        fresh = itertools.count()
        drained = asyncio.Event()

        async def newcomers() -> None:
            while not drained.is_set():
                number = next(fresh)
                async with connected(node, f"127.61.{number // 250}.{number % 250 + 1}"):
                    pass

        async with asyncio.TaskGroup() as crowd:
            for _ in range(4):
                crowd.create_task(newcomers())
            waiting = await command(node, "drain", name, "--pins", "live", "--wait")
            assert waiting.stdout is not None
            await waiting.stdout.readline()  # it is in force
            after = next(fresh) + 4  # whoever began before may be on his way
            for source in mine:
                assert await host_of(node, source) == name
            token = encode_msts(host.address)
            assert await host_of(node, "127.62.0.1", token) == name

            async def many_came() -> bool:
                return next(fresh) > after + 100

            await node.until(many_came)
            assert runs(waiting)
            await living.aclose()
            _, err = await waiting.communicate()
            drained.set()
        assert waiting.returncode == 0, err.decode()
        assert err.decode().splitlines()[-1] == f"rdp-proxy: {name} is empty"
        late = {
            line["client"].rpartition(":")[0]
            for line in node.events("connection_placed")
            if line["host"] == name and line["client"].startswith("127.61.")
        }
        latest = max(
            (int(two) * 250 + int(three) - 1 for _, _, two, three in (s.split(".") for s in late)),
            default=0,
        )
        assert latest < after
        assert await node.metric("connections_active", host=name) == 0
        assert await node.metric("host_will", host=name, will="drain") == 1


async def test_a_deadline_closes_what_is_left_only_if_asked(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=1, redirect="none") as farm,
        running(farm, tmp_path) as node,
        connected(node, "127.63.0.1"),
    ):
        (name,) = farm.hosts
        waiting = await command(node, "drain", name, "--deadline", "1s", "--wait")
        _, err = await waiting.communicate()
        assert (waiting.returncode, await node.metric("connections_active")) == (1, 1), err
        waiting = await command(node, "drain", name, "--deadline", "1s", "--close", "--wait")
        _, err = await waiting.communicate()
        assert waiting.returncode == 0, err
        (ended,) = await node.until_ended(1)
        assert ended["ending"] == "relay/local/stopped"
        assert await wills(node) == {name: "maintenance"}


async def test_the_will_outlives_a_crash_and_counts_before_the_first_client(
    tmp_path: Path,
) -> None:
    async with Farm.start(hosts=2, redirect="none") as farm, running(farm, tmp_path) as node:
        first, second = farm.hosts
        await said(node, "drain", first)
        await said(node, "weight", second, "7")
        await node.kill_all()
        await node.start()
        landed = {await host_of(node, f"127.64.0.{number + 1}") for number in range(8)}
        assert landed == {second}
        (_, row) = json.loads(await said(node, "hosts", "--json"))["hosts"]
        assert row["weight"] == 7
        await said(node, "ready", first)
        await said(node, "maintenance", second)
        assert await host_of(node, "127.64.0.1") == first


@pytest.mark.usefixtures("patient_nodes")
async def test_what_is_said_at_one_node_is_in_force_at_the_other(
    tmp_path: Path, server: RedisServer
) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        two_nodes(farm, tmp_path, server) as (a, b),
        AsyncExitStack() as living,
    ):
        first, second = farm.hosts
        for number in range(4):
            await living.enter_async_context(connected(b, f"127.65.0.{number + 1}"))
        waiting = await command(a, "drain", first, "--pins", "drop", "--wait")

        async def in_force() -> bool:
            return await b.metric("host_will", host=first, will="drain") == 1

        await b.until(in_force)
        landed = {await host_of(b, f"127.65.1.{number + 1}") for number in range(6)}
        assert landed == {second}
        for number in range(4):
            assert await host_of(b, f"127.65.0.{number + 1}") == second
        token = encode_msts(farm.hosts[first].address)
        assert await host_of(b, "127.65.2.1", token) == first
        server.kill()
        assert await wills(b) == {first: "drain", second: "ready"}
        refused = await command(b, "ready", first)
        _, err = await refused.communicate()
        assert (refused.returncode, "does not answer" in err.decode()) == (1, True)
        server.start()

        async def is_back() -> bool:
            up = [await node.metric("affinity_store_up") for node in (a, b)]
            return up == [1, 1]

        await a.until(is_back)
        assert runs(waiting)  # b has two connections there
        await living.aclose()
        await waiting.wait()
        assert waiting.returncode == 0


@pytest.mark.usefixtures("patient_nodes")
async def test_a_node_that_starts_while_the_table_is_away_goes_by_what_it_knew(
    tmp_path: Path, server: RedisServer
) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        two_nodes(farm, tmp_path, server) as (a, b),
    ):
        first, second = farm.hosts
        await said(a, "drain", first)
        kept = b.directory / "wills.json"

        async def is_kept() -> bool:
            return '\\"drain\\"' in kept.read_text()

        await b.until(is_kept)
        server.kill()
        await b.kill_all()
        await b.start()
        assert {await host_of(b, f"127.66.0.{number + 1}") for number in range(6)} == {second}
        assert await b.metric("wills_known") == 1
        await b.kill_all()
        kept.unlink()
        await b.start()
        assert await b.metric("wills_known") == 0

        async def both_are_told() -> bool:
            return all(list(b.events(event)) for event in ("wills_recalled", "will_unknown"))

        await b.until(both_are_told)
        server.start()  # it has lost its memory: the other node tells it again

        async def is_known() -> bool:
            return await b.metric("host_will", host=first, will="drain") == 1

        await b.until(is_known)
        assert await b.metric("wills_known") == 1
