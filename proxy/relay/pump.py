"""Pump: carries the bytes of all connections of a relay process, in one epoll loop.

A connection has two legs, the client's and the server's. What is read from one leg is sent to the
other at once; what that leg does not take waits in `Leg.pending`, and the source is not read until
it is gone: so a direction holds at most one buffer, and an idle connection none. A small message
costs three system calls: epoll_wait, readv, write. Byte counts, activity and time-outs cost none.

How a connection ends:
- A leg that has sent its end is not read any more; after the flush the other leg is told by
  shutdown. When both ways have ended so, it is `closed` by the side that ended first.
- A reset is passed on as a reset, after the bytes that came before it: Linux hands those out before
  it tells the error, and the survivor lingers until its peer has acknowledged them (tcp(7)
  SIOCOUTQ), for a few seconds at most. A reset that answers an earlier end is not the cause: the
  ending is then `closed`, by the side that ended first.
- Time-outs, the operator and faults of our own close both legs.

Traps (epoll(7)): EPOLLHUP and EPOLLERR come whatever the interest is, so a leg that may not be read
now is taken out of the set until it may. Descriptors are closed after the batch: a number that is
used again within one batch would get the old socket's events. They are taken out of the set
explicitly, because the front may still hold a copy, which keeps the socket in it.
"""

from __future__ import annotations

import errno
import os
import select
import time
import traceback
from collections.abc import Callable

from proxy.errors import Cause, Side
from proxy.relay.deadlines import Deadlines
from proxy.relay.legs import (
    OUTSIDE,
    Connection,
    Leg,
    cause_of,
    close_by_reset,
    failure_of,
    send_end,
    unacknowledged,
)

BUFFER_BYTES = 128 * 1024
LINGER_S = 5.0
TICK_S = 1.0
_LINGER_POLL_S = 0.02
_BATCH = 1024
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_HUNG = select.EPOLLHUP | select.EPOLLERR


class Pump:
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
        self.connections: dict[int, Connection] = {}
        self._on_ended = on_ended
        self._on_progress = on_progress
        self._clock = clock
        self._now = clock()
        self._epoll = select.epoll()
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._buffers = [self._view]
        self._doors: dict[int, Callable[[], None]] = {}
        self._legs: dict[int, Leg] = {}
        self._changed: list[Connection] = []
        self._tick_at = 0.0
        self._deadlines = Deadlines(self.connections)
        self._lingering: dict[Leg, float] = {}
        self._doomed: list[int] = []
        self._buried: list[Leg] = []

    def add(self, connection: Connection) -> None:
        """Carry a connection from now on; its descriptors are the pump's."""
        connection.active_at = self._now
        self.connections[connection.id] = connection
        legs = (connection.client, connection.server)
        self._legs.update((leg.fd, leg) for leg in legs)
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
            if leg.fd in self._legs:
                self._forget(leg)

    def open_door(self, fd: int, call: Callable[[], None]) -> None:
        """Call when `fd` is readable or hung up, or writable where `want_to_write` says so."""
        self._doors[fd] = call
        self._epoll.register(fd, _IN)

    def want_to_write(self, fd: int, wanted: bool) -> None:
        """Whether a door is called when it is writable, too."""
        self._epoll.modify(fd, _IN | _OUT if wanted else _IN)

    def close_door(self, fd: int) -> None:
        """No more calls; `fd` is closed after this batch."""
        del self._doors[fd]
        self._epoll.unregister(fd)
        self._doomed.append(fd)

    def step(self) -> None:
        """Wait for events, and handle one batch of them."""
        events = self._epoll.poll(self._patience(), _BATCH)
        self._now = self._clock()
        legs = self._legs
        for fd, event in events:
            leg = legs.get(fd)
            if leg is None:
                door = self._doors.get(fd)
                if door is not None:
                    door()
                continue
            try:
                if event & _OUT:
                    self._flush(leg)
                    if fd not in legs:
                        continue
                if event & ~_OUT:
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
            if event & _HUNG:
                self._hung(leg)
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
            peer.pending = memoryview(bytes(self._view[sent:size]))
            self._arm(peer)
            self._arm(leg)

    def _flush(self, leg: Leg) -> None:
        if leg.pending is None:
            return  # the event is stale
        try:
            sent = os.write(leg.fd, leg.pending)
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
        if sent < len(leg.pending):
            leg.pending = leg.pending[sent:]
            return
        leg.pending = None
        self._arm(leg)
        if leg.connection.ended:
            return  # survives a reset: see _keep_time
        if leg.peer.reading:
            self._arm(leg.peer)
        else:
            self._pass_end_on(leg.peer)

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
        leg.pending = None
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
        if leg.interest != OUTSIDE:
            self._epoll.unregister(leg.fd)
            leg.interest = OUTSIDE
        del self._legs[leg.fd]
        leg.pending = None
        self._lingering.pop(leg, None)
        self._doomed.append(leg.fd)
        self._buried.append(leg)

    def _bury(self) -> None:
        for fd in self._doomed:
            os.close(fd)
        for leg in self._buried:
            del leg.peer, leg.connection  # no cycle stays for a collector that is off
        self._doomed.clear()
        self._buried.clear()

    def _arm(self, leg: Leg) -> None:
        """Ask epoll for what the leg's state wants."""
        interest = _OUT if leg.pending is not None else 0
        if leg.reading and leg.peer.pending is None:
            interest |= _IN
            leg.hung = False
        if leg.hung:
            interest = OUTSIDE  # or epoll would tell it again and again
        if interest == leg.interest:
            return
        if interest == OUTSIDE:
            self._epoll.unregister(leg.fd)
        elif leg.interest == OUTSIDE:
            self._epoll.register(leg.fd, interest)
        else:
            self._epoll.modify(leg.fd, interest)
        leg.interest = interest

    # Time

    def _patience(self) -> float:
        if self._lingering:
            return _LINGER_POLL_S
        due = self._deadlines.first()
        if self._changed and (due is None or self._tick_at < due):
            due = self._tick_at
        return -1 if due is None else max(0.0, due - self._clock())

    def _keep_time(self) -> None:
        now = self._now
        if self._changed and now >= self._tick_at:
            self._tick_at = now + TICK_S
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
