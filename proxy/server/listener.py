"""Listener: accepts clients from one listening socket and gives each a task of its own."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Coroutine
from typing import Protocol

from proxy import sockets
from proxy.address import Address
from proxy.routing.routes import Routes
from proxy.settings import ListenerSettings

log = logging.getLogger(__name__)

_ACCEPTS_A_WAKE = 64  # then others have their turn
_TOLD_AGAIN_S = 10.0  # while it lasts
_PAUSE_S = 0.1  # when no further socket can be had: clients wait in the kernel's queue
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Receiver(Protocol):
    """Whom the listener gives its clients to; a `Reception` is one."""

    def receive(
        self, listener: ListenerSettings, routes: Routes, sock: socket.socket, peer: Address
    ) -> Coroutine[None, None, None]: ...


class Listener:
    """One listening socket; the parent owns it, so that its queue outlives this process."""

    def __init__(
        self,
        settings: ListenerSettings,
        routes: Routes,
        sock: socket.socket,
        reception: Receiver,
        tasks: asyncio.TaskGroup,
        keepalive_s: float,
    ) -> None:
        self.settings = settings
        self.routes = routes
        self._sock = sock
        self._reception = reception
        self._tasks = tasks
        self._in_hand: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._silent_until = 0.0
        sock.setblocking(False)
        self.change(settings, keepalive_s)

    @property
    def is_idle(self) -> bool:
        """Whether none of its clients is on the way to a host."""
        return not self._in_hand

    def change(self, settings: ListenerSettings, keepalive_s: float) -> None:
        """Take other settings for those who come from now on; the address is the same."""
        self.settings = settings
        sockets.prepare(self._sock, keepalive_s)  # inherited by every client's

    @property
    def bound(self) -> Address:
        """Where it listens, with the port that was found for port 0."""
        return sockets.peer_of(self._sock.getsockname())

    def open(self) -> None:
        """Accept clients from now on."""
        self._paused = None
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Accept nobody any more."""
        if self._paused is not None:
            self._paused.cancel()
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()

    def abandon(self) -> None:
        """End the connections that are still on their way to a host."""
        for task in self._in_hand:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_A_WAKE):
            try:
                client, name = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._pause(error)
                return
            client.setblocking(False)
            peer = sockets.peer_of(name)
            task = self._tasks.create_task(
                self._reception.receive(self.settings, self.routes, client, peer)
            )
            self._in_hand.add(task)
            task.add_done_callback(self._in_hand.discard)

    def _pause(self, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._silent_until:
            self._silent_until = loop.time() + _TOLD_AGAIN_S
            extra = {"listener": self.settings.name, "detail": str(error)}
            log.error("accept_paused", extra=extra)
        loop.remove_reader(self._sock.fileno())
        self._paused = loop.call_later(_PAUSE_S, self.open)
