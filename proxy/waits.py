"""Waits: what the path's sockets wait for, in one epoll set beside the event loop's own.

Every connection waits three or four times before its hand-off. The loop's own add_reader costs
five system calls on uvloop and a timer for the deadline besides; here a wait is two system calls
and an entry in a dictionary. The loop watches the set's own descriptor (epoll(7): sets nest).

Deadlines are looked at ten times a second, so they are coarse by as much. Descriptors are taken
out of the set explicitly: after a hand-off the relay's copy would keep them in it.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from weakref import WeakKeyDictionary

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT
WRITABLE = select.EPOLLOUT | select.EPOLLONESHOT
_LOOK_S = 0.1
_BATCH = 1024

Judge = Callable[[], bool]
_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Waits] = WeakKeyDictionary()


class Waits:
    """All waits of one event loop; `Waits.here()` is the running one's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # No reference to the loop is kept, or neither would ever be collected.
        self._epoll = select.epoll()
        self._of_fd: dict[int, tuple[asyncio.Future[bool], Judge | None]] = {}
        self._until: dict[asyncio.Future[bool], float] = {}
        self._looking = False
        loop.add_reader(self._epoll.fileno(), self._happened)

    @staticmethod
    def here() -> Waits:
        """The waits of the running loop."""
        loop = asyncio.get_running_loop()
        waits = _of_loop.get(loop)
        if waits is None:
            waits = _of_loop[loop] = Waits(loop)
        return waits

    async def one(self, fd: int, events: int, until: float) -> None:
        """Wait for `events` of one descriptor.

        Args:
            until: the loop's time.

        Raises:
            TimeoutError: nothing happened.
        """
        future = self._begin(until)
        try:
            self._watch(fd, events, future, None)
            try:
                await future
            finally:
                self._forget(fd)
        finally:
            del self._until[future]

    async def first(self, fd: int, other: int, judge: Judge, until: float) -> bool:
        """Wait until `fd` is readable (True), or `other` is and `judge` says yes to it (False).

        Where it says no, `other` is not looked at any more.
        """
        future = self._begin(until)
        try:
            self._watch(fd, READABLE, future, None)
            try:
                self._watch(other, READABLE, future, judge)
                try:
                    return await future
                finally:
                    self._forget(other)
            finally:
                self._forget(fd)
        finally:
            del self._until[future]

    def _begin(self, until: float) -> asyncio.Future[bool]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._until[future] = until
        if not self._looking:
            self._looking = True
            loop.call_later(_LOOK_S, self._look, loop)
        return future

    def _watch(
        self, fd: int, events: int, future: asyncio.Future[bool], judge: Judge | None
    ) -> None:
        self._epoll.register(fd, events)
        self._of_fd[fd] = (future, judge)

    def _forget(self, fd: int) -> None:
        del self._of_fd[fd]
        self._epoll.unregister(fd)

    def _happened(self) -> None:
        for fd, _ in self._epoll.poll(0, _BATCH):
            future, judge = self._of_fd[fd]
            if future.done():
                continue
            if judge is None:
                future.set_result(True)
            elif judge():
                future.set_result(False)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for future, until in self._until.items():
            if until <= now and not future.done():
                future.set_exception(TimeoutError())
        self._looking = bool(self._until)
        if self._looking:
            loop.call_later(_LOOK_S, self._look, loop)
