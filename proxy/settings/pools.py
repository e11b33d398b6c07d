"""Settings of pools: the session hosts, and how clients are placed on them and kept there."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from proxy import notation
from proxy.address import Address
from proxy.notation import duration, whole
from proxy.settings.section import DAY_S, Flag, Name, Network, Networks, Section


class Balance(StrEnum):
    """How a pool ranks its ready hosts for a client that nothing else places."""

    LEAST_CONNECTIONS = "least_connections"
    HASH = "hash"
    ROUND_ROBIN = "round_robin"


class AffinityKeyKind(StrEnum):
    """What a pin is filed under."""

    SOURCE = "source"
    USER = "user"
    SOURCE_AND_USER = "source_and_user"
    NONE = "none"


class UnknownHost(StrEnum):
    """What becomes of a client whose token names no configured host."""

    REFUSE = "refuse"
    IGNORE = "ignore"


class HostDown(StrEnum):
    """What becomes of a client whose token names a host that does not answer."""

    REFUSE = "refuse"
    REBALANCE = "rebalance"


class HealthCheck(StrEnum):
    """How far a health check goes."""

    TCP = "tcp"
    X224 = "x224"
    TLS = "tls"


class PoolAffinity(Section):
    """How the pins of a pool are kept: which client goes back to which host, and how long."""

    key: AffinityKeyKind = AffinityKeyKind.SOURCE
    """What recognises a client: its address, the user name of its cookie, both, or `none` for no
    pins at all. Where the name is missing, the source's latest pin is followed. A name of nine
    characters may have been cut by mstsc and be several people's: by `user` it counts only together
    with the address."""
    ipv4_prefix: Annotated[int, whole(1, 32)] = 32
    """Leading bits of an IPv4 source that count as one client."""
    ipv6_prefix: Annotated[int, whole(1, 128)] = 64
    """Leading bits of an IPv6 source that count as one client; hosts change the rest daily."""
    ttl_s: Annotated[float, duration(60)] = 3 * DAY_S
    """How long a pin outlives the client's last connection. Keep it longer than the session hosts
    keep disconnected sessions."""
    shared_sources: Networks = ()
    """Networks of RD Gateways and NATs, behind which many users share one address: their clients
    are never pinned by source alone."""


class TokenPolicy(Section):
    """Whom a routing token may name beside the listed hosts, and what happens where it cannot be
    followed."""

    networks: Networks = ()
    """Networks of session hosts that come and go without being listed: one that a token names in
    them is adopted when it has answered. Tokens and pins lead to it, and nobody new is balanced to
    it. Addresses outside are never dialled."""
    port: Annotated[int, whole(1, 65_535)] = 3389
    """The port of the hosts in `networks`. A token with another port adopts nobody."""
    unknown_host: UnknownHost = UnknownHost.REFUSE
    """A token that names no configured host is never dialled: `refuse` closes the connection,
    `ignore` goes on as if there were no token."""
    host_down: HostDown = HostDown.REFUSE
    """After `wait` in vain: `refuse` closes the connection, `rebalance` places it anew. Another
    host shows another certificate, which the client may refuse."""
    wait_s: Annotated[float, duration(0, 600)] = 5.0
    """How long the host that a token names is tried again while it does not answer."""


class AgentSettings(Section):
    """An agent on each session host that says in HAProxy's agent-check text how it is."""

    port: Annotated[int, whole(1, 65_535)]
    """Where it answers each connection with one line, at the address of the host."""


class HealthSettings(Section):
    """How session hosts are checked."""

    check: HealthCheck = HealthCheck.X224
    """`tcp` connects, `x224` also negotiates as a client does, `tls` also begins TLS once a minute
    and reads the host's certificate."""
    interval_s: Annotated[float, duration(0.1, DAY_S)] = 10.0
    """Time between two checks of a host that is up and has not answered a client meanwhile. One
    that is down is asked every second."""
    timeout_s: Annotated[float, duration(0.01, 600)] = 3.0
    """How long one check may take."""
    rise: Annotated[int, whole(1, 100)] = 2
    """Checks in a row that must pass before a host that is down counts as up."""
    fall: Annotated[int, whole(1, 100)] = 3
    """Checks in a row that must fail before a host that is up counts as down."""
    agent: AgentSettings | None = None
    """Present where the hosts have an agent; asked as often as they are checked. One that does not
    answer is no fault of the host."""


class HostSettings(Section):
    """A session host."""

    name: Name
    """Name of the host in logs, metrics and pins. Pins follow the name, not the address."""
    address: Annotated[Address, notation.HOST_ADDRESS]
    """Where it is dialled: IPv4, [IPv6] or DNS name, with the port."""
    weight: Annotated[int, whole(0, 10_000)] = 100
    """Its share of new clients against the other hosts' weights; 0 gets none by balancing."""
    max_connections: Annotated[int | None, whole(1, 1_000_000, word="off")] = None
    """Most connections to it from this node. Beyond that nobody is balanced there, and whoever
    belongs there (pin, token) waits his turn, up to `timeouts.no_host`."""
    backup: Flag = False
    """Take new clients only while no other host of the pool is ready."""
    token_addresses: tuple[Annotated[Address, notation.TOKEN_ADDRESS], ...] = ()
    """Further addresses by which the connection broker may call this host in a token (behind NAT,
    a second network card). Without a port, that of `address` counts."""

    @field_validator("token_addresses")
    @classmethod
    def _take_port(
        cls, addresses: tuple[Address, ...], info: ValidationInfo
    ) -> tuple[Address, ...]:
        main: Address | None = info.data.get("address")
        return tuple(
            Address(address.host, address.port or main.port) if main else address
            for address in addresses
        )


class PoolSettings(Section):
    """Session hosts that serve the same desktops or programs (an RDS collection)."""

    name: Name
    """Name of the pool, as listeners refer to it and as metrics show it."""
    balance: Balance = Balance.LEAST_CONNECTIONS
    """How hosts are ranked for a new client: `least_connections`, `hash` (weighted rendezvous by
    the affinity key) or `round_robin`; all heed the weights."""
    slow_start_s: Annotated[float | None, duration(1, DAY_S, word="off")] = None
    """How long the weight of a host grows, from nearly nothing, after it was down, drained or in
    maintenance; for balancing only."""
    affinity: PoolAffinity = PoolAffinity()
    token: TokenPolicy = TokenPolicy()
    health: HealthSettings = HealthSettings()
    hosts: tuple[HostSettings, ...] = Field(min_length=1)


def shared_sources(pools: Iterable[PoolSettings]) -> list[Network]:
    """The networks that any of these pools calls shared."""
    return [network for pool in pools for network in pool.affinity.shared_sources]
