"""Lines: clients that wait for a place, in the order of their coming.

A host with `max_connections` may be full. Who belongs there (pin, token) stands in the host's line,
and takes no newcomer's place; newcomers stand in the line of a pool that is full as a whole.

Whoever is first looks for himself, several times a second: then he is out of the line, and calls
the next one. So places that come free all at once are taken all at once.
"""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.routing.pool import Host, Pool


class Turn:
    """One client's place in a line.

    Attributes:
        called: set when it may be first now, or should look for another reason.
    """

    __slots__ = ("_line", "called")

    def __init__(self, line: Line) -> None:
        self._line = line
        self.called = asyncio.Event()

    @property
    def is_first(self) -> bool:
        return self._line.turns[0] is self

    def leave(self) -> None:
        """Be out of the line, served or not."""
        self._line.leave(self)


class Line:
    """Those who wait for one host, or for any of a pool."""

    __slots__ = ("_lines", "turns", "whose")

    def __init__(self, lines: Lines, whose: Host | Pool) -> None:
        self._lines = lines
        self.whose = whose
        self.turns: deque[Turn] = deque()

    def leave(self, turn: Turn) -> None:
        self.turns.remove(turn)
        if isinstance(self.whose, Host):
            self.whose.waiting -= 1
        if self.turns:
            self.turns[0].called.set()
        else:
            self._lines.forget(self.whose)


class Lines:
    """All lines of a front; empty ones are forgotten."""

    def __init__(self) -> None:
        self._lines: dict[Host | Pool, Line] = {}

    def join(self, whose: Host | Pool) -> Turn:
        """Stand in line, at its end."""
        line = self._lines.get(whose) or self._lines.setdefault(whose, Line(self, whose))
        turn = Turn(line)
        line.turns.append(turn)
        if isinstance(whose, Host):
            whose.waiting += 1
        return turn

    def is_free(self, whose: Host | Pool) -> bool:
        """Whether nobody stands there."""
        return whose not in self._lines

    def call(self) -> None:
        """A host turned: everybody looks."""
        for line in self._lines.values():
            for turn in line.turns:
                turn.called.set()

    def forget(self, whose: Host | Pool) -> None:
        """Its last client has left."""
        del self._lines[whose]
