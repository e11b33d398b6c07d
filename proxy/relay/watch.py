"""Watch: the epoll set of a relay process: legs, and doors to parent and fronts.

Traps (epoll(7)): EPOLLHUP and EPOLLERR come whatever the interest is, so a leg that may not be read
now is taken out of the set until it may. Descriptors are closed after the batch: a number that is
used again within one batch would get the old socket's events. They are taken out of the set
explicitly, because the front may still hold a copy, which keeps the socket in it.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from proxy.relay.legs import OUTSIDE, Leg

IN, OUT = select.EPOLLIN, select.EPOLLOUT
HUNG = select.EPOLLHUP | select.EPOLLERR


class Watch:
    """What is watched, and what is to be closed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._doors: dict[int, Callable[[], None]] = {}
        self._legs: list[Leg | None] = []  # by descriptor: the system gives out the lowest free one
        self._doomed: list[int] = []
        self._buried: list[Leg] = []

    def open_door(self, fd: int, call: Callable[[], None]) -> None:
        """Call when `fd` is readable or hung up, or writable where `want_to_write` says so."""
        self._doors[fd] = call
        self._make_room(fd)
        self._epoll.register(fd, IN)

    def want_to_write(self, fd: int, wanted: bool) -> None:
        """Whether a door is called when it is writable, too."""
        self._epoll.modify(fd, IN | OUT if wanted else IN)

    def close_door(self, fd: int) -> None:
        """No more calls; `fd` is closed after this batch."""
        del self._doors[fd]
        self._epoll.unregister(fd)
        self._doomed.append(fd)

    def _admit(self, leg: Leg) -> None:
        """Know it by its descriptor."""
        self._make_room(leg.fd)
        self._legs[leg.fd] = leg

    def _make_room(self, fd: int) -> None:
        self._legs.extend([None] * (fd + 1 - len(self._legs)))

    def _arm(self, leg: Leg) -> None:
        """Ask epoll for what the leg's state wants."""
        interest = OUT if leg.pending is not None else 0
        if leg.reading and leg.peer.pending is None:
            interest |= IN
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

    def _abandon(self, leg: Leg) -> None:
        """No more events; it is closed after this batch."""
        if leg.interest != OUTSIDE:
            self._epoll.unregister(leg.fd)
            leg.interest = OUTSIDE
        self._legs[leg.fd] = None
        self._doomed.append(leg.fd)
        self._buried.append(leg)

    def _bury(self) -> None:
        """Close what the batch has ended."""
        for fd in self._doomed:
            os.close(fd)
        for leg in self._buried:
            del leg.peer, leg.connection  # no cycle stays for a collector that is off
        self._doomed.clear()
        self._buried.clear()
