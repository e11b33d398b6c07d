"""Leg and Connection: what a relay knows of a connection, and the rare calls on its sockets.

Legs are bare descriptors: a socket object each would cost more memory than the leg itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios

from proxy.errors import Cause, Side
from proxy.relay.pipes import Pipe

OUTSIDE = -1  # in place of an interest: not in the epoll set
_RESET = struct.pack("ii", 1, 0)
_CAUSES = {
    errno.ECONNRESET: Cause.RESET,
    errno.EPIPE: Cause.RESET,
    errno.ETIMEDOUT: Cause.TIMEOUT,
    errno.EHOSTUNREACH: Cause.UNREACHABLE,
    errno.ENETUNREACH: Cause.UNREACHABLE,
    errno.EHOSTDOWN: Cause.UNREACHABLE,
}


class Leftover:
    """Copied bytes that a leg has not taken yet."""

    __slots__ = ("_view",)

    def __init__(self, data: bytes) -> None:
        self._view = memoryview(data)

    def __len__(self) -> int:
        return len(self._view)

    def drain(self, fd: int) -> None:
        """Give a socket what it takes. Raises OSError as send(2) does."""
        self._view = self._view[os.write(fd, self._view) :]


class Leg:
    """One end of a connection.

    Attributes:
        interest: what epoll is asked for; OUTSIDE where the leg is not in its set.
        hung: it hung up or failed while it could not be read.
        large_reads: so many in a row; at BULK_READS (proxy/relay/pump.py) this end is in bulk.
        pending: bytes of the other leg that this one has not taken yet.
        received: how many bytes came from this end.
        reading: its end of stream was not seen yet.
        finished: it was told the other leg's end of stream.
        failure: a write failed so; it is read on to what it sent before.
    """

    __slots__ = (
        "connection",
        "failure",
        "fd",
        "finished",
        "hung",
        "interest",
        "large_reads",
        "peer",
        "pending",
        "reading",
        "received",
        "side",
    )

    peer: Leg

    def __init__(self, connection: Connection, side: Side, fd: int, received: int) -> None:
        self.connection = connection
        self.side = side
        self.fd = fd
        self.received = received
        self.large_reads = 0
        self.interest = OUTSIDE
        self.hung = False
        self.pending: Leftover | Pipe | None = None
        self.reading = True
        self.finished = False
        self.failure: Cause | None = None


class Connection:
    """Two legs and what the relay keeps for a front. Times in seconds, None for no time-out."""

    __slots__ = (
        "active_at",
        "changed",
        "client",
        "closed_by",
        "ended",
        "half_close_s",
        "id",
        "idle_s",
        "one_sided",
        "record",
        "server",
    )

    def __init__(
        self,
        conn_id: int,
        fds: tuple[int, int],
        counts: tuple[int, int],
        record: bytes,
        *,
        idle_s: float | None,
        half_close_s: float | None,
    ) -> None:
        self.id = conn_id
        self.record = record
        self.idle_s = idle_s
        self.half_close_s = half_close_s
        self.active_at = 0.0
        self.changed = False
        self.ended = False
        self.closed_by: Side | None = None  # who sent the end of its stream first
        self.one_sided = False  # one side ended or failed: the half-close time-out runs
        self.client = Leg(self, Side.CLIENT, fds[0], counts[0])
        self.server = Leg(self, Side.SERVER, fds[1], counts[1])
        self.client.peer, self.server.peer = self.server, self.client


def cause_of(error: OSError) -> Cause:
    """What an error of the socket calls says about the leg."""
    return _CAUSES.get(error.errno or 0, Cause.INTERNAL)


def _of(fd: int) -> socket.socket:
    """A socket object for the rare calls that need one; to be detached after use."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)


def send_end(fd: int) -> None:
    """Tell the other end that nothing follows. Raises OSError ENOTCONN where it is gone."""
    sock = _of(fd)
    try:
        sock.shutdown(socket.SHUT_WR)
    finally:
        sock.detach()


def failure_of(fd: int) -> Cause | None:
    """The error that the system keeps for this socket, if any; asking clears it."""
    sock = _of(fd)
    try:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    finally:
        sock.detach()
    return _CAUSES.get(code, Cause.INTERNAL) if code else None


def close_by_reset(fd: int) -> None:
    """From now on, closing it is a reset."""
    sock = _of(fd)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass  # the system has closed it already
    finally:
        sock.detach()


def unacknowledged(fd: int) -> int:
    """Bytes that the other end has not acknowledged; none where the socket is dead."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return 0
