"""Hosts and pools as the proxy knows them now: operator's will, health's opinion, load.

These are plain objects in one event loop, so every count is exact at every instant. The pure
rules only read them; placement and health write them.

They outlive the configuration that made them. A new one changes them in place: a host is the same
object as long as its pool and its name are the same, so whoever holds one, as a row of the table of
connections does, holds the right one. A host that is no longer configured *leaves*: its connections
go on, pins and tokens still reach it as long as it has any, nobody new is balanced to it, and then
it is forgotten.

A host may also be *adopted*: a token names it inside `token.networks`, where hosts come and go
without being listed. Until it has answered it is a *guest*, which only the client that brought it
knows, for anybody can invent a token. From then on tokens and pins reach it, nobody new is balanced
to it, and when nobody has wanted it for a while it leaves. It is called `[address]`, which no
listed host can be.

A host that is configured by DNS name stands for as many hosts as the name has addresses, called
`name[address]`: the name and the address alone make it, so that nodes and restarts agree on it, as
pins demand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from math import inf
from typing import Generic, TypeVar

from proxy.address import Address
from proxy.routing.agent import AgentWord
from proxy.routing.key import is_within
from proxy.routing.lifespans import Lifespans
from proxy.routing.will import Hold, Will, Wish
from proxy.settings import HostSettings, PoolSettings

Found = Mapping[str, Sequence[str]]  # DNS names and the IP addresses that they stand for
T = TypeVar("T")

ADOPTED_MAX = 1000  # in one pool: whoever invents tokens must not make hosts without end
ADOPTED_LEAST_S = 60.0  # before an idle one makes room for another
ADOPTED_KEPT_S = 600.0  # without a connection
_IN_HAND_S = 10.0  # from a token's decision until its host is dialled for the first time


class _Judged(Generic[T]):
    """What a host's readiness depends on. It changes seldom and every new client asks for it of
    every host, so whoever sets it has it judged."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._slot = f"_{name}"

    def __get__(self, host: Host, owner: type) -> T:
        value: T = getattr(host, self._slot)
        return value

    def __set__(self, host: Host, value: T) -> None:
        setattr(host, self._slot, value)
        host.judge()


