"""ListeningSockets: the parent's, so that their queues of clients outlive every front.

Standard library only. An address that is asked for again is the same socket.
"""

from __future__ import annotations

import socket
from collections.abc import Collection

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
            alone = ("0.0.0.0", port) not in self._sockets
            self._sockets[host, port] = _open(host, port, dual_stack=alone)
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


def _open(host: str, port: int, *, dual_stack: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":  # serves IPv4 clients, too, unless another listener does
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
