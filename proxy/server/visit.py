"""Visit: one client on its way to a host, from its request to the hand-off."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Protocol

from proxy.address import Address
from proxy.affinity.store import PinKey
from proxy.routing.key import NO_KEY, AffinityKey, IPAddress
from proxy.routing.pool import Host, Pool
from proxy.routing.routes import Routes
from proxy.routing.will import Hold
from proxy.server.lines import Turn
from proxy.server.record import ConnectionRecord
from proxy.wire.tokens import RoutingToken
from proxy.wire.x224 import ConnectionRequest


@dataclass(slots=True)
class Visit:
    """What placement knows of the client in hand.

    Attributes:
        token, destination: what to route by; set to None when the client goes on without it.
        pool, key: where it belongs and what it is pinned under, as of the last decision.
        hold: how firmly it holds its pin, as of the last look.
        deadline: until when it is held, on the loop's clock.
        turn: where it stands in line for a place in its pool.
        guest: a host that the broker names and nobody has listed; this client alone knows it.
    """

    client: socket.socket
    source: IPAddress
    routes: Routes
    request: ConnectionRequest
    record: ConnectionRecord
    token: RoutingToken | None
    pool: Pool
    destination: Address | None = None
    key: AffinityKey = NO_KEY
    hold: Hold = Hold.IDLE
    deadline: float = 0.0
    turn: Turn | None = None
    guest: Host | None = None

    def may_dial(self, host: Host) -> bool:
        """Whether a host that was decided on a while ago is still one of those to choose from."""
        if host is self.guest:
            return self.routes.adopter_of(host.address) is self.pool
        return self.pool.has(host)

    def pin_keys(self) -> tuple[PinKey, ...]:
        """Every entry of the affinity table that speaks of this client, the primary first."""
        return tuple(PinKey(self.pool.name, name) for name in self.key.entries)


@dataclass(frozen=True, slots=True)
class Placed:
    """A host that has answered, and the connection to it. The host counts it in `live`."""

    host: Host
    server: socket.socket

    def give_up(self) -> None:
        """Nobody takes this connection: close it, and count it no more."""
        self.host.live -= 1
        self.server.close()


class Guests(Protocol):
    """Where the hosts come from that brokers name and nobody has listed."""

    async def guest(self, routes: Routes, address: Address) -> Host | None:
        """The host that a client may be sent to at this address; None: there is none."""

    def adopt(self, guest: Host) -> Host:
        """A guest has answered: the host that its connection counts for from now on."""
