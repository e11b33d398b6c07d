"""Autoscaled farms: hosts that nobody has listed, which the broker's tokens name in `networks`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.login import LoginResult
from proxy.lab.session_host import SessionHost
from proxy.wire.tokens import encode_msts
from proxy.wire.x224 import encode_connection_request
from tests.integration.running import RunningProxy, running
from tests.integration.test_drain import said

NETWORK = "127.77.0.0/24"


@asynccontextmanager
async def autoscaled(
    directory: Path, network: str = NETWORK
) -> AsyncIterator[tuple[Farm, RunningProxy, list[SessionHost]]]:
    """A farm of three; the configuration lists the first one alone."""
    async with Farm.start(hosts=3, redirect="token") as farm:
        first, *others = farm.hosts.values()
        pool = {
            "token": {"networks": [network], "port": first.address.port, "wait": "1s"},
            "hosts": [{"name": first.name, "address": str(first.address)}],
        }
        async with running(farm, directory, pool=pool) as proxy:
            yield farm, proxy, others


async def come(farm: Farm, proxy: RunningProxy, named: Address) -> LoginResult:
    """Log in with a token in hand, as whoever was redirected."""
    line = encode_msts(named)
    return await farm.client(proxy.address, "alice", line=line, probes=False).login()


async def hosts(proxy: RunningProxy) -> dict[str, dict[str, Any]]:
    """The rows of `rdp-proxy hosts`, by name."""
    socket = proxy.directory / "admin.sock"
    reader, writer = await asyncio.open_unix_connection(str(socket))
    writer.write(b"GET /v1/hosts HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    await writer.wait_closed()
    return {row["host"]: row for row in json.loads(body)["hosts"]}


async def test_a_host_that_only_the_broker_knows_is_adopted_watched_and_told(
    tmp_path: Path,
) -> None:
    async with autoscaled(tmp_path) as (farm, proxy, (second, _)):
        name = f"[{second.address.host}]"
        result = await come(farm, proxy, second.address)
        assert (result.ok, result.legs[0].reached) == (True, second.name)
        await proxy.until_ended(1)
        (adopted,) = proxy.events("host_adopted")
        assert (adopted["host"], adopted["host_address"]) == (name, str(second.address))
        (line,) = proxy.events("connection_placed")
        assert (line["reason"], line["token_fate"], line["host"]) == ("token", "honoured", name)
        assert line["token_address"] == str(second.address)
        assert await proxy.metric("tokens_total", fate="honoured") == 1

        async def is_checked() -> bool:
            row = (await hosts(proxy))[name]
            return row["checked_s_ago"] is not None or row["answered_client_s_ago"] is not None

        await proxy.until(is_checked)
        row = (await hosts(proxy))[name]
        assert (row["configured"], row["adopted"], row["up"]) == (False, True, True)
        assert await proxy.metric("host_up", host=name) == 1

        await said(proxy, "drain", name)
        assert (await hosts(proxy))[name]["will"] == "drain"
        assert (await come(farm, proxy, second.address)).ok, "tokens land"

        for index, user in enumerate(("bob", "carol", "dave")):
            login = await farm.client(proxy.address, user, source=f"127.0.0.{7 + index}").login()
            assert login.ok
        lines = [line for line in await proxy.until_ended(8) if line["reason"] == "balanced"]
        first = next(iter(farm.hosts))
        assert {line["host"] for line in lines} == {first}, "nobody new comes to an adopted host"


async def test_an_address_outside_is_never_dialled(tmp_path: Path) -> None:
    async with autoscaled(tmp_path, "127.78.0.0/24") as (farm, proxy, (second, _)):
        assert (await come(farm, proxy, second.address)).failure == "closed"
        (line,) = await proxy.until_ended(1)
        assert line["ending"] == "place/local/token_unknown_host"
        assert line["token_address"] == str(second.address)
        assert not second.visits
        assert not list(proxy.events("host_adopted"))


async def test_a_live_connection_brings_its_adopted_host_over_a_crash_of_the_front(
    tmp_path: Path,
) -> None:
    async with autoscaled(tmp_path) as (_, proxy, (second, _third)):
        name = f"[{second.address.host}]"
        reader, writer = await asyncio.open_connection(*proxy.address)
        line = encode_msts(second.address)
        writer.write(encode_connection_request(line=line, requested_protocols=3))
        await reader.readexactly(11)
        before = proxy.front
        os.kill(before, signal.SIGKILL)

        async def is_back() -> bool:
            return any(line["pid"] != before for line in proxy.events("started"))

        await proxy.until(is_back)
        row = (await hosts(proxy))[name]
        assert (row["adopted"], row["up"]) == (True, True)
        assert await proxy.metric("connections_active", host=name) == 1
        writer.close()
        await writer.wait_closed()
        await proxy.until_ended(1)


async def test_a_stranger_who_goes_through_a_network_hurts_nobody(tmp_path: Path) -> None:
    """He finds addresses where nobody is, and those of the farm's own hosts between them."""
    strangers, at_once = 1500, 300
    async with autoscaled(tmp_path, "127.77.0.0/16") as (farm, proxy, (second, third)):
        port = second.address.port
        left = iter(range(strangers))

        async def guess() -> None:
            for number in left:
                named = Address(f"127.77.{1 + number // 250}.{1 + number % 250}", port)
                reader, writer = await asyncio.open_connection(*proxy.address)
                request = encode_connection_request(line=encode_msts(named))
                writer.write(request)
                assert await reader.read() == b""
                writer.close()

        async with asyncio.TaskGroup() as crowd:
            for _ in range(at_once):
                crowd.create_task(guess())
            for host in (second, third, second, third):
                result = await come(farm, proxy, host.address)
                assert (result.ok, result.legs[0].reached) == (True, host.name)
        await proxy.until_ended_by_metric(strangers + 4)

        mine = {f"[{host.address.host}]" for host in (second, third)}
        assert set(await hosts(proxy)) == {*mine, next(iter(farm.hosts))}
        assert {line["host"] for line in proxy.events("host_adopted")} == mine
        assert not list(proxy.events("adoption_refused"))
        assert await proxy.metric("hosts_adopted") == await proxy.metric("adoptions_total") == 2
        assert await proxy.metric("adoptions_refused_total") == 0
        ended = await proxy.metric("connections_ended_total", cause="token_host_down")
        assert (ended, await proxy.metric("tokens_total", fate="host_down")) == (strangers,) * 2
        _, text = await proxy.get("/metrics")
        assert not [line for line in text.splitlines() if "127.77.1." in line]
