"""The client's rules, against hosts dialled directly and behind plain balancers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.address import Address
from proxy.lab.balancers import balance
from proxy.lab.farm import Farm
from proxy.lab.login import Failure, Step
from proxy.lab.session_host import Redirect, Stage
from proxy.wire import tokens
from tests.streams import listening

LOCAL = Address("127.0.0.1", 0)


@pytest.fixture
async def farm() -> AsyncIterator[Farm]:
    async with Farm.start(hosts=3, seed=1) as farm:
        yield farm


async def test_a_user_whose_session_is_here_logs_in_with_a_probe_and_a_login(farm: Farm) -> None:
    host = farm.hosts["rdsh02"]
    farm.broker.place("alice", "rdsh02")
    result = await farm.client(host.address, "alice", source="127.3.2.1", domain="DOM").login()
    assert result.ok, result.words()
    assert [leg.step for leg in result.legs] == [Step.PROBE, Step.LOGIN]
    assert {leg.certificate for leg in result.legs} == {host.certificate.fingerprint}
    assert result.host == "rdsh02"
    assert result.time_to_active_s is not None
    assert [visit.stage for visit in host.visits] == [Stage.TLS, Stage.ACTIVE]
    login = host.visits[1]
    assert (login.user, login.domain, login.peer.host) == ("alice", "DOM", "127.3.2.1")
    assert login.line == b"Cookie: mstshash=DOM\\alice"


async def test_each_connection_of_a_login_may_come_to_another_node(farm: Farm) -> None:
    first, *others = (host.address for host in farm.hosts.values())
    result = await farm.client(first, "alice", others=tuple(others), redirections=0).login()
    assert result.failure is Failure.UNEXPECTED_CERTIFICATE
    assert [leg.reached for leg in result.legs] == ["rdsh01", "rdsh02"]


async def test_a_long_name_is_cut_to_nine_characters_in_the_cookie(farm: Farm) -> None:
    host = farm.hosts["rdsh01"]
    await farm.client(host.address, "bartholomew").login()
    assert host.visits[0].line == b"Cookie: mstshash=bartholom"


async def test_a_redirected_user_comes_back_with_the_token_verbatim(farm: Farm) -> None:
    farm.broker.place("alice", "rdsh03")
    here, there = farm.hosts["rdsh01"], farm.hosts["rdsh03"]
    result = await farm.client(here.address, "alice", direct=True).login()
    assert result.ok, result.words()
    assert [leg.reached for leg in result.legs] == ["rdsh01", "rdsh01", "rdsh03"]
    assert (result.tokens, result.misrouted) == (1, 0)
    assert [visit.line for visit in there.visits] == [tokens.encode_msts(there.address)]
    assert there.visits[0].redirected_session_id == 1
    assert here.visits[1].redirected_to == "rdsh03"


async def test_a_token_that_is_ignored_ends_at_an_unexpected_certificate(farm: Farm) -> None:
    farm.broker.place("alice", "rdsh03")
    result = await farm.client(farm.hosts["rdsh01"].address, "alice").login()
    assert result.failure is Failure.UNEXPECTED_CERTIFICATE
    assert (result.tokens, result.misrouted) == (1, 1)
    told = "\n".join(result.words())
    assert "token for rdsh03 reaches rdsh01" in told
    assert "unexpected server authentication certificate" in told


async def test_a_second_redirection_ends_the_login_where_no_certificate_is_named() -> None:
    async with Farm.start(hosts=2, target_certificate=False) as farm:
        farm.broker.place("alice", "rdsh02")
        result = await farm.client(farm.hosts["rdsh01"].address, "alice").login()
    assert result.failure is Failure.REDIRECTED_AGAIN


async def test_a_session_elsewhere_than_the_token_says_is_on_a_wrong_host() -> None:
    async with Farm.start(hosts=2, redirect=Redirect.NONE) as farm:
        line = tokens.encode_msts(farm.hosts["rdsh02"].address)
        result = await farm.client(farm.hosts["rdsh01"].address, "alice", line=line).login()
    assert result.failure is Failure.WRONG_HOST
    assert result.misrouted == 2


async def test_probe_and_login_on_different_hosts_end_at_an_unexpected_certificate(
    farm: Farm,
) -> None:
    hosts = [host.address for host in farm.hosts.values()]
    async with balance("round_robin", LOCAL, hosts) as address:
        result = await farm.client(address, "alice").login()
    assert result.failure is Failure.UNEXPECTED_CERTIFICATE
    assert [leg.step for leg in result.legs] == [Step.PROBE, Step.LOGIN]


async def test_a_redirection_by_address_goes_past_the_balancer() -> None:
    async with Farm.start(hosts=2, redirect="address") as farm:
        farm.broker.place("alice", "rdsh02")
        here, there = farm.hosts["rdsh01"], farm.hosts["rdsh02"]
        async with balance("sticky", LOCAL, [here.address]) as address:
            result = await farm.client(address, "alice", source="127.3.2.1").login()
    assert result.ok, result.words()
    assert result.tokens == 0
    assert result.legs[2].address == there.address
    assert there.visits[0].peer.host == "127.3.2.1"


async def test_a_request_sent_byte_by_byte_logs_in(farm: Farm) -> None:
    host = farm.hosts["rdsh01"]
    result = await farm.client(host.address, "alice", byte_by_byte=True).login()
    assert result.ok, result.words()


async def test_a_session_carries_data_both_ways_until_it_is_closed(farm: Farm) -> None:
    host = farm.hosts["rdsh01"]
    async with farm.client(host.address, "alice").session() as (result, session):
        assert session is not None, result.words()
        for data in (b"hello", b"z" * 16000):
            assert await session.echo(data) == data
        assert host.open_connections == 1
    assert result.ok


async def test_a_host_that_refuses_and_one_that_is_silent_give_their_causes(farm: Farm) -> None:
    refusing, silent = farm.hosts["rdsh01"], farm.hosts["rdsh02"]
    await refusing.refuse()
    silent.silence()
    refused = await farm.client(refusing.address, "alice").login()
    assert refused.failure is Failure.REFUSED
    assert refused.words()[1] == 'The probe with "Cookie: mstshash=alice" reaches nobody.'
    timed_out = await farm.client(silent.address, "alice", timeout_s=0.1).login()
    assert timed_out.failure is Failure.TIMEOUT


async def test_a_session_that_is_cut_fails_its_login(farm: Farm) -> None:
    host = farm.hosts["rdsh01"]
    client = farm.client(host.address, "alice", hold_s=0.05)
    async with client.session() as (result, session):
        assert session is not None
        await host.kill()
        await client.stay(result, session)
    assert result.failure is Failure.CLOSED
    assert "the session was cut" in result.words()[-1]


async def test_noise_in_place_of_a_host_is_a_closed_connection(farm: Farm) -> None:
    async def noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 5)

    async with listening(noise) as address:
        result = await farm.client(address, "alice").login()
    assert result.failure is Failure.CLOSED
