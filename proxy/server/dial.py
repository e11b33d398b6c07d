"""Dialling one host for one client: connect, send its request, wait for the first byte.

Watches the client meanwhile: one that has left must not start a session on a host.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from time import perf_counter

from proxy import sockets
from proxy.errors import Cause, ClientError, LimitError, ServerError, WireError
from proxy.routing.pool import Host
from proxy.server.record import Phase
from proxy.server.visit import Visit
from proxy.settings import TimeoutSettings
from proxy.wire.incomplete import Incomplete
from proxy.wire.x224 import answer_word, parse_connection_confirm

_CONFIRM_MAX_BYTES = 64


@dataclass(slots=True)
class Dialler:
    """Connects clients' requests to hosts, each phase under its own deadline."""

    timeouts: TimeoutSettings

    async def dial(self, visit: Visit, host: Host) -> socket.socket:
        """The connection to `host`, which has received the request and answered something.

        Raises:
            ServerError: it refused, reset, closed or stayed silent.
            ClientError: the client left meanwhile.
        """
        record = visit.record
        record.attempts += 1
        record.host, record.host_address = host.name, host.address
        time = asyncio.get_running_loop().time
        began = perf_counter()
        record.phase = Phase.CONNECT
        try:
            server = await sockets.connect(host.address, time() + self.timeouts.connect_s)
        except OSError as error:
            cause = sockets.cause_of(error)
            if cause is Cause.INTERNAL:  # for want of our own: that blames no host
                raise LimitError(Cause.LIMIT, str(error)) from error
            raise ServerError(cause, f"{host.name}: {error}") from error
        try:
            sockets.prepare(server, self.timeouts.keepalive_s)
            record.proxy_address = sockets.peer_of(server.getsockname())
            record.connect_s = perf_counter() - began
            began = perf_counter()
            record.phase = Phase.ANSWER
            await self._exchange(visit, host, server, time() + self.timeouts.answer_s)
            record.answer_s = perf_counter() - began
        except BaseException:
            server.close()
            raise
        return server

    async def pause(
        self, visit: Visit, at_most_s: float, earlier: asyncio.Event | None = None
    ) -> None:
        """Wait before another attempt.

        Raises:
            ClientError: the client did not want to wait.
        """
        try:
            async with asyncio.timeout(at_most_s):
                await (earlier or asyncio.Event()).wait()
        except TimeoutError:
            pass
        if sockets.has_hung_up(visit.client):
            raise ClientError(Cause.CLOSED, "left while it waited for a host")

    async def _exchange(
        self, visit: Visit, host: Host, server: socket.socket, until: float
    ) -> None:
        try:
            await sockets.send(server, visit.request.raw, until)
            if not await sockets.wait_first(server, visit.client, until):
                raise ClientError(Cause.CLOSED, "left before the host had answered")
            confirm = server.recv(_CONFIRM_MAX_BYTES, socket.MSG_PEEK)
        except OSError as error:
            raise ServerError(sockets.cause_of(error), f"{host.name}: {error}") from error
        if not confirm:
            raise ServerError(Cause.CLOSED, f"{host.name} closed without an answer")
        visit.record.answer = answer_of(confirm)


def answer_of(confirm: bytes) -> str | None:
    """What a Connection Confirm says, as a bounded word; None where it is none."""
    try:
        parsed = parse_connection_confirm(confirm)
    except WireError:
        return None
    return None if isinstance(parsed, Incomplete) else answer_word(parsed.negotiation)
