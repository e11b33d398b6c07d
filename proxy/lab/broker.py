"""Broker: knows on which host each user's session is, and places users who have none.

It stands for the RD Connection Broker. A session outlives its connections (a disconnected
session waits for its user), so a user who arrives at any other host of the collection is sent to
his session: that is where redirections come from. No I/O; chance comes from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence


class Broker:
    """Sessions of all users in all collections. A host belongs to one collection."""

    def __init__(self, collections: Mapping[str, Sequence[str]], *, seed: int) -> None:
        self._hosts = {name: list(hosts) for name, hosts in collections.items()}
        self._collection_of = {host: name for name, hosts in self._hosts.items() for host in hosts}
        self._seed = seed
        self._lost: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Forget all sessions and begin the chances anew: the same play can be given again."""
        self._random = random.Random(self._seed)
        self._sessions: dict[tuple[str, str], str] = {}

    def arrive(self, user: str, host: str) -> str:
        """The host where `user`, who has just logged in at `host`, has to work.

        His session's host where he has one in that collection; else the host with the fewest
        sessions, which is then his. `host` itself wins a tie, further ties go by chance.
        """
        collection = self._collection_of[host]
        key = (collection, user.casefold())
        if key not in self._sessions:
            self._sessions[key] = self._least_loaded(collection, host)
        return self._sessions[key]

    def place(self, user: str, host: str) -> None:
        """Say that `user` has a session on `host`, from before."""
        self._sessions[self._collection_of[host], user.casefold()] = host

    def session_of(self, user: str, collection: str) -> str | None:
        """The host of a user's session in a collection."""
        return self._sessions.get((collection, user.casefold()))

    def sessions_on(self, host: str) -> int:
        return sum(1 for place in self._sessions.values() if place == host)

    def lose(self, host: str) -> None:
        """The host is gone, and the sessions on it with it. Nobody is sent there."""
        self._lost.add(host)
        for key in [key for key, place in self._sessions.items() if place == host]:
            del self._sessions[key]

    def regain(self, host: str) -> None:
        """The host is back, empty."""
        self._lost.discard(host)

    def _least_loaded(self, collection: str, arrived_at: str) -> str:
        hosts = [host for host in self._hosts[collection] if host not in self._lost]
        load = {host: self.sessions_on(host) for host in hosts}
        least = [host for host in hosts if load[host] == min(load.values())]
        # A host that has just taken the user in is alive, whatever was said of it.
        return arrived_at if arrived_at in least or not least else self._random.choice(least)
