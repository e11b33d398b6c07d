"""Hosts and pools as the proxy knows them now: operator's will, health's opinion, load.

These are plain objects in one event loop, so every count is exact at every instant. The pure
rules only read them; placement and health write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from proxy.address import Address
from proxy.routing.agent import AgentWord
from proxy.routing.lifespans import Lifespans
from proxy.routing.will import Hold, Will, Wish
from proxy.settings import HostSettings, ListenerSettings, PoolSettings
from proxy.wire.tokens import RoutingToken, normal_alias


class Host:
    """A session host of one pool.

    Attributes:
        wish: what the operator wants of it.
        agent: what its own agent says of it.
        up: what health checks say of it.
        address: where connections to it go; None while its DNS name has no address yet.
        live: connections to it now, those being set up included.
        waiting: clients that belong here and wait for a place.
        warmth: from 0 to 1, how far its slow start has come.
        lifespans: whether its connections last.
        credit: its turn in the rotation of its pool (see `Pool.placed`).
    """

    __slots__ = (
        "address",
        "agent",
        "credit",
        "lifespans",
        "live",
        "name",
        "names",
        "pool",
        "settings",
        "up",
        "waiting",
        "warmth",
        "wish",
    )

    def __init__(self, settings: HostSettings, pool: str) -> None:
        self.settings = settings
        self.name = settings.name
        self.pool = pool
        self.wish = Wish()
        self.agent = AgentWord()
        self.up = True  # until a health check says otherwise: a restart must not refuse anybody
        self.live = 0
        self.waiting = 0
        self.warmth = 1.0
        self.lifespans = Lifespans()
        self.credit = 0.0
        self.address: Address | None = None
        self.names: frozenset[Address] = frozenset()
        self.resolved([settings.address] if settings.address.is_ip else [])

    @property
    def will(self) -> Will:
        """The will in force: the operator's; where he wants nothing else, the agent's.

        His `ready` also takes back what the agent has said until then: it may be silent by now.
        """
        if self.wish.will is Will.READY and self._agent_is_heard:
            return self.agent.will
        return self.wish.will

    @property
    def alive(self) -> bool:
        """Whether health calls it up, and its agent does not contradict."""
        return self.up and not (self.agent.down and self._agent_is_heard)

    @property
    def _agent_is_heard(self) -> bool:
        return self.wish.since is None or self.wish.since < self.agent.since

    @property
    def weight(self) -> int:
        weight = self.wish.weight
        return self.settings.weight if weight is None else weight

    @property
    def share(self) -> float:
        """Its weight as it counts in balancing now."""
        percent = self.agent.percent if self.wish.weight is None else 100
        return self.weight * self.warmth * percent / 100

    @property
    def max_connections(self) -> int | None:
        told = self.agent.max_connections
        return self.settings.max_connections if told is None else told

    @property
    def has_place(self) -> bool:
        """Whether one more connection is within `max_connections`."""
        most = self.max_connections
        return most is None or self.live < most

    @property
    def full(self) -> bool:
        """Whether all places are taken, or spoken for by those who wait."""
        most = self.max_connections
        return most is not None and self.live + self.waiting >= most

    @property
    def serves(self) -> bool:
        """Whether clients that belong here may come."""
        return self.alive and self.will is not Will.MAINTENANCE

    def admits(self, hold: Hold) -> bool:
        """Whether a client may come that is pinned here, and holds its pin so firmly."""
        return self.serves and self.wish.admits(hold)

    @property
    def ready(self) -> bool:
        """Whether new clients may be balanced here."""
        return self.alive and self.will is Will.READY and self.share > 0 and not self.full

    def resolved(self, addresses: Sequence[Address]) -> None:
        """Take the addresses that the host's name stands for; the first one is dialled.

        A token may name the host by any of them, or by one of its `token_addresses`.
        """
        self.address = addresses[0] if addresses else None
        self.names = frozenset(addresses) | frozenset(self.settings.token_addresses)

    def __repr__(self) -> str:
        return f"<Host {self.pool}/{self.name}>"


class Pool:
    """Hosts that can stand in for each other, and the rules by which one is chosen."""

    __slots__ = ("by_name", "hosts", "name", "settings")

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.hosts = tuple(Host(host, settings.name) for host in settings.hosts)
        self.by_name: Mapping[str, Host] = {host.name: host for host in self.hosts}

    def ready(self) -> list[Host]:
        """Where new clients may go: to a backup only while nobody else is ready."""
        ready = [host for host in self.hosts if host.ready]
        return [host for host in ready if not host.settings.backup] or ready

    def placed(self, host: Host) -> None:
        """Advance the rotation: a client was balanced to `host`.

        Smooth weighted round robin, as nginx does it: everybody who could have served gains its
        weight, the one who serves pays them all, so turns interleave in proportion to weight.
        """
        total = 0.0
        for other in self.ready():
            other.credit += other.share
            total += other.share
        host.credit -= total

    def __repr__(self) -> str:
        return f"<Pool {self.name}>"


class Routes:
    """What one listener can route to: its pools, its collections, and who a token may name."""

    __slots__ = ("_aliases", "_by_address", "default", "pools")

    def __init__(self, listener: ListenerSettings, pools: Mapping[str, Pool]) -> None:
        self.default = pools[listener.pool]
        self._aliases = {
            normal_alias(alias): (alias, pools[name])
            for alias, name in listener.collections.items()
        }
        self.pools: tuple[Pool, ...] = tuple(pools[name] for name in listener.pools)
        self._by_address: dict[Address, Host] = {}
        self.index()

    def index(self) -> None:
        """Learn the hosts' addresses anew, after a DNS name was resolved."""
        self._by_address = {
            address: host for host in reversed(list(self._hosts())) for address in host.names
        }

    def named_by(self, token: RoutingToken) -> Host | None:
        """The host that a token's address selects; never anything outside the configuration."""
        return self._by_address.get(token.address) if token.address else None

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
        # Earlier pools win where two pools hold one address, as their order in `index` shows.
        return (host for pool in self.pools for host in pool.hosts)
