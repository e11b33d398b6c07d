"""The front-door canary: would a redirection to each host work now?

At an interval it comes to each listener as a redirected client comes, with the token of each host
of its pools: X.224 and TLS, through the very socket, decision, dial and relay that a client meets.
The certificate that answers is compared with the host's own. `canaries` in `proxy.server` receives
it, and keeps it out of everything that counts clients.

- One connection at a time, spread over the interval. A host is tried by each address that a token
  may name it by, at each listener that leads to it; one fault is enough.
- Before another certificate is called a fault, the host is asked directly: it may have a new one
  since the last health check, or its pool has no `check: tls`. The inventory learns the answer.
- Hosts that health calls down, or that are in maintenance, are not tried: their state is known.
- A token holds an IPv4 address. A host that has none cannot be tested, and no token can name it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from proxy import sockets
from proxy.address import Address
from proxy.control.certificates import read_certificate, utc_text
from proxy.control.exposition import Sample
from proxy.control.http import Answer, Handler, Request, json_answer
from proxy.control.inventory import Inventory
from proxy.control.probe import ProbeResult, probe_tls, visit_with_token
from proxy.control.query import only
from proxy.routing.pool import Host, Pool
from proxy.routing.routes import Routes
from proxy.server.canaries import Arrival
from proxy.wire.tokens import encode_msts
from proxy.wire.x224 import FailureCode, NegotiationFailure

log = logging.getLogger("proxy")

_FIRST_S = 3.0  # after the start: health checks have heard of most hosts by then
_IDLE_S = 1.0  # between two looks for something to do
# Where a wildcard is reached. [::] takes both families, and a machine may have no IPv6 at all.
_ANY = {"0.0.0.0": ["127.0.0.1"], "::": ["::1", "127.0.0.1"]}


class Door(NamedTuple):
    """A listener that is open, and where its tokens lead."""

    name: str
    address: Address
    routes: Routes


class Way(NamedTuple):
    """How a redirected client would come to a host of `pool`."""

    door: Door
    pool: Pool
    token_address: Address


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one host. `fault` is None where all is well.

    Attributes:
        way: the one with the fault, else the last one tried; None: no token can name the host.
        at: seconds since the epoch.
    """

    fault: str | None
    way: Way | None
    at: float

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "up": self.fault is None if self.way else None,
            "listener": self.way.door.name if self.way else None,
            "token_address": str(self.way.token_address) if self.way else None,
            "detail": self.fault,
            "tested_at": utc_text(round(self.at)),
        }


