"""A pump that a test turns by hand, and what fills and drains its connections."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

import pytest

from proxy.errors import Cause, Side
from proxy.relay.legs import Connection
from proxy.relay.pump import Pump
from tests.patience import PATIENCE_S
from tests.unit.relay.harness import (
    tcp_pair,
)


class Stepper(Pump):
    """A pump that the test turns by hand: it never waits long, and its clock can be moved."""

    def __init__(self) -> None:
        self.endings: dict[int, tuple[Side, Cause]] = {}
        self.progress: list[int] = []
        self.ahead_s = 0.0
        super().__init__(self._ended, self._moved, clock=self._time)

    def _ended(self, connection: Connection, side: Side, cause: Cause) -> None:
        assert connection.id not in self.endings, "told twice"
        self.endings[connection.id] = (side, cause)

    def _moved(self, connections: list[Connection]) -> None:
        self.progress += [connection.id for connection in connections]

    def _time(self) -> float:
        return time.monotonic() + self.ahead_s

    def _patience(self) -> float:
        wanted = super()._patience()
        return 0.01 if wanted < 0 else min(0.01, wanted)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "it did not come to pass"
            self.step()

    def settle(self) -> None:
        """Until nothing happens any more; fails if epoll tells the same thing again and again."""
        for _ in range(1000):
            if not self._epoll.poll(0.1):
                return
            self.step()
        pytest.fail("the loop is busy with nothing")

    def is_empty(self) -> bool:
        return not (any(self._legs) or self._lingering or self.connections or self._doomed)


def until_readable(*fds: int) -> None:
    """Wait until there is something to read from each at one time."""
    deadline = time.monotonic() + PATIENCE_S
    while len(select.select(fds, [], [], 0.01)[0]) < len(fds):
        assert time.monotonic() < deadline, "it does not arrive"


def carry(
    pump: Pump,
    conn_id: int = 1,
    *,
    idle_s: float | None = None,
    half_close_s: float | None = None,
    receive_buffer: int | None = None,
) -> tuple[socket.socket, socket.socket, Connection]:
    """A connection in the pump's hands, and its far ends."""
    client, near_client = tcp_pair(receive_buffer)
    server, near_server = tcp_pair(receive_buffer)
    fds = (near_client.detach(), near_server.detach())
    connection = Connection(
        conn_id, fds, (0, 0), b"record", idle_s=idle_s, half_close_s=half_close_s
    )
    pump.add(connection)
    return client, server, connection


def fill(pump: Stepper, source: socket.socket, byte: bytes = b"\0") -> int:
    """Send until nobody on the way takes any more; how many bytes."""
    source.setblocking(False)
    sent = 0
    while True:
        try:
            sent += source.send(byte * (1 << 20))
        except BlockingIOError:
            pump.settle()
            try:
                sent += source.send(byte)
            except BlockingIOError:
                break
    source.settimeout(PATIENCE_S)
    return sent


def drain(pump: Stepper, sink: socket.socket, parts: list[int] | None = None) -> int:
    """Read to the end while the pump turns; how many bytes. `parts` has them even at a reset."""
    parts = [] if parts is None else parts
    sink.setblocking(False)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert time.monotonic() < deadline, "the end does not come"
        pump.step()
        try:
            part = sink.recv(1 << 20)
        except BlockingIOError:
            continue
        if not part:
            return sum(parts)
        parts.append(len(part))