class Host:
    """A session host of one pool.

    Attributes:
        wish: what the operator wants of it.
        agent: what its own agent says of it.
        up: what health checks say of it.
        settings: of the entry in the configuration that it comes from.
        address: where connections to it go.
        names: the addresses by which a token may name it.
        leaving: the configuration no longer has it, or its DNS name no longer this address.
        adopted: a token named it, nobody has listed it.
        wanted_at: of one that is adopted, when a token named it first or it last had a connection.
        warmth: from 0 to 1, how far its slow start has come.
        will: the one in force: the operator's; where he wants nothing else, the agent's. His
            `ready` also takes back what the agent has said until then: it may be silent by now.
        alive: whether health calls it up, and its agent does not contradict.
        weight: as configured, or as the operator has changed it.
        share: the weight as it counts in balancing now.
        takes: whether new clients may be balanced here, but for want of a place.
        most: connections at one time.
        backup: takes new clients only while no other host is ready.
        live: connections to it now, those being set up included.
        waiting: clients that belong here and wait for a place.
        lifespans: whether its connections last.
        credit: its turn in the rotation of its pool (see `Pool.placed`).
    """

    __slots__ = (
        "_adopted",
        "_agent",
        "_leaving",
        "_settings",
        "_up",
        "_warmth",
        "_wish",
        "address",
        "alive",
        "backup",
        "credit",
        "lifespans",
        "live",
        "most",
        "name",
        "names",
        "pool",
        "share",
        "takes",
        "waiting",
        "wanted_at",
        "weight",
        "will",
    )

    wish = _Judged[Wish]()
    agent = _Judged[AgentWord]()
    up = _Judged[bool]()
    warmth = _Judged[float]()
    settings = _Judged[HostSettings]()
    leaving = _Judged[bool]()
    adopted = _Judged[bool]()

    def __init__(self, pool: str, name: str, settings: HostSettings, address: Address) -> None:
        self.name = name
        self.pool = pool
        self.live = 0
        self.waiting = 0
        self.lifespans = Lifespans()
        self.credit = 0.0
        self.address = address
        self.names: frozenset[Address] = frozenset([address])
        self._settings = settings
        self._wish = Wish()
        self._agent = AgentWord()
        self._up = True  # until a health check says otherwise: a restart must not refuse anybody
        self._warmth = 1.0
        self._leaving = False
        self._adopted = False
        self.wanted_at = 0.0
        self.judge()

    def judge(self) -> None:
        """Work out what follows from the will, the agent's word, health and the settings."""
        wish, agent, settings = self._wish, self._agent, self._settings
        is_heard = wish.since is None or wish.since < agent.since
        self.will = agent.will if wish.will is Will.READY and is_heard else wish.will
        self.alive = self._up and not (agent.down and is_heard)
        self.weight = settings.weight if wish.weight is None else wish.weight
        percent = agent.percent if wish.weight is None else 100
        self.share = self.weight * self._warmth * percent / 100
        told = agent.max_connections
        most = settings.max_connections if told is None else told
        self.most = inf if most is None else most
        self.backup = settings.backup
        wanted = self.alive and self.will is Will.READY and self.share > 0
        self.takes = wanted and not (self._leaving or self._adopted)

    @property
    def has_place(self) -> bool:
        """Whether one more connection is within `max_connections`."""
        return self.live < self.most

    @property
    def in_use(self) -> bool:
        """Whether it has connections, or clients that wait for a place."""
        return self.live > 0 or self.waiting > 0

    @property
    def full(self) -> bool:
        """Whether all places are taken, or spoken for by those who wait."""
        return self.live + self.waiting >= self.most

    @property
    def serves(self) -> bool:
        """Whether clients that belong here may come."""
        return self.alive and self.will is not Will.MAINTENANCE

    def admits(self, hold: Hold) -> bool:
        """Whether a client may come that is pinned here, and holds its pin so firmly."""
        return self.serves and self._wish.admits(hold)

    @property
    def ready(self) -> bool:
        """Whether new clients may be balanced here."""
        return self.takes and self.live + self.waiting < self.most

    def __repr__(self) -> str:
        return f"<Host {self.pool}/{self.name}>"


