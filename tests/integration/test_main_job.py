"""The main job: every login of every user lands on the host where the broker wants it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.login import LoginResult
from tests.integration.running import RunningProxy, knock, running
from tests.servers.ports import free_port

USERS = 100
LOGINS = 3
AT_ONCE = 12

SOURCES: dict[str, Callable[[int, int], str]] = {
    "own_address": lambda user, _: f"127.20.0.{user + 1}",
    "one_shared_address": lambda *_: "127.21.0.1",
    "roaming": lambda user, login: f"127.22.{login + 1}.{user + 1}",
}


async def play(
    farm: Farm, proxy: RunningProxy, source: Callable[[int, int], str]
) -> list[LoginResult]:
    """Each user logs in some times, one after the other; users come as they like."""
    slots = asyncio.Semaphore(AT_ONCE)
    results = []

    async def user(number: int) -> None:
        for login in range(LOGINS):
            client = farm.client(proxy.address, f"user{number}", source=source(number, login))
            async with slots:
                results.append(await client.login())

    async with asyncio.TaskGroup() as users:
        for number in range(USERS):
            users.create_task(user(number))
    return results


@pytest.mark.parametrize("where", SOURCES)
async def test_no_login_fails_and_no_token_is_misrouted(tmp_path: Path, where: str) -> None:
    async with Farm.start(hosts=4, seed=7) as farm, running(farm, tmp_path) as proxy:
        names, chance = sorted(farm.hosts), random.Random(7)
        for number in range(USERS):
            farm.broker.place(f"user{number}", chance.choice(names))
        results = await play(farm, proxy, SOURCES[where])
        failed = [" ".join(result.words()) for result in results if not result.ok]
        assert not failed, failed[:3]
        assert len(results) == USERS * LOGINS
        assert sum(result.misrouted for result in results) == 0
        tokens = sum(result.tokens for result in results)
        assert tokens > USERS / 2  # most users' first login begins at another host
        assert await proxy.metric("tokens_total", fate="honoured") == tokens
        placed = sum(len(result.legs) for result in results)
        assert await proxy.metric("connections_placed_total") == placed
        ended = await proxy.until_ended(placed)
        assert {line["phase"] for line in ended} == {"relay"}


async def test_a_request_that_comes_byte_by_byte_lands_right(tmp_path: Path) -> None:
    async with Farm.start(hosts=4) as farm, running(farm, tmp_path) as proxy:
        for number, host in enumerate(farm.hosts):
            farm.broker.place(f"user{number}", host)
            client = farm.client(proxy.address, f"user{number}", byte_by_byte=True)
            result = await client.login()
            assert result.ok, result.words()
            assert (result.host, result.misrouted) == (host, 0)


async def test_tokens_of_two_collections_behind_one_listener_land_right(tmp_path: Path) -> None:
    collections = {"Office": 2, "CAD": 2}
    async with (
        Farm.start(collections=collections, seed=3) as farm,
        running(farm, tmp_path) as proxy,
    ):
        for alias, hosts in farm.collections.items():
            line = f"tsv://MS Terminal Services Plugin.1.{alias}".encode()
            for number in range(12):
                user, host = f"{alias}{number}", hosts[number % 2].name
                farm.broker.place(user, host)
                source = f"127.23.{len(alias)}.{number + 1}"
                client = farm.client(proxy.address, user, line=line, source=source)
                result = await client.login()
                assert result.ok, result.words()
                assert (result.host, result.misrouted) == (host, 0)
        pools = {line["pool"] for line in proxy.events("connection_placed")}
        assert pools == {"office", "cad"}


async def test_eight_connections_of_a_new_client_at_one_instant_land_on_one_host(
    tmp_path: Path,
) -> None:
    sources = [f"127.24.0.{number + 1}" for number in range(60)]
    async with Farm.start(hosts=4) as farm, running(farm, tmp_path) as proxy:
        async with asyncio.TaskGroup() as tasks:
            for source in sources:
                for _ in range(8):
                    tasks.create_task(knock(proxy.address, source))
        await proxy.until_ended(8 * len(sources))
        hosts: dict[str, set[str]] = {source: set() for source in sources}
        for line in proxy.events("connection_placed"):
            hosts[line["client"].rpartition(":")[0]].add(line["host"])
        assert {len(found) for found in hosts.values()} == {1}
        assert len(set.union(*hosts.values())) == 4


async def test_after_one_redirection_and_a_minute_the_next_login_needs_none(
    tmp_path: Path,
) -> None:
    async with Farm.start(hosts=4) as farm, running(farm, tmp_path) as proxy:
        source = "127.25.0.1"
        first = await farm.client(proxy.address, "somebody", source=source).login()
        away = next(name for name in farm.hosts if name != first.host)
        farm.broker.place("anna", away)
        client = farm.client(proxy.address, "anna", source=source)
        async with client.session() as (redirected, session):
            assert session is not None, redirected.words()
            assert redirected.tokens == 1

            async def has_moved() -> bool:
                return await proxy.metric("pins_moved_total") == 1

            await asyncio.sleep(63)  # before a minute has passed it moves nothing
            await proxy.until(has_moved)
            assert await session.echo(b"still there") == b"still there"
        again = await client.login()
        assert again.ok, again.words()
        assert (again.host, again.tokens) == (away, 0)


async def test_listeners_for_both_families_may_share_a_port(tmp_path: Path) -> None:
    port = free_port()
    listeners = [
        {"name": "six", "bind": f"[::]:{port}", "pool": "full_desktop"},
        {"name": "four", "bind": f"0.0.0.0:{port}", "pool": "full_desktop"},
    ]
    async with Farm.start(hosts=1) as farm, running(farm, tmp_path, listeners=listeners) as proxy:
        await knock(Address("127.0.0.1", port), "127.0.0.1")
        await knock(Address("::1", port), "::1")
        ended = await proxy.until_ended(2)
        assert sorted((line["listener"], line["client"].rpartition(":")[0]) for line in ended) == [
            ("four", "127.0.0.1"),
            ("six", "[::1]"),
        ]
