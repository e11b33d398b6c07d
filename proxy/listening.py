"""ListeningSockets: the parent's, so that their queues of clients outlive every front.

Standard library only. An address that is asked for again is the same socket.

Addresses of one port may cover each other, as all of them do while a listener moves from "0.0.0.0"
to "::" or to one address: the system gives a client to the socket that is bound most narrowly, and
to the next one when that is closed. (Observed: Linux 6.)
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable

BACKLOG = 4096

Place = tuple[str, int]


class ListeningSockets:
    """By host and port."""

    def __init__(self) -> None:
        self._sockets: dict[Place, socket.socket] = {}

    def at(self, host: str, port: int) -> int:
        """The descriptor that listens there, opened where there is none yet.

        Raises:
            OSError, OverflowError: the address cannot be had.
        """
        if (host, port) not in self._sockets:
            beside = [sock for place, sock in self._sockets.items() if port and place[1] == port]
            self._sockets[host, port] = _open(host, port, beside)
        return self._sockets[host, port].fileno()

    def close(self, host: str, port: int) -> None:
        """Let go of an address, if it is held."""
        sock = self._sockets.pop((host, port), None)
        if sock is not None:
            sock.close()

    def keep_only(self, wanted: Collection[Place]) -> None:
        """Let go of all others: nobody would accept the clients in their queues."""
        for place in self._sockets.keys() - set(wanted):
            self.close(*place)

    def state(self) -> list[tuple[str, int, int]]:
        """Host, port and descriptor of each."""
        return [(host, port, sock.fileno()) for (host, port), sock in self._sockets.items()]

    def restore(self, state: list[tuple[str, int, int]]) -> None:
        """Hold the descriptors that a predecessor left."""
        for host, port, fd in state:
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            self._sockets[host, port] = sock


def _open(host: str, port: int, beside: Iterable[socket.socket]) -> socket.socket:
    """A socket that listens there; those `beside` it, which have the port already, allow it to."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":  # serves IPv4 clients, too
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for one in beside:  # others of this user might then share the port: nobody else can
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
