"""The health monitor over a simulated farm: hosts that die, fall silent and come back."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from proxy import sockets
from proxy.address import Address
from proxy.control.health import HealthMonitor, HostHealth
from proxy.control.inventory import Inventory
from proxy.errors import Cause
from proxy.lab.farm import Farm
from proxy.lab.session_host import Stage
from proxy.routing.pool import Host, Pool
from proxy.settings import HealthCheck, HealthSettings, HostSettings, PoolSettings
from tests.patience import PATIENCE_S


class Watch:
    """A running monitor over the farm's hosts, and the turns that it told of."""

    def __init__(self, farm: Farm, check: HealthCheck, timeout_s: float) -> None:
        health = HealthSettings(check=check, interval_s=0.2, timeout_s=timeout_s, rise=2, fall=2)
        hosts = tuple(
            HostSettings(name=host.name, address=host.address) for host in farm.hosts.values()
        )
        self.pool = Pool(PoolSettings(name="desktops", hosts=hosts, health=health))
        self.inventory = Inventory([self.pool], lambda: 1_800_000_000.0)
        self.turns: list[tuple[str, bool, Cause | None]] = []
        self._moved = asyncio.Event()
        self.monitor = HealthMonitor(
            [self.pool], self._turned, self.inventory.checked, rng=random.Random(3)
        )

    def _turned(self, host: Host, up: bool, cause: Cause | None, _: str | None) -> None:
        self.turns.append((host.name, up, cause))
        self._moved.set()

    async def turned(self, count: int) -> None:
        """Wait until hosts have turned `count` times in all."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.turns) < count:
                self._moved.clear()
                await self._moved.wait()

    async def seen(self, what: Callable[[HostHealth], bool]) -> dict[str, HostHealth]:
        """Wait until `what` holds for each host."""
        async with asyncio.timeout(PATIENCE_S):
            while not all(map(what, self.monitor.snapshot())):  # noqa: ASYNC110 (no event)
                await asyncio.sleep(0.02)
        return {health.host: health for health in self.monitor.snapshot()}


@asynccontextmanager
async def watching(
    farm: Farm, check: HealthCheck, timeout_s: float = PATIENCE_S
) -> AsyncIterator[Watch]:
    watch = Watch(farm, check, timeout_s)
    run = asyncio.create_task(watch.monitor.run())
    try:
        yield watch
    finally:
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


@pytest.mark.parametrize("check", HealthCheck)
async def test_a_host_that_dies_goes_down_and_comes_back_alone(check: HealthCheck) -> None:
    async with Farm.start(hosts=3, base="127.78.1.") as farm, watching(farm, check) as watch:
        await watch.seen(lambda health: health.last is not None)
        assert watch.turns == []
        await farm.hosts["rdsh02"].kill()
        await watch.turned(1)
        assert [host.up for host in watch.pool.hosts] == [True, False, True]
        await farm.hosts["rdsh02"].start()
        await watch.turned(2)
        assert watch.turns == [("rdsh02", False, Cause.REFUSED), ("rdsh02", True, None)]
        assert all(host.up for host in watch.pool.hosts)


async def test_a_host_that_accepts_and_stays_silent_goes_down() -> None:
    async with Farm.start(hosts=1, base="127.78.2.") as farm:
        farm.hosts["rdsh01"].silence()
        async with watching(farm, HealthCheck.X224, timeout_s=0.5) as watch:
            await watch.turned(1)
            await farm.hosts["rdsh01"].start()
            await watch.turned(2)
            assert watch.turns == [("rdsh01", False, Cause.TIMEOUT), ("rdsh01", True, None)]


async def test_tls_checks_know_each_hosts_certificate_and_log_nobody_in() -> None:
    async with (
        Farm.start(hosts=3, base="127.78.3.") as farm,
        watching(farm, HealthCheck.TLS) as watch,
    ):
        health = await watch.seen(lambda health: health.last is not None)
        for host in farm.hosts.values():
            result = health[host.name].last
            assert result is not None
            assert (result.ok, result.detail) == (True, "")
            shown = watch.inventory.hosts_that_show(host.certificate.fingerprint)
            assert shown == [f"desktops/{host.name}"]
            stages = {visit.stage for visit in host.visits if not visit.open}
            assert stages <= {Stage.TLS}
            assert {visit.line for visit in host.visits} <= {None}


async def test_a_farm_of_which_nothing_is_left_comes_back_whole() -> None:
    async with (
        Farm.start(hosts=4, base="127.78.4.") as farm,
        watching(farm, HealthCheck.X224) as watch,
    ):
        for host in farm.hosts.values():
            await host.kill()
        await watch.turned(4)
        assert watch.pool.ready() == []
        for host in farm.hosts.values():
            await host.start()
        await watch.turned(8)
        assert len(watch.pool.ready()) == 4


async def test_a_monitor_that_stops_leaves_no_connection_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[socket.socket] = []
    connect = sockets.connect

    async def recorded(address: Address, until: float) -> socket.socket:
        sock = await connect(address, until)
        opened.append(sock)
        return sock

    monkeypatch.setattr(sockets, "connect", recorded)
    async with Farm.start(hosts=3, base="127.78.5.") as farm:
        for host in farm.hosts.values():
            host.silence()
        async with watching(farm, HealthCheck.X224, timeout_s=0.5) as watch:
            await watch.turned(3)
        assert opened
        assert all(sock.fileno() == -1 for sock in opened)
