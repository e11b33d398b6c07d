"""What becomes of tokens, each way: followed or not, counted by its fate, told with its address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.login import LoginResult
from proxy.lab.session_host import SessionHost
from proxy.wire.tokens import encode_msts
from proxy.wire.x224 import encode_connection_request
from tests.integration.running import RunningProxy, running

NOBODY = Address("10.11.12.13", 3389)


@asynccontextmanager
async def farm_of_two(
    directory: Path, **token: str
) -> AsyncIterator[tuple[Farm, RunningProxy, SessionHost, SessionHost]]:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, directory, pool={"token": token}) as proxy,
    ):
        first, second = farm.hosts.values()
        yield farm, proxy, first, second


async def come(farm: Farm, proxy: RunningProxy, named: Address) -> LoginResult:
    """Log in with a token in hand, as whoever was redirected."""
    client = farm.client(proxy.address, "alice", line=encode_msts(named), probes=False)
    return await client.login()


async def fates(proxy: RunningProxy) -> dict[str, float]:
    """What was counted, without zeros."""
    known = ("absent", "honoured", "unknown_host", "host_down", "opaque")
    counted = {fate: await proxy.metric("tokens_total", fate=fate) for fate in known}
    return {fate: count for fate, count in counted.items() if count}


def only(proxy: RunningProxy, event: str) -> dict[str, Any]:
    (line,) = proxy.events(event)
    return line


async def test_an_unknown_host_is_refused(tmp_path: Path) -> None:
    async with farm_of_two(tmp_path) as (farm, proxy, *_):
        assert (await come(farm, proxy, NOBODY)).failure == "closed"
        (line,) = await proxy.until_ended(1)
        assert line["ending"] == "place/local/token_unknown_host"
        assert (line["token_fate"], line["token_address"]) == ("unknown_host", str(NOBODY))
        assert line["level"] == "warning"
        assert await fates(proxy) == {"unknown_host": 1}


async def test_an_unknown_host_may_be_ignored(tmp_path: Path) -> None:
    async with farm_of_two(tmp_path, unknown_host="ignore") as (farm, proxy, *_):
        result = await come(farm, proxy, NOBODY)
        assert result.host in farm.hosts
        await proxy.until_ended(1)
        line = only(proxy, "connection_placed")
        assert (line["reason"], line["token_fate"]) == ("balanced", "unknown_host")
        assert (line["token_address"], line["host"]) == (str(NOBODY), result.host)
        assert await fates(proxy) == {"unknown_host": 1}


async def test_a_host_that_is_down_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    async with farm_of_two(tmp_path, wait="1s") as (farm, proxy, first, _):
        await first.refuse()
        assert (await come(farm, proxy, first.address)).failure == "closed"
        (line,) = await proxy.until_ended(1)
        assert line["ending"] == "place/local/token_host_down"
        assert (line["token_fate"], line["token_address"]) == ("host_down", str(first.address))
        assert (line["level"], line["host_address"]) == ("warning", str(first.address))
        assert line["duration_s"] >= 1
        assert await fates(proxy) == {"host_down": 1}


async def test_a_host_that_comes_back_in_time_is_met(tmp_path: Path) -> None:
    async with farm_of_two(tmp_path, wait="20s") as (farm, proxy, first, _):
        await first.refuse()
        coming = asyncio.create_task(come(farm, proxy, first.address))
        await proxy.until(lambda: tried(proxy))
        await first.start()
        assert (await coming).host == first.name
        await proxy.until_ended(1)
        line = only(proxy, "connection_placed")
        assert (line["reason"], line["token_fate"]) == ("token", "honoured")
        assert line["attempts"] > 1
        assert await fates(proxy) == {"honoured": 1}


async def tried(proxy: RunningProxy) -> bool:
    return await proxy.metric("host_failures_total", cause="refused") > 0


async def test_a_client_that_does_not_wait_for_a_host_that_is_down_is_counted_as_such(
    tmp_path: Path,
) -> None:
    async with farm_of_two(tmp_path, wait="20s") as (_, proxy, first, __):
        await first.refuse()
        _reader, writer = await asyncio.open_connection(*proxy.address)
        line = encode_msts(first.address)
        writer.write(encode_connection_request(line=line, requested_protocols=3))
        await proxy.until(lambda: tried(proxy))
        writer.close()
        (ended,) = await proxy.until_ended(1)
        assert (ended["side"], ended["token_fate"]) == ("client", "host_down")
        assert await fates(proxy) == {"host_down": 1}


async def test_a_host_that_is_down_may_be_replaced(tmp_path: Path) -> None:
    policy = {"wait": "500ms", "host_down": "rebalance"}
    async with farm_of_two(tmp_path, **policy) as (farm, proxy, first, second):
        await first.refuse()
        result = await come(farm, proxy, first.address)
        assert [leg.reached for leg in result.legs] == [second.name]
        await proxy.until_ended(1)
        line = only(proxy, "connection_placed")
        assert (line["reason"], line["token_fate"]) == ("balanced", "host_down")
        assert (line["token_address"], line["host"]) == (str(first.address), second.name)
        assert await fates(proxy) == {"host_down": 1}


@pytest.mark.parametrize(
    ("text", "fate"), [(b"Cookie: msts=2827062531", "opaque"), (b"mth://localhost/1/2", "opaque")]
)
async def test_a_text_without_an_address_is_opaque(tmp_path: Path, text: bytes, fate: str) -> None:
    async with farm_of_two(tmp_path) as (farm, proxy, *_):
        client = farm.client(proxy.address, "alice", line=text, probes=False)
        assert (await client.login()).ok
        await proxy.until_ended(1)
        line = only(proxy, "connection_placed")
        assert (line["token_fate"], line["token"]) == (fate, text.decode())
        assert "token_address" not in line
        assert await fates(proxy) == {fate: 1}
