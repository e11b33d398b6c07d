"""A changed configuration while everything runs: taken, or refused whole, and nobody notices."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

from proxy.address import Address
from tests.integration.reloading import lives, reloading
from tests.servers.ports import free_port


async def test_hosts_come_and_go_and_whoever_is_there_stays(tmp_path: Path) -> None:
    async with reloading(tmp_path) as w:
        gone = w.farm.hosts["rdsh03"]
        async with w.session("alice", token="rdsh03") as alice:
            told = await w.reload(w.without("rdsh03"))
            assert (told["changes"], told["hosts_removed"]) == (1, 1)
            assert told["what"] == [f"- pools.full_desktop.hosts.rdsh03: {gone.address}"]
            w.farm.broker.lose("rdsh03")
            assert (await w.hosts())["rdsh03"] == (False, 1)
            async with w.session("carol", token="rdsh03"):
                assert (await w.hosts())["rdsh03"] == (False, 2), "tokens land there still"
            landed = {await w.log_in(f"user{number}") for number in range(6)}
            assert landed == {"rdsh01", "rdsh02"}
            assert await lives(alice)
        await w.proxy.until(w.forgotten("rdsh03"))
        shown = (await w.proxy.get("/metrics"))[1]
        its = '{pool="full_desktop",host="rdsh03"'
        assert f"rdp_proxy_host_up{its}" not in shown
        assert f"rdp_proxy_bytes_total{its}" in shown, "its last counts are there to be scraped"
        assert (await w.reload(w.config))["hosts_added"] == 1
        assert (await w.hosts())["rdsh03"] == (True, 0)


async def test_a_file_that_cannot_be_used_is_refused_with_all_of_its_problems(
    tmp_path: Path,
) -> None:
    async with reloading(tmp_path) as w:
        bad = w.without("rdsh03")
        bad["pools"][0]["health"] = {"check": "x225", "interval": "1"}
        bad["listeners"][0]["pool"] = "nowhere"
        await w.reload(bad)

        async def all_are_told() -> bool:
            return len(list(w.proxy.events("config_refused"))) >= 3

        await w.proxy.until(all_are_told)
        details = [line["detail"] for line in w.proxy.events("config_refused")]
        assert len(details) == 3
        assert all(detail.startswith(f"{w.proxy.file}:1:") for detail in details)
        assert await w.proxy.metric("config_reload_success") == 0
        assert await w.proxy.metric("config_reloads_total", outcome="refused") >= 1
        assert (await w.hosts())["rdsh03"] == (True, 0)
        assert await w.log_in("alice") in w.farm.hosts
        told = await w.reload(w.first_text)
        assert told["changes"] == 0
        assert await w.proxy.metric("config_reload_success") == 1


async def test_a_changed_file_is_noticed_also_behind_symbolic_links(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: the file is a link through `..data`, which is swapped."""
    async with reloading(tmp_path) as w:
        first, second = tmp_path / "..1", tmp_path / "..2"
        for version in (first, second):
            version.mkdir()
        (first / "config.yaml").write_text(w.first_text)
        (tmp_path / "..data").symlink_to(first.name)
        w.proxy.file.unlink()
        w.proxy.file.symlink_to("..data/config.yaml")
        w.put_at(second / "config.yaml", w.without("rdsh03"))
        (tmp_path / "..new").symlink_to(second.name)
        (tmp_path / "..new").rename(tmp_path / "..data")
        await w.proxy.until(w.forgotten("rdsh03"))


async def test_listeners_come_go_and_take_each_others_places(tmp_path: Path) -> None:
    async with reloading(tmp_path) as w:
        first, second = w.proxy.address, Address("127.0.0.1", free_port())
        async with w.session("alice") as alice:
            both = w.with_listeners(("second", second))
            await w.reload(both)
            assert await w.log_in("bob", second) in w.farm.hosts
            both["listeners"][0]["bind"], both["listeners"][1]["bind"] = str(second), str(first)
            await w.reload(both)
            assert await w.log_in("carol", first) in w.farm.hosts
            assert await w.log_in("dave", second) in w.farm.hosts
            await w.reload(both | {"listeners": both["listeners"][1:]})
            assert await w.log_in("erin", first) in w.farm.hosts
            assert w.is_refused(second)
            assert await lives(alice)
        ended = await w.proxy.until_ended(9)
        assert {line["listener"] for line in ended} == {"rdp", "second"}


