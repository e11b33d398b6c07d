"""GNOME Remote Desktop as a farm: every login is handed over twice, on one and the same host.

    async with GnomeFarm.start(hosts=4) as farm:
        result = await farm.client(address_of_the_balancer, "alice").login()

gnome-remote-desktop's system daemon answers a connection without a token by starting a login
screen (the greeter), and redirects the client to it; when the user has logged in there, it
redirects him a second time, into his session. So a login is three connections:

    1  cookie                  -> greeter is started, "come back with this token"
    2  Cookie: msts=<number>   -> greeter; the user logs in; "come back with this token"
    3  Cookie: msts=<number>   -> session

The redirections name no address. The number is random and means something on the host that drew
it and nowhere else: any other host closes the connection before it answers. Source:
grd-daemon-system.c (one number for both hand-overs of a login, valid for 30 s). Here each hand-over
has a number of its own unless a farm is told otherwise, which asks more of a balancer: the third
connection is as unknown to it as the second.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Any, NamedTuple, Self

from proxy.address import Address
from proxy.lab.activation import ClientInfo
from proxy.lab.broker import Broker
from proxy.lab.certificates import Certificate, self_signed
from proxy.lab.client import Client
from proxy.lab.farm import Farm
from proxy.lab.redirection import Redirection
from proxy.lab.session_host import Redirect, SessionHost, Stage, Visit
from proxy.wire.tokens import read_token

_HANDOVER_S = 30.0  # MAX_HANDOVER_WAIT_TIME_MS of grd-daemon-system.c
_COLLECTION = "GNOME"


class _Place(Enum):
    """Where a token leads."""

    GREETER = auto()
    SESSION = auto()


class _HandOver(NamedTuple):
    """A client that is expected back."""

    place: _Place
    until_s: float  # in the event loop's clock


class GnomeHost(SessionHost):
    """One machine with gnome-remote-desktop's system daemon.

    Args:
        start_s: how long the greeter, and later the session, takes to start; the client waits
            that long for each redirection.
        one_number: use the number of the first hand-over for the second one too.
    """

    def __init__(
        self,
        name: str,
        address: Address,
        certificate: Certificate,
        broker: Broker,
        *,
        start_s: float,
        one_number: bool,
        seed: int,
    ) -> None:
        super().__init__(name, address, certificate, broker, redirect=Redirect.NONE)
        self._start_s = start_s
        self._one_number = one_number
        self._random = random.Random(f"{seed} {name}")
        self._expected: dict[bytes, _HandOver] = {}

    @property
    def aborted_handovers(self) -> int:
        """How many connections brought a token that is none of this host's."""
        return sum(visit.stage is Stage.ABORTED for visit in self.visits)

    def _admits(self, visit: Visit) -> bool:
        return self._place_of(visit) is not None or not _brings_number(visit)

    async def _redirect_away(self, visit: Visit, info: ClientInfo) -> Redirection | None:
        place = self._place_of(visit)
        if place is _Place.SESSION:
            return None
        await asyncio.sleep(self._start_s)
        came_with = visit.line if place is not None else None
        line = came_with if came_with and self._one_number else self._draw()
        if came_with:
            self._expected.pop(came_with, None)
        until_s = asyncio.get_running_loop().time() + _HANDOVER_S
        next_place = _Place.GREETER if place is None else _Place.SESSION
        self._expected[line] = _HandOver(next_place, until_s)
        visit.redirected_to = self.name
        return Redirection(
            session_id=0,
            load_balance_info=line + b"\r\n",
            username=info.username,
            redirection_guid=uuid.uuid4().bytes,
            target_certificate=self.certificate.der,
        )

    def _place_of(self, visit: Visit) -> _Place | None:
        """Where this host expects whoever brings the visit's token; None for nobody it knows."""
        found = self._expected.get(visit.line or b"")
        if found is None or found.until_s < asyncio.get_running_loop().time():
            return None
        return found.place

    def _draw(self) -> bytes:
        return b"Cookie: msts=%d" % self._random.randint(1, 0xFFFFFFFF)


def _brings_number(visit: Visit) -> bool:
    return visit.line is not None and read_token(visit.line).is_issued_by_host


class GnomeFarm(Farm):
    """A running farm of such machines. Made by `start`."""

    @classmethod
    @asynccontextmanager
    async def start(  # type: ignore[override]  # another kind of farm, other things to say of it
        cls,
        hosts: int = 4,
        *,
        seed: int = 0,
        base: str = "127.77.1.",
        port: int = 0,
        start_s: float = 0.0,
        one_number: bool = False,
    ) -> AsyncIterator[Self]:
        """Run a farm of `gnome01`, `gnome02`, … inside the block.

        Args:
            base, port: as for Farm.
            start_s, one_number: see GnomeHost.
        """
        names = {_COLLECTION: [f"gnome{number:02}" for number in range(1, 1 + hosts)]}
        broker = Broker(names, seed=seed)

        def make(name: str, address: Address) -> SessionHost:
            return GnomeHost(
                name,
                address,
                self_signed(name),
                broker,
                start_s=start_s,
                one_number=one_number,
                seed=seed,
            )

        farm = cls(broker, {_COLLECTION: []})
        async with farm.standing(names, make, base, port):
            yield farm

    def client(self, address: Address, user: str, **options: Any) -> Client:
        """A client that follows both hand-overs; it begins without a probe, as FreeRDP does."""
        return super().client(address, user, **({"probes": False, "redirections": 2} | options))

    @property
    def aborted_handovers(self) -> int:
        """How many connections came with a token to a host that did not issue it."""
        return sum(
            host.aborted_handovers for host in self.hosts.values() if isinstance(host, GnomeHost)
        )
