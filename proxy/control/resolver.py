"""Resolver: follows the DNS names by which hosts are configured.

Each name is asked again when its answer has expired, within bounds. Whatever goes wrong changes
nothing: a name server's outage, or a zone that was emptied by mistake, must not take a farm down.
Only an answer with addresses says who is there; who is missing from it leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable

from proxy.control.lookup import Answer, NameLookupError

log = logging.getLogger(__name__)

LEAST_S = 2.0  # between two questions for one name, however short its answers hold
MOST_S = 300.0
AGAIN_S = 3.0  # after a failure
_AT_ONCE = 16
_MOMENT_S = 0.1

Lookup = Callable[[str], Coroutine[None, None, Answer]]


class Resolver:
    """Looks up names for as long as somebody wants them.

    Args:
        on_answer: told the name and its addresses after each answer; called in the loop, and
            never raises.
        lookup: raises NameLookupError.

    Attributes:
        failing: the names whose latest lookup failed, and why; one that has just been answered is
            among them until `on_answer` has returned.
    """

    def __init__(self, on_answer: Callable[[str, tuple[str, ...]], None], lookup: Lookup) -> None:
        self.failing: dict[str, str] = {}
        self._on_answer = on_answer
        self._look_up = lookup
        self._wanted: set[str] = set()
        self._asked: set[str] = set()
        self._told = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def names(self) -> set[str]:
        return self._wanted

    def follow(self, names: Iterable[str]) -> None:
        """Look up these names from now on, and no others."""
        self._wanted = set(names)
        self._asked &= self._wanted
        self.failing = {name: why for name, why in self.failing.items() if name in self._wanted}
        self._changed.set()

    async def settled(self, at_most_s: float) -> bool:
        """Wait until each name was asked once; False where that takes too long."""
        try:
            async with asyncio.timeout(at_most_s):
                while not self._wanted <= self._asked:
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Look up until cancelled."""
        slots = asyncio.Semaphore(_AT_ONCE)
        followed: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                for name in followed.keys() - self._wanted:
                    followed.pop(name).cancel()
                for name in self._wanted - followed.keys():
                    followed[name] = tasks.create_task(self._follow(name, slots))
                await self._changed.wait()

    async def _follow(self, name: str, slots: asyncio.Semaphore) -> None:
        while True:
            async with slots:
                rest_s = await self._ask(name)
            self._asked.add(name)
            self._told.set()
            await asyncio.sleep(rest_s)

    async def _ask(self, name: str) -> float:
        """Ask once; how long to wait with the next question."""
        try:
            answer = await self._answer(name)
        except NameLookupError as failed:
            if name in self._wanted - self.failing.keys():
                log.warning("name_failed", extra={"dns_name": name, "detail": str(failed)})
                self.failing[name] = str(failed)
            return AGAIN_S
        self._on_answer(name, answer.addresses)
        self.failing.pop(name, None)
        return min(max(answer.ttl_s, LEAST_S), MOST_S)

    async def _answer(self, name: str) -> Answer:
        """What the lookup says.

        One that is broken off is let finish if that takes a moment only: uvloop loses a socket
        whose making is cancelled, and dnspython may not notice that it was (Python 3.11).
        """
        asked = asyncio.get_running_loop().create_task(self._look_up(name))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            await asyncio.wait([asked], timeout=_MOMENT_S)
            asked.cancel()
            raise
