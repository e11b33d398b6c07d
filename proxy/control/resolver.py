"""Resolver: keeps the addresses of hosts that are configured by DNS name.

Each name is looked up at start and every 30 s, every 2 s as long as it has no address. A failure
keeps the last answer: a name server's outage must not take a farm down. Of several addresses the
one dialled stays while the name still has it, since name servers rotate their answers.

Lookups run in the loop's default executor, a few at once so that slow name servers leave threads
to others. Hosts with an IP address cost nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from proxy.address import Address, canonical_host
from proxy.routing.pool import Host, Pool

_AGAIN_S = 30.0
_MISSING_S = 2.0
_AT_ONCE = 4

Lookup = Callable[[str], Awaitable[Sequence[str]]]


async def look_up(name: str) -> list[str]:
    """The IP addresses of a name, best first. Raises OSError where it has none."""
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(canonical_host(str(answer[4][0])) for answer in answers))


class Resolver:
    """Looks up the names of the pools' hosts; `on_change` is called after a host's addresses moved.

    `on_change` is where the routes are indexed anew; called in the loop, and never raises.
    """

    def __init__(
        self, pools: Iterable[Pool], on_change: Callable[[Host], None], lookup: Lookup = look_up
    ) -> None:
        self._on_change = on_change
        self._lookup = lookup
        self._hosts: defaultdict[str, list[Host]] = defaultdict(list)
        for pool in pools:
            for host in pool.hosts:
                if not host.settings.address.is_ip:
                    self._hosts[host.settings.address.host].append(host)
        self._unasked = set(self._hosts)
        self._asked = asyncio.Event()
        if not self._unasked:
            self._asked.set()

    async def run(self) -> None:
        """Look up until cancelled; returns at once where there is no name."""
        slots = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as names:
            for name in self._hosts:
                names.create_task(self._follow(name, slots))

    async def settled(self, at_most_s: float) -> bool:
        """Wait until `run` has asked for each name once; False where that takes too long."""
        try:
            async with asyncio.timeout(at_most_s):
                await self._asked.wait()
        except TimeoutError:
            return False
        return True

    async def _follow(self, name: str, slots: asyncio.Semaphore) -> None:
        while True:
            async with slots:
                try:
                    found = await self._lookup(name)
                except (OSError, UnicodeError):  # UnicodeError: no name at all, says IDNA
                    found = []
            if found:
                self._take(self._hosts[name], found)
            self._unasked.discard(name)
            if not self._unasked:
                self._asked.set()
            known = self._hosts[name][0].address is not None
            await asyncio.sleep(_AGAIN_S if known else _MISSING_S)

    def _take(self, hosts: Iterable[Host], found: Sequence[str]) -> None:
        for host in hosts:
            port = host.settings.address.port
            addresses = [Address(ip, port) for ip in found]
            dialled = host.address
            if dialled is not None and dialled in addresses:
                addresses = [dialled, *(other for other in addresses if other != dialled)]
            names = frozenset(addresses) | frozenset(host.settings.token_addresses)
            if (addresses[0], names) != (dialled, host.names):
                host.resolved(addresses)
                self._on_change(host)
