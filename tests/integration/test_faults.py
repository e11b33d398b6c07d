"""Hosts that die, stay silent or come back, and processes of the proxy that are killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

from proxy.lab.client import Session
from proxy.lab.farm import Farm
from proxy.lab.login import LoginResult
from tests.integration.running import RunningProxy, running
from tests.patience import PATIENCE_S


async def log_in(farm: Farm, proxy: RunningProxy, number: int) -> LoginResult:
    source = f"127.30.{number // 200}.{number % 200 + 1}"
    return await farm.client(proxy.address, f"user{number}", source=source).login()


async def hold(
    stack: AsyncExitStack, farm: Farm, proxy: RunningProxy, number: int
) -> tuple[LoginResult, Session]:
    source = f"127.31.{number // 200}.{number % 200 + 1}"
    client = farm.client(proxy.address, f"user{number}", source=source)
    result, session = await stack.enter_async_context(client.session())
    assert session is not None, result.words()
    return result, session


async def test_a_host_that_is_killed_takes_only_its_own_connections_with_it(
    tmp_path: Path,
) -> None:
    async with (
        Farm.start(hosts=4, redirect="none") as farm,
        running(farm, tmp_path) as proxy,
        AsyncExitStack() as stack,
    ):
        sessions = [await hold(stack, farm, proxy, number) for number in range(12)]
        victim = sessions[0][0].host
        assert victim is not None
        others = [session for result, session in sessions if result.host != victim]
        assert 0 < len(others) < len(sessions)
        late: list[LoginResult] = []
        dead, enough = asyncio.Event(), asyncio.Event()

        async def logins() -> None:
            for number in itertools.count(100):
                was_dead = dead.is_set()
                result = await log_in(farm, proxy, number)
                if was_dead:
                    late.append(result)
                if enough.is_set():
                    return

        async def is_down() -> bool:
            return await proxy.metric("host_up", host=victim) == 0

        async def many_came() -> bool:
            return len(late) > 50

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(logins())
            await asyncio.sleep(0.5)
            await farm.hosts[victim].kill()
            dead.set()
            await proxy.until(is_down)
            await proxy.until(many_came)
            enough.set()
        # A host that dies under a login may take it along; whoever comes later goes elsewhere.
        assert [result.words() for result in late if not result.ok] == []
        for session in others:
            assert await session.echo(b"alive") == b"alive"
        assert await proxy.metric("host_up") == 3


async def test_with_one_host_silent_no_login_fails(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=4, redirect="none") as farm,
        running(farm, tmp_path, timeouts={"answer": "1s"}) as proxy,
    ):
        silent = next(iter(farm.hosts.values()))
        silent.silence()
        for number in range(40):
            result = await log_in(farm, proxy, number)
            assert result.ok, result.words()
            assert result.host != silent.name


async def all_down(farm: Farm, proxy: RunningProxy) -> None:
    """Kill all hosts, and wait until health knows."""
    for host in farm.hosts.values():
        await host.kill()

    async def known() -> bool:
        return await proxy.metric("host_up") == 0

    await proxy.until(known)


async def test_clients_are_held_while_all_hosts_are_down_and_then_closed(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=3, redirect="none") as farm,
        running(farm, tmp_path, timeouts={"no_host": "2s"}) as proxy,
    ):
        await all_down(farm, proxy)
        began = time.monotonic()
        result = await log_in(farm, proxy, 1)
        assert not result.ok
        assert time.monotonic() - began >= 2
        assert await proxy.metric("connections_ended_total", cause="no_host") >= 1


async def test_a_client_that_is_held_is_served_by_the_first_host_that_comes(
    tmp_path: Path,
) -> None:
    async with (
        Farm.start(hosts=3, redirect="none") as farm,
        running(farm, tmp_path, timeouts={"no_host": "600s"}) as proxy,
    ):
        await all_down(farm, proxy)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(log_in(farm, proxy, 2))

            async def waits() -> bool:
                return await proxy.metric("held_clients") == 1

            await proxy.until(waits)
            await next(iter(farm.hosts.values())).start()
        assert waiting.result().ok, waiting.result().words()


async def test_a_front_that_is_killed_cuts_nobody_and_refuses_nobody(
    tmp_path: Path,
) -> None:
    async with (
        Farm.start(hosts=4, seed=5) as farm,
        running(farm, tmp_path) as proxy,
        AsyncExitStack() as stack,
    ):
        sessions = [await hold(stack, farm, proxy, number) for number in range(30)]
        before = {number: result.host for number, (result, _) in enumerate(sessions)}
        results: list[LoginResult] = []
        enough = asyncio.Event()

        async def logins() -> None:
            while not enough.is_set():
                results.append(await log_in(farm, proxy, 500 + len(results)))

        async def twenty_more(than: int) -> None:
            async def came() -> bool:
                return len(results) >= than + 20

            await proxy.until(came)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(logins())
            await twenty_more(0)
            first = proxy.front
            os.kill(first, signal.SIGKILL)

            async def replaced() -> bool:
                return proxy.children("proxy.app") not in ([], [first])

            await proxy.until(replaced)
            await proxy.until_ready()
            await twenty_more(len(results))
            enough.set()
        for _, session in sessions:
            assert await session.echo(b"alive") == b"alive"
        await proxy.until_active(30)
        # What was in the front's own hands may be lost with it, once for each of the four.
        failed = [" ".join(result.words()) for result in results if not result.ok]
        assert len(failed) <= 4, failed
        assert not any("refused" in words for words in failed), failed
        for number, host in before.items():
            source = f"127.31.0.{number + 1}"
            again = await farm.client(proxy.address, f"user{number}", source=source).login()
            assert (again.ok, again.host) == (True, host), again.words()
        assert await proxy.metric("connections_placed_total", reason="repinned") == 0


async def test_pins_outlive_the_whole_process_group(tmp_path: Path) -> None:
    async with Farm.start(hosts=4, redirect="none") as farm, running(farm, tmp_path) as proxy:
        before = [(await log_in(farm, proxy, number)).host for number in range(20)]
        assert len(set(before)) > 1
        await proxy.kill_all()
        await proxy.start()
        after = [(await log_in(farm, proxy, number)).host for number in range(20)]
        assert after == before
        assert await proxy.metric("connections_placed_total", reason="pin") == 40


async def test_stopping_refuses_clients_and_lets_connections_finish(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path, timeouts={"stop": "600s"}) as proxy,
    ):
        async with AsyncExitStack() as stack:
            _, session = await hold(stack, farm, proxy, 1)
            stopping = asyncio.get_running_loop().create_task(proxy.stop())
            await proxy.until(lambda: refuses(proxy))
            assert await session.echo(b"alive") == b"alive"
            assert not stopping.done()
        assert await stopping == 0
        ended = [line["ending"] for line in proxy.events("connection_ended")]
        assert "relay/local/stopped" not in ended


async def refuses(proxy: RunningProxy) -> bool:
    try:
        _, writer = await asyncio.open_connection(*proxy.address)
    except OSError:
        return True
    writer.close()
    return False


async def test_stopping_accounts_for_connections_that_do_not_finish(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path, timeouts={"stop": "1s"}) as proxy,
        AsyncExitStack() as stack,
    ):
        _, session = await hold(stack, farm, proxy, 1)
        assert await proxy.stop() == 0
        await session.closed()
        (line,) = [line for line in proxy.events("connection_ended") if line["cause"] == "stopped"]
        assert line["ending"] == "relay/local/stopped"
        assert line["bytes_down"] > 0


async def test_a_balancer_in_front_has_time_to_notice_a_stop_before_clients_are_refused(
    tmp_path: Path,
) -> None:
    async with (
        Farm.start(hosts=1, redirect="none") as farm,
        running(farm, tmp_path, timeouts={"stop_lag": "60s", "stop": "60s"}) as proxy,
        AsyncExitStack() as stack,
    ):
        await hold(stack, farm, proxy, 1)
        proxy.child.send_signal(signal.SIGTERM)

        async def says_so() -> bool:
            return (await proxy.get("/readyz"))[0] == 503

        await proxy.until(says_so)
        assert '"reason": "stopping"' in (await proxy.get("/readyz"))[1]
        late = await log_in(farm, proxy, 2)
        assert late.ok, late.words()
        proxy.child.send_signal(signal.SIGTERM)  # a second one ends it at once
        async with asyncio.timeout(PATIENCE_S):
            assert await proxy.child.wait() == 0
        endings = [line["ending"] for line in proxy.events("connection_ended")]
        assert "relay/local/stopped" in endings
