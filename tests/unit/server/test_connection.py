"""The life of a connection: every one has exactly one ending, and the counts come out even."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from typing import Any

import pytest

from proxy.address import Address
from proxy.affinity.sqlite import SqliteStore
from proxy.errors import Cause, LimitError, Side
from proxy.routing.model import Reason
from proxy.routing.routes import Routes
from proxy.server.connection import Reception
from proxy.server.gate import Gate
from proxy.server.record import Ending, Phase
from proxy.server.table import ConnectionTable
from proxy.settings import LimitSettings, ListenerSettings, ProxyProtocolSettings, RouteBy
from proxy.wire.proxy_protocol import encode_proxy_v2
from proxy.wire.x224 import encode_connection_request
from tests.unit.server.stage import Clock, Stage

PEER = Address("203.0.113.7", 50000)
REQUEST = encode_connection_request(line=b"Cookie: mstshash=alice", requested_protocols=3)
Sent = bytes | None


class Relays:
    """A relay pool that takes what it is handed."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, bytes]] = []
        self.full = False

    async def hand_off(
        self, conn_id: int, client: socket.socket, server: socket.socket, **more: object
    ) -> int:
        if self.full:
            raise LimitError(Cause.LIMIT, "no relay takes connections")
        record = more["record"]
        assert isinstance(record, bytes)
        self.taken.append((conn_id, record))
        client.close()
        server.close()
        return 1


class Door:
    """A reception before one small host."""

    def __init__(self, farm: Stage, **limits: object) -> None:
        self.farm, self.observed = farm, farm.observed
        self.gate = Gate(LimitSettings.model_validate(limits), [], Clock())
        self.table = ConnectionTable(
            lambda *_: farm.pool, self.gate, farm.observed, lambda: 1_000.0
        )
        self.relays = Relays()
        self.listener = ListenerSettings(name="rdp", bind=Address("127.0.0.1", 1), pool="desktops")
        self.reception = Reception(
            farm.timeouts.model_copy(update={"connection_request_s": 0.2}),
            self.gate,
            farm.placer,
            self.relays,  # type: ignore[arg-type]
            self.table,
            farm.observed,
            lambda: 1_000.0,
            iter(range(1, 100)).__next__,
        )

    async def visit(
        self, sent: bytes = REQUEST, *, leave: bool = False, **listener: object
    ) -> tuple[Ending | None, bytes]:
        """One client's connection; its ending, and what came back before the close."""
        settings = self.listener.model_copy(update=listener)
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        with far:
            far.send(sent)
            if leave:
                far.shutdown(socket.SHUT_WR)
            received = b""

            async def read() -> None:
                nonlocal received
                loop = asyncio.get_running_loop()
                with suppress(ConnectionResetError):  # what we sent was not read
                    while chunk := await loop.sock_recv(far, 4096):
                        received += chunk
                        far.shutdown(socket.SHUT_WR)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read())
                await self.reception.receive(settings, self.farm.routes, near, PEER)
        ended = self.observed.ended
        return (ended[-1].ending if ended else None), received

    def is_even(self) -> bool:
        """Whether nothing that came to nothing is still counted."""
        hosts = self.farm.pool.hosts
        return self.gate.connections == sum(host.live for host in hosts) == len(self.table.rows)


@asynccontextmanager
async def door(manner: str = "answer", **limits: object) -> AsyncIterator[Door]:
    store = await SqliteStore.open(":memory:", max_pins=10, now=Clock())
    farm = Stage([manner], store)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(farm.hosts[0].serve())
        yield Door(farm, **limits)
        serving.cancel()
    farm.hosts[0].close()
    await store.close()


async def test_a_client_is_brought_to_a_relay_and_becomes_a_row() -> None:
    async with door() as d:
        ending, received = await d.visit()
        assert (ending, received) == (None, b"")
        (row,) = d.table.rows.values()
        record = row.record
        assert d.relays.taken == [(record.id, record.pack())]
        assert d.observed.placed == d.observed.accepted == [record]
        assert (record.user, record.requested_protocols, record.relay) == ("alice", 3, 1)
        assert record.bytes_up == len(REQUEST)
        assert None not in (record.request_s, record.place_s, record.connect_s, record.answer_s)
        assert d.is_even()
        assert d.farm.pool.hosts[0].live == 1


