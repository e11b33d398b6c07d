"""Deadlines: which connections have been silent for too long.

A connection is looked at when its time-out would end if nothing more came; what came meanwhile puts
that off. So bytes cost no timer: only looking costs, once per time-out (or minute).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from proxy.errors import Cause
from proxy.relay.legs import Connection

_LOOK_AGAIN_S = 60.0  # so that connections which ended long ago do not fill the heap


class Deadlines:
    """When to look at which connection. All times are those of one monotonic clock, in seconds.

    Args:
        connections: the live ones, by id; what is not in there any more is not looked at.
    """

    def __init__(self, connections: Mapping[int, Connection]) -> None:
        self._connections = connections
        self._heap: list[tuple[float, int]] = []

    def add(self, connection: Connection, limit_s: float | None, now: float) -> None:
        """One of its time-outs begins to run now; None for no time-out."""
        if limit_s:
            self._look_again(connection, now + limit_s, now)

    def first(self) -> float | None:
        """When the next look is due."""
        return self._heap[0][0] if self._heap else None

    def expired(self, now: float) -> Iterator[tuple[Connection, Cause]]:
        """Those whose time is over, and which time-out it was."""
        while self._heap and self._heap[0][0] <= now:
            connection = self._connections.get(heapq.heappop(self._heap)[1])
            if connection is None:
                continue
            if connection.changed:
                connection.active_at = now  # it carried bytes since the last tick
            due_at, cause = _due(connection)
            if due_at <= now:
                yield connection, cause
            else:
                self._look_again(connection, due_at, now)

    def _look_again(self, connection: Connection, at: float, now: float) -> None:
        heapq.heappush(self._heap, (min(at, now + _LOOK_AGAIN_S), connection.id))


def _due(connection: Connection) -> tuple[float, Cause]:
    """When it is over if nothing more comes."""
    limits = [(connection.idle_s, Cause.IDLE)]
    if connection.one_sided:
        limits.append((connection.half_close_s, Cause.HALF_CLOSE))
    return min((connection.active_at + limit, cause) for limit, cause in limits if limit)
