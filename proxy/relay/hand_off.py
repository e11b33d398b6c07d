"""RelayPool: the front's side of the relays: hands connections over and hears how they fare.

A hand-off is one message with both sockets. When it is sent, the connection belongs to the relay
even if this front dies in the next instant, and the local copies of the sockets are closed; until
then they stay the caller's, and another relay may be tried.

In an upgrade two fronts overlap, and two relays share an index. The new front hears of endings as
soon as it is attached, but accounts for them only from `take_over` on: until then it may still
fail, and then they are the old front's. Of relays with one index the newest that is ready takes
connections, and the others are retired.

Invariants: every connection that was handed over or told as a row is reported to the observer as
ended, or as lost with its relay, exactly once by this front; an ending is acknowledged only after
the observer has accounted for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from proxy import channel
from proxy.errors import Cause, LimitError
from proxy.relay import contract
from proxy.relay.contract import RelayEnding, Row

__all__ = ["RelayEnding", "RelayObserver", "RelayPool", "Row"]

HAND_OFF_TIMEOUT_S = 5.0
_RETRY_S = 0.005  # a full queue; writability does not tell when descriptors have room again
_MESSAGES_A_TURN = 64  # read at once, before the loop's other work has its turn

log = logging.getLogger(__name__)


class RelayObserver(Protocol):
    """Who accounts for established connections. Called in the loop: quick, and never raises."""

    def relay_row(self, row: Row) -> None:
        """A connection that this front did not hand over lives (or, with `ending`, has ended)."""

    def relay_ready(self, index: int) -> None:
        """All rows of this relay have been told."""

    def relay_progress(self, conn_id: int, bytes_up: int, bytes_down: int) -> None:
        """Bytes so far; at most once a second for a connection."""

    def relay_ended(self, conn_id: int, ending: RelayEnding) -> None:
        """It ended in the relay."""

    def relay_lost(self, conn_ids: list[int]) -> None:
        """Their relay died, and they with it."""


class RelayPool:
    """All relays of a front.

    Args:
        on_ready: told the pid of each relay that has told all of its rows.
        in_charge: whether this front accounts for endings from the start.

    Attributes:
        connections: how many live connections each relay index has (two processes may share an
            index for a while).
    """

    def __init__(
        self,
        observer: RelayObserver,
        loop: asyncio.AbstractEventLoop,
        *,
        timeout_s: float = HAND_OFF_TIMEOUT_S,
        on_ready: Callable[[int], None] = lambda _pid: None,
        in_charge: bool = True,
    ) -> None:
        self._observer = observer
        self._loop = loop
        self._timeout_s = timeout_s
        self._on_ready = on_ready
        self._in_charge = in_charge
        self._has_heir = False
        self._held: list[tuple[_Relay, contract.Ended | contract.Rows]] = []
        self._relays: list[_Relay] = []
        self._relay_of: dict[int, _Relay] = {}
        self._changed = asyncio.Event()

    def attach(self, index: int, pid: int, sock: socket.socket, *, retired: bool = False) -> None:
        """A relay's channel; it is this pool's from now on. Its HELLO, rows and END follow.

        Args:
            retired: it is to take nothing new.
        """
        relay = _Relay(index, pid, sock, retired=retired)
        self._relays.append(relay)
        if retired and self._in_charge:
            self._retire(relay)
        self._loop.add_reader(sock.fileno(), self._read, relay)

    async def ready(self, count: int, timeout_s: float) -> None:
        """Wait until all relays have told all of their rows, and there are `count` to use.

        Raises:
            TimeoutError: they have not within `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            while not self._all_ready(count):
                self._changed.clear()
                await self._changed.wait()

    def take_over(self) -> None:
        """Account for all that has ended, and will end, from now on."""
        self._in_charge = True
        held, self._held = self._held, []
        for relay, said in held:
            self._account(relay, said)
        for relay in self._relays:
            if relay.retired:
                self._retire(relay)

    def step_down(self) -> None:
        """A newer front is in charge: relays tell it alone what ends, and they end after that."""
        self._has_heir = True

    async def hand_off(
        self,
        conn_id: int,
        client: socket.socket,
        server: socket.socket,
        *,
        bytes_up: int,
        idle_s: float | None,
        half_close_s: float,
        record: bytes,
    ) -> int:
        """Give both sockets to the relay with the fewest connections; return its index.

        Args:
            bytes_up: what the front itself has sent to the server (the Connection Request).
            idle_s: end the connection after so long without a byte; None for never.
            half_close_s: the same, once one side has closed.
            record: at most 512 bytes, for a front that comes after this one.

        Raises:
            LimitError: no relay took it in time. Both sockets are still the caller's.
        """
        hand_off = contract.HandOff(
            conn_id, _milliseconds(idle_s), _milliseconds(half_close_s), bytes_up, 0, record
        )
        fds = (client.fileno(), server.fileno())
        deadline = self._loop.time() + self._timeout_s
        while True:
            for relay in sorted(self._relays, key=_load):
                if not relay.ready or relay.retired:
                    continue
                message = contract.encode_hand_off(hand_off, relay.version)
                if self._send(relay, message, fds):
                    self._enter(conn_id, relay)
                    client.close()
                    server.close()
                    return relay.index
            if self._loop.time() >= deadline:
                raise LimitError(Cause.LIMIT, "no relay takes connections")
            await asyncio.sleep(_RETRY_S)

    def close(self, conn_id: int, cause: Cause) -> None:
        """End a connection; relay_ended follows with `local` x `cause`. Unknown ids are ignored."""
        relay = self._relay_of.get(conn_id)
        if relay is not None:
            self._post(relay, contract.encode_close(conn_id, cause, relay.version))

    def retire(self, index: int) -> None:
        """Give nothing new to the relays of this index; each ends after its last connection."""
        for relay in self._relays:
            if relay.index == index:
                self._retire(relay)

    @property
    def connections(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for relay in self._relays:
            counts[relay.index] = counts.get(relay.index, 0) + relay.connections
        return counts

    def stop(self) -> None:
        """Let go of all relays. Their connections go on, and nothing more is heard of them."""
        for relay in self._relays:
            self._loop.remove_reader(relay.sock.fileno())
            relay.sock.close()
        self._relays.clear()
        self._relay_of.clear()

    # What relays say

    def _read(self, relay: _Relay) -> None:
        for _ in range(_MESSAGES_A_TURN):
            try:
                message = channel.receive(relay.sock)
            except EOFError:
                self._lose(relay)
                return
            if message is None:
                return
            channel.close_all(message.fds)
            try:
                said = contract.decode_to_front(message.data)
            except ValueError as error:
                log.warning("relay %d (pid %d): %s", relay.index, relay.pid, error)
                continue
            self._hear(relay, said)

    def _hear(self, relay: _Relay, said: contract.ToFront) -> None:
        match said:
            case contract.Progress(counts):
                for conn_id, up, down in counts:
                    self._observer.relay_progress(conn_id, up, down)
            case contract.Rows(rows):
                for row in rows:
                    if row.ending is None:
                        self._enter(row.conn_id, relay)
                        self._observer.relay_row(row)
                ended = tuple(row for row in rows if row.ending is not None)
                self._account(relay, contract.Rows(ended))
            case contract.Ended():
                self._account(relay, said)
            case contract.End():
                relay.ready = True
                self._changed.set()
                self._observer.relay_ready(relay.index)
                same = [one for one in self._relays if one.index == relay.index and one.ready]
                for older in same[:-1]:
                    self._retire(older)
                self._on_ready(relay.pid)
            case contract.Hello(version, pid):
                log.debug("relay %d: pid %d speaks version %d", relay.index, pid, version)
                relay.version = min(version, contract.VERSION)
                relay.told_before = relay.ready

    def _account(self, relay: _Relay, said: contract.Ended | contract.Rows) -> None:
        """Tell the observer of endings, and acknowledge them."""
        if not self._in_charge:
            self._held.append((relay, said))
            return
        if isinstance(said, contract.Rows):
            for row in said.rows:
                if not relay.told_before or row.conn_id in self._relay_of:
                    self._observer.relay_row(row)
                self._leave(row.conn_id)
            self._acknowledge(relay, [row.conn_id for row in said.rows])
        else:
            for conn_id, ending in said.endings:
                self._leave(conn_id)
                self._observer.relay_ended(conn_id, ending)
            self._acknowledge(relay, [conn_id for conn_id, _ in said.endings])

    def _all_ready(self, count: int) -> bool:
        usable = {relay.index for relay in self._relays if not relay.retired}
        return len(usable) >= count and all(relay.ready for relay in self._relays)

    def _lose(self, relay: _Relay) -> None:
        self._loop.remove_reader(relay.sock.fileno())
        relay.sock.close()
        self._relays.remove(relay)
        self._changed.set()
        lost = [conn_id for conn_id, its in self._relay_of.items() if its is relay]
        for conn_id in lost:
            del self._relay_of[conn_id]
        if lost and not self._has_heir:
            self._observer.relay_lost(lost)

    def _enter(self, conn_id: int, relay: _Relay) -> None:
        if conn_id not in self._relay_of:
            self._relay_of[conn_id] = relay
            relay.connections += 1

    def _leave(self, conn_id: int) -> None:
        relay = self._relay_of.pop(conn_id, None)
        if relay is not None:
            relay.connections -= 1

    # What is said to relays

    def _acknowledge(self, relay: _Relay, conn_ids: list[int]) -> None:
        for message in contract.encode_ack(conn_ids, relay.version):
            self._post(relay, message)

    def _retire(self, relay: _Relay) -> None:
        relay.retired = True
        self._post(relay, contract.encode_retire(relay.version))

    def _post(self, relay: _Relay, message: bytes) -> None:
        relay.outbox.append(message)
        if len(relay.outbox) == 1:
            self._flush(relay)

    def _flush(self, relay: _Relay) -> None:
        while relay.outbox and relay in self._relays:
            if not self._send(relay, relay.outbox[0], ()):
                self._loop.call_later(_RETRY_S, self._flush, relay)
                return
            relay.outbox.popleft()

    def _send(self, relay: _Relay, message: bytes, fds: tuple[int, ...]) -> bool:
        try:
            return channel.send(relay.sock, message, fds)
        except ConnectionError:
            return False  # it died; the reader hears what it still said, and then its end


class _Relay:
    """One relay process, as this front knows it.

    Attributes:
        version: of the messages to it: what both sides speak.
        told_before: it tells its rows once more, because a newer front has died: what has ended
            and is not known here, this front has accounted for.
    """

    __slots__ = (
        "connections",
        "index",
        "outbox",
        "pid",
        "ready",
        "retired",
        "sock",
        "told_before",
        "version",
    )

    def __init__(self, index: int, pid: int, sock: socket.socket, *, retired: bool) -> None:
        self.index = index
        self.pid = pid
        self.sock = sock
        self.connections = 0
        self.ready = False
        self.retired = retired
        self.told_before = False
        self.version = contract.OLDEST
        self.outbox: deque[bytes] = deque()


def _load(relay: _Relay) -> int:
    return relay.connections


def _milliseconds(seconds: float | None) -> int:
    return 0 if not seconds else max(1, round(seconds * 1000))