@pytest.mark.parametrize(("alias", "known"), [("CAD", "Cad"), ("Cat", None)])
async def test_a_collection_is_known_by_its_name_in_the_configuration_or_told(
    alias: str, known: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    line = f"tsv://MS Terminal Services Plugin.1.{alias}".encode()
    async with door() as d:
        listener = d.listener.model_copy(update={"collections": {"Cad": "desktops"}})
        d.farm.routes = Routes(listener, {"desktops": d.farm.pool})
        with caplog.at_level("WARNING"):
            await d.visit(encode_connection_request(line=line, requested_protocols=3))
        (record,) = d.observed.placed
        assert (record.collection, record.collection_alias) == (alias, known)
        told = [it for it in caplog.records if it.getMessage() == "collection_unmatched"]
        assert bool(told) is (known is None)


@pytest.mark.parametrize(
    ("sent", "leave", "side", "cause"),
    [
        (b"", False, Side.CLIENT, Cause.TIMEOUT),
        (REQUEST[:-1], False, Side.CLIENT, Cause.TIMEOUT),
        (b"", True, Side.CLIENT, Cause.CLOSED_BEFORE_REQUEST),
        (b"GET / HTTP/1.1\r\n", False, Side.CLIENT, Cause.NOT_TPKT),
    ],
)
async def test_a_client_without_a_request_ends_in_that_phase(
    sent: bytes, leave: bool, side: Side, cause: Cause
) -> None:
    async with door() as d:
        ending, received = await d.visit(sent, leave=leave)
        assert ending == Ending(Phase.REQUEST, side, cause)
        assert received == b""
        assert d.is_even()
        assert not d.farm.hosts[0].requests


async def test_a_relay_that_takes_nothing_is_our_own_fault() -> None:
    async with door() as d:
        d.relays.full = True
        ending, _ = await d.visit()
        assert ending == Ending(Phase.RELAY, Side.LOCAL, Cause.LIMIT)
        assert d.is_even()
        assert d.table.rows == {}


async def test_a_fault_of_ours_ends_one_connection_and_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with door() as d:
        d.farm.claims.known = None  # type: ignore[assignment]
        d.farm.claims.store = None  # type: ignore[assignment]
        ending, _ = await d.visit()
        assert ending == Ending(Phase.PLACE, Side.LOCAL, Cause.INTERNAL)
        assert "connection_failed" in caplog.text
        assert d.is_even()


async def test_a_connection_that_is_broken_off_has_its_ending_too() -> None:
    async with door("silent") as d:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.send(REQUEST)
        task = asyncio.get_running_loop().create_task(
            d.reception.receive(d.listener, d.farm.routes, near, PEER)
        )
        while not d.farm.hosts[0].requests:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert str(d.observed.ended[0].ending) == "answer/local/stopped"
        assert d.is_even()
        far.close()


async def test_more_connections_than_the_limit_are_closed_at_once() -> None:
    async with door(connections=1) as d:
        await d.visit()
        ending, _ = await d.visit()
        assert ending == Ending(Phase.ACCEPT, Side.LOCAL, Cause.LIMIT)
        assert d.is_even()


async def test_a_stranger_is_refused_before_it_says_anything() -> None:
    async with door() as d:
        ending, _ = await d.visit(b"", allow=(ip_network("10.0.0.0/8"),))
        assert ending == Ending(Phase.ACCEPT, Side.LOCAL, Cause.NOT_ALLOWED)


async def test_behind_a_trusted_balancer_the_header_says_who_the_client_is() -> None:
    trusted = ProxyProtocolSettings(trusted=(ip_network("203.0.113.0/24"),))
    client = Address("198.51.100.9", 40000)
    async with door(connections_per_source=1) as d:
        header = encode_proxy_v2(client, PEER)
        await d.visit(header + REQUEST, proxy_protocol=trusted)
        (row,) = d.table.rows.values()
        assert (row.record.client, row.record.peer) == (client, PEER)
        assert row.record.key == "source:198.51.100.9"
        ending, _ = await d.visit(header + REQUEST, proxy_protocol=trusted)
        assert ending == Ending(Phase.ACCEPT, Side.LOCAL, Cause.LIMIT)
        ending, _ = await d.visit(REQUEST, proxy_protocol=trusted)
        assert ending == Ending(Phase.REQUEST, Side.CLIENT, Cause.PROXY_HEADER_MISSING)


async def test_the_header_also_says_which_host_the_client_has_dialled() -> None:
    trusted = ProxyProtocolSettings(trusted=(ip_network("203.0.113.0/24"),))
    more: dict[str, Any] = {"proxy_protocol": trusted, "route_by": RouteBy.DESTINATION}
    client = Address("127.0.0.9", 40000)
    async with door() as d:
        host = d.farm.hosts[0].address
        await d.visit(encode_proxy_v2(client, host) + REQUEST, **more)
        (row,) = d.table.rows.values()
        assert (row.record.reason, row.record.destination) == (Reason.DESTINATION, host)
        assert row.came_from_broker
        stranger = Address("192.0.2.9", 3389)
        ending, _ = await d.visit(encode_proxy_v2(client, stranger) + REQUEST, **more)
        assert ending == Ending(Phase.PLACE, Side.LOCAL, Cause.DESTINATION_UNKNOWN_HOST)
        assert d.is_even()


@pytest.mark.parametrize(
    ("requested", "answer"),
    [(0, bytes.fromhex("030000130ed000001234000300080001000000")), (None, b"")],
)
async def test_a_client_without_tls_is_refused_in_its_own_words(
    requested: int | None, answer: bytes
) -> None:
    async with door() as d:
        request = encode_connection_request(requested_protocols=requested)
        ending, received = await d.visit(request, require_tls=True)
        assert ending == Ending(Phase.REQUEST, Side.LOCAL, Cause.TLS_REQUIRED)
        assert received == answer
        assert not d.farm.hosts[0].requests


async def test_a_client_with_tls_may_come_where_tls_is_required() -> None:
    async with door() as d:
        ending, _ = await d.visit(require_tls=True)
        assert ending is None
