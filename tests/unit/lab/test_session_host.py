"""What a session host answers, and how it fails when told to."""

from __future__ import annotations

import asyncio

import pytest

from proxy.lab.farm import Farm
from proxy.lab.link import Link, LinkClosedError
from proxy.lab.session_host import Stage
from proxy.wire import x224
from tests.patience import PATIENCE_S


async def test_a_client_without_tls_is_told_that_tls_is_required() -> None:
    async with Farm.start(hosts=1) as farm:
        link = await Link.dial(farm.hosts["rdsh01"].address)
        await link.send(x224.encode_connection_request(requested_protocols=0))
        confirm = x224.parse_connection_confirm(await link.read_packet())
        await link.close()
    assert isinstance(confirm, x224.ConnectionConfirm)
    assert confirm.negotiation == x224.NegotiationFailure(1)
    assert [visit.stage for visit in farm.visits] == [Stage.REFUSED]


async def test_a_client_that_cannot_negotiate_is_closed_without_an_answer() -> None:
    async with Farm.start(hosts=1) as farm:
        link = await Link.dial(farm.hosts["rdsh01"].address)
        await link.send(x224.encode_connection_request(requested_protocols=None))
        with pytest.raises(LinkClosedError):
            await link.read_packet()
        await link.close()


async def test_noise_leaves_a_fault_and_the_host_goes_on() -> None:
    async with Farm.start(hosts=1) as farm:
        host = farm.hosts["rdsh01"]
        link = await Link.dial(host.address)
        await link.send(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        await link.closed()
        await link.close()
        result = await farm.client(host.address, "alice").login()
    assert result.ok, result.words()
    assert host.visits[0].fault is not None
    assert host.visits[0].stage is Stage.ACCEPTED


async def test_a_killed_host_loses_its_sessions_and_comes_back_at_the_same_address() -> None:
    async with Farm.start(hosts=2) as farm:
        host, other = farm.hosts["rdsh01"], farm.hosts["rdsh02"]
        before = host.address
        async with farm.client(host.address, "alice").session() as (_, session):
            assert session is not None
            await host.kill()
            await asyncio.wait_for(session.closed(), PATIENCE_S)
        assert farm.broker.session_of("alice", "Full_Desktop") is None
        assert (await farm.client(other.address, "alice").login()).host == "rdsh02"
        await host.start()
        assert host.address == before
        assert (await farm.client(host.address, "bob").login()).host == "rdsh01"


async def test_a_refusing_host_keeps_its_sessions() -> None:
    async with Farm.start(hosts=1) as farm:
        host = farm.hosts["rdsh01"]
        async with farm.client(host.address, "alice").session() as (_, session):
            assert session is not None
            await host.refuse()
            with pytest.raises(ConnectionRefusedError):
                await Link.dial(host.address)
            assert await session.echo(b"on") == b"on"


async def test_a_silent_host_answers_again_after_a_start() -> None:
    async with Farm.start(hosts=1) as farm:
        host = farm.hosts["rdsh01"]
        host.silence()
        link = await Link.dial(host.address)
        await link.send(x224.encode_connection_request())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.read_packet(), 0.05)
        await link.close()
        await host.start()
        assert (await farm.client(host.address, "alice").login()).ok
        assert farm.broker.session_of("alice", "Full_Desktop") == "rdsh01"


async def test_the_broker_sends_nobody_to_a_silent_host_until_it_speaks_again() -> None:
    async with Farm.start(hosts=2) as farm:
        here, silent = farm.hosts["rdsh01"], farm.hosts["rdsh02"]
        farm.broker.place("bob", "rdsh01")
        silent.silence()
        assert (await farm.client(here.address, "alice").login()).host == "rdsh01"
        await silent.start()
        carol = await farm.client(here.address, "carol", direct=True).login()
        assert carol.host == "rdsh02", carol.words()


async def test_a_client_that_leaves_is_no_fault() -> None:
    async with Farm.start(hosts=1) as farm:
        assert (await farm.client(farm.hosts["rdsh01"].address, "alice").login()).ok
    assert [(visit.fault, visit.open) for visit in farm.visits] == [(None, False)] * 2


async def test_a_session_of_limited_time_is_ended_by_its_host() -> None:
    async with Farm.start(hosts=1, session_s=1.0) as farm:
        client = farm.client(farm.hosts["rdsh01"].address, "alice")
        async with client.session() as (_, session):
            assert session is not None
            await asyncio.wait_for(session.closed(), PATIENCE_S)
            # Its user is disconnected, and comes back to it.
            assert farm.broker.session_of("alice", "Full_Desktop") == "rdsh01"
