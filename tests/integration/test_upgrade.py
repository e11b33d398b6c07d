"""New code takes the place of old code, in a running proxy, and nobody notices."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from proxy.lab.client import Session
from proxy.lab.farm import Farm
from proxy.lab.login import LoginResult
from proxy.wire.x224 import encode_connection_request
from tests.integration.running import RunningProxy, running
from tests.integration.upgrading import NEW_VERSION, Installation, upgrade, version

HELD = 40


class Load:
    """Sessions with traffic, logins and scrapes, until the block ends; none may fail."""

    def __init__(self, farm: Farm, proxy: RunningProxy) -> None:
        self._farm = farm
        self._proxy = proxy
        self._over = False
        self.sessions: list[Session] = []
        self.logins: list[LoginResult] = []
        self.echoes = 0
        self.scrapes = 0

    @classmethod
    @asynccontextmanager
    async def on(cls, farm: Farm, proxy: RunningProxy) -> AsyncIterator[Load]:
        load = cls(farm, proxy)
        async with AsyncExitStack() as stack:
            for number in range(HELD):
                client = farm.client(
                    proxy.address, f"held{number}", source=f"127.41.0.{number + 1}"
                )
                _, session = await stack.enter_async_context(client.session())
                assert session is not None
                load.sessions.append(session)
            async with asyncio.TaskGroup() as tasks:
                for session in load.sessions:
                    tasks.create_task(load._talk(session))
                for lane in range(4):
                    tasks.create_task(load._log_in(lane))
                tasks.create_task(load._scrape())
                try:
                    yield load
                finally:
                    load._over = True
        assert [result.words() for result in load.logins if not result.ok] == []

    async def _talk(self, session: Session) -> None:
        while not self._over:
            data = os.urandom(200)
            assert await session.echo(data) == data
            self.echoes += 1
            await asyncio.sleep(0.1)

    async def _log_in(self, lane: int) -> None:
        while not self._over:
            number = len(self.logins)
            source = f"127.4{2 + lane}.{number // 200}.{number % 200 + 1}"
            client = self._farm.client(self._proxy.address, f"user{lane}", source=source)
            self.logins.append(await client.login())
            await asyncio.sleep(0.05)

    async def _scrape(self) -> None:
        while not self._over:
            status, _ = await self._proxy.get("/readyz")
            assert status == 200
            self.scrapes += 1
            await asyncio.sleep(0.02)


async def test_an_upgrade_under_load_cuts_refuses_and_fails_nobody(
    tmp_path: Path, installation: Installation
) -> None:
    async with (
        Farm.start(hosts=4, seed=3) as farm,
        running(farm, tmp_path, relay={"processes": 2}) as proxy,
    ):
        async with Load.on(farm, proxy) as load:
            fronts, relays = proxy.children("proxy.app"), proxy.children("proxy.relay.process")
            installation.install(NEW_VERSION)
            before = len(load.logins)
            code, said = await upgrade(proxy)
            assert code == 0, said
            assert await version(proxy) == NEW_VERSION
            assert set(proxy.children("proxy.app")).isdisjoint(fronts)
            now = set(proxy.children("proxy.relay.process"))
            assert now > set(relays), "the old ones carry on, two new ones take what comes"
            assert len(now) == 4

            async def many_came() -> bool:
                return len(load.logins) > before + 20

            await proxy.until(many_came)
        assert proxy.child.returncode is None
        await proxy.until_ended_by_metric(HELD)

        async def old_relays_are_gone() -> bool:
            return set(proxy.children("proxy.relay.process")) == now - set(relays)

        await proxy.until(old_relays_are_gone)

        def ids(event: str) -> list[int]:
            return sorted(line["id"] for line in proxy.events(event))

        async def all_are_accounted_for() -> bool:
            active = await proxy.metric("connections_active")
            return active == 0 and len(ids("connection_ended")) >= len(ids("connection_placed"))

        await proxy.until(all_are_accounted_for)
        assert ids("connection_ended") == ids("connection_placed"), "each once"


async def test_a_new_configuration_counts_from_the_upgrade_on(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path, relay={"processes": 2}) as proxy,
    ):
        config = proxy.file.read_text()
        proxy.file.write_text(config.replace("processes: 2", "processes: 1"))
        assert (await upgrade(proxy))[0] == 0

        async def one_relay() -> bool:
            return len(proxy.children("proxy.relay.process")) == 1

        await proxy.until(one_relay)
        assert (await farm.client(proxy.address, "alice").login()).ok


async def test_a_shower_of_signals_neither_kills_nor_confuses(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path) as proxy,
        AsyncExitStack() as stack,
    ):
        _, session = await stack.enter_async_context(farm.client(proxy.address, "a").session())
        assert session is not None

        async def two_upgrades_are_done() -> bool:
            for _ in range(10):
                os.kill(proxy.child.pid, signal.SIGUSR2)
                await asyncio.sleep(0.01)
            return len(list(proxy.events("upgraded"))) >= 2

        await proxy.until(two_upgrades_are_done)

        async def over() -> bool:
            begun = len(list(proxy.events("upgrading")))
            return begun == len(list(proxy.events("upgraded")))

        await proxy.until(over)
        assert list(proxy.events("process_ended")) == []
        assert await session.echo(b"alive") == b"alive"


async def test_it_is_the_same_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    """In a pid namespace of its own, where an unhandled signal is ignored and orphans arrive."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshare = ["unshare", *as_root, "--pid", "--fork", "--mount-proc", "--kill-child"]
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path, prefix=unshare, timeouts={"stop": "1s"}) as proxy,
        AsyncExitStack() as stack,
    ):
        _, session = await stack.enter_async_context(farm.client(proxy.address, "a").session())
        assert session is not None
        (first,) = proxy.children("run")
        for _ in range(2):
            began = len(list(proxy.events("upgraded")))
            os.kill(first, signal.SIGUSR2)

            async def upgraded(began: int = began) -> bool:
                return len(list(proxy.events("upgraded"))) > began

            await proxy.until(upgraded)
            assert await session.echo(b"alive") == b"alive"
        assert [line["pid"] for line in proxy.events("upgraded")] == [1, 1]
        os.kill(first, signal.SIGTERM)
        await session.closed()
        assert await proxy.child.wait() == 0


