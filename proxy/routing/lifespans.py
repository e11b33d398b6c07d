"""Lifespans: whether the connections to a session host last, or all of them end within seconds.

A host that cannot let anybody in (no licences, no room for profiles, a logon that crashes) answers
every check and refuses nobody. What shows it is that nobody stays. What it is told from:

- Connections that live yet count: one that has lived `SHORT_S` clears the host, so that a hundred
  users at work outweigh all the short connections with which logins begin.
- A glance (`signs.is_glance`) is no attempt to log in, and says nothing.
- A host that sends its clients on by token does its work, however short they stay.
- One user who cannot type his password is no fault of the host: it takes several clients.
"""

from __future__ import annotations

SHORT_S = 15.0
_CONNECTIONS_MIN = 10
_CLIENTS_MIN = 3


class Lifespans:
    """The connections to one host. Times in seconds, from any one clock.

    Cheap: constant work for each connection, and memory for those that live.
    """

    __slots__ = ("_clients", "_ended", "_young")

    def __init__(self) -> None:
        self._young: dict[int, float] = {}  # by connection, oldest first: when it began
        self._ended = 0
        self._clients: set[str] = set()

    def began(self, conn_id: int, at: float) -> None:
        """A connection was established, which the client began at `at`."""
        self._young[conn_id] = at

    def ended(self, conn_id: int, at: float, client: str | None) -> bool:
        """A connection is over; whether with it all have been short, and before it were not.

        `client` is whose it was; None where it says nothing about the host.
        """
        known = self.all_short(at)
        if self._young.pop(conn_id, None) is None or client is None:
            return False
        self._ended += 1
        if len(self._clients) < _CLIENTS_MIN:
            self._clients.add(client)
        return not known and self._are_many

    def all_short(self, at: float) -> bool:
        """Whether all connections of some while, enough to say so, ended within `SHORT_S`."""
        while self._young:
            conn_id, began = next(iter(self._young.items()))
            if at - began < SHORT_S:
                break
            del self._young[conn_id]
            self.works()
        return self._are_many

    def works(self) -> None:
        """The host has shown that it does its work: what was short until now counts no more."""
        self._ended = 0
        self._clients.clear()

    @property
    def _are_many(self) -> bool:
        return self._ended >= _CONNECTIONS_MIN and len(self._clients) >= _CLIENTS_MIN