@dataclass(slots=True)
class Canary:
    """Sends the connections and keeps the verdicts.

    Attributes:
        interval_s: time for one round over all hosts; None for no rounds. May be changed at any
            time.
        doors: the listeners that are open now.
        expect: announces the address that a canary will come from.
        wall: seconds since the epoch.
    """

    interval_s: float | None
    doors: Callable[[], Iterable[Door]]
    expect: Callable[[Address], AbstractContextManager[Arrival]]
    inventory: Inventory
    wall: Callable[[], float]
    _verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)

    async def run(self) -> None:
        """One round after the other, until cancelled."""
        await asyncio.sleep(min(_FIRST_S, self.interval_s or _FIRST_S))
        while True:
            await self.round()

    async def round(self) -> None:
        """Try each host once, spread over the interval."""
        hosts = self._hosts() if self.interval_s is not None else []
        names = [(host.pool, host.name) for host in hosts]
        self._verdicts = {name: self._verdicts[name] for name in names if name in self._verdicts}
        began = asyncio.get_running_loop().time()
        for number, host in enumerate(hosts, 1):
            await self._try(host)
            await self._rest(began, number / len(hosts))
        if not hosts:
            await asyncio.sleep(_IDLE_S)

    def of(self, host: Host) -> Verdict | None:
        """What was found of one host last."""
        return self._verdicts.get((host.pool, host.name))

    def samples(self, host: Host) -> Iterator[Sample]:
        """What a scrape shows of a host."""
        verdict = self.of(host)
        if verdict is not None and verdict.way is not None:
            yield Sample("canary_up", (host.pool, host.name), verdict.fault is None)

    def routes(self) -> dict[str, Handler]:
        """The route of the admin endpoint."""

        async def canary(request: Request) -> Answer:
            only(request.query)
            rows = [
                {"pool": pool, "host": host, **verdict.as_dict()}
                for (pool, host), verdict in self._verdicts.items()
            ]
            return json_answer({"canary": rows, "interval_s": self.interval_s})

        return {"/v1/canary": canary}

    def _hosts(self) -> list[Host]:
        """Those that a round tries."""
        pools = (pool for door in self.doors() for pool in door.routes.pools)
        return list(dict.fromkeys(host for pool in pools for host in pool.hosts if host.serves))

    def _ways(self, host: Host) -> list[Way] | None:
        """How tokens lead to a host; None where it is not to be tried now."""
        names = [host.address, *sorted(host.names - {host.address})]
        pools = [
            (door, pool) for door in self.doors() for pool in door.routes.pools if pool.has(host)
        ]
        if not (pools and host.serves):
            return None
        return [Way(*there, name) for there in pools for name in names if ":" not in name.host]

    async def _rest(self, began: float, share: float) -> None:
        """Wait until this share of the round's interval is over, whatever that is by now."""
        time = asyncio.get_running_loop().time
        while (rest_s := began + (self.interval_s or 0.0) * share - time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(rest_s, _IDLE_S))

    async def _try(self, host: Host) -> None:
        ways = self._ways(host) if self.interval_s is not None else None
        if ways is None:
            return
        fault: str | None = "no token can name it: tokens hold IPv4 addresses"
        last: Way | None = None
        for way in ways:
            last, fault = way, await self._fault(host, way)
            if fault is not None:
                break
        if self._ways(host) != ways:
            return  # the host, the configuration or the proxy has turned meanwhile: says nothing
        before = self._verdicts.get((host.pool, host.name))
        self._verdicts[host.pool, host.name] = Verdict(fault, last, self.wall())
        if last is not None:
            self._tell(host, last, before.fault if before else None, fault)

    def _tell(self, host: Host, way: Way, before: str | None, fault: str | None) -> None:
        fields = {"pool": host.pool, "host": host.name, "listener": way.door.name}
        if fault is not None and fault != before:
            fields |= {"token_address": str(way.token_address), "detail": fault}
            log.warning("canary_failed", extra=fields)
        elif fault is None and before is not None:
            log.info("canary_passed", extra=fields)

    async def _fault(self, host: Host, way: Way) -> str | None:
        """What is wrong with this way to the host."""
        timeout_s = way.pool.settings.health.timeout_s
        result, arrival = await self._visit(way, timeout_s)
        if arrival.refused is not None:
            return arrival.refused
        if arrival.host is None:
            return f"the listener does not answer: {result.detail}"
        if arrival.host.address != host.address:
            return f"the token leads to {arrival.host.pool}/{arrival.host.name}"
        known = self.inventory.of(host)
        if result.certificate and known and known.der == result.certificate:
            return None
        direct = await probe_tls(arrival.host.address, timeout_s)
        self.inventory.checked(host, direct)
        if result.certificate is None:
            # A host of standard security has none, and shows none directly either.
            is_plain = _wants_no_tls(result) and _wants_no_tls(direct)
            return None if is_plain else f"no certificate: {result.detail}"
        if result.certificate == direct.certificate:
            return None
        return f"another certificate answers: {self._owner(result.certificate)}"

    async def _visit(self, way: Way, timeout_s: float) -> tuple[ProbeResult, Arrival]:
        try:
            target, sock = _way_to(way.door.address)
        except OSError as error:
            return ProbeResult(False, sockets.cause_of(error), str(error), 0.0), Arrival()
        with self.expect(sockets.peer_of(sock.getsockname())) as arrival:
            connect = partial(sockets.connect, target, own=sock)
            return await visit_with_token(
                connect, encode_msts(way.token_address), timeout_s
            ), arrival

    def _owner(self, der: bytes) -> str:
        certificate = read_certificate(der)
        owners = self.inventory.hosts_that_show(certificate.sha256)
        subject = certificate.subject or "no subject"
        return f"that of {', '.join(owners) or 'no known host'}, {subject}"


def _wants_no_tls(result: ProbeResult) -> bool:
    """Whether the host has standard RDP security only, which clients then take up with it."""
    answer = result.answer
    if isinstance(answer, NegotiationFailure):
        return answer.code == FailureCode.SSL_NOT_ALLOWED_BY_SERVER
    return answer is not None and answer.selected_protocol == 0


def _way_to(door: Address) -> tuple[Address, socket.socket]:
    """Where a listener is reached from this machine, and a socket whose own end is known already.

    Raises:
        OSError: in no way.
    """
    *others, last = [Address(host, door.port) for host in _ANY.get(door.host, [door.host])]
    for target in others:
        with contextlib.suppress(OSError):
            return target, _bound_for(target)
    return last, _bound_for(last)


def _bound_for(target: Address) -> socket.socket:
    sock = sockets.unconnected(target)
    try:
        sock.bind((target.host, 0))
    except BaseException:
        sock.close()
        raise
    return sock
