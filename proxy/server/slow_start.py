"""SlowStart: lets the weight of hosts that come back grow, as `slow_start` of their pool says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proxy.routing.pool import Host, Pool
from proxy.routing.slow_start import LEAST, warmth

TICK_S = 0.5


@dataclass(slots=True)
class SlowStart:
    """Keeps `Host.warmth`.

    Attributes:
        clock: monotonic seconds.
    """

    pools: Mapping[str, Pool]
    clock: Callable[[], float]
    _since: dict[Host, float] = field(default_factory=dict)

    def begin(self, host: Host) -> None:
        """A host takes new clients again: it was down, or nobody was to come."""
        pool = self.pools.get(host.pool)
        if pool is not None and pool.settings.slow_start_s is not None:
            host.warmth = LEAST
            self._since[host] = self.clock()

    async def run(self) -> None:
        """One tick after the other, for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Let them grow."""
        now = self.clock()
        for host, since in list(self._since.items()):
            pool = self.pools.get(host.pool)
            slow_start_s = pool.settings.slow_start_s if pool is not None else None
            host.warmth = warmth(now - since, slow_start_s) if slow_start_s else 1.0
            if host.warmth >= 1:
                del self._since[host]
