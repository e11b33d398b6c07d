"""FreeRDP and rdesktop log in to xrdp hosts again and again, and always meet the same one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from proxy.address import Address
from proxy.lab.balancers import balance
from tests.interop.clients import Computer
from tests.interop.display import Display
from tests.interop.load_balancer import OWN_ADDRESS, coming_from
from tests.interop.xrdp import XrdpHost
from tests.interop.xrdp_farm import proxy_before, two_xrdp_hosts

LOGINS = 6
BEHIND_A_BALANCER = {"proxy_protocol": {"trusted": [f"{OWN_ADDRESS}/32"]}}


def hosts_of(computer: Computer, hosts: list[XrdpHost]) -> list[str]:
    """On which host each login of a computer came out, as the hosts know it."""
    return [host.name for host in hosts for name in host.computers if name == computer.name]


async def test_each_freerdp_client_stays_on_one_host_and_sees_one_certificate(
    tmp_path: Path, screen: Display
) -> None:
    async def log_in(computer: Computer, source: str, proxy: Address) -> None:
        async with coming_from(source, proxy) as address:
            for _ in range(LOGINS):
                await computer.freerdp_login(address, display=screen)

    async with (
        two_xrdp_hosts(tmp_path) as hosts,
        proxy_before(hosts, tmp_path, **BEHIND_A_BALANCER) as proxy,
    ):
        names = {f"203.0.113.{number}": f"desk{number}" for number in range(1, 5)}
        computers = {source: Computer(name, tmp_path / name) for source, name in names.items()}
        async with asyncio.TaskGroup() as tasks:
            for source, computer in computers.items():
                tasks.create_task(log_in(computer, source, proxy.address))
        fingerprints = {host.name: host.fingerprint for host in hosts}
        used = set()
        for computer in computers.values():
            met = hosts_of(computer, hosts)
            assert (len(met), len(set(met))) == (LOGINS, 1)
            assert computer.freerdp_memory == {fingerprints[met[0]]}
            used.add(met[0])
        assert used == set(fingerprints)  # the clients were spread over both
        lines = await proxy.until_ended(LOGINS * len(computers))
        assert {line["client"].rpartition(":")[0] for line in lines} == set(computers)


async def test_each_rdesktop_client_stays_on_one_host_and_sees_one_certificate(
    tmp_path: Path, screen: Display
) -> None:
    async with (
        two_xrdp_hosts(tmp_path) as hosts,
        proxy_before(hosts, tmp_path, **BEHIND_A_BALANCER) as proxy,
    ):
        used: list[str] = []
        for number in (11, 12):
            computer = Computer(f"desk{number}", tmp_path / f"desk{number}")
            async with coming_from(f"203.0.113.{number}", proxy.address) as address:
                for login in range(LOGINS):
                    first = login == 0
                    async with computer.rdesktop(address, display=screen, trust=first) as client:
                        await client.until_says("Connection successful")
                        assert ("do not trust" in client.text) == first, client.text
            met = hosts_of(computer, hosts)
            assert (len(met), len(set(met))) == (LOGINS, 1)
            used.append(met[0])
        assert sorted(used) == [host.name for host in hosts]


async def test_behind_a_plain_balancer_the_next_login_is_shown_another_certificate(
    tmp_path: Path, screen: Display
) -> None:
    async with two_xrdp_hosts(tmp_path) as hosts:
        bind, addresses = Address("127.0.0.1", 0), [host.address for host in hosts]
        async with balance("round_robin", bind, addresses) as address:
            desk = Computer("desk", tmp_path / "desk")
            await desk.freerdp_login(address, display=screen)
            async with desk.freerdp(address, "/u:alice", "/cert:tofu", display=screen) as client:
                await client.until_says("certificate not trusted, aborting")
                assert await client.ended() != 0
            assert hosts_of(desk, hosts) == [hosts[0].name]
        async with balance("round_robin", bind, addresses) as address:
            desk = Computer("rdesk", tmp_path / "rdesk")
            async with desk.rdesktop(address, display=screen, trust=True) as client:
                await client.until_says("Connection successful")
            async with desk.rdesktop(address, display=screen) as client:
                await client.until_says("does not match the certificate")
                assert await client.ended() != 0
            assert hosts_of(desk, hosts) == [hosts[0].name]
