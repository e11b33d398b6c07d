"""Breaker: what stands between the path and a server that may be away.

A call has 150 ms. After a failure the next ones have 20 ms, so that a client with several
questions is not held several times; the third failure in a row opens the breaker: calls fail
without waiting, and whoever waits already is let go. It is closed again by `succeeded`, which
somebody beside the path says once the server has taken a write.

Invariant: nothing here does I/O; a breaker that is open stays so until it is told otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CALL_LIMIT_S = 0.15
SUSPECT_LIMIT_S = 0.02
FAILURES_MAX = 3


class Breaker:
    """Closed at first.

    Attributes:
        fault: why it is open, or what the last failure was; empty after a success.
    """

    def __init__(self) -> None:
        """Nothing has failed yet."""
        self.fault = ""
        self._failures = 0
        self._limits: set[asyncio.Timeout] = set()

    @property
    def is_open(self) -> bool:
        """Whether calls are to fail at once."""
        return self._failures >= FAILURES_MAX

    @property
    def limit_s(self) -> float:
        """How long a call may take now."""
        return SUSPECT_LIMIT_S if self._failures else CALL_LIMIT_S

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """The time that a call has: TimeoutError when it is over, or when the breaker opens."""
        async with asyncio.timeout(self.limit_s) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    def succeeded(self) -> None:
        """The server answered as it should."""
        self._failures = 0
        self.fault = ""

    def failed(self, fault: str) -> bool:
        """The server did not; True where that opened the breaker."""
        was_open = self.is_open
        self._failures += 1
        self.fault = fault
        if was_open or not self.is_open:
            return False
        self.open(fault)
        return True

    def open(self, fault: str) -> None:
        """Open it now, and let go whoever waits."""
        self._failures = FAILURES_MAX
        self.fault = fault
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)