async def test_an_address_that_is_taken_refuses_the_whole_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address(*other.getsockname())
        async with reloading(tmp_path) as w:
            free = Address("127.0.0.1", free_port())
            config = w.with_listeners(("free", free), ("taken", taken))
            told = await w.reload(config | {"timeouts": {"connect": "1s"}})
            assert f"listener taken at {taken}" in told["detail"]
            assert w.is_refused(free), "what was bound already is let go"
            assert await w.log_in("alice") in w.farm.hosts
            await w.reload(w.with_listeners(("free", free)))
            assert await w.log_in("alice", free) in w.farm.hosts


async def test_a_listener_may_move_between_one_address_and_all_of_them(tmp_path: Path) -> None:
    port = free_port()
    four, six = Address("127.0.0.1", port), Address("::1", port)
    async with reloading(tmp_path) as w:
        for host in ("0.0.0.0", "::", "127.0.0.1", "0.0.0.0"):
            told = await w.reload(w.with_listeners(("moves", Address(host, port))))
            assert told["event"] == "config_reloaded"
            assert await w.log_in("alice", four) in w.farm.hosts
            assert w.is_refused(six) == (host != "::")


async def test_a_listener_cannot_have_the_port_that_metrics_is_about_to_leave(
    tmp_path: Path,
) -> None:
    async with reloading(tmp_path) as w:
        config = w.with_listeners(("second", w.proxy.metrics_address))
        told = await w.reload(config | {"metrics": {"bind": f"127.0.0.1:{free_port()}"}})
        assert "until the next start or upgrade" in told["detail"]
        assert await w.proxy.metric("config_reload_success") == 0


async def test_what_has_to_wait_is_named_and_the_rest_takes_effect(tmp_path: Path) -> None:
    async with reloading(tmp_path) as w:
        changed = w.config | {"relay": {"processes": 2}, "limits": {"connections": 1}}
        async with w.session("alice"):
            told = await w.reload(changed | {"log": {"level": "debug"}})
            assert told["wait"] == ["relay.processes"]
            assert await w.log_in("bob") is None
        assert len(w.proxy.children("proxy.relay.process")) == 1

        async def tells_more() -> bool:  # the log's level has changed
            return any(w.proxy.events("connection_accepted"))

        await w.proxy.until(tells_more)


async def test_a_front_that_dies_goes_on_with_what_was_taken_last(tmp_path: Path) -> None:
    async with reloading(tmp_path) as w:
        async with w.session("alice", token="rdsh03") as alice:
            await w.reload(w.without("rdsh03"))
            await w.reload("nonsense: [")
            front = w.proxy.front
            os.kill(front, signal.SIGKILL)

            async def another() -> bool:
                return w.proxy.children("proxy.app") not in ([], [front])

            await w.proxy.until(another)
            await w.proxy.until_ready()
            assert await lives(alice)
            assert (await w.hosts())["rdsh03"] == (False, 1), "the host came with its connection"

            async def refused() -> bool:
                return await w.proxy.metric("config_reload_success") == 0

            await w.proxy.until(refused)
        await w.proxy.until(w.forgotten("rdsh03"))


async def test_a_client_that_waits_for_a_host_gets_one_that_comes(tmp_path: Path) -> None:
    async with reloading(tmp_path, timeouts={"no_host": "20s"}) as w:
        nobody = w.config
        for host in nobody["pools"][0]["hosts"]:
            host["weight"] = 0
        await w.reload(nobody)
        waiting = asyncio.create_task(w.log_in("alice"))

        async def waits() -> bool:
            return await w.proxy.metric("held_clients") == 1

        await w.proxy.until(waits)
        await w.reload(w.config)
        assert await waiting in w.farm.hosts
