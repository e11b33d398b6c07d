"""Listeners: the front's doors for clients, opened and closed while it runs.

The sockets are the parent's. Whatever is to be bound is bound before anything changes, so that an
address that is taken refuses a new configuration as a whole.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping, Sequence

from proxy.address import Address
from proxy.parent_link import ParentLink
from proxy.routing.routes import Routes
from proxy.server.listener import Listener, Receiver
from proxy.settings import ListenerSettings

_Place = tuple[str, Address]  # a listener's name and where it listens


class Listeners:
    """Those of the configuration in force, and those that are closed while clients that they have
    accepted are still on their way to a host."""

    def __init__(self, link: ParentLink, reception: Receiver) -> None:
        self._link = link
        self._reception = reception
        self._open: dict[_Place, Listener] = {}
        self._closed: list[Listener] = []
        self._bound: dict[_Place, socket.socket] = {}

    @property
    def open(self) -> list[Listener]:
        """Those that accept clients."""
        return list(self._open.values())

    async def bind(self, wanted: Iterable[ListenerSettings]) -> None:
        """Have the sockets of all listeners that are not open yet.

        Raises:
            OSError: an address cannot be had; the message names the listener. All is as before.
        """
        for settings in wanted:
            place = settings.name, settings.bind
            if place in self._open:
                continue
            try:
                self._bound[place] = await self._link.listen(settings.bind)
            except OSError as error:
                await self._let_go()
                said = f"listener {settings.name} at {settings.bind}: {error.strerror}"
                raise OSError(error.errno, said) from error

    def change(
        self,
        wanted: Sequence[ListenerSettings],
        routes: Mapping[str, Routes],
        keepalive_s: float,
        clients: asyncio.TaskGroup,
    ) -> None:
        """Have these open, whose sockets are bound, and no others.

        Args:
            routes: by the listener's name.
            clients: the owner of the tasks of those who come.
        """
        self._closed = [listener for listener in self._closed if not listener.is_idle]
        before, self._open = self._open, {}
        for settings in wanted:
            place = settings.name, settings.bind
            listener = before.pop(place, None)
            if listener is None:
                sock = self._bound.pop(place)
                routes_here = routes[settings.name]
                listener = Listener(
                    settings, routes_here, sock, self._reception, clients, keepalive_s
                )
                listener.open()
            else:
                listener.change(settings, keepalive_s)
            self._open[place] = listener
        for listener in before.values():
            listener.close()
            self._closed.append(listener)

    async def release(self) -> None:
        """Have the system refuse clients at addresses where nobody accepts them any more."""
        held = {bind for _, bind in self._open}
        for bind in {listener.settings.bind for listener in self._closed} - held:
            await self._link.unlisten(bind)

    def close(self) -> None:
        """Accept nobody any more."""
        self._closed += self._open.values()
        for listener in self._open.values():
            listener.close()
        self._open.clear()

    def abandon(self) -> None:
        """End the connections that are still on their way to a host."""
        for listener in self._closed:
            listener.abandon()

    async def _let_go(self) -> None:
        """Of what was bound for a configuration that is refused. At the start it stays with the
        parent: another front may use it."""
        held = {bind for _, bind in self._open}
        for (_, bind), sock in self._bound.items():
            sock.close()
            if held and bind not in held:
                await self._link.unlisten(bind)
        self._bound.clear()
