"""HostKeeper: which hosts there are, as configuration and name servers have it.

It joins the farm to the resolver that follows its DNS names, adopts hosts that the broker names in
`token.networks` once they have answered, and forgets what has left. Hosts come as the operator
wants them: his will is known before they do.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator

from proxy.address import Address
from proxy.control.exposition import Sample
from proxy.control.lookup import Answer, NameLookupError, look_up
from proxy.control.resolver import Resolver
from proxy.routing.farm import Farm, dns_names
from proxy.routing.pool import ADOPTED_MAX, Found, Host, addresses_of
from proxy.routing.routes import Routes
from proxy.server.wills import WillKeeper
from proxy.settings import PoolSettings, Settings
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
        wills: asked what is wanted of hosts that are to come; None: before any client comes.
    """

    def __init__(self, settings: Settings, on_change: Callable[[], None]) -> None:
        self.farm = Farm(settings)
        self._on_change = on_change
        self.wills: WillKeeper | None = None
        self._has_adopted = False
        self._adoptions = Tally[str]()  # by pool
        self._refusals = Tally[str]()
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
        return _hosts_of(settings.pools, self.farm.found)

    def change(self, settings: Settings) -> None:
        """Take another configuration."""
        self._take(settings)
        self.farm.change(settings)
        self._resolver.follow(self.farm.names)
        self._on_change()

    async def guest(self, routes: Routes, address: Address) -> Host | None:
        """The host at an address in the `token.networks` of one of the listener's pools, as the
        operator wants it.

        None: it is in none of them, or that pool has adopted as many as it may, or the address is
        this proxy's own: a client would be sent round and round.
        """
        pool = routes.adopter_of(address)
        if pool is None:
            return None
        if is_own(address) and address.port in {bind.port for bind in self._binds}:
            return None
        now = asyncio.get_running_loop().time()
        if not pool.has_room(now):
            self._refusals[pool.name] += 1
            if now >= self._silent_until:
                self._silent_until = now + _CROWDED_AGAIN_S
                detail = f"{ADOPTED_MAX} hosts are adopted and in use, which is the most"
                fields = {"pool": pool.name, "host_address": str(address), "detail": detail}
                log.warning("adoption_refused", extra=fields)
            return None
        guest = pool.guest(address)
        if self.wills is not None:
            guest.wish = await self.wills.wish_for(guest.pool, guest.name)
        return guest if routes.adopter_of(address) is pool else None  # it may have gone meanwhile

    def adopt(self, guest: Host) -> Host:
        """A guest has answered: the host that its connection counts for from now on.

        Others are told of it within TIDY_S, once for all, so that a burst costs no more.
        """
        host = self.farm.take_in(guest, asyncio.get_running_loop().time())
        if host is guest:
            self._adoptions[host.pool] += 1
            fields = {"pool": host.pool, "host": host.name, "host_address": str(host.address)}
            log.info("host_adopted", extra=fields)
            self._has_adopted = True
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
            yield Sample("adoptions_total", (pool.name,), self._adoptions[pool.name])
            yield Sample("adoptions_refused_total", (pool.name,), self._refusals[pool.name])
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
        if self.wills is not None:
            pools = [pool.settings for pool in self.farm.pools.values() if not pool.leaving]
            await self.wills.foresee(_hosts_of(pools, {name: answer.addresses}))
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


def _hosts_of(pools: Iterable[PoolSettings], found: Found) -> list[tuple[str, str]]:
    """The hosts of these pools, by pool and name, where DNS names have these addresses."""
    entries = ((pool.name, host) for pool in pools for host in pool.hosts)
    return [(pool, name) for pool, host in entries for name in addresses_of(host, found)]
