"""Plan: who logs in, from where, how often; the same for every balancer that is compared.

Everything comes from the seed. What makes redirections common, as in a farm that has been running
for a while: most users have a session from before, and nobody starts at the host where it is.
Users sit at addresses of their own and now and then move to another one (a laptop that goes
home), or share one address (an office behind NAT).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

SHARED_SOURCE = "127.99.0.1"
_WITH_SESSION = 0.6  # of the users
_MOVES = 0.25  # chance of a new address at each login but the first
_THINK_S = (0.01, 0.06)
_HOLD_S = (0.02, 0.15)


@dataclass(frozen=True, slots=True)
class PlannedLogin:
    """One login of one user."""

    user: str
    source: str
    think_s: float
    hold_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All logins, one list for each user: a user does one thing after the other."""

    logins: Sequence[Sequence[PlannedLogin]]
    sessions: dict[str, str]  # user -> host of his session from before

    @property
    def size(self) -> int:
        return sum(map(len, self.logins))


def make_plan(hosts: Sequence[str], *, users: int, logins: int, nat: float, seed: int) -> Plan:
    """Draw a plan; `logins` for each user, `nat` is the share of users behind one address."""
    chance = random.Random(seed)
    names = [f"user{n:03}" for n in range(1, users + 1)]
    behind_nat = set(chance.sample(names, round(nat * users)))
    sessions = {name: chance.choice(hosts) for name in names if chance.random() < _WITH_SESSION}
    planned, address = [], 0
    for name in names:
        own: list[PlannedLogin] = []
        for _ in range(logins):
            if not own or chance.random() < _MOVES:
                address += 1
            source = f"127.{100 + address // 62500}.{address // 250 % 250}.{1 + address % 250}"
            if name in behind_nat:
                source = SHARED_SOURCE
            think_s, hold_s = chance.uniform(*_THINK_S), chance.uniform(*_HOLD_S)
            own.append(PlannedLogin(name, source, think_s, hold_s))
        planned.append(own)
    return Plan(planned, sessions)
