"""The front's doors: bound before anything changes, opened and closed while it runs."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.address import Address
from proxy.listeners import Listeners
from proxy.settings import ListenerSettings
from tests.unit.routing.farm import pool, routes
from tests.unit.server.reception import Reception

FIRST = Address("127.0.0.1", 1)
SECOND = Address("127.0.0.1", 2)
EVERYWHERE = Address("::", 1)


class Parent:
    """Gives sockets that listen somewhere, and keeps them, as the parent does."""

    def __init__(self) -> None:
        self.sockets: dict[Address, socket.socket] = {}
        self.asked: list[Address] = []
        self.unlistened: list[Address] = []
        self.taken: set[Address] = set()

    async def listen(self, address: Address) -> socket.socket:
        self.asked.append(address)
        if address in self.taken:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        if address not in self.sockets:
            self.sockets[address] = socket.create_server(("127.0.0.1", 0))
            self.sockets[address].setblocking(False)  # which a copy takes over
        return self.sockets[address].dup()

    async def unlisten(self, address: Address) -> None:
        self.unlistened.append(address)
        self.sockets.pop(address).close()


class House:
    def __init__(self, clients: asyncio.TaskGroup) -> None:
        self.parent, self.reception = Parent(), Reception()
        link: Any = self.parent
        reception: Any = self.reception
        self.listeners = Listeners(link, reception)
        self.clients = clients
        self.dialled: list[socket.socket] = []

    async def have(self, *wanted: tuple[str, Address]) -> None:
        settings = [ListenerSettings(name=name, bind=at, pool="desktops") for name, at in wanted]
        await self.listeners.bind(settings)
        by_name = {name: routes(pool()) for name, _ in wanted}
        self.listeners.change(settings, by_name, 60, self.clients)
        await self.listeners.release()

    async def who_takes_a_client(self, address: Address) -> str:
        before = len(self.reception.takers)
        client = socket.create_connection(self.parent.sockets[address].getsockname())
        self.dialled.append(client)
        await self.reception.has(before + 1)
        return self.reception.takers[-1]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with asyncio.TaskGroup() as clients:
        made = House(clients)
        yield made
        made.listeners.close()
        made.listeners.abandon()
    for sock in (*made.dialled, *made.parent.sockets.values()):
        sock.close()


async def test_a_listener_that_stays_is_not_bound_anew(house: House) -> None:
    await house.have(("rdp", FIRST))
    await house.have(("rdp", FIRST), ("second", SECOND))
    assert house.parent.asked == [FIRST, SECOND]
    assert await house.who_takes_a_client(FIRST) == "rdp"
    assert await house.who_takes_a_client(SECOND) == "second"


async def test_listeners_may_change_places(house: House) -> None:
    await house.have(("a", FIRST), ("b", SECOND))
    await house.have(("a", SECOND), ("b", FIRST))
    assert await house.who_takes_a_client(FIRST) == "b"
    assert await house.who_takes_a_client(SECOND) == "a"
    assert house.parent.unlistened == []


async def test_a_listener_that_goes_leaves_its_clients_be(house: House) -> None:
    await house.have(("rdp", FIRST), ("second", SECOND))
    await house.who_takes_a_client(SECOND)
    await house.have(("rdp", FIRST))
    assert house.parent.unlistened == [SECOND]
    assert [listener.settings.name for listener in house.listeners.open] == ["rdp"]
    assert house.reception.broken_off == 0
    house.listeners.abandon()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert house.reception.broken_off == 1, "they are broken off with all others, at a stop"


async def test_of_a_listener_that_has_gone_nothing_is_kept(house: House) -> None:
    await house.have(("rdp", FIRST), ("second", SECOND))
    for _ in range(3):
        await house.have(("rdp", FIRST))
    assert house.parent.unlistened == [SECOND]


async def test_a_front_that_stops_has_all_addresses_refuse_clients(house: House) -> None:
    await house.have(("rdp", FIRST), ("second", SECOND))
    house.listeners.close()
    await house.listeners.release()
    assert sorted(house.parent.unlistened) == [FIRST, SECOND]


async def test_an_address_that_is_taken_lets_go_of_what_was_bound_with_it(house: House) -> None:
    await house.have(("rdp", FIRST))
    house.parent.taken.add(EVERYWHERE)
    with pytest.raises(OSError, match="listener new at"):
        await house.have(("rdp", FIRST), ("other", FIRST), ("second", SECOND), ("new", EVERYWHERE))
    assert house.parent.unlistened == [SECOND]
    assert await house.who_takes_a_client(FIRST) == "rdp"
    with pytest.raises(OSError, match="listener new at"):
        await house.have(("rdp", FIRST), ("new", EVERYWHERE))
    assert house.parent.unlistened == [SECOND], "of the file before nothing is left"


async def test_at_the_start_what_was_bound_stays_for_another_front(house: House) -> None:
    house.parent.taken.add(SECOND)
    with pytest.raises(OSError, match="already in use"):
        await house.have(("rdp", FIRST), ("second", SECOND))
    assert house.parent.unlistened == []
