"""`rdp-proxy pins` at a running proxy: what an operator sets and clears holds for clients."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from proxy.lab.farm import Farm
from proxy.lab.login import Failure
from tests.integration.running import RunningProxy, running, two_nodes
from tests.servers.redis import RedisServer
from tests.unit.rdp_proxy import rdp_proxy

SOURCE = "127.32.0.1"
WORDS = ("--client", SOURCE)


async def pins(proxy: RunningProxy, *words: str) -> Any:
    """What the command says, as programs read it."""
    file, directory = str(proxy.file), str(proxy.directory)
    asked = ("pins", *words, "--config", file, "--json")
    done = await asyncio.to_thread(rdp_proxy, *asked, STATE_DIRECTORY=directory)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def shown(proxy: RunningProxy, *words: str) -> dict[str, Any]:
    """What the table says of the client, by key."""
    (pool,) = (await pins(proxy, "show", *WORDS, *words))["pools"]
    return {pin["key"].removeprefix(f"source:{SOURCE}").strip(): pin for pin in pool["pins"]}


async def told_in_log(proxy: RunningProxy, event: str, count: int) -> list[dict[str, Any]]:
    """The lines of one kind, once there are so many: the log follows a little later."""

    async def are_there() -> bool:
        return len(list(proxy.events(event))) >= count

    await proxy.until(are_there)
    return list(proxy.events(event))


async def host_of(farm: Farm, proxy: RunningProxy, user: str, source: str = SOURCE) -> str | None:
    """Where a user logs in; no broker sends him on."""
    result = await farm.client(proxy.address, user, source=source).login()
    assert result.ok, result.words()
    return result.host


async def test_a_client_goes_where_he_is_set_until_that_is_cleared(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=4, redirect="none") as farm,
        running(farm, tmp_path, pool={"balance": "round_robin"}) as proxy,
    ):
        assert stat.S_IMODE((tmp_path / "admin.sock").stat().st_mode) == 0o600
        first = await host_of(farm, proxy, "alice")
        assert {pin["host"] for pin in (await shown(proxy)).values()} == {first}
        for away in farm.hosts:
            await pins(proxy, "set", *WORDS, "--host", away, "--ttl", "7d")
            for user in ("alice", "bob"):
                assert await host_of(farm, proxy, user) == away
            told = await shown(proxy)
            assert {pin["host"] for pin in told.values()} == {away}
            assert 6 * 86400 < told[""]["expires_in_s"] <= 7 * 86400
        cleared = await pins(proxy, "clear", *WORDS)
        assert cleared["connections"] == 0
        assert cleared["cleared"] == len(told)
        assert {pin["host"] for pin in (await shown(proxy)).values()} == {None}
        hosts = set()
        for _ in farm.hosts:
            hosts.add(await host_of(farm, proxy, "alice"))
            await pins(proxy, "clear", *WORDS)
        assert hosts == set(farm.hosts)
        assert len(await told_in_log(proxy, "pin_set", 4)) == 4
        lines = await told_in_log(proxy, "pins_cleared", 5)
        assert [line["client"] for line in lines] == [SOURCE] * 5


async def test_one_user_of_a_shared_address_is_set_alone(tmp_path: Path) -> None:
    affinity = {"key": "source_and_user"}
    async with (
        Farm.start(hosts=3, redirect="none") as farm,
        running(farm, tmp_path, pool={"affinity": affinity}) as proxy,
    ):
        before = await host_of(farm, proxy, "alice")
        away = next(name for name in farm.hosts if name != before)
        await pins(proxy, "set", *WORDS, "--user", "bob", "--host", away, "--ttl", "never")
        assert await host_of(farm, proxy, "bob") == away
        assert await host_of(farm, proxy, "alice") == before
        told = await shown(proxy)
        assert (told["user:bob"]["host"], told["user:bob"]["expires_in_s"]) == (away, None)
        assert told["user:alice"]["host"] == before
        (line,) = await told_in_log(proxy, "pin_set", 1)
        assert "user" not in line
        assert len(line["user_hash"]) == 16


async def test_a_personal_desktop_is_pinned_by_name_from_everywhere(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=4, redirect="none") as farm,
        running(farm, tmp_path, pool={"affinity": {"key": "user"}}) as proxy,
    ):
        await pins(proxy, "set", "--user", "Alice", "--host", "rdsh03", "--ttl", "never")
        for number in range(6):
            source = f"127.32.1.{number + 1}"
            assert await host_of(farm, proxy, "alice", source) == "rdsh03"
        (listed,) = (await pins(proxy, "list", "--user", "alice"))["pins"]
        assert (listed["key"], listed["expires_in_s"]) == ("user:alice", None)
        gone = (await pins(proxy, "clear", "--pool", "full_desktop"))["cleared"]
        assert gone == 1 + 6  # his own, and the latest of each source
        assert (await pins(proxy, "list"))["pins"] == []


async def test_a_personal_desktop_is_found_by_the_name_that_mstsc_cuts(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=4, redirect="none") as farm,
        running(farm, tmp_path, pool={"affinity": {"key": "user"}}) as proxy,
    ):
        await pins(proxy, "set", "--user", "CORP\\Jaso", "--host", "rdsh03", "--ttl", "never")
        for number in range(4):
            client = farm.client(
                proxy.address, "jason", domain="CORP", source=f"127.32.2.{number + 1}"
            )
            assert (await client.login()).host == "rdsh03"
        (pool,) = (await pins(proxy, "show", "--user", "CORP\\Jaso"))["pools"]
        assert [pin["key"] for pin in pool["pins"]] == ["user:corp\\jaso"]


async def test_an_owner_is_refused_rather_than_sent_to_another_desktop(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path, timeouts={"no_host": "1s"}) as proxy,
    ):
        await pins(proxy, "set", *WORDS, "--host", "rdsh02", "--ttl", "never")
        await farm.hosts["rdsh02"].kill()
        refused = await farm.client(proxy.address, "alice", source=SOURCE).login()
        assert refused.failure is Failure.CLOSED
        await farm.hosts["rdsh02"].start()

        async def is_up() -> bool:
            return await proxy.metric("host_up", host="rdsh02") == 1

        await proxy.until(is_up)
        assert await host_of(farm, proxy, "alice") == "rdsh02"


async def test_show_and_clear_tell_who_is_connected(tmp_path: Path) -> None:
    async with Farm.start(hosts=3) as farm, running(farm, tmp_path) as proxy:
        client = farm.client(proxy.address, "alice", source=SOURCE)
        async with client.session() as (result, session):
            assert session is not None, result.words()
            away = next(name for name in farm.hosts if name != result.host)
            await pins(proxy, "set", *WORDS, "--host", away)
            pin = (await shown(proxy))[""]
            assert pin["host"] == away
            assert [live["host"] for live in pin["connections"]] == [result.host]
            assert (await pins(proxy, "clear", "--host", away))["connections"] == 1
            assert await session.echo(b"nothing that lives moves") == b"nothing that lives moves"


@pytest.mark.usefixtures("patient_nodes")
async def test_what_is_set_at_one_node_holds_at_the_other(
    tmp_path: Path, server: RedisServer
) -> None:
    async with (
        Farm.start(hosts=4, redirect="none") as farm,
        two_nodes(farm, tmp_path, server) as (a, b),
    ):
        for away, ttl in zip(farm.hosts, ("7d", "60s", "1h", "never"), strict=True):
            await pins(a, "set", *WORDS, "--host", away, "--ttl", ttl)
            assert await host_of(farm, b, "alice") == away
            assert {pin["host"] for pin in (await shown(b)).values()} == {away}
        assert (await shown(b))[""]["expires_in_s"] is None
        (listed, *_) = (await pins(b, "list", "--client", SOURCE, "--host", away))["pins"]
        assert listed["host"] == away
        assert (await pins(b, "clear", "--host", away))["cleared"] == 2
        assert {pin["host"] for pin in (await shown(a)).values()} == {None}
