"""The plain balancers that rdp-proxy is compared with."""

from __future__ import annotations

import asyncio

from proxy.address import Address
from proxy.lab.balancers import balance, round_robin, sticky
from proxy.lab.farm import Farm
from proxy.lab.link import Link
from tests.patience import PATIENCE_S

HOSTS = [Address(f"10.0.0.{n}", 3389) for n in (1, 2, 3)]


def test_round_robin_takes_the_hosts_in_turn_whoever_asks() -> None:
    choose = round_robin(HOSTS)
    assert [choose("127.0.0.1") for _ in range(4)] == [*HOSTS, HOSTS[0]]


def test_sticky_keeps_a_source_at_its_first_host() -> None:
    choose = sticky(HOSTS)
    assert [choose(source) for source in "aabca"] == [HOSTS[n] for n in (0, 0, 1, 2, 0)]


async def test_a_login_goes_through_a_balancer_with_one_host() -> None:
    async with (
        Farm.start(hosts=1) as farm,
        balance("sticky", Address("127.0.0.1", 0), [farm.hosts["rdsh01"].address]) as address,
    ):
        result = await farm.client(address, "alice").login()
    assert result.ok, result.words()


async def test_a_client_of_a_dead_host_is_closed() -> None:
    async with Farm.start(hosts=1) as farm:
        host = farm.hosts["rdsh01"]
        await host.kill()
        async with balance("round_robin", Address("127.0.0.1", 0), [host.address]) as address:
            link = await Link.dial(address)
            await asyncio.wait_for(link.closed(), PATIENCE_S)
            await link.close()
