"""Pump: carries the bytes of all connections of a relay process, in one epoll loop.

A connection has two legs, the client's and the server's. What is read from one leg is sent to the
other at once; what that leg does not take waits in `Leg.pending`, and the source is not read until
it is gone: so a direction holds at most one buffer, and an idle connection none. A small message
costs three system calls: epoll_wait, readv, write. Byte counts, activity and time-outs cost none.
After a few large reads a direction is in bulk: its bytes go through a pipe (proxy/relay/pipes.py)
until little comes at once. An event moves at most one buffer or pipe: a download holds nobody up.

How a connection ends:
- A leg that has sent its end is not read any more; after the flush the other leg is told by
  shutdown. When both ways have ended so, it is `closed` by the side that ended first.
- A reset is passed on as a reset, after the bytes that came before it: Linux hands those out before
  it tells the error, and the survivor lingers until its peer has acknowledged them (tcp(7)
  SIOCOUTQ), for a few seconds at most. A reset that answers an earlier end is not the cause: the
  ending is then `closed`, by the side that ended first.
- Time-outs, the operator and faults of our own close both legs.
"""

from __future__ import annotations

import errno
import os
import time
import traceback
from collections.abc import Callable

from proxy.errors import Cause, Side
from proxy.relay.deadlines import Deadlines
from proxy.relay.legs import (
    Connection,
    Leftover,
    Leg,
    cause_of,
    close_by_reset,
    failure_of,
    send_end,
    unacknowledged,
)
from proxy.relay.pipes import Pipe, PipePool
from proxy.relay.watch import HUNG, OUT, Watch

BUFFER_BYTES = 128 * 1024
BULK_BYTES = 32 * 1024  # at once; from about half of that on, splice is cheaper than copying
BULK_READS = 3  # in a row
LITTLE_BYTES = 8 * 1024  # at once: no bulk any more
LINGER_S = 5.0
TICK_S = 1.0
_LINGER_POLL_S = 0.02
_BATCH = 1024