async def test_a_client_in_the_hands_of_the_old_front_is_brought_to_its_host(
    tmp_path: Path,
) -> None:
    request = encode_connection_request(line=b"Cookie: mstshash=slow", requested_protocols=1)
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path, timeouts={"connection_request": "600s"}) as proxy,
    ):
        reader, writer = await asyncio.open_connection(*proxy.address)
        writer.write(request[:5])

        async def accepted() -> bool:
            return await proxy.metric("connections_accepted_total") >= 1

        await proxy.until(accepted)
        async with asyncio.TaskGroup() as tasks:
            upgrading = tasks.create_task(upgrade(proxy))

            async def replaced() -> bool:
                return bool(list(proxy.events("replaced")))

            await proxy.until(replaced)
            assert (await farm.client(proxy.address, "quick").login()).ok, "the new one serves"
            assert not upgrading.done()
            writer.write(request[5:])
            assert (await reader.read(1)) == b"\x03", "the host has answered"
        assert upgrading.result()[0] == 0
        await proxy.until_active(1)
        writer.close()
        await writer.wait_closed()


async def test_a_connection_that_outlives_two_upgrades_ends_once(tmp_path: Path) -> None:
    """Its relay ends after it, while the front before the last has a client in hand still."""
    async with (
        Farm.start(hosts=2, redirect="none") as farm,
        running(farm, tmp_path, timeouts={"connection_request": "600s"}) as proxy,
        AsyncExitStack() as stack,
    ):
        held = await stack.enter_async_context(AsyncExitStack())
        await held.enter_async_context(farm.client(proxy.address, "a", probes=False).session())
        (relay,) = proxy.children("proxy.relay.process")
        assert (await upgrade(proxy))[0] == 0
        _, writer = await asyncio.open_connection(*proxy.address)
        stack.callback(writer.close)
        writer.write(b"\x03")

        async def accepted() -> bool:
            return await proxy.metric("connections_accepted_total") == 2

        await proxy.until(accepted)
        async with asyncio.TaskGroup() as tasks:
            upgrading = tasks.create_task(upgrade(proxy))

            async def replaced() -> bool:
                return bool(list(proxy.events("replaced"))[1:])

            await proxy.until(replaced)
            await held.aclose()

            async def old_relay_is_gone() -> bool:
                return relay not in proxy.children("proxy.relay.process")

            await proxy.until(old_relay_is_gone)
            assert not upgrading.done(), "the old front is there still"
            writer.close()
        (ended,) = (it for it in proxy.events("connection_ended") if it["phase"] == "relay")
        assert ended["cause"] == "closed"
