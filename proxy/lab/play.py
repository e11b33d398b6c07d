"""Play: gives one plan to one balancer, and keeps what came of it.

Added time is measured pair by pair. Each login that succeeds is repeated at once by the same user
without the balancer: the same connections, dialled straight to the hosts that they reached. What
the login through the balancer took longer, from its first dial to the active session, is what
the balancer added. Both run on one machine with other users' logins beside them, so a single
difference can be negative; the percentiles are what counts. Only logins that succeed have a time:
through a round robin those are few, and just those that other users' connections got between.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.login import Failure, LoginResult
from proxy.lab.plan import Plan, PlannedLogin

_AT_ONCE = 4  # users who log in at the same time; any number may be in sessions


@dataclass(slots=True)
class Run:
    """One balancer's run through the plan."""

    balancer: str
    results: list[LoginResult] = field(default_factory=list)
    added_ms: list[float] = field(default_factory=list)

    @property
    def failures(self) -> list[LoginResult]:
        return [result for result in self.results if not result.ok]

    @property
    def causes(self) -> Counter[Failure]:
        return Counter(result.failure for result in self.results if result.failure is not None)

    def summary(self) -> dict[str, str | int | float | None]:
        """The figures, as `--json` prints them. Times are None where no login succeeded."""
        return {
            "balancer": self.balancer,
            "logins": len(self.results),
            "failed": len(self.failures),
            "unexpected_certificate": self.causes[Failure.UNEXPECTED_CERTIFICATE],
            "tokens": sum(result.tokens for result in self.results),
            "tokens_misrouted": sum(result.misrouted for result in self.results),
            "added_ms_p50": percentile(self.added_ms, 50),
            "added_ms_p99": percentile(self.added_ms, 99),
        }


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Nearest-rank percentile, rounded to hundredths; None of nothing."""
    if not values:
        return None
    rank = max(1, math.ceil(percent / 100 * len(values)))
    return round(sorted(values)[rank - 1], 2)


async def play(
    farm: Farm, plan: Plan, balancer: str, address: Address, progress: Callable[[Run], None]
) -> Run:
    """Reset the farm, place the sessions from before, and play all logins through `address`.

    `progress` is called after each login.
    """
    farm.reset()
    for user, host in plan.sessions.items():
        farm.broker.place(user, host)
    run = Run(balancer)
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one_after_the_other(logins: Sequence[PlannedLogin]) -> None:
        for login in logins:
            await _one(farm, run, login, address, turn)
            progress(run)

    async with asyncio.TaskGroup() as users:
        for logins in plan.logins:
            users.create_task(one_after_the_other(logins))
    return run


async def _one(
    farm: Farm, run: Run, login: PlannedLogin, address: Address, turn: asyncio.Semaphore
) -> None:
    """Log in and measure in turn, then stay in the session beside the others."""
    client = farm.client(
        address, login.user, source=login.source, think_s=login.think_s, hold_s=login.hold_s
    )
    async with AsyncExitStack() as stack:
        async with turn:
            result, session = await stack.enter_async_context(client.session())
            await _measure(farm, run, result)
        if session is not None:
            await client.stay(result, session)
    run.results.append(result)


async def _measure(farm: Farm, run: Run, result: LoginResult) -> None:
    """Repeat a login that succeeded without the balancer, and note the difference."""
    if result.time_to_active_s is None or result.legs[0].reached is None:
        return
    first = farm.hosts[result.legs[0].reached].address
    direct = farm.client(first, result.user, source=result.source, direct=True)
    without = (await direct.login()).time_to_active_s
    if without is not None:
        run.added_ms.append(1000 * (result.time_to_active_s - without))