class Pump(Watch):
    """The loop. Everything happens within `step`, in the order of the events.

    Args:
        on_ended: told once of each connection that has ended.
        on_progress: told at most once a second of the connections that carried bytes.

    Attributes:
        connections: the live ones, by id.
    """

    def __init__(
        self,
        on_ended: Callable[[Connection, Side, Cause], None],
        on_progress: Callable[[list[Connection]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.connections: dict[int, Connection] = {}
        self._on_ended = on_ended
        self._on_progress = on_progress
        self._clock = clock
        self._now = clock()
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._buffers = [self._view]
        self._pipes = PipePool()
        self._changed: list[Connection] = []
        self._tick_at = 0.0
        self._deadlines = Deadlines(self.connections)
        self._lingering: dict[Leg, float] = {}

    def add(self, connection: Connection) -> None:
        """Carry a connection from now on; its descriptors are the pump's."""
        connection.active_at = self._now
        self.connections[connection.id] = connection
        legs = (connection.client, connection.server)
        for leg in legs:
            self._admit(leg)
        try:
            for leg in legs:
                os.set_blocking(leg.fd, False)
                self._arm(leg)
        except OSError:  # the system watches no more descriptors
            self.close(connection, Side.LOCAL, Cause.LIMIT)
            return
        self._deadlines.add(connection, connection.idle_s, self._now)

    def close(self, connection: Connection, side: Side, cause: Cause) -> None:
        """End a connection, both legs in order."""
        if not connection.ended:
            self._leave(connection, side, cause)
        for leg in (connection.client, connection.server):
            if self._legs[leg.fd] is leg:
                self._forget(leg)

    def step(self) -> None:
        """Wait for events, and handle one batch of them."""
        events = self._epoll.poll(self._patience(), _BATCH)
        self._now = self._clock()
        legs = self._legs
        for fd, event in events:
            leg = legs[fd]
            if leg is None:
                door = self._doors.get(fd)
                if door is not None:
                    door()
                continue
            try:
                if event & OUT:
                    self._flush(leg)
                    if legs[fd] is None:
                        continue
                if event & ~OUT:
                    self._incoming(leg, event)
            except Exception:  # noqa: BLE001 - a fault in one connection must not end the others
                traceback.print_exc()
                self.close(leg.connection, Side.LOCAL, Cause.INTERNAL)
        self._keep_time()
        if self._doomed:
            self._bury()

    # Bytes

    def _incoming(self, leg: Leg, event: int) -> None:
        peer = leg.peer
        if not leg.reading or peer.pending is not None:
            if event & HUNG:
                self._hung(leg)
            return
        if leg.large_reads >= BULK_READS and self._incoming_bulk(leg, peer):
            return
        try:
            size = os.readv(leg.fd, self._buffers)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(leg, cause_of(error))
            return
        if not size:
            self._finish(leg)
            return
        leg.received += size
        leg.large_reads = leg.large_reads + 1 if size >= BULK_BYTES else 0
        if not leg.connection.changed:
            self._note(leg.connection)
        try:
            sent = os.write(peer.fd, self._view[:size])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._write_failed(peer, cause_of(error))
            return
        if sent < size:
            peer.pending = Leftover(bytes(self._view[sent:size]))
            self._arm(peer)
            self._arm(leg)

    def _incoming_bulk(self, leg: Leg, peer: Leg) -> bool:
        """The same through a pipe. False where there is none: nothing was done then."""
        pipe = self._pipes.take()
        if pipe is None:
            return False
        peer.pending = pipe  # its owner, whatever happens from here on
        try:
            size = pipe.fill(leg.fd)
        except OSError as error:
            self._release(peer)
            if self._pipes.refused(error):
                return False
            if not isinstance(error, BlockingIOError):
                self._break(leg, cause_of(error))
            return True
        if not size:
            self._release(peer)
            self._finish(leg)
            return True
        leg.received += size
        if size < LITTLE_BYTES:
            leg.large_reads = 0
        if not leg.connection.changed:
            self._note(leg.connection)
        try:
            pipe.drain(peer.fd)
        except BlockingIOError:
            pass
        except OSError as error:
            self._write_failed(peer, cause_of(error))
            return True
        if pipe.held:
            self._arm(peer)
            self._arm(leg)
        else:
            self._release(peer)
        return True

    def _flush(self, leg: Leg) -> None:
        if leg.pending is None:
            return  # the event is stale
        try:
            leg.pending.drain(leg.fd)
        except BlockingIOError:
            return
        except OSError as error:
            if leg.connection.ended:
                self._forget(leg)
            else:
                self._write_failed(leg, cause_of(error))
            return
        if not leg.connection.changed:
            self._note(leg.connection)
        if len(leg.pending):
            return
        self._release(leg)
        self._arm(leg)
        if leg.connection.ended:
            return  # survives a reset: see _keep_time
        if leg.peer.reading:
            self._arm(leg.peer)
        else:
            self._pass_end_on(leg.peer)

    def _release(self, leg: Leg) -> None:
        """Nothing is pending there any more."""
        pending, leg.pending = leg.pending, None
        if isinstance(pending, Pipe):
            self._pipes.give_back(pending)

    def _note(self, connection: Connection) -> None:
        """It is active; told with the next tick."""
        connection.changed = True
        self._changed.append(connection)

    # Ends

    def _finish(self, leg: Leg) -> None:
        """The end of its stream."""
        if leg.failure is not None:
            self._break(leg, leg.failure)
            return
        leg.reading = False
        self._arm(leg)
        leg.connection.closed_by = leg.connection.closed_by or leg.side
        self._one_sided(leg.connection)
        if leg.peer.pending is None:
            self._pass_end_on(leg)

    def _one_sided(self, connection: Connection) -> None:
        """One side is gone; the other may not take for ever."""
        if not connection.one_sided:
            connection.one_sided = True
            connection.active_at = self._now
            self._deadlines.add(connection, connection.half_close_s, self._now)

    def _pass_end_on(self, leg: Leg) -> None:
        peer, connection = leg.peer, leg.connection
        try:
            send_end(peer.fd)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            self._write_failed(peer, Cause.RESET)
            return
        peer.finished = True
        if leg.finished:
            self.close(connection, connection.closed_by or leg.side, Cause.CLOSED)

    def _hung(self, leg: Leg) -> None:
        """Hung up or failed while it may not be read, or has nothing more to say."""
        if leg.connection.ended:
            self._forget(leg)
            return
        leg.hung = True
        self._arm(leg)
        if leg.reading:
            self._one_sided(leg.connection)
        else:
            failure = failure_of(leg.fd)
            if failure is not None:
                self._break(leg, failure)

    def _write_failed(self, leg: Leg, cause: Cause) -> None:
        """It takes nothing more, but what it sent before is still to be read."""
        self._release(leg)
        leg.failure = cause
        leg.peer.reading = False
        if leg.reading:
            self._arm(leg)
            self._arm(leg.peer)
            self._one_sided(leg.connection)
        else:
            self._break(leg, cause)

    def _break(self, leg: Leg, cause: Cause) -> None:
        """A leg is dead: the other one hears the same, after what it was sent before."""
        connection, survivor = leg.connection, leg.peer
        if cause is Cause.RESET and connection.closed_by is not None:
            self._leave(connection, connection.closed_by, Cause.CLOSED)
        else:
            self._leave(connection, leg.side, cause)
        self._forget(leg)
        survivor.reading = False
        if survivor.hung or (survivor.pending is None and not unacknowledged(survivor.fd)):
            self._reset(survivor)
        else:
            self._lingering[survivor] = self._now + LINGER_S
            self._arm(survivor)

    def _reset(self, leg: Leg) -> None:
        close_by_reset(leg.fd)
        self._forget(leg)

    def _leave(self, connection: Connection, side: Side, cause: Cause) -> None:
        connection.ended = True
        del self.connections[connection.id]
        self._on_ended(connection, side, cause)

    def _forget(self, leg: Leg) -> None:
        """Close it, after this batch."""
        self._release(leg)
        self._lingering.pop(leg, None)
        self._abandon(leg)

    # Time

    def _patience(self) -> float:
        if self._lingering:
            return _LINGER_POLL_S
        due = self._deadlines.first()
        if (self._changed or self._pipes.has_free) and (due is None or self._tick_at < due):
            due = self._tick_at
        return -1 if due is None else max(0.0, due - self._clock())

    def _keep_time(self) -> None:
        now = self._now
        if (self._changed or self._pipes.has_free) and now >= self._tick_at:
            self._tick_at = now + TICK_S
            self._pipes.trim()
            for connection in self._changed:
                connection.active_at = now
                connection.changed = False
            changed, self._changed = self._changed, []
            self._on_progress([connection for connection in changed if not connection.ended])
        for connection, cause in self._deadlines.expired(now):
            self.close(connection, Side.LOCAL, cause)
        for leg, until in list(self._lingering.items()):
            if now >= until or (leg.pending is None and not unacknowledged(leg.fd)):
                self._reset(leg)
