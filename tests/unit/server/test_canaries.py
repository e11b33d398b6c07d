"""Canaries are known by where they come from, brought as clients are, and counted as nobody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy import sockets
from proxy.address import Address
from proxy.server.canaries import Arrival, Canaries
from proxy.server.record import CANARY_RECORD
from proxy.wire.tokens import encode_msts
from proxy.wire.x224 import encode_connection_request
from tests.unit.server.stage import Stage, stage
from tests.unit.server.test_connection import Door

OWN = Address("127.0.0.1", 50001)


class House:
    """A door, and canaries beside it."""

    def __init__(self, farm: Stage) -> None:
        self.farm = farm
        self.door = Door(farm)
        clients = self.door.reception
        self.canaries = Canaries(clients, farm.placer.dialler, clients.relays)

    async def send(self, line: bytes | None, *, own: Address = OWN) -> tuple[Arrival, bool]:
        """Come from `own` as a canary; what became of it, and whether the socket was closed."""
        near, far = socket.socketpair()
        near.setblocking(False)
        with far, self.canaries.expect(own) as arrival:
            far.sendall(encode_connection_request(line=line))
            await self.canaries.receive(self.door.listener, self.farm.routes, near, own)
            return arrival, near.fileno() == -1


@asynccontextmanager
async def house(*manners: str, **more: object) -> AsyncIterator[House]:
    async with stage(*manners, **more) as farm:
        yield House(farm)


def token(farm: Stage, number: int) -> bytes:
    return encode_msts(farm.hosts[number].address)


async def test_a_canary_reaches_its_tokens_host_and_nobody_counts_it() -> None:
    async with house("answer", "answer") as here:
        arrival, closed = await here.send(token(here.farm, 1))
        assert (arrival.host, arrival.refused, closed) == (here.farm.pool.hosts[1], None, True)
        ((_, record),) = here.door.relays.taken
        assert record == CANARY_RECORD
        observed = here.farm.observed
        assert (observed.accepted, observed.placed, observed.ended, observed.answered) == (
            [],
            [],
            [],
            [],
        )
        assert here.door.gate.connections == 0
        assert here.door.table.rows == {}
        assert [host.live for host in here.farm.pool.hosts] == [0, 0]
        assert await here.farm.store.size() == 0


async def test_everybody_else_is_a_client() -> None:
    async with house("answer") as here:
        near, far = socket.socketpair()
        near.setblocking(False)
        with far, here.canaries.expect(OWN) as arrival:
            far.sendall(encode_connection_request())
            peer = Address(OWN.host, OWN.port + 1)
            await here.canaries.receive(here.door.listener, here.farm.routes, near, peer)
        assert arrival == Arrival()
        assert len(here.farm.observed.placed) == 1


async def test_an_address_is_expected_only_as_long_as_the_canary_is_under_way() -> None:
    async with house("answer") as here:
        await here.send(token(here.farm, 0))
        near, far = socket.socketpair()
        near.setblocking(False)
        with far:
            far.sendall(encode_connection_request())
            await here.canaries.receive(here.door.listener, here.farm.routes, near, OWN)
        assert len(here.farm.observed.placed) == 1


async def test_a_token_that_names_no_host_is_refused_with_the_listeners_name() -> None:
    async with house("answer") as here:
        arrival, closed = await here.send(encode_msts(Address("10.9.9.9", 3389)))
        assert arrival.refused == "no host of listener rdp has the token's address"
        assert (arrival.host, closed) == (None, True)


async def test_a_token_that_is_ignored_goes_where_balancing_says() -> None:
    async with house("answer", token={"unknown_host": "ignore"}) as here:
        arrival, _ = await here.send(encode_msts(Address("10.9.9.9", 3389)))
        assert arrival.host is here.farm.pool.hosts[0]


async def test_a_host_that_refuses_says_so_and_no_client_hears_of_it() -> None:
    async with house("refuse") as here:
        arrival, closed = await here.send(token(here.farm, 0))
        assert arrival.host is here.farm.pool.hosts[0]
        assert arrival.refused is not None
        assert closed
        assert here.farm.observed.failed == []


async def test_relays_that_take_nothing_say_so() -> None:
    async with house("answer") as here:
        here.door.relays.full = True
        arrival, closed = await here.send(token(here.farm, 0))
        assert arrival.refused == "no relay takes connections"
        assert closed


async def test_a_fault_of_ours_ends_one_canary_and_not_the_front(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with house("answer") as here:

        async def broken(*_: object) -> socket.socket:
            raise KeyError("a fault of ours")

        monkeypatch.setattr(sockets, "connect", broken)
        arrival, closed = await here.send(token(here.farm, 0))
        assert arrival.refused == "KeyError('a fault of ours')"
        assert closed


async def test_a_canary_that_is_broken_off_closes_its_socket() -> None:
    async with house("silent") as here:
        near, far = socket.socketpair()
        near.setblocking(False)
        with far, here.canaries.expect(OWN):
            far.sendall(encode_connection_request(line=token(here.farm, 0)))
            receiving = asyncio.ensure_future(
                here.canaries.receive(here.door.listener, here.farm.routes, near, OWN)
            )
            await asyncio.sleep(0)
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
        assert near.fileno() == -1
