"""Farm: all pools of this node and what its listeners can route to, changed in one step.

Whoever places, checks or counts holds these objects for hours; a new configuration and new answers
of name servers change them in place, between two steps of the event loop, so nobody ever sees half
of a change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proxy.routing.pool import Host, Pool
from proxy.routing.routes import Routes
from proxy.settings import PoolSettings, Settings


class Farm:
    """Pools by name, those that leave included; routes by the listener's name.

    Attributes:
        pools: the same mapping for ever.
        found: the addresses of the DNS names that pools use, as far as they are known.
    """

    def __init__(self, settings: Settings) -> None:
        self.pools: dict[str, Pool] = {}
        self.routes: dict[str, Routes] = {}
        self.found: dict[str, tuple[str, ...]] = {}
        self.change(settings)

    @property
    def hosts(self) -> list[Host]:
        return [host for pool in self.pools.values() for host in pool.hosts]

    @property
    def names(self) -> set[str]:
        """The DNS names that the configured pools use."""
        return dns_names(pool.settings for pool in self.pools.values() if not pool.leaving)

    def change(self, settings: Settings) -> None:
        """Take a new configuration; pools and hosts that it does not have begin to leave."""
        before = dict(self.pools)
        self.pools.clear()
        for pool in settings.pools:
            known = before.pop(pool.name, None) or Pool(pool, self.found)
            known.change(pool, self.found)
            self.pools[pool.name] = known
        for name, pool_that_leaves in before.items():
            pool_that_leaves.leave()
            self.pools[name] = pool_that_leaves
        routes = {}
        for listener in settings.listeners:
            known_routes = self.routes.get(listener.name) or Routes(listener, self.pools)
            known_routes.change(listener, self.pools)
            routes[listener.name] = known_routes
        self.routes = routes
        self.found = {name: self.found[name] for name in self.names & self.found.keys()}
        self.forget()

    def resolved(self, name: str, addresses: Sequence[str]) -> bool:
        """Take the IP addresses of a DNS name; whether they are others than before."""
        addresses = tuple(sorted(set(addresses)))
        if self.found.get(name) == addresses:
            return False
        self.found[name] = addresses
        for pool in self.pools.values():
            if not pool.leaving:
                pool.change(pool.settings, self.found)
        self.index()
        return True

    def take_in(self, guest: Host, now: float) -> Host:
        """Adopt a guest that has answered; the host that its connection counts for now."""
        pool = self.pools.get(guest.pool)
        if pool is None:  # it was forgotten meanwhile
            return guest
        host = pool.take_in(guest, now)
        self.index()
        return host

    def pool_of_connection(self, listener: str, name: str) -> Pool:
        """The pool of a connection that was here before this process.

        One that the configuration no longer has is on its leave still, for it and its like.
        """
        if name not in self.pools:
            pool = self.pools[name] = Pool(PoolSettings.model_construct(name=name, hosts=()))
            pool.leave()
            if routes := self.routes.get(listener):
                routes.pools = (*routes.pools, pool)
        return self.pools[name]

    def index(self) -> None:
        """Learn the hosts' addresses anew."""
        for routes in self.routes.values():
            routes.index()

    def expire(self, now: float) -> None:
        """Let adopted hosts leave that nobody has wanted for long."""
        for pool in self.pools.values():
            pool.expire(now)

    def forget(self) -> bool:
        """Forget hosts and pools that leave and have no connection any more; whether any did."""
        gone = [pool for pool in self.pools.values() if pool.forget()]
        for pool in [pool for pool in self.pools.values() if pool.leaving and not pool.hosts]:
            del self.pools[pool.name]
            gone.append(pool)
            for routes in self.routes.values():
                routes.forget(pool)
        if gone:
            self.index()
        return bool(gone)


def dns_names(pools: Iterable[PoolSettings]) -> set[str]:
    """The DNS names among the addresses of these pools' hosts."""
    addresses = (host.address for pool in pools for host in pool.hosts)
    return {address.host for address in addresses if not address.is_ip}
