"""Routes: what one listener can route to.

Its pools, its collections, and whom a token may name. Whoever holds one holds the right one for
ever: a new configuration changes it in place, as it does pools and hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proxy.address import Address
from proxy.routing.pool import Host, Pool
from proxy.settings import ListenerSettings
from proxy.wire.tokens import RoutingToken, normal_alias


class Routes:
    """What one listener can route to: its pools, its collections, and who a token may name."""

    __slots__ = ("_aliases", "_by_address", "default", "pools")

    def __init__(self, listener: ListenerSettings, pools: Mapping[str, Pool]) -> None:
        self.pools: tuple[Pool, ...] = ()
        self.change(listener, pools)

    def change(self, listener: ListenerSettings, pools: Mapping[str, Pool]) -> None:
        """Take new settings. Pools that leave are reached by tokens until they are forgotten."""
        self.default = pools[listener.pool]
        self._aliases = {
            normal_alias(alias): (alias, pools[name])
            for alias, name in listener.collections.items()
        }
        leaving = [pool for pool in self.pools if pool.leaving]
        self.pools = tuple(dict.fromkeys([*(pools[name] for name in listener.pools), *leaving]))
        self.index()

    def forget(self, pool: Pool) -> None:
        """A pool has left."""
        self.pools = tuple(other for other in self.pools if other is not pool)

    def index(self) -> None:
        """Learn the hosts' addresses anew, after hosts have come, gone or moved."""
        self._by_address: dict[Address, Host] = {
            address: host for host in reversed(list(self._hosts())) for address in host.names
        }

    def named_by(self, address: Address) -> Host | None:
        """The host that an address selects among those that are listed or adopted."""
        return self._by_address.get(address)

    def adopter_of(self, address: Address) -> Pool | None:
        """The pool in whose `token.networks` an address is."""
        return next((pool for pool in self.pools if pool.may_adopt(address)), None)

    def pool_named(self, name: str) -> Pool:
        """One of this listener's pools."""
        return next(pool for pool in self.pools if pool.name == name)

    @property
    def aliases(self) -> list[str]:
        """The collections, as the configuration names them."""
        return [alias for alias, _ in self._aliases.values()]

    def alias_of(self, collection: str) -> str | None:
        """A collection that a client asks for, as the configuration names it; None: it is none."""
        known = self._aliases.get(normal_alias(collection))
        return known[0] if known is not None else None

    def pool_of(self, token: RoutingToken | None) -> Pool:
        """Where a client goes that no token sends elsewhere: its collection's pool."""
        if token is None or token.collection is None:
            return self.default
        known = self._aliases.get(normal_alias(token.collection))
        return known[1] if known is not None else self.default

    def _hosts(self) -> Iterable[Host]:
        # Earlier ones win where two have one address: those that stay before those that leave,
        # those that are listed before those that are adopted, then as the pools stand.
        hosts = [host for pool in self.pools for host in pool.hosts]
        return sorted(hosts, key=lambda host: (host.leaving, host.adopted))
