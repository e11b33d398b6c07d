"""Canaries: the proxy's own test connections, received beside those of clients.

A canary comes through the same listening socket as clients do, with a routing token; its request
is read by the same reader, judged by the same `decide()`, dialled by the same Dialler and carried
by a relay. It is nobody's: no gate, no PROXY header, no pin, no row in the ConnectionTable, no log
line, and no metric of clients counts it (that of relays does: it is in their hands). Whoever sends
one learns through its `Arrival` what became of it.

It is known by its own end: the front binds its socket before it connects, so while that socket
lives nobody else can come from that address and port. A client cannot pretend to be one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from proxy.address import Address
from proxy.errors import Cause, LimitError, ProxyError
from proxy.relay.hand_off import RelayPool
from proxy.routing.decide import Question, decide
from proxy.routing.pool import Host
from proxy.routing.routes import Routes
from proxy.server.connection import Reception
from proxy.server.dial import Dialler
from proxy.server.record import CANARY_RECORD, ConnectionRecord
from proxy.server.request import read_request
from proxy.server.visit import Visit
from proxy.settings import ListenerSettings

log = logging.getLogger(__name__)

_HALF_CLOSE_S = 1.0


@dataclass(slots=True)
class Arrival:
    """What became of one canary.

    Attributes:
        host: where it was sent.
        refused: why it came to nothing, if it did.
    """

    host: Host | None = None
    refused: str | None = None


@dataclass(slots=True)
class Canaries:
    """Receives canaries and leaves everybody else to `clients`."""

    clients: Reception
    dialler: Dialler
    relays: RelayPool
    _expected: dict[Address, Arrival] = field(default_factory=dict)

    @contextmanager
    def expect(self, own: Address) -> Iterator[Arrival]:
        """Take what comes from `own` for a canary, as long as the block lasts."""
        arrival = self._expected[own] = Arrival()
        try:
            yield arrival
        finally:
            del self._expected[own]

    def receive(
        self, listener: ListenerSettings, routes: Routes, sock: socket.socket, peer: Address
    ) -> Coroutine[None, None, None]:
        """As `Reception.receive`."""
        arrival = self._expected.get(peer)
        if arrival is None:
            return self.clients.receive(listener, routes, sock, peer)
        return self._receive(listener, routes, sock, peer, arrival)

    async def _receive(
        self,
        listener: ListenerSettings,
        routes: Routes,
        sock: socket.socket,
        peer: Address,
        arrival: Arrival,
    ) -> None:
        record = ConnectionRecord(
            self.clients.next_id(), listener.name, peer, peer, self.clients.wall()
        )
        try:
            await self._bring(routes, sock, record, arrival)
        except ProxyError as error:
            arrival.refused = error.detail or str(error.cause)
        except Exception as error:  # a fault of ours must not end the front
            log.exception("connection_failed", extra={"id": record.id})
            arrival.refused = repr(error)
        finally:
            sock.close()

    async def _bring(
        self, routes: Routes, sock: socket.socket, record: ConnectionRecord, arrival: Arrival
    ) -> None:
        timeouts = self.clients.timeouts
        until = asyncio.get_running_loop().time() + timeouts.connection_request_s
        request = await read_request(sock, until)
        token = request.routing_token
        decision = decide(Question(routes, routes.pool_of(token), token))
        if not decision.candidates:
            detail = f"no host of listener {record.listener} has the token's address"
            raise LimitError(Cause.TOKEN_UNKNOWN_HOST, detail)
        host = arrival.host = decision.candidates[0]
        source = ipaddress.ip_address(record.peer.host)
        visit = Visit(sock, source, routes, request, record, token, decision.pool)
        server = await self.dialler.dial(visit, host)
        try:
            await self.relays.hand_off(
                record.id,
                sock,
                server,
                bytes_up=len(request.raw),
                idle_s=timeouts.answer_s,
                half_close_s=_HALF_CLOSE_S,
                record=CANARY_RECORD,
            )
        except BaseException:
            server.close()
            raise