class Pool:
    """Hosts that can stand in for each other, and the rules by which one is chosen.

    Attributes:
        hosts: those of the configuration in its order, then those that are adopted or leave.
        leaving: the configuration no longer has it; it is there for its last connections.
    """

    __slots__ = ("by_name", "hosts", "leaving", "name", "settings")

    def __init__(self, settings: PoolSettings, found: Found | None = None) -> None:
        self.name = settings.name
        self.hosts: tuple[Host, ...] = ()
        self.by_name: Mapping[str, Host] = {}
        self.change(settings, found or {})

    def change(self, settings: PoolSettings, found: Found) -> None:
        """Take new settings, or new addresses of DNS names."""
        self.settings = settings
        self.leaving = False
        self._have({host.name: host for host in self._configured(found)})

    def leave(self) -> None:
        """The configuration no longer has this pool."""
        self.leaving = True
        self._have({})

    def forget(self) -> bool:
        """Forget hosts that leave and have no connection any more; whether there were any."""
        before = len(self.hosts)
        self._keep(host for host in self.hosts if host.in_use or not host.leaving)
        return len(self.hosts) < before

    def adopt(self, name: str, address: Address) -> Host:
        """The host of a connection that was here before this process.

        One that is not known was adopted then too, or is on its leave: the connection's own
        configuration had it, or a DNS name that was not asked yet.
        """
        if name not in self.by_name:
            host = _unlisted(self.name, name, address)
            host.adopted = name == _adopted_name(address) and self.may_adopt(address)
            host.leaving = not host.adopted
            self._keep((*self.hosts, host))
        return self.by_name[name]

    def may_adopt(self, address: Address) -> bool:
        """Whether a host at this address is one that a token may name without its being listed."""
        policy = self.settings.token
        if self.leaving or not policy.networks or address.port != policy.port:
            return False
        return address.is_ip and is_within(ip_address(address.host), policy.networks)

    def guest(self, address: Address) -> Host:
        """A host that a token names in the pool's networks, and that has yet to answer."""
        guest = _unlisted(self.name, _adopted_name(address), address)
        guest.adopted = True
        return guest

    def has_room(self, now: float) -> bool:
        """Whether one more host may be adopted."""
        return self._adopted() < ADOPTED_MAX or self._longest_idle(now) is not None

    def take_in(self, guest: Host, now: float) -> Host:
        """Adopt a guest that has answered; the host that its connection counts for now."""
        host = self.by_name.get(guest.name)
        if host is None:
            longest_idle = self._longest_idle(now)
            if longest_idle is not None and self._adopted() >= ADOPTED_MAX:
                longest_idle.leaving = True
            host = guest
            self._keep((*self.hosts, guest))
        else:  # another of its clients was quicker, or its port was another before
            host.live += guest.live
            host.address, host.names = guest.address, guest.names
        host.adopted = self.may_adopt(host.address)
        host.leaving = not host.adopted  # the configuration may have changed meanwhile
        host.wanted_at = now
        return host

    def expire(self, now: float) -> None:
        """Let adopted hosts leave that nobody has wanted for long; soon, if they do not answer."""
        for host in self.hosts:
            if host.adopted and host.in_use:
                host.wanted_at = now
            elif host.adopted:
                kept_s = ADOPTED_KEPT_S if host.alive else self.settings.token.wait_s + _IN_HAND_S
                if now - host.wanted_at > kept_s:
                    host.leaving = True

    def has(self, host: Host) -> bool:
        """Whether a host that was decided on a while ago is still there."""
        return self.by_name.get(host.name) is host

    def ready(self) -> list[Host]:
        """Where new clients may go: to a backup only while nobody else is ready."""
        ready = [host for host in self.hosts if host.ready]
        return [host for host in ready if not host.backup] or ready

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

    def _adopted(self) -> int:
        return sum(host.adopted and not host.leaving for host in self.hosts)

    def _longest_idle(self, now: float) -> Host | None:
        """The adopted host that may make room for another."""
        adopted = (host for host in self.hosts if host.adopted and not host.leaving)
        idle = [it for it in adopted if not it.in_use and now - it.wanted_at >= ADOPTED_LEAST_S]
        return min(idle, key=lambda host: host.wanted_at, default=None)

    def _configured(self, found: Found) -> Iterator[Host]:
        """The hosts of the configuration: those that are known, and new ones."""
        for settings in self.settings.hosts:
            addresses = addresses_of(settings, found)
            # Behind a name with several addresses nobody can tell whose these are.
            more = settings.token_addresses if len(addresses) == 1 else ()
            for name, address in addresses.items():
                host = self.by_name.get(name) or Host(self.name, name, settings, address)
                if host.settings != settings:  # else there is nothing to judge
                    host.settings = settings
                if host.leaving:
                    host.leaving = False
                host.address, host.names = address, frozenset((address, *more))
                yield host

    def _have(self, configured: Mapping[str, Host]) -> None:
        """Have these and those that are adopted, and of the others those with connections, for as
        long as they have any."""
        others = [host for host in self.hosts if configured.get(host.name) is not host]
        listed = {address for host in configured.values() for address in host.names}
        for host in others:
            stays = host.adopted and host.address not in listed and self.may_adopt(host.address)
            host.leaving = not stays
        stay = (host for host in others if host.in_use or not host.leaving)
        self._keep((*configured.values(), *stay))

    def _keep(self, hosts: Iterable[Host]) -> None:
        self.hosts = tuple(hosts)
        self.by_name = {host.name: host for host in self.hosts}

    def __repr__(self) -> str:
        return f"<Pool {self.name}>"


def _unlisted(pool: str, name: str, address: Address) -> Host:
    settings = HostSettings.model_construct(name=name, address=address)
    return Host(pool, name, settings, address)


def _adopted_name(address: Address) -> str:
    return f"[{address.host}]"


def addresses_of(settings: HostSettings, found: Found) -> dict[str, Address]:
    """The hosts that one entry of the configuration stands for, by name."""
    at = settings.address
    if at.is_ip:
        return {settings.name: at}
    return {f"{settings.name}[{ip}]": Address(ip, at.port) for ip in found.get(at.host, ())}
