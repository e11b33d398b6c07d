"""A stage for the path's tests: small hosts on loopback, an in-memory table, a visiting client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf

from proxy import sockets
from proxy.address import Address
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import PinKey
from proxy.errors import Cause
from proxy.routing.pool import Host, Pool
from proxy.routing.routes import Routes
from proxy.routing.signs import Sign
from proxy.server.claims import Claims
from proxy.server.dial import Dialler
from proxy.server.learned import LearnedTokens
from proxy.server.placement import Placer
from proxy.server.record import ConnectionRecord
from proxy.server.shared_sources import SharedSources
from proxy.server.table import Established
from proxy.server.visit import Visit
from proxy.settings import HostSettings, ListenerSettings, PoolSettings, TimeoutSettings
from proxy.waits import READABLE, Waits
from proxy.wire.x224 import (
    NegotiationResponse,
    encode_connection_confirm,
    encode_connection_request,
    parse_connection_request,
)
from tests.patience import PATIENCE_S

ALICE = PinKey("desktops", "source:203.0.113.7")
CONFIRM = encode_connection_confirm(NegotiationResponse(1, 2))


class SmallHost:
    """A TCP server on 127.0.0.1 that answers each request as its `manner` says.

    Manners: `answer`, `noise` (no RDP), `silent` (accepts and says nothing), `close`, `reset`;
    `refuse` does not listen at all.
    """

    def __init__(self, manner: str = "answer") -> None:
        self.manner = manner
        self.requests: list[bytes] = []
        self.held: list[socket.socket] = []
        self.listening = socket.socket()
        self.listening.setblocking(False)
        self.listening.bind(("127.0.0.1", 0))
        self.address = Address(*self.listening.getsockname())
        if manner != "refuse":
            self.listening.listen()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        if self.manner == "refuse":
            return
        while True:
            # Not sock_accept, which loses the socket when it is broken off in time.
            await Waits.here().one(self.listening.fileno(), READABLE, inf)
            sock, _ = self.listening.accept()
            sock.setblocking(False)
            self.held.append(sock)
            self.requests.append(await loop.sock_recv(sock, 4096))
            if self.manner == "answer":
                await loop.sock_sendall(sock, CONFIRM)
            elif self.manner == "noise":
                await loop.sock_sendall(sock, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            elif self.manner == "reset":
                sockets.reset(sock)
            elif self.manner == "close":
                sock.close()

    def close(self) -> None:
        for sock in (self.listening, *self.held):
            sock.close()


@dataclass
class Observed:
    """An Observer that remembers."""

    failed: list[tuple[str, Cause]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    disagreed: list[str] = field(default_factory=list)
    ended: list[ConnectionRecord] = field(default_factory=list)
    placed: list[ConnectionRecord] = field(default_factory=list)
    accepted: list[ConnectionRecord] = field(default_factory=list)
    store_failures: int = 0
    signs: list[tuple[Sign, ConnectionRecord, Mapping[str, object]]] = field(default_factory=list)

    def connection_accepted(self, record: ConnectionRecord) -> None:
        self.accepted.append(record)

    def connection_placed(self, record: ConnectionRecord) -> None:
        self.placed.append(record)

    def connection_ended(self, record: ConnectionRecord) -> None:
        self.ended.append(record)

    def host_answered(self, pool: str, host: str) -> None:
        self.answered.append(host)

    def host_failed(self, pool: str, host: str, cause: Cause) -> None:
        self.failed.append((host, cause))

    def pin_moved(self, pool: str, cause: str) -> None:
        self.moved.append(cause)

    def pin_disagreed(self, pool: str) -> None:
        self.disagreed.append(pool)

    def store_failed(self) -> None:
        self.store_failures += 1

    def sign_seen(
        self, sign: Sign, record: ConnectionRecord, evidence: Mapping[str, object]
    ) -> None:
        self.signs.append((sign, record, evidence))


class Clock:
    """Wall time that moves when it is told."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Networks:
    """Guests in the `token.networks` of one pool."""

    pool: Pool
    routes: Routes
    invited: list[Host] = field(default_factory=list)

    async def guest(self, routes: Routes, address: Address) -> Host | None:
        adopter = routes.adopter_of(address)
        if adopter is None:
            return None
        self.invited.append(adopter.guest(address))
        return self.invited[-1]

    def adopt(self, guest: Host) -> Host:
        host = self.pool.take_in(guest, 0.0)
        self.routes.index()
        return host


