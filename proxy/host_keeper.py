"""HostKeeper: which hosts there are, as configuration and name servers have it.

It joins the farm to the resolver that follows its DNS names, adopts hosts that the broker names in
`token.networks`, and forgets what has left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from proxy.address import Address
from proxy.control.exposition import Sample
from proxy.control.lookup import Answer, NameLookupError, look_up
from proxy.control.resolver import Resolver
from proxy.routing.farm import Farm, dns_names
from proxy.routing.pool import ADOPTED_MAX, Host, addresses_of
from proxy.routing.routes import Routes
from proxy.settings import Settings
from proxy.sockets import is_own, leads_to

log = logging.getLogger("proxy")

TIDY_S = 1.0  # how soon a host that leaves is forgotten after its last connection
_NAMES_SETTLED_S = 3.0
_CROWDED_AGAIN_S = 60.0


class HostKeeper:
    """Keeps `farm`.

    Args:
        on_change: hosts have come, gone or moved. Called in the loop: quick, and never raises.

    Attributes:
        on_adopted: called at once when a host was adopted: its first client is on its way already.
            `on_change` follows within TIDY_S, once for all, so that a burst costs no more.
    """

    def __init__(self, settings: Settings, on_change: Callable[[], None]) -> None:
        self.farm = Farm(settings)
        self._on_change = on_change
        self.on_adopted: Callable[[], None] = lambda: None
        self._has_adopted = False
        self._silent_until = 0.0
        self._take(settings)
        self._resolver = Resolver(self._resolved, self._look_up)
        self._resolver.follow(self.farm.names)

    async def run(self) -> None:
        """Follow names and forget hosts until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resolver.run())
            tasks.create_task(self._tidy())

    async def settled(self) -> None:
        """Wait a moment until each name was asked once."""
        await self._resolver.settled(_NAMES_SETTLED_S)

    async def prepare(self, settings: Settings) -> list[tuple[str, str]]:
        """Ask for the names of a configuration that is to come, so that its hosts are there; which
        these are, by pool and name."""
        self._take(settings)
        self._resolver.follow(self.farm.names | dns_names(settings.pools))
        await self.settled()
        found = self.farm.found
        return [
            (pool.name, name)
            for pool in settings.pools
            for host in pool.hosts
            for name in addresses_of(host, found)
        ]

    def change(self, settings: Settings) -> None:
        """Take another configuration."""
        self._take(settings)
        self.farm.change(settings)
        self._resolver.follow(self.farm.names)
        self._on_change()

    def named_by(self, routes: Routes, address: Address) -> Host | None:
        """The host that an address selects; where the pool's `token.networks` have it, a new one.

        This proxy's own listeners are never one: a client would be sent round and round.
        """
        host = routes.named_by(address)
        pool = routes.adopter_of(address) if host is None else None
        if pool is None:
            return host
        if is_own(address) and address.port in {bind.port for bind in self._binds}:
            return None
        now = asyncio.get_running_loop().time()
        host = self.farm.adopt(routes, address, now)
        if host is not None:
            fields = {"pool": host.pool, "host": host.name, "host_address": str(host.address)}
            log.info("host_adopted", extra=fields)
            self._has_adopted = True
            self.on_adopted()
        elif now >= self._silent_until:
            self._silent_until = now + _CROWDED_AGAIN_S
            detail = f"{ADOPTED_MAX} hosts are adopted already, which is the most"
            fields = {"pool": pool.name, "host_address": str(address), "detail": detail}
            log.warning("adoption_refused", extra=fields)
        return host

    def adopted(self) -> None:
        """Connections that were there already may have brought hosts with them."""
        self.farm.index()
        self._on_change()

    def samples(self) -> Iterator[Sample]:
        """What the metrics show of names and of adopted hosts."""
        for pool in self.farm.pools.values():
            adopted = sum(host.adopted for host in pool.hosts)
            yield Sample("hosts_adopted", (pool.name,), adopted)
        for name in self.farm.names:
            yield Sample("dns_name_up", (name,), name not in self._resolver.failing)

    def _take(self, settings: Settings) -> None:
        self._dns = settings.dns
        self._binds = [listener.bind for listener in settings.listeners]
        hosts = [host.address for pool in settings.pools for host in pool.hosts]
        self._named = {address for address in hosts if not address.is_ip}

    async def _look_up(self, name: str) -> Answer:
        answer = await look_up(name, self._dns.servers)
        for port in (entry.port for entry in self._named if entry.host == name):
            for at in (Address(ip, port) for ip in answer.addresses):
                if any(leads_to(at, bind) for bind in self._binds):
                    raise NameLookupError(f"{at} is this proxy itself")
        return answer

    def _resolved(self, name: str, addresses: tuple[str, ...]) -> None:
        has_changed = self.farm.resolved(name, addresses)
        if has_changed or name in self._resolver.failing:
            fields = {"dns_name": name, "addresses": list(self.farm.found[name])}
            log.info("name_resolved", extra=fields)
        if has_changed:
            self._on_change()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            self.farm.expire(asyncio.get_running_loop().time())
            if self.farm.forget() or self._has_adopted:
                self._has_adopted = False
                self._on_change()
