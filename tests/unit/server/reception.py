"""A reception that keeps whoever comes, for the tests of listeners."""

from __future__ import annotations

import asyncio
import socket

from proxy.address import Address
from proxy.routing.routes import Routes
from proxy.settings import ListenerSettings
from tests.patience import PATIENCE_S


class Reception:
    """Keeps each client until it is told to let go, and knows which listener took it."""

    def __init__(self) -> None:
        self.takers: list[str] = []
        self.peers: list[Address] = []
        self.broken_off = 0
        self._came = asyncio.Event()

    async def receive(
        self, listener: ListenerSettings, routes: Routes, sock: socket.socket, peer: Address
    ) -> None:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        self.takers.append(listener.name)
        self.peers.append(peer)
        self._came.set()
        with sock:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.broken_off += 1
                raise

    async def has(self, count: int) -> None:
        """Wait until so many have come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.peers) < count:
                self._came.clear()
                await self._came.wait()
