"""Whom the canary tries, and what may change meanwhile."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from proxy import sockets
from proxy.address import Address
from proxy.routing.pool import Host
from proxy.routing.will import Will, Wish
from tests.patience import PATIENCE_S
from tests.unit.control.canary_house import house


async def test_hosts_that_do_not_serve_are_not_tried_and_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.25.", hosts=3) as here:
        await here.canary.round()
        assert len(here.samples()) == 3
        here.host("rdsh01").up = False
        here.host("rdsh02").wish = Wish(Will.MAINTENANCE)
        here.host("rdsh03").wish = Wish(Will.DRAIN)
        here.tried.clear()
        await here.canary.round()
        assert here.tried == [here.address_of("rdsh03")], "a token reaches a host that drains"
        assert here.samples() == {"rdsh03": 1}


async def test_a_host_that_turns_and_a_proxy_that_stops_meanwhile_are_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.26.", hosts=1) as here:

        def goes_down(host: Host) -> str:
            host.up = False
            return "the host went down"

        here.leads = goes_down
        await here.canary.round()
        assert (here.samples(), here.events()) == ({}, [])
        here.host("rdsh01").up = True

        def stops(_: Host) -> str:
            here.doors = []
            return "the proxy stops"

        here.leads = stops
        await here.canary.round()
        assert (here.samples(), here.events()) == ({}, [])


async def test_a_host_that_the_configuration_takes_away_meanwhile_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.29.", hosts=3) as here:

        def is_removed(host: Host) -> str:
            kept = here.pool.settings.hosts[1:2]
            here.pool.change(here.pool.settings.model_copy(update={"hosts": kept}), {})
            here.leads = lambda host: host.address
            return "no host of listener rdp has the token's address"

        here.leads = is_removed
        await here.canary.round()
        assert (here.samples(), here.events()) == ({"rdsh02": 1}, [])
        assert len(here.tried) == 2, "rdsh03 is gone when its turn comes"


async def test_a_pool_that_leaves_in_the_middle_of_a_round_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.30.") as here:

        def leaves(_: Host) -> str:
            here.pool.leave()
            here.pool.forget()
            here.routes.forget(here.pool)
            return "no host of listener rdp has the token's address"

        here.leads = leaves
        await here.canary.round()
        assert (here.samples(), here.events(), len(here.tried)) == ({}, [], 1)


async def test_another_interval_counts_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.control.canary._IDLE_S", 0.01)
    async with house(caplog, "127.78.31.", hosts=3) as here:
        here.canary.interval_s = 86400.0
        round_ = asyncio.create_task(here.canary.round())
        async with asyncio.timeout(PATIENCE_S):
            while not here.samples():  # noqa: ASYNC110 (no event)
                await asyncio.sleep(0.01)
        here.canary.interval_s = 0.01
        async with asyncio.timeout(PATIENCE_S):
            await round_
        assert len(here.samples()) == 3

        def is_off_now(host: Host) -> Address:
            here.canary.interval_s = None
            return host.address

        here.leads = is_off_now
        here.tried.clear()
        await here.canary.round()
        assert len(here.tried) == 1


async def test_a_listener_of_both_families_is_reached_where_there_is_no_ipv6(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(caplog, "127.78.33.", hosts=1) as here:
        here.doors = [
            door._replace(address=Address("::", door.address.port)) for door in here.doors
        ]
        made = sockets.unconnected

        def without_ipv6(address: Address) -> socket.socket:
            if ":" in address.host:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            return made(address)

        monkeypatch.setattr("proxy.control.canary.sockets.unconnected", without_ipv6)
        await here.canary.round()
        assert (here.samples(), here.events()) == ({"rdsh01": 1}, [])


async def test_a_want_of_descriptors_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(caplog, "127.78.32.", hosts=1) as here:

        def none_left(_: Address) -> socket.socket:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr("proxy.control.canary.sockets.unconnected", none_left)
        await here.canary.round()
        (event,) = here.events()
        assert "Too many open files" in event["detail"]


async def test_without_an_interval_nothing_is_tried(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.control.canary._IDLE_S", 0.0)
    async with house(caplog, "127.78.27.", hosts=1) as here:
        await here.canary.round()
        here.canary.interval_s = None
        here.tried.clear()
        await here.canary.round()
        assert (here.samples(), here.tried) == ({}, [])


async def test_rounds_go_on_until_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    async with house(caplog, "127.78.28.", hosts=1) as here:
        running = asyncio.create_task(here.canary.run())
        async with asyncio.timeout(PATIENCE_S):
            while len(here.tried) < 3:  # noqa: ASYNC110 (no event)
                await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
