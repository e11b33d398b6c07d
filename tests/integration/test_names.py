"""Hosts by DNS name, with a real name server whose records change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.lab.farm import Farm
from tests.integration.reloading import World, lives
from tests.integration.running import running
from tests.servers.names import NameServer


@asynccontextmanager
async def named_world(tmp_path: Path) -> AsyncIterator[tuple[World, NameServer]]:
    """A farm of three, of which the name has what the name server says: rdsh01 and rdsh02 first."""
    server = NameServer(tmp_path)
    async with Farm.start(hosts=3) as farm:
        first, second, _ = (host.address for host in farm.hosts.values())
        server.says(first.host, second.host)
        await server.start()
        entry = {"name": "rdsh", "address": f"farm.example:{first.port}"}
        overrides: dict[str, Any] = {
            "pool": {"hosts": [entry]},
            "dns": {"servers": [str(server.address)]},
        }
        farm.broker.lose("rdsh03")
        try:
            async with running(farm, tmp_path, **overrides) as proxy:
                config = farm.config(proxy.address, tmp_path, **overrides)
                yield World(farm, proxy, config), server
        finally:
            await server.stop()


async def test_hosts_follow_the_records_of_their_name(tmp_path: Path) -> None:
    async with named_world(tmp_path) as (w, server):
        names = {name: f"rdsh[{host.address.host}]" for name, host in w.farm.hosts.items()}

        def are(*expected: str) -> Any:
            async def holds() -> bool:
                hosts = await w.hosts()
                return {names[name] for name in expected} == {
                    name for name, (configured, _) in hosts.items() if configured
                }

            return holds

        await w.proxy.until(are("rdsh01", "rdsh02"))
        assert {await w.log_in(f"user{n}") for n in range(6)} == {"rdsh01", "rdsh02"}
        async with w.session("alice", token="rdsh02") as alice:
            server.says(*(w.farm.hosts[name].address.host for name in ("rdsh01", "rdsh03")))
            await w.proxy.until(are("rdsh01", "rdsh03"))
            assert (await w.hosts())[names["rdsh02"]] == (False, 1), "it leaves"
            w.farm.broker.lose("rdsh02")
            w.farm.broker.regain("rdsh03")
            assert {await w.log_in(f"more{n}") for n in range(6)} == {"rdsh01", "rdsh03"}
            assert await lives(alice)
        await w.proxy.until(w.forgotten(names["rdsh02"]))
        await server.stop()

        async def failing() -> bool:
            text = (await w.proxy.get("/metrics"))[1]
            return 'rdp_proxy_dns_name_up{dns_name="farm.example"} 0.0' in text

        await w.proxy.until(failing)
        assert await are("rdsh01", "rdsh03")(), "a name server that is away changes nothing"
        assert await w.log_in("bob") in {"rdsh01", "rdsh03"}
        server.says(w.farm.hosts["rdsh01"].address.host)
        await server.start()
        await w.proxy.until(are("rdsh01"))
        (told, *_) = w.proxy.events("name_failed")
        assert told["dns_name"] == "farm.example"
