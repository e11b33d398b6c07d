"""Hand-overs of gnome-remote-desktop through the proxy: tokens that one host alone can read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.lab.gnome import GnomeFarm
from proxy.lab.login import LoginResult
from tests.integration.running import RunningProxy, running

USERS = 24
SHARED = "127.31.1.1"


async def play(
    farm: GnomeFarm,
    proxy: RunningProxy,
    source: Callable[[int], str],
    at_once: int,
    users: int = USERS,
) -> list[LoginResult]:
    """Each user logs in once, so many at a time, and stays for a moment."""
    slots = asyncio.Semaphore(at_once)

    async def user(number: int) -> LoginResult:
        client = farm.client(proxy.address, f"user{number}", source=source(number), hold_s=0.2)
        async with slots:
            return await client.login()

    return await asyncio.gather(*map(user, range(users)))


def failed(results: list[LoginResult]) -> list[str]:
    return [" ".join(result.words()) for result in results if not result.ok]


@pytest.mark.parametrize("key", ["source", "user", "source_and_user"])
async def test_clients_with_addresses_of_their_own_meet_no_other_host(
    tmp_path: Path, key: str
) -> None:
    async with (
        GnomeFarm.start(hosts=4, start_s=0.05) as farm,
        running(farm, tmp_path, pool={"affinity": {"key": key}}) as proxy,
    ):
        results = await play(farm, proxy, lambda number: f"127.31.0.{number + 1}", at_once=12)
        assert not failed(results)
        assert {result.host for result in results} == set(farm.hosts)
        assert farm.aborted_handovers == 0


@pytest.mark.parametrize("at_once", [4, USERS])
async def test_users_behind_one_address_are_kept_together(tmp_path: Path, at_once: int) -> None:
    # From some more connections on, an address is many people: that is tested elsewhere, and who
    # of all who come at once comes after that is a matter of chance.
    one_client = {"shared_after": "off"}
    async with (
        GnomeFarm.start(hosts=4, start_s=0.05) as farm,
        running(farm, tmp_path, affinity=one_client) as proxy,
    ):
        results = await play(farm, proxy, lambda _: SHARED, at_once)
        assert not failed(results)
        assert len({result.host for result in results}) == 1
        assert farm.aborted_handovers == 0


@pytest.mark.parametrize(
    "affinity", [{"key": "none"}, {"key": "source", "shared_sources": [f"{SHARED}/32"]}]
)
async def test_without_a_pin_the_token_is_offered_to_one_host_after_the_other(
    tmp_path: Path, affinity: dict[str, object]
) -> None:
    # In turn and one after the other: the next host in turn is never the one that drew the number.
    # (By fewest connections it would be, as soon as the user's first connection has ended.)
    pool = {"balance": "round_robin", "affinity": affinity}
    async with (
        GnomeFarm.start(hosts=4, start_s=0.05) as farm,
        running(farm, tmp_path, pool=pool) as proxy,
    ):
        results = await play(farm, proxy, lambda _: SHARED, at_once=1, users=4)
        assert not failed(results)
        assert len({result.host for result in results}) > 1
        assert farm.aborted_handovers >= len(results)
