"""What may go wrong in an upgrade: whoever served goes on to serve."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from proxy.lab.farm import Farm
from tests.integration.running import running
from tests.integration.upgrading import NEW_VERSION, Installation, upgrade, version


@pytest.mark.parametrize("module", ["parent.py", "front.py", "relay/pump.py", "succession.py"])
async def test_code_that_cannot_start_never_replaces_code_that_runs(
    tmp_path: Path, installation: Installation, module: str
) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path) as proxy,
    ):
        before = proxy.children("proxy.app") + proxy.children("proxy.relay.process")
        installation.write(module, "this is no Python\n")
        os.kill(proxy.child.pid, signal.SIGUSR2)

        async def told() -> bool:
            return bool(list(proxy.events("upgrade_failed")))

        await proxy.until(told)
        (line,) = proxy.events("upgrade_failed")
        assert (line["step"], line["level"]) == ("trial", "error")
        assert proxy.children("proxy.app") + proxy.children("proxy.relay.process") == before
        assert (await farm.client(proxy.address, "alice").login()).ok
        assert "SyntaxError" in proxy.log_file.read_text(), "the operator sees why"
        shown = proxy.log_file.read_text().replace("Traceback", "")
        proxy.log_file.write_text(shown)


async def test_a_front_that_cannot_start_leaves_the_old_one_which_hears_what_ended_meanwhile(
    tmp_path: Path, installation: Installation
) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path) as proxy,
        AsyncExitStack() as stack,
    ):
        _, session = await stack.enter_async_context(farm.client(proxy.address, "a").session())
        _, other = await stack.enter_async_context(farm.client(proxy.address, "b").session())
        assert session is not None
        assert other is not None
        front = proxy.front
        good = proxy.file.read_text()
        proxy.file.write_text(good.replace(str(proxy.address), "192.0.2.1:3389"))
        installation.install(NEW_VERSION)

        async def begun() -> bool:
            return bool(list(proxy.events("upgrading")))

        async def end_one() -> None:
            await proxy.until(begun)
            await session.close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(end_one())
            code, said = await upgrade(proxy)
        assert (code, proxy.front) == (1, front)
        assert "front" in said
        assert [line["step"] for line in proxy.events("upgrade_failed")] == ["front"]
        assert await version(proxy) != NEW_VERSION
        assert await other.echo(b"alive") == b"alive"
        assert (await farm.client(proxy.address, "c").login()).ok
        await proxy.until_active(1)
        lines = list(proxy.events("connection_ended"))
        assert len({line["id"] for line in lines}) == len(lines), "each is accounted for once"

        proxy.file.write_text(good)
        assert (await upgrade(proxy))[0] == 0, "the next one is a new chance"
        assert await version(proxy) == NEW_VERSION
        assert await other.echo(b"alive") == b"alive"


async def test_a_file_that_cannot_be_used_leaves_the_last_good_configuration_in_force(
    tmp_path: Path,
) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path) as proxy,
    ):
        proxy.file.write_text("pools: [")
        code, said = await upgrade(proxy)
        assert code == 0, said
        assert any("last good" in line["detail"] for line in proxy.events("configuration"))
        assert (await farm.client(proxy.address, "alice").login()).ok


@pytest.mark.parametrize("after_s", [0.05, 0.3, 0.6, 0.9])
async def test_a_stop_in_the_middle_of_an_upgrade_is_a_stop_in_order(
    tmp_path: Path, after_s: float
) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path, timeouts={"stop": "1s"}) as proxy,
        AsyncExitStack() as stack,
    ):
        _, session = await stack.enter_async_context(farm.client(proxy.address, "a").session())
        assert session is not None
        os.kill(proxy.child.pid, signal.SIGUSR2)
        await asyncio.sleep(after_s)
        assert await proxy.stop() == 0
        await session.closed()
        stopped = [line for line in proxy.events("connection_ended") if line["cause"] == "stopped"]
        assert [line["ending"] for line in stopped] == ["relay/local/stopped"]


async def test_a_new_front_that_is_killed_again_and_again_cuts_nobody(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path) as proxy,
        AsyncExitStack() as stack,
    ):
        _, session = await stack.enter_async_context(farm.client(proxy.address, "a").session())
        assert session is not None
        for delay_s in (0.0, 0.2, 0.4):
            old = set(proxy.children("proxy.app"))
            os.kill(proxy.child.pid, signal.SIGUSR2)

            async def another(old: set[int] = old) -> bool:
                return bool(set(proxy.children("proxy.app")) - old)

            await proxy.until(another)
            (young,) = set(proxy.children("proxy.app")) - old
            await asyncio.sleep(delay_s)
            with suppress(ProcessLookupError):
                os.kill(young, signal.SIGKILL)

            async def settled() -> bool:
                ends = [*proxy.events("upgraded"), *proxy.events("upgrade_failed")]
                return len(ends) == len(list(proxy.events("upgrading")))

            await proxy.until(settled)
            assert await session.echo(b"alive") == b"alive"
            assert (await farm.client(proxy.address, "b").login()).ok
        assert (await upgrade(proxy))[0] == 0
        await proxy.until_active(1)


async def test_an_old_front_that_dies_in_the_middle_of_an_upgrade_is_no_loss(
    tmp_path: Path,
) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path) as proxy,
        AsyncExitStack() as stack,
    ):
        _, session = await stack.enter_async_context(farm.client(proxy.address, "a").session())
        assert session is not None
        old = proxy.front
        os.kill(proxy.child.pid, signal.SIGUSR2)

        async def another() -> bool:
            return len(proxy.children("proxy.app")) == 2

        await proxy.until(another)
        os.kill(old, signal.SIGKILL)

        async def upgraded() -> bool:
            return bool(list(proxy.events("upgraded")))

        await proxy.until(upgraded)
        assert await session.echo(b"alive") == b"alive"
        assert (await farm.client(proxy.address, "b").login()).ok
        await proxy.until_active(1)
