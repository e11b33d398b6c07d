"""Channels: datagrams with file descriptors between the parent, the front and the relays.

A channel is a connected pair of Unix SOCK_SEQPACKET sockets: messages keep their bounds and their
order, may carry descriptors (SCM_RIGHTS), and whoever reads learns when the other end has died.
Nothing here ever waits. Standard library only, for the parent stands on it.

What Linux does (unix(7), cmsg(3); each observed):
- An end that was closed with unread messages of ours in its queue gives ECONNRESET *before* the
  messages that it sent: they still follow, then the empty message that says the end.
- A full queue (about 167 small messages) gives EAGAIN. A user who has more descriptors in flight
  than the open-files limit gives ETOOMANYREFS, while the channel stays writable: so a sender that
  is refused tries again after a while, and does not wait for writability alone.
- A receiver without room in its table of descriptors gets the bytes, only some or none of the
  descriptors, and MSG_CTRUNC.

Invariants: a descriptor that arrives is either in the `Message` that is returned, or closed. The
sender's own descriptors stay open and its own. An empty message is never sent.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MESSAGE_MAX_BYTES = 32 * 1024  # so that a few of them fit into the default send buffer
_FDS_MAX = 4
_FD_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(_FDS_MAX * _FD_BYTES)
_NOT_NOW = frozenset({errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM, errno.EINTR})


class Message(NamedTuple):
    """One message, with its descriptors; without any where this process has no room for them."""

    data: bytes
    fds: tuple[int, ...] = ()


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new channel, non-blocking and not inheritable."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)


def adopt(fd: int) -> socket.socket:
    """The channel whose end is the descriptor `fd`, which is the socket's from now on."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
    channel.setblocking(False)
    channel.set_inheritable(False)
    return channel


def send(channel: socket.socket, data: bytes, fds: Sequence[int] = ()) -> bool:
    """Send one message, whole; False where the queue has no room now.

    Raises:
        OSError: the other end is gone (EPIPE, ECONNRESET), or the message is not sendable.
    """
    if not data:
        raise ValueError("an empty message would read as the end of the channel")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        channel.sendmsg([data], rights)
    except OSError as error:
        if error.errno in _NOT_NOW:
            return False
        raise
    return True


def receive(channel: socket.socket) -> Message | None:
    """The next message; None where there is none now.

    Raises:
        EOFError: the other end is gone, and all that it sent has been read.
    """
    while True:
        try:
            data, ancillary, flags, _ = channel.recvmsg(
                2 * MESSAGE_MAX_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionResetError:
            continue  # said once; what was sent before still follows
        break
    fds = _descriptors(ancillary)
    if not data:
        close_all(fds)
        raise EOFError("the other end of the channel is gone")
    if flags & socket.MSG_CTRUNC:
        close_all(fds)
        return Message(data)
    return Message(data, fds)


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that nobody can use."""
    for fd in fds:
        os.close(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    if not ancillary:
        return ()
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return tuple(fds)
