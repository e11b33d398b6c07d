"""The life of a connection in the front: admit, read, place, hand off.

The task of a connection ends at its hand-off; from then on it is a row of the ConnectionTable.
Every connection has exactly one Ending, whoever gives it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from proxy import sockets
from proxy.address import Address
from proxy.errors import Cause, LimitError, ProxyError, Side
from proxy.relay.hand_off import RelayPool
from proxy.routing.key import IPAddress, is_within
from proxy.routing.routes import Routes
from proxy.server.destination import dialled_host
from proxy.server.gate import Gate
from proxy.server.placement import Placer
from proxy.server.record import ConnectionRecord, Ending, Observer, Phase
from proxy.server.request import read_proxy_header, read_request
from proxy.server.table import ConnectionTable, Established
from proxy.server.unmatched import UnmatchedCollections
from proxy.server.visit import Placed, Visit
from proxy.settings import ListenerSettings, TimeoutSettings
from proxy.wire.x224 import (
    ConnectionRequest,
    FailureCode,
    NegotiationFailure,
    encode_connection_confirm,
)

log = logging.getLogger(__name__)

_REFUSAL_DRAIN_S = 2.0  # how long a refused client may take to read why, and close


@dataclass(slots=True)
class Reception:
    """Receives clients: one `receive` a connection, from accept to hand-off."""

    timeouts: TimeoutSettings
    gate: Gate
    placer: Placer
    relays: RelayPool
    table: ConnectionTable
    observer: Observer
    wall: Callable[[], float]
    next_id: Callable[[], int]
    unmatched: UnmatchedCollections = field(default_factory=UnmatchedCollections)

    async def receive(
        self, listener: ListenerSettings, routes: Routes, sock: socket.socket, peer: Address
    ) -> None:
        """Bring one client to its host. Owns `sock`. Raises nothing but CancelledError."""
        record = ConnectionRecord(self.next_id(), listener.name, peer, peer, self.wall())
        self.observer.connection_accepted(record)
        self.gate.connections += 1
        stay = _Stay(self.gate)
        try:
            await self._bring(listener, routes, sock, record, stay)
        except ProxyError as error:
            ending = Ending(record.phase, error.side, error.cause)
            if error.detail:
                log.debug("connection_refused", extra={"id": record.id, "detail": error.detail})
        except asyncio.CancelledError:
            self._end(record, Ending(record.phase, Side.LOCAL, Cause.STOPPED), sock, stay)
            raise
        except Exception:  # a fault of ours must not end the front: one connection, one log line
            log.exception("connection_failed", extra={"id": record.id})
            ending = Ending(record.phase, Side.LOCAL, Cause.INTERNAL)
        else:
            return
        self._end(record, ending, sock, stay)

    async def _bring(
        self,
        listener: ListenerSettings,
        routes: Routes,
        sock: socket.socket,
        record: ConnectionRecord,
        stay: _Stay,
    ) -> None:
        began = perf_counter()
        if self.gate.is_over_limit:
            raise LimitError(Cause.LIMIT, "limits.connections is reached")
        source, request = await self._read(listener, routes, sock, record, stay)
        record.request_s = perf_counter() - began
        if listener.require_tls:
            await self._require_tls(sock, request)
        self._ask_for_collection(record, routes)
        began = perf_counter()
        visit = Visit(
            sock,
            source,
            routes,
            request,
            record,
            request.routing_token,
            routes.default,
            record.destination,
        )
        placed = await self.placer.place(visit)
        record.place_s = perf_counter() - began
        await self._hand_off(visit, placed)

    async def _read(
        self,
        listener: ListenerSettings,
        routes: Routes,
        sock: socket.socket,
        record: ConnectionRecord,
        stay: _Stay,
    ) -> tuple[IPAddress, ConnectionRequest]:
        """Admit the client and read its request, under one deadline from accept on."""
        source, told = ipaddress.ip_address(record.peer.host), None
        trusted = listener.proxy_protocol.trusted if listener.proxy_protocol else ()
        until = asyncio.get_running_loop().time() + self.timeouts.connection_request_s
        if is_within(source, trusted):
            record.phase = Phase.REQUEST
            header = await read_proxy_header(sock, until)
            record.client, told = header.source or record.peer, header.destination
            record.phase = Phase.ACCEPT
            source = ipaddress.ip_address(record.client.host)
        stay.enter(source, record.client.host, listener)
        record.phase = Phase.REQUEST
        request = await read_request(sock, until)
        record.destination = dialled_host(listener, routes, sock, told)
        token = request.routing_token
        record.user = request.user
        if token is not None:
            record.token, record.token_address = token.text, token.address
            record.collection = token.collection
        if request.negotiation is not None:
            record.requested_protocols = request.negotiation.requested_protocols
        if request.correlation_id is not None:
            record.correlation_id = request.correlation_id.hex()
        return source, request

    def _ask_for_collection(self, record: ConnectionRecord, routes: Routes) -> None:
        if record.collection is not None:
            record.collection_alias = routes.alias_of(record.collection)
            if record.collection_alias is None:
                self.unmatched.note(record.listener, record.collection, routes, self.wall())

    async def _require_tls(self, sock: socket.socket, request: ConnectionRequest) -> None:
        """Refuse a client that offers standard RDP security only.

        Failure code 1 makes no client try again at once; 2 and 3 send rdesktop into a tight loop.
        Nothing may follow the failure, and a client that sent no negotiation request must not get
        one ([MS-RDPBCGR] 2.2.1.2).
        """
        if request.negotiation is None:
            raise LimitError(Cause.TLS_REQUIRED, "client offers standard RDP security only")
        if request.negotiation.requested_protocols:
            return
        failure = NegotiationFailure(FailureCode.SSL_REQUIRED_BY_SERVER)
        until = asyncio.get_running_loop().time() + _REFUSAL_DRAIN_S
        try:
            await sockets.send(sock, encode_connection_confirm(failure), until)
            await sockets.receive(sock, 1, until)
        except OSError:
            log.debug("a refused client left without reading why")
        raise LimitError(Cause.TLS_REQUIRED, "client offers standard RDP security only")

    async def _hand_off(self, visit: Visit, placed: Placed) -> None:
        record = visit.record
        row = Established(record, placed.host, visit.pin_keys())
        record.phase = Phase.RELAY
        record.bytes_up = len(visit.request.raw)
        self.table.add(row)
        try:
            record.relay = await self.relays.hand_off(
                record.id,
                visit.client,
                placed.server,
                bytes_up=record.bytes_up,
                idle_s=self.timeouts.idle_s,
                half_close_s=self.timeouts.half_close_s,
                record=record.pack(),
            )
        except BaseException:
            self.table.drop(row)
            placed.give_up()
            raise
        self.observer.connection_placed(record)

    def _end(
        self, record: ConnectionRecord, ending: Ending, sock: socket.socket, stay: _Stay
    ) -> None:
        sock.close()
        stay.leave()
        self.gate.connections -= 1
        record.ending = ending
        record.duration_s = max(0.0, self.wall() - record.accepted_at)
        self.observer.connection_ended(record)


class _Stay:
    """Whether the gate counts this client, so that it is un-counted exactly once.

    Attributes:
        source: the client's address, once it is admitted.
    """

    __slots__ = ("_gate", "source")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.source: str | None = None

    def enter(self, source: IPAddress, name: str, listener: ListenerSettings) -> None:
        self._gate.enter(source, name, listener.allow)
        self.source = name

    def leave(self) -> None:
        if self.source is not None:
            self._gate.leave(self.source)
