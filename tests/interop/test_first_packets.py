"""First packets that only some clients send, from clients that really send them."""

from __future__ import annotations

from pathlib import Path

from proxy.lab.farm import Farm
from proxy.lab.session_host import Stage
from tests.integration.running import running
from tests.interop.clients import Computer, pins
from tests.interop.display import Display
from tests.interop.xrdp_farm import proxy_before, two_xrdp_hosts


async def test_a_preconnection_blob_is_refused_by_name_and_reaches_no_host(
    tmp_path: Path, screen: Display
) -> None:
    async with Farm.start(hosts=2, redirect="none") as farm, running(farm, tmp_path) as proxy:
        computer = Computer("desk", tmp_path / "desk")
        async with computer.freerdp(proxy.address, "/pcb:blob", display=screen) as client:
            assert await client.ended() != 0
        endings = {line["ending"] for line in await proxy.until_ended(1)}
        assert endings == {"request/client/preconnection_blob"}
        assert [visit for visit in farm.visits if visit.line is not None] == []


async def test_a_client_of_standard_rdp_security_reaches_its_host(
    tmp_path: Path, screen: Display
) -> None:
    async with two_xrdp_hosts(tmp_path) as hosts, proxy_before(hosts, tmp_path) as proxy:
        computer = Computer("veteran", tmp_path / "veteran")
        await computer.freerdp_login(proxy.address, "/sec:rdp", display=screen)
        (ended,) = await proxy.until_ended(1)
        (host,) = [host for host in hosts if host.name == ended["host"]]
        assert host.computers == ["veteran"]
        assert "requested [RDP], selected [RDP]" in host.log


async def test_a_collection_in_the_first_packet_leads_to_its_pool(
    tmp_path: Path, screen: Display
) -> None:
    async with (
        Farm.start(collections={"Office": 1, "Full_Desktop": 1}, redirect="none") as farm,
        running(farm, tmp_path) as proxy,
    ):
        (office,), (desktop,) = farm.collections.values()
        line = "tsv://MS Terminal Services Plugin.1.Full_Desktop"
        options = ("/u:alice", pins(desktop.certificate.fingerprint))
        computer = Computer("desk", tmp_path / "desk")
        async with computer.freerdp(
            proxy.address, f"/load-balance-info:{line}", *options, display=screen
        ) as client:
            await client.until(
                "an active session",
                lambda: any(visit.stage is Stage.ACTIVE for visit in desktop.visits),
            )
        assert {visit.line for visit in desktop.visits} >= {line.encode()}
        assert {visit.line for visit in office.visits} <= {None}  # health checks
        (ended,) = await proxy.until_ended(1)
        assert (ended["pool"], ended["collection"]) == ("full_desktop", "Full_Desktop")