class Stage:
    """Hosts `a`, `b`, … of the given manners in one pool, and a placer before them."""

    def __init__(self, manners: Iterable[str], store: SqliteStore, **more: object) -> None:
        self.hosts = [SmallHost(manner) for manner in manners]
        settings = PoolSettings.model_validate(
            {
                "name": "desktops",
                "hosts": [
                    HostSettings(name=chr(97 + number), address=host.address)
                    for number, host in enumerate(self.hosts)
                ],
                **more,
            }
        )
        listener = ListenerSettings(name="rdp", bind=Address("127.0.0.1", 1), pool="desktops")
        self.pool = Pool(settings)
        self.routes = Routes(listener, {"desktops": self.pool})
        self.observed = Observed()
        self.store = store
        self.timeouts = TimeoutSettings(
            connect_s=PATIENCE_S, answer_s=PATIENCE_S, no_host_s=PATIENCE_S
        )
        self.known: str | None = None
        self.shared = SharedSources(8, {"desktops": self.pool}, store, Clock())
        self.claims = Claims(
            store,
            "node",
            self.observed,
            LearnedTokens(store, self.observed, Clock()),
            lambda _key: self.known,
            self.shared,
            Clock(),
        )
        self.guests = Networks(self.pool, self.routes)
        self.placer = Placer(
            self.claims, Dialler(self.timeouts), self.timeouts, self.observed, self.guests
        )
        self._numbers = iter(range(1, 10_000))

    def hurry(self, answer_s: float = PATIENCE_S, no_host_s: float = PATIENCE_S) -> None:
        """Let clients wait no longer than this: where nothing is to come."""
        changed = {"answer_s": answer_s, "no_host_s": no_host_s}
        self.timeouts = self.placer.timeouts = self.timeouts.model_copy(update=changed)
        self.placer.dialler = Dialler(self.timeouts)

    def visit(
        self,
        *,
        source: str = "203.0.113.7",
        line: bytes | None = None,
        destination: Address | None = None,
    ) -> tuple[Visit, socket.socket]:
        """A client that has sent its request; its far end is returned beside the visit."""
        near, far = socket.socketpair()
        near.setblocking(False)
        request = parse_connection_request(
            encode_connection_request(line=line, requested_protocols=3)
        )
        assert not hasattr(request, "missing")
        peer = Address(source, 50000)
        record = ConnectionRecord(next(self._numbers), "rdp", peer, peer, 0.0)
        return (
            Visit(
                near,
                ip_address(source),
                self.routes,
                request,
                record,
                request.routing_token,
                self.pool,
                destination,
            ),
            far,
        )

    def crowd(self, source: str = "203.0.113.7") -> None:
        """Let a source turn out to be many people."""
        at = Address(source, 1)
        record = ConnectionRecord(0, "rdp", at, at, 0.0)
        record.pool = "desktops"
        for _ in range(9):
            self.shared.established(Established(record, self.pool.hosts[0], ()))

    async def place(self, **client: object) -> ConnectionRecord:
        """Place one client and let it go again; its record."""
        visit, far = self.visit(**client)  # type: ignore[arg-type]
        with visit.client, far:
            placed = await self.placer.place(visit)
            with closing(placed.server):
                assert placed.server.recv(100) == CONFIRM
            placed.host.live -= 1
        return visit.record


@asynccontextmanager
async def stage(*manners: str, **more: object) -> AsyncIterator[Stage]:
    store = await SqliteStore.open(":memory:", max_pins=1000, now=Clock())
    built = Stage(manners, store, **more)
    async with asyncio.TaskGroup() as tasks:
        serving = [tasks.create_task(host.serve()) for host in built.hosts]
        yield built
        for task in serving:
            task.cancel()
    for host in built.hosts:
        host.close()
    await store.close()
