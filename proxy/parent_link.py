"""ParentLink: the front's side of its parent, for asyncio and uvloop.

The parent makes the listening sockets and the relays, because they outlive fronts; this asks for
them. Messages are JSON objects with `act`, sometimes with one descriptor (proxy/parent.py lists
them). A configuration travels as a memory file, whatever its size.

The parent starts a front with its signals blocked, so that none comes before its handlers stand:
`run` lets them in. SIGINT stays blocked, because a terminal sends it to every process of the
group; the parent passes it on as SIGTERM. SIGUSR2 stays blocked because it is the parent's alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from proxy import channel
from proxy.address import Address

HEARTBEAT_S = 1.0
PASSED_ON = (signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger(__name__)

_Answer = tuple[dict[str, object], int | None]  # what the parent said, and a descriptor


class RelayAttached(Protocol):
    """Called with a relay's index, its pid, the channel to it, and whether it takes nothing new."""

    def __call__(self, index: int, pid: int, sock: socket.socket, *, retired: bool) -> None: ...


class ParentLink:
    """The control channel of a front.

    Args:
        control: the front's end of the channel; owned by the link.
        on_relay: called for each relay, now and later.
        on_retire: a newer front is ready: accept nobody any more, finish, and end.
        on_parent_gone: the parent has died: the front is to end at once.

    Attributes:
        last_configuration: what a front before this one left with `keep_configuration`.
        is_upgrade: an older front serves still; the configuration is to be read anew.
    """

    def __init__(
        self,
        control: socket.socket,
        *,
        on_relay: RelayAttached,
        on_retire: Callable[[], None],
        on_parent_gone: Callable[[], None],
    ) -> None:
        self.last_configuration: str | None = None
        self.is_upgrade = False
        self._control = control
        self._control.setblocking(False)
        self._on_relay = on_relay
        self._on_retire = on_retire
        self._on_parent_gone = on_parent_gone
        self._asked = 0
        self._answers: dict[int, asyncio.Future[_Answer]] = {}
        self._outbox: deque[tuple[bytes, int | None]] = deque()
        self._gone = asyncio.Event()
        self._hear_greeting()

    async def run(self) -> None:
        """Hear the parent and tell it once a second that the loop is alive, until it is gone.

        To be started when the signal handlers stand, and before anything is asked for.
        """
        loop = asyncio.get_running_loop()
        fd = self._control.fileno()
        loop.add_reader(fd, self._read)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        try:
            while not self._gone.is_set():
                self.alive()
                try:
                    await asyncio.wait_for(self._gone.wait(), HEARTBEAT_S)
                except TimeoutError:
                    continue
        finally:
            loop.remove_reader(fd)
            self._control.close()

    async def listen(self, address: Address) -> socket.socket:
        """A listening socket, the same one that fronts before this one had.

        Raises:
            OSError: as the parent met it when it bound the address.
        """
        answer, fd = await self._ask("listen", host=address.host, port=address.port)
        if fd is None:
            code = answer.get("errno")
            raise OSError(code if isinstance(code, int) else 0, f"{answer.get('error')}")
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        return sock

    async def unlisten(self, address: Address) -> None:
        """Close the parent's copy of a listening socket: when the front closes its own, the
        system refuses new clients instead of queueing them."""
        await self._ask("unlisten", host=address.host, port=address.port)

    async def relays(self, count: int) -> None:
        """Have at least `count` relays; each comes by `on_relay`."""
        await self._ask("relays", count=count)

    def ready(self) -> None:
        """The front accepts clients."""
        self._post({"act": "ready"})

    def relay_ready(self, pid: int) -> None:
        """A relay has told all of its rows, and is used."""
        self._post({"act": "relay_ready", "pid": pid})

    def alive(self) -> None:
        """The loop turns. A front that is silent for ten seconds is killed and replaced."""
        if self._outbox:
            self._flush()  # what waits there says it as well
        else:
            self._post({"act": "alive"})

    def keep_configuration(self, text: str) -> None:
        """Leave the configuration in force for a successor."""
        fd = os.memfd_create("configuration", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(text.encode())
        self._post({"act": "configuration"}, fd)

    async def _ask(self, act: str, **fields: object) -> _Answer:
        self._asked += 1
        number = self._asked
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._post({"act": act, "number": number, **fields})
        try:
            return await answer
        finally:
            del self._answers[number]

    def _post(self, message: dict[str, object], fd: int | None = None) -> None:
        """Send now, or with the next heartbeat where the parent is too busy to read."""
        self._outbox.append((json.dumps(message).encode(), fd))
        self._flush()

    def _flush(self) -> None:
        while self._outbox and not self._gone.is_set():
            data, fd = self._outbox[0]
            try:
                if not channel.send(self._control, data, () if fd is None else (fd,)):
                    return
            except ConnectionError:
                return  # the reader meets the end
            self._outbox.popleft()
            if fd is not None:
                os.close(fd)

    def _hear_greeting(self) -> None:
        """The parent says it before it starts a front, so it is there already."""
        try:
            message = channel.receive(self._control)
        except EOFError:
            return  # `run` meets it again
        said = {} if message is None else json.loads(message.data)
        if message is None or said.get("act") != "greeting":
            raise RuntimeError("the parent did not greet")
        self.is_upgrade = bool(said.get("anew"))
        for fd in message.fds:
            with os.fdopen(fd, "rb") as file:
                file.seek(0)
                self.last_configuration = file.read().decode()

    def _read(self) -> None:
        while not self._gone.is_set():
            try:
                message = channel.receive(self._control)
            except EOFError:
                self._end()
                return
            if message is None:
                return
            self._hear(json.loads(message.data), message.fds)

    def _hear(self, said: dict[str, object], fds: tuple[int, ...]) -> None:
        number, index, pid = said.get("number"), said.get("index"), said.get("pid")
        if said["act"] == "relay" and isinstance(index, int) and isinstance(pid, int) and fds:
            retired = bool(said.get("retired"))
            self._on_relay(index, pid, channel.adopt(fds[0]), retired=retired)
            return
        if said["act"] == "retire":
            self._on_retire()
            return
        answer = self._answers.get(number) if isinstance(number, int) else None
        if answer is None or answer.done():
            channel.close_all(fds)  # nobody waits for it any more
        else:
            answer.set_result((said, fds[0] if fds else None))

    def _end(self) -> None:
        self._gone.set()
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the parent is gone"))
        self._on_parent_gone()
