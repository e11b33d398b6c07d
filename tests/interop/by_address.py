"""FreeRDP is redirected to a host's own address, and meets rdp-proxy on its way there.

    python -m tests.interop.by_address DIRECTORY

The machines are those of tests/integration/by_address.py. The client accepts the certificates of
two hosts, the one where it begins and the one of its session. The code is 1 where it does not come
to its session, or not by the address that it has dialled.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.session_host import Stage
from tests.integration.by_address import HOSTS4, RDP, bring_here, machines, proxy_on
from tests.interop.clients import Computer, pins
from tests.interop.display import display
from tests.servers.network import enter_own_network


async def play(directory: Path) -> None:
    """Log in once."""
    async with AsyncExitStack() as stack:
        router, machine = stack.enter_context(machines())
        bring_here(router)
        with machine.entered():
            started = Farm.start(redirect="address", base=HOSTS4, port=RDP)
            farm = await stack.enter_async_context(started)
        proxy = await stack.enter_async_context(
            proxy_on(router, farm, directory, route_by="destination")
        )
        door = Address(router.host, RDP)
        first = (await farm.client(door, "somebody").login()).host
        assert first is not None
        begin = farm.hosts[first]
        away = next(host for host in farm.hosts.values() if host is not begin)
        farm.broker.place("alice", away.name)
        screen = await stack.enter_async_context(display(directory / "display"))
        trusted = pins(begin.certificate.fingerprint, away.certificate.fingerprint)
        desk = Computer("desk", directory / "desk")
        client = await stack.enter_async_context(
            desk.freerdp(door, "/u:alice", trusted, display=screen)
        )

        def is_active() -> bool:
            return any(visit.stage is Stage.ACTIVE for visit in away.visits)

        def by_destination() -> list[str]:
            lines = proxy.events("connection_placed")
            return [line["host"] for line in lines if line["reason"] == "destination"]

        await client.until("an active session", is_active)
        await client.until("its line in the log", lambda: bool(by_destination()))
        assert by_destination() == [away.name]


if __name__ == "__main__":
    enter_own_network()
    asyncio.run(play(Path(sys.argv[1])))
