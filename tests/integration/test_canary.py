"""The canary in the running product: what it tells, and that it counts as nobody."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from proxy.address import Address
from proxy.lab.certificates import self_signed
from proxy.lab.farm import Farm
from proxy.lab.session_host import SessionHost
from proxy.wire.tokens import encode_msts
from tests.integration.running import RunningProxy, running
from tests.servers.ports import free_port
from tests.unit.rdp_proxy import rdp_proxy

POOL = "full_desktop"
COUNTERS = (
    "connections_accepted_total",
    "connections_placed_total",
    "connections_ended_total",
    "connections_active",
    "tokens_total",
    "negotiations_total",
    "host_failures_total",
    "bytes_total",
    "affinity_pins",
)


async def asked(proxy: RunningProxy) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of `rdp-proxy canary`."""
    state = str(proxy.directory)
    done = await asyncio.to_thread(rdp_proxy, "canary", "--json", STATE_DIRECTORY=state)
    return done.returncode, {row["host"]: row for row in json.loads(done.stdout)["canary"]}


async def test_each_hosts_own_certificate_answers_its_token_and_no_client_is_counted(
    tmp_path: Path,
) -> None:
    """At a wildcard that allows nobody here, and wants a header from everybody here."""
    port = free_port()
    listener = {
        "allow": ["192.0.2.0/24"],
        "proxy_protocol": {"trusted": ["127.0.0.0/8"]},
        "require_tls": True,
    }
    limits = {"connections_per_source": 1, "new_connections_per_source": "1/h"}
    async with (
        Farm.start(hosts=3, base="127.78.11.") as farm,
        running(
            farm,
            tmp_path,
            bind=Address("0.0.0.0", port),
            listener=listener,
            limits=limits,
            canary={"interval": "1s"},
        ) as proxy,
    ):

        def tried() -> int:
            lines = {encode_msts(host.address) for host in farm.hosts.values()}
            return min(
                sum(visit.line in lines for visit in host.visits) for host in farm.hosts.values()
            )

        async def tried_twice() -> bool:
            return tried() >= 2

        await proxy.until(tried_twice)
        for host in farm.hosts:
            assert await proxy.metric("canary_up", pool=POOL, host=host) == 1
        for name in COUNTERS:
            assert await proxy.metric(name) == 0, name
        code, rows = await asked(proxy)
        assert (code, [row["up"] for row in rows.values()]) == (0, [True] * 3)
        for event in ("connection_placed", "connection_ended", "canary_failed", "canary_passed"):
            assert list(proxy.events(event)) == [], event


async def test_a_token_route_that_leads_to_another_host_is_told_with_the_host(
    tmp_path: Path,
) -> None:
    async with Farm.start(hosts=1, base="127.78.12.") as farm:
        rdsh01 = farm.hosts["rdsh01"]
        rdsh02 = SessionHost("rdsh02", Address("127.0.0.1", 0), self_signed("rdsh02"), farm.broker)
        await rdsh02.start()
        port = rdsh02.address.port
        # The broker's address of rdsh02 stands at rdsh01: no check of the file can see it, since
        # what rdsh02's name means is known only when it is resolved.
        hosts = [
            {
                "name": "rdsh01",
                "address": str(rdsh01.address),
                "token_addresses": [str(rdsh02.address)],
            },
            {"name": "rdsh02", "address": f"localhost:{port}"},
        ]
        try:
            async with running(
                farm, tmp_path, pool={"hosts": hosts}, canary={"interval": "1s"}
            ) as proxy:

                async def told() -> bool:
                    return bool(list(proxy.events("canary_failed")))

                await proxy.until(told)
                (event,) = proxy.events("canary_failed")
                assert (event["pool"], event["host"]) == (POOL, "rdsh02[127.0.0.1]")
                assert event["token_address"] == f"127.0.0.1:{port}"
                assert event["detail"] == f"the token leads to {POOL}/rdsh01"

                async def both_are_tried() -> bool:
                    return (await proxy.get("/metrics"))[1].count("rdp_proxy_canary_up{") == 2

                await proxy.until(both_are_tried)
                assert await proxy.metric("canary_up", host="rdsh01") == 1
                assert await proxy.metric("canary_up", host="rdsh02[127.0.0.1]") == 0
                code, rows = await asked(proxy)
                assert (code, rows["rdsh02[127.0.0.1]"]["up"], rows["rdsh01"]["up"]) == (
                    1,
                    False,
                    True,
                )
        finally:
            await rdsh02.kill()


async def test_a_host_that_is_down_is_not_tried_and_one_that_returns_is(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=2, base="127.78.13.") as farm,
        running(farm, tmp_path, canary={"interval": "1s"}) as proxy,
    ):

        async def both() -> bool:
            return await proxy.metric("canary_up") == 2

        async def one() -> bool:
            _, text = await proxy.get("/metrics")
            return text.count("rdp_proxy_canary_up{") == 1

        await proxy.until(both)
        await farm.hosts["rdsh02"].kill()
        await proxy.until(one)
        await farm.hosts["rdsh02"].start()
        await proxy.until(both)
        assert await proxy.metric("connections_accepted_total") == 0


async def test_the_canary_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=1, base="127.78.14.") as farm,
        running(farm, tmp_path) as proxy,
    ):
        done = await asyncio.to_thread(rdp_proxy, "canary", STATE_DIRECTORY=str(proxy.directory))
        assert done.returncode == 1
        assert done.stderr == "rdp-proxy: the canary is off: set canary.interval\n"
        assert await proxy.metric("canary_up") == 0
