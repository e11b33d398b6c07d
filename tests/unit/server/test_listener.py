"""Accepting: everybody who waits, until told to stop, and patiently when sockets run out."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.address import Address
from proxy.server.listener import Listener
from proxy.settings import ListenerSettings
from tests.patience import PATIENCE_S
from tests.unit.server.reception import Reception

SETTINGS = ListenerSettings(name="rdp", bind=Address("127.0.0.1", 1), pool="p")


class Scarce(socket.socket):
    """A listening socket that runs out of descriptors first."""

    failures: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            raise OSError(self.failures.pop(), "no more")
        return super().accept()


class Open:
    def __init__(self, listener: Listener, reception: Reception, address: tuple[str, int]) -> None:
        self.listener, self.reception, self.address = listener, reception, address
        self.clients: list[socket.socket] = []

    def dial(self) -> None:
        client = socket.socket()
        self.clients.append(client)
        client.connect(self.address)


@pytest.fixture
async def o() -> AsyncIterator[Open]:
    sock = Scarce()
    sock.failures = []
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    address = sock.getsockname()
    reception = Reception()
    async with asyncio.TaskGroup() as tasks:
        listener = Listener(SETTINGS, None, sock, reception, tasks, 60.0)  # type: ignore[arg-type]
        listener.open()
        opened = Open(listener, reception, address)
        yield opened
        if sock.fileno() >= 0:
            listener.close()
        listener.abandon()
    for client in opened.clients:
        client.close()


async def test_each_client_is_received_with_its_address(o: Open) -> None:
    for _ in range(100):
        o.dial()
    await o.reception.has(100)
    peers = [Address(*client.getsockname()) for client in o.clients]
    assert sorted(o.reception.peers) == sorted(peers)


async def test_a_listener_that_is_closed_accepts_nobody(o: Open) -> None:
    o.dial()
    await o.reception.has(1)
    o.listener.close()
    with pytest.raises(ConnectionRefusedError):
        o.dial()
    o.listener.abandon()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert o.reception.broken_off == 1


async def test_when_sockets_run_out_clients_wait_and_are_served_later(
    o: Open, caplog: pytest.LogCaptureFixture
) -> None:
    listening = o.listener._sock
    assert isinstance(listening, Scarce)
    listening.failures = [errno.EMFILE, errno.ENFILE]
    o.dial()
    await o.reception.has(1)
    assert [record.message for record in caplog.records] == ["accept_paused"], "told once"


async def test_a_listener_may_be_closed_while_it_pauses(o: Open) -> None:
    listening = o.listener._sock
    assert isinstance(listening, Scarce)
    listening.failures = [errno.EMFILE]
    o.dial()
    async with asyncio.timeout(PATIENCE_S):
        while listening.failures:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    o.listener.close()
    await asyncio.sleep(0.15)
    assert o.reception.peers == []
