"""New code takes the place of old code, in a running proxy, and nobody notices."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

import proxy as product
from proxy.lab.client import Session
from proxy.lab.farm import Farm
from proxy.lab.login import LoginResult
from proxy.wire.x224 import encode_connection_request
from tests.integration.running import RunningProxy, running

INSTALLED = Path(product.__file__).parent
NEW_VERSION = "99.0.0"
HELD = 40


class Installation:
    """A copy of the product where a running proxy finds its code."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        hidden = shutil.ignore_patterns("__pycache__")
        shutil.copytree(INSTALLED, directory / "proxy", ignore=hidden)

    def install(self, version: str) -> None:
        self.write("__init__.py", f'__version__ = "{version}"\n')

    def write(self, module: str, text: str) -> None:
        (self.directory / "proxy" / module).write_text(text)


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    installation = Installation(tmp_path / "lib")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # not the code of the working directory
    monkeypatch.setenv("PYTHONPATH", str(installation.directory))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return installation


async def upgrade(proxy: RunningProxy) -> tuple[int, str]:
    """`rdp-proxy upgrade`: its exit code and what it says."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "proxy", "upgrade", "--pid", str(proxy.child.pid)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


async def version(proxy: RunningProxy) -> str:
    _, text = await proxy.get("/metrics")
    found = re.search(r'^rdp_proxy_build_info\{.*version="([^"]+)"', text, re.MULTILINE)
    assert found is not None
    return found[1]


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
            await asyncio.sleep(1)
            assert len(load.logins) > before + 20
        assert proxy.child.returncode is None
        await proxy.until_ended_by_metric(HELD)

        async def old_relays_are_gone() -> bool:
            return set(proxy.children("proxy.relay.process")) == now - set(relays)

        await proxy.until(old_relays_are_gone)
        assert await proxy.metric("connections_active") == 0
        lines = list(proxy.events("connection_ended"))
        assert len({line["id"] for line in lines}) == len(lines), "each is accounted for once"
        placed = {line["id"] for line in proxy.events("connection_placed")}
        assert {line["id"] for line in lines} == placed


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

        async def one_is_left() -> bool:
            return await proxy.metric("connections_active") == 1

        await proxy.until(one_is_left)
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
        for _ in range(300):
            os.kill(proxy.child.pid, signal.SIGUSR2)
            await asyncio.sleep(0.01)

        async def over() -> bool:
            begun = len(list(proxy.events("upgrading")))
            return begun == len(list(proxy.events("upgraded")))

        await proxy.until(over)
        assert len(list(proxy.events("upgraded"))) >= 2
        assert list(proxy.events("process_ended")) == []
        assert await session.echo(b"alive") == b"alive"


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
        assert await proxy.metric("connections_active") == 1


async def test_it_is_the_same_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    """In a pid namespace of its own, where an unhandled signal is ignored and orphans arrive."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    allowed = await asyncio.to_thread(subprocess.run, [*unshare, "true"], capture_output=True)
    if allowed.returncode:
        pytest.skip("namespaces need privileges here")
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
        running(farm, tmp_path) as proxy,
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
        assert await proxy.metric("connections_active") == 1
        writer.close()
        await writer.wait_closed()


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
        assert await proxy.metric("connections_active") == 1
