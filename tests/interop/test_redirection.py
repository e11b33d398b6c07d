"""FreeRDP, a lab farm whose broker redirects by token, and rdp-proxy between them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.address import Address
from proxy.lab.balancers import balance
from proxy.lab.farm import Farm
from proxy.lab.session_host import SessionHost, Stage, Visit
from proxy.wire import tokens
from tests.integration.running import RunningProxy, running
from tests.interop.clients import Computer, pins
from tests.interop.display import display
from tests.interop.programs import Program


def two_hosts(farm: Farm, first: str) -> tuple[SessionHost, SessionHost]:
    """The host where a client begins, and another one where its user's session is."""
    away = next(host for name, host in farm.hosts.items() if name != first)
    farm.broker.place("alice", away.name)
    return farm.hosts[first], away


def clients(*hosts: SessionHost) -> list[Visit]:
    """What hosts saw of clients: the proxy's health checks come without a line."""
    return [visit for host in hosts for visit in host.visits if visit.line is not None]


def active(host: SessionHost) -> list[Visit]:
    return [visit for visit in host.visits if visit.stage is Stage.ACTIVE]


def placed_by_token(proxy: RunningProxy) -> list[dict[str, Any]]:
    return [line for line in proxy.events("connection_placed") if line["reason"] == "token"]


def token_for(host: SessionHost) -> bytes:
    return tokens.encode_msts(host.address)


@asynccontextmanager
async def redirected_freerdp(
    farm: Farm, proxy: RunningProxy, directory: Path
) -> AsyncIterator[tuple[Program, SessionHost, SessionHost]]:
    """FreeRDP through the proxy, whose pin sends it to another host than its session's.

    It accepts the certificates of these two hosts and no other. Inside the block it is active.
    """
    first = (await farm.client(proxy.address, "somebody").login()).host
    assert first is not None
    begin, away = two_hosts(farm, first)
    for host in farm.hosts.values():
        host.visits.clear()
    computer = Computer("desk", directory / "desk")
    options = ("/u:alice", pins(begin.certificate.fingerprint, away.certificate.fingerprint))
    async with (
        display(directory / "display") as screen,
        computer.freerdp(proxy.address, *options, "+auto-reconnect", display=screen) as client,
    ):
        await client.until("an active session", lambda: bool(active(away)))
        yield client, begin, away


async def test_freerdp_follows_a_token_to_the_host_of_its_session(tmp_path: Path) -> None:
    async with Farm.start(hosts=4) as farm, running(farm, tmp_path) as proxy:
        async with redirected_freerdp(farm, proxy, tmp_path) as (client, begin, away):
            (before,) = clients(begin)
            assert (before.stage, before.redirected_to) == (Stage.REDIRECTED, away.name)
            assert (before.line, before.user) == (b"Cookie: mstshash=alice", "alice")
            (there,) = clients(away)
            assert (there.line, there.user) == (token_for(away), "alice")
            assert there.redirected_session_id == 1
            assert len(clients(*farm.hosts.values())) == 2
            await client.until("its line in the log", lambda: bool(placed_by_token(proxy)))
        (by_token,) = placed_by_token(proxy)
        assert (by_token["host"], by_token["token_fate"]) == (away.name, "honoured")
        assert by_token["token_address"] == str(away.address)
        assert await proxy.metric("tokens_total", fate="honoured") == 1


async def test_behind_a_plain_balancer_the_same_client_meets_an_unexpected_certificate(
    tmp_path: Path,
) -> None:
    async with Farm.start(hosts=4) as farm, display(tmp_path / "display") as screen:
        first, second, third, _ = farm.hosts.values()  # in the balancer's order
        farm.broker.place("alice", third.name)
        trusted = pins(first.certificate.fingerprint, third.certificate.fingerprint)
        bind, hosts = Address("127.0.0.1", 0), [host.address for host in farm.hosts.values()]
        async with balance("round_robin", bind, hosts) as address:
            computer = Computer("desk", tmp_path / "desk")
            async with computer.freerdp(address, "/u:alice", trusted, display=screen) as client:
                await client.until_says("certificate not trusted, aborting")
                await client.ended()
        assert [visit.redirected_to for visit in first.visits] == [third.name]
        assert [(visit.line, visit.stage) for visit in second.visits] == [
            (token_for(third), Stage.TLS)
        ]
        assert third.visits == []


async def kill_the_relay(proxy: RunningProxy, away: SessionHost) -> None:
    for pid in proxy.children("proxy.relay.process"):
        os.kill(pid, signal.SIGKILL)


async def restart_the_host(proxy: RunningProxy, away: SessionHost) -> None:
    await away.kill()
    await away.start()


@pytest.mark.parametrize("cut", [kill_the_relay, restart_the_host])
async def test_when_its_connection_breaks_freerdp_comes_back_by_its_token_to_the_same_host(
    tmp_path: Path, cut: Callable[[RunningProxy, SessionHost], Awaitable[None]]
) -> None:
    async with (
        Farm.start(hosts=4) as farm,
        running(farm, tmp_path) as proxy,
        redirected_freerdp(farm, proxy, tmp_path) as (client, begin, away),
    ):
        await cut(proxy, away)
        farm.broker.place("alice", away.name)  # a restarted host has lost it
        await client.until("a second active session", lambda: len(active(away)) == 2)
        await client.until("the first one gone", lambda: not active(away)[0].open)
        assert active(away)[1].open
        assert {visit.line for visit in active(away)} == {token_for(away)}
        assert len(clients(begin)) == 1
        everybody = clients(*farm.hosts.values())
        assert {visit.host for visit in everybody} == {begin.name, away.name}
        await client.until("their lines in the log", lambda: len(placed_by_token(proxy)) == 2)
        assert {line["host"] for line in placed_by_token(proxy)} == {away.name}
        assert {line["token_fate"] for line in placed_by_token(proxy)} == {"honoured"}
