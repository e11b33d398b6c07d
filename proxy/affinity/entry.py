"""Entry: what the table keeps under one key, and how each verb of the contract changes it.

What: the rules of `proxy.affinity.store` as pure functions, from the entry in force (None where it
is absent or expired) to the entry that is to stand. A store that can run Python inside of its
transaction keeps the contract by calling them; one that cannot (a script inside of Redis) is held
to them by the same contract tests.

Two facts serve `move` alone. `claimed_at` is the last sign of a connection without a token. The
last node that touched the key is kept with its time, and beside it the latest touch by any other
node: two slots are enough to tell each node when anybody else was there last, however many nodes
there are.

Invariants: no I/O, no clock; all times are seconds since the epoch, None means "has not been".
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.affinity.store import NEVER, Pin


class Entry(NamedTuple):
    """One row of the table."""

    host: str
    expires_at: float
    touched_at: float  # last sign of life of this pin: the longest idle makes room first
    claimed_at: float | None = None
    node: str | None = None  # the last node that touched the key
    node_at: float | None = None
    others_at: float | None = None  # last touch by any node but `node`

    @property
    def pin(self) -> Pin:
        """What the contract shows of it."""
        return Pin(self.host, self.expires_at, self.touched_at)

    @property
    def is_fixed(self) -> bool:
        """Whether it is a decision, not a memory: no expiry."""
        return self.expires_at == NEVER

    def extended(self, now: float, ttl_s: float) -> Entry:
        """The same pin, alive now."""
        return self._replace(expires_at=max(self.expires_at, now + ttl_s), touched_at=now)

    def repinned(self, host: str, now: float, ttl_s: float) -> Entry:
        """The pin at `host`: extended where it is there already, begun anew elsewhere."""
        if host == self.host:
            return self.extended(now, ttl_s)
        return self._replace(host=host, expires_at=now + ttl_s, touched_at=now)

    def used_by(self, node: str, now: float) -> Entry:
        """The same pin, with `node` as the last user of its key."""
        others_at = self.others_at if node == self.node else self.node_at
        return self._replace(node=node, node_at=now, others_at=others_at)


def claimed(
    entry: Entry | None, now: float, host: str, expected: str | None, ttl_s: float
) -> Entry:
    """The entry after a claim. The loser of a race extends the winner's pin, for it goes there."""
    if entry is None:
        return Entry(host, now + ttl_s, now, claimed_at=now)
    may_replace = not entry.is_fixed or ttl_s == NEVER
    winner = host if entry.host == expected and may_replace else entry.host
    return entry.repinned(winner, now, ttl_s)._replace(claimed_at=now)


def assigned(entry: Entry | None, now: float, host: str, ttl_s: float) -> Entry:
    """The entry after an assignment."""
    if entry is None:
        return Entry(host, now + ttl_s, now)
    winner = entry.host if entry.is_fixed and ttl_s != NEVER else host
    return entry.repinned(winner, now, ttl_s)


def touched(entry: Entry | None, now: float, node: str, host: str, ttl_s: float) -> Entry:
    """The entry after a touch. A touch with another host only leaves the node's mark."""
    if entry is None:
        entry = Entry(host, now + ttl_s, now)
    elif entry.host == host:
        entry = entry.extended(now, ttl_s)
    return entry.used_by(node, now)


def moved(
    entry: Entry | None,
    now: float,
    node: str,
    host: str,
    *,
    expected: str,
    quiet_s: float,
    ttl_s: float,
) -> Entry | None:
    """The entry after a move, or None where it is refused."""
    if entry is None or entry.host != expected or entry.is_fixed:
        return None
    others_at = entry.others_at if entry.node == node else entry.node_at
    for sign_of_others in (entry.claimed_at, others_at):
        if sign_of_others is not None and now - sign_of_others < quiet_s:
            return None
    return entry.repinned(host, now, ttl_s).used_by(node, now)
