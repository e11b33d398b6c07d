"""AffinityStore: the contract of the affinity table, and its words.

A *pin* says which session host the connections of one affinity key go to. A store is a table of
pins shared by everybody who opens it. It knows nothing of hosts' health or of policies.

Rules that every store keeps (the contract tests run over all of `STORES`):

1. `claim` is an atomic compare-and-set. It returns the pin in force; the loser follows the winner.
   An absent or expired pin is taken; a pin equal to `expected` is replaced; any other one stays.
2. No counts and no releases, which leak when a node dies. Nodes `touch` the keys of their live
   connections; whatever is not touched expires.
3. An expiry only ever moves into the future: `claim` and `touch` set it to
   max(what it was, now + ttl), a claim that lost included, for its caller goes there. Only what
   replaces the host begins anew.
4. A touch seeds an absent pin again (the store may have lost it), and never changes or extends a
   different one. Either way the node is a user of the key from then on.
5. `move` gives way: it is refused while anybody else has a hand on the key, whatever their host.
6. Expiry is wall-clock time, so that it keeps its meaning over a reboot. Each table has one clock:
   that of its server where it has one, so that nodes need not agree on the time.
7. A pin that expires NEVER is somebody's decision (a personal desktop). Only what is without expiry
   itself (an assignment, or a claim that expects it), or `clear`, changes it: mortal claims and
   assignments, touches and moves leave it, and a table that is full keeps it.

All times are seconds. Any coroutine may raise StoreError, within a fraction of a second where the
table is on another machine; `is_up` and `recall` never wait and never raise.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

NEVER: Final = math.inf
"""As a time to live or an expiry: the pin stays until somebody changes it."""


@dataclass(frozen=True, slots=True)
class PinKey:
    """What a pin is filed under: a pool and an affinity key, such as `source:203.0.113.7`."""

    pool: str
    key: str


@dataclass(frozen=True, slots=True)
class Pin:
    """A pin in force."""

    host: str  # name of the session host within the pool
    expires_at: float  # seconds since the epoch, or NEVER
    touched_at: float  # when it was last claimed or touched


@dataclass(frozen=True, slots=True)
class Touch:
    """One key of a live (or just ended) connection, and where that connection is."""

    key: PinKey
    host: str
    ttl_s: float


class StoreEvent(StrEnum):
    """What a store tells its owner of its own accord. Bounded: used as a metrics label."""

    SET_ASIDE = "set_aside"  # the table was corrupt: it is kept aside, and an empty one begun
    EVICTED = "evicted"  # a full table forgot its longest idle pins; told in sums
    MAINTENANCE_FAILED = "maintenance_failed"  # it is tried again
    AWAY = "away"  # the table's server cannot be used: calls fail at once until it can
    BACK = "back"  # it answers again


OnEvent = Callable[[StoreEvent, str], None]
"""Receives an event and a sentence for the log. Called in the loop: quick, and never raises."""


def ignore_event(event: StoreEvent, detail: str) -> None:
    """For owners that do not want to know."""


class AffinityStore(Protocol):
    """See the module's rules. Verbs are coroutines even where the store needs no waiting."""

    @property
    def is_up(self) -> bool:
        """Whether the table answers, as far as is known: False from a failure to a success."""

    def recall(self, key: PinKey) -> str | None:
        """The host that this node last saw in force for `key`, for when the table is away.

        From a bounded memory, and with no promise: it may have expired or changed since.
        """

    async def get(self, key: PinKey) -> Pin | None:
        """The pin in force, or None where it is absent or expired."""

    async def get_each(self, keys: Sequence[PinKey]) -> list[Pin | None]:
        """As `get` for each of these keys, in order, in a few questions for all of them."""

    async def claim(self, key: PinKey, host: str, *, expected: str | None, ttl_s: float) -> Pin:
        """Pin `key` to `host` unless somebody else did; return the pin in force.

        Args:
            expected: the host that the caller believes the key is pinned to, None for no pin.
                With `host == expected` it confirms the pin and extends it.
            ttl_s: may be NEVER, see rule 7.
        A claim marks the key as used without a token now (see `move`).
        """

    async def assign(self, key: PinKey, host: str, *, ttl_s: float) -> Pin:
        """Pin `key` to `host` whatever it was before (see rule 7); return the pin in force.

        Not a sign of a tokenless connection. `ttl_s` may be NEVER.
        """

    async def touch(self, node: str, touches: Sequence[Touch]) -> list[str]:
        """Extend the pins of live connections; return the host in force for each, in order.

        A touch with the host in force extends it; one with another host leaves the pin as it is.
        Both mark `node` as a user of the key (see `move`).
        """

    async def move(
        self, node: str, key: PinKey, host: str, *, expected: str, quiet_s: float, ttl_s: float
    ) -> bool:
        """Move a pin from `expected` to `host`; False where the store refuses.

        Refused where the pin is not `expected`, where another node touched it within `quiet_s`,
        or where a claim came for the key within `quiet_s`.
        """

    def scan(self, pool: str | None = None) -> AsyncIterator[tuple[PinKey, Pin]]:
        """All pins in force, of one pool or of all, in no particular order."""

    async def clear(self, key: PinKey) -> bool:
        """Forget one pin; False where there was none."""

    async def size(self) -> int:
        """How many pins are in force, about."""

    async def maintain(self) -> None:
        """Do what the store must do beside its calls, until cancelled. Raises no StoreError."""

    async def close(self) -> None:
        """Give back what the store holds. The table stays."""
