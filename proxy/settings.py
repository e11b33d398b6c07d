"""Settings: everything an operator can decide, as frozen values with their defaults.

The key in the file is the field's name without its unit: `connect_s` is written `connect: 3s`.
How single values are written is the matter of `proxy.notation`; each also accepts the ready Python
value, so that `TimeoutSettings(connect_s=0.5)` and `connect: 500ms` mean the same. The text under
a field is its description: JSON schema and docs/reference/configuration.md are made of it.

Invariants: a value that stands here is in range and in its canonical form. What holds between
several sections (a listener's pool exists, no two hosts share an address) is checked by
`proxy.config`, which knows the line to blame; code that builds settings by hand owes it itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from proxy import notation
from proxy.address import Address
from proxy.notation import duration, whole

_DAY_S = 86400.0
_EVERYBODY = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

Network = notation.Network
Rate = notation.Rate
UnixPath = notation.UnixPath
Name = Annotated[str, notation.NAME]
Text = Annotated[str, notation.TEXT]
Flag = Annotated[bool, notation.FLAG]
Networks = tuple[Annotated[Network, notation.NETWORK], ...]


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


class StoreKind(StrEnum):
    """Where the affinity table lies."""

    SQLITE = "sqlite"
    REDIS = "redis"


class LogLevel(StrEnum):
    """The least level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a log line looks."""

    JSON = "json"
    TEXT = "text"


class LogUsers(StrEnum):
    """How user names stand in the log."""

    PLAIN = "plain"
    HASH = "hash"
    OMIT = "omit"


class Section(BaseModel):
    """Base of all settings. A key without a value stands for a default that is itself empty."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.removesuffix("_s"),
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: object) -> object:
        if not isinstance(data, dict):
            return {} if data == "" else data
        empty = {
            field.alias
            for field in cls.model_fields.values()
            if not field.is_required()
            and isinstance(
                default := field.get_default(call_default_factory=True, validated_data={}),
                Section | tuple | Mapping | None,
            )
            and (isinstance(default, Section) or not default)
        }
        return {key: value for key, value in data.items() if value != "" or key not in empty}


class ProxyProtocolSettings(Section):
    """A load balancer in front that tells the client's address in a PROXY header."""

    trusted: Networks = Field(min_length=1)
    """Networks of the load balancers. From these a PROXY v1 or v2 header is mandatory and its
    address is the client's; from all others a header is refused."""


class ListenerSettings(Section):
    """An address that clients connect to."""

    name: Name
    """Name of the listener in logs and metrics."""
    bind: Annotated[Address, notation.BIND]
    """IP address and port to listen on; `[::]:3389` for IPv6."""
    pool: Name
    """Pool of the clients that bring neither a token nor a collection."""
    collections: Annotated[
        Mapping[Annotated[str, notation.TEXT], Name],
        AfterValidator(lambda pools: MappingProxyType(dict(pools))),
        PlainSerializer(dict),
    ] = Field(default_factory=lambda: MappingProxyType({}))
    """Collection alias, as the client's `loadbalanceinfo` names it
    (`tsv://MS Terminal Services Plugin.1.ALIAS`), to the pool that serves it."""
    proxy_protocol: ProxyProtocolSettings | None = None
    """Present where a load balancer in front sends PROXY headers; absent, none is expected."""
    allow: Networks = Field(default=_EVERYBODY, min_length=1)
    """Networks that clients may come from. All others are closed at once and counted."""
    require_tls: Flag = False
    """Refuse clients that offer only standard RDP security, with a proper negotiation failure."""


class PoolAffinity(Section):
    """How the pins of a pool are kept: which client goes back to which host, and how long."""

    key: AffinityKeyKind = AffinityKeyKind.SOURCE
    """What recognises a client: its address, the user name of its cookie, both, or `none` for no
    pins at all. Where the name is missing, the source's latest pin is followed."""
    ipv4_prefix: Annotated[int, whole(1, 32)] = 32
    """Leading bits of an IPv4 source that count as one client."""
    ipv6_prefix: Annotated[int, whole(1, 128)] = 64
    """Leading bits of an IPv6 source that count as one client; hosts change the rest daily."""
    ttl_s: Annotated[float, duration(60)] = 3 * _DAY_S
    """How long a pin outlives the client's last connection. Keep it longer than the session hosts
    keep disconnected sessions."""
    shared_sources: Networks = ()
    """Networks of RD Gateways and NATs, behind which many users share one address: their clients
    are never pinned by source alone."""


class TokenPolicy(Section):
    """What happens where a routing token cannot be followed."""

    unknown_host: UnknownHost = UnknownHost.REFUSE
    """A token that names no configured host is never dialled: `refuse` closes the connection,
    `ignore` goes on as if there were no token."""
    host_down: HostDown = HostDown.REFUSE
    """After `wait` in vain: `refuse` closes the connection, `rebalance` places it anew. Another
    host shows another certificate, which the client may refuse."""
    wait_s: Annotated[float, duration(0, 600)] = 5.0
    """How long the host that a token names is tried again while it does not answer."""


class HealthSettings(Section):
    """How session hosts are checked."""

    check: HealthCheck = HealthCheck.X224
    """`tcp` connects, `x224` also negotiates as a client does, `tls` also reads the host's
    certificate."""
    interval_s: Annotated[float, duration(0.1, _DAY_S)] = 10.0
    """Time between two checks of a host that is up. One that is down is asked every second."""
    timeout_s: Annotated[float, duration(0.01, 600)] = 3.0
    """How long one check may take."""
    rise: Annotated[int, whole(1, 100)] = 2
    """Checks in a row that must pass before a host that is down counts as up."""
    fall: Annotated[int, whole(1, 100)] = 3
    """Checks in a row that must fail before a host that is up counts as down."""


class HostSettings(Section):
    """A session host."""

    name: Name
    """Name of the host in logs, metrics and pins. Pins follow the name, not the address."""
    address: Annotated[Address, notation.HOST_ADDRESS]
    """Where it is dialled: IPv4, [IPv6] or DNS name, with the port."""
    weight: Annotated[int, whole(0, 10_000)] = 100
    """Its share of new clients against the other hosts' weights; 0 gets none by balancing."""
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
    affinity: PoolAffinity = PoolAffinity()
    token: TokenPolicy = TokenPolicy()
    health: HealthSettings = HealthSettings()
    hosts: tuple[HostSettings, ...] = Field(min_length=1)


class AffinitySettings(Section):
    """The table that remembers which client belongs to which host."""

    store: StoreKind = StoreKind.SQLITE
    """`sqlite` is embedded and serves one node; `redis` (or Valkey) is shared by several."""
    path: Text = "affinity.db"
    """File of the embedded table, relative to $STATE_DIRECTORY, else to the working directory.
    Not on a network file system."""
    max_pins: Annotated[int, whole(1, 1_000_000_000)] = 1_000_000
    """Most pins that are kept; beyond it the longest idle go first."""
    shared_after: Annotated[int | None, whole(1, 1_000_000, word="off")] = 8
    """A source with more live connections than this is taken for many people (a NAT): where they
    say who they are they are pinned by source and user from then on. Or `off`."""
    url: Annotated[str, notation.URL] | None = Field(default=None, repr=False)
    """Where Redis is: `redis://HOST:PORT/DB`, `redis+sentinel://HOST:PORT,HOST:PORT/NAME` or
    `redis+cluster://HOST:PORT,HOST:PORT`; `rediss` for TLS; `USER:PASSWORD@` before the hosts.
    Behind a `?` may stand `ca=FILE`, `cert=FILE` (certificate and key), `password_file=FILE` and
    `sentinel_auth=yes` (Sentinels have the same password). Needed by `redis` and by it alone."""

    @model_validator(mode="after")
    def _url_goes_with_redis(self) -> Self:
        if self.store is StoreKind.REDIS and self.url is None:
            raise fault("store", "redis needs `url`, such as redis://127.0.0.1:6379/0")
        if self.store is StoreKind.SQLITE and self.url is not None:
            raise fault("url", "only `store: redis` has a url; sqlite has a `path`")
        return self


class MetricsSettings(Section):
    """The read-only HTTP endpoint for monitoring."""

    bind: Annotated[Address | None, notation.METRICS_BIND] = Address("0.0.0.0", 9389)
    """Where /metrics, /healthz and /readyz are served, or `off`. Nothing private is shown there."""


class AdminSettings(Section):
    """The HTTP endpoint of the operator: /v1/… and the status page."""

    bind: Annotated[UnixPath | Address | None, notation.ADMIN_BIND] = UnixPath("admin.sock")
    """A unix socket, whose path is relative like `affinity.path`, an address and port, or `off`."""
    bearer_file: Text | None = None
    """File with the token that every change needs (`Authorization: Bearer …`), except on a unix
    socket, which its file permissions guard. Without it, an address and port is read-only."""


class RelaySettings(Section):
    """The processes that carry the bytes."""

    processes: Annotated[int | None, whole(1, 64, word="auto")] = None
    """How many relays; `auto` is one a core, by CPU affinity and cgroup quota, at most 4."""


class TimeoutSettings(Section):
    """How long each phase of a connection may take."""

    connection_request_s: Annotated[float, duration(0.01, 600)] = 10.0
    """From accept until the client's Connection Request is complete."""
    connect_s: Annotated[float, duration(0.01, 600)] = 3.0
    """For the TCP connection to a session host; then the next candidate is tried."""
    answer_s: Annotated[float, duration(0.01, 600)] = 15.0
    """From the request sent to the host until its first byte; then the next candidate is tried."""
    no_host_s: Annotated[float, duration(0, 600)] = 5.0
    """How long a client is held while no host of its pool is up. Clients that are closed at once
    use up their retries within seconds."""
    idle_s: Annotated[float | None, duration(1, word="off")] = None
    """Close a connection on which no byte moved either way for so long; `off` never does."""
    half_close_s: Annotated[float, duration(0, _DAY_S)] = 30.0
    """After one end has finished, how long the other may go on."""
    keepalive_s: Annotated[float, duration(1, 32_767)] = 60.0
    """TCP keepalive on both legs: shorter than what load balancers and firewalls forget after."""
    stop_s: Annotated[float, duration(0, 30 * _DAY_S)] = 30.0
    """How long SIGTERM lets open connections go on before they are closed."""


class LimitSettings(Section):
    """How much is taken on."""

    connections: Annotated[int, whole(1, 1_000_000)] = 20_000
    """Connections at once; checked against the open-files limit at start."""
    connections_per_source: Annotated[int | None, whole(1, 1_000_000, word="off")] = None
    """Connections at once from one source address; shared sources are exempt."""
    new_connections_per_source: Annotated[Rate | None, notation.RATE] = None
    """New connections of one source address in a time, such as `600/m`; shared sources are
    exempt."""


class LogSettings(Section):
    """What is logged, and how."""

    level: LogLevel = LogLevel.INFO
    """`debug`, `info`, `warning` or `error`."""
    format: LogFormat = LogFormat.JSON
    """`json`, one object a line, or `text` for a terminal."""
    users: LogUsers = LogUsers.HASH
    """User names as they are (`plain`), as a keyed hash that can be searched for (`hash`), or not
    at all (`omit`)."""


class Settings(Section):
    """A whole configuration."""

    listeners: tuple[ListenerSettings, ...] = Field(min_length=1)
    pools: tuple[PoolSettings, ...] = Field(min_length=1)
    affinity: AffinitySettings = AffinitySettings()
    metrics: MetricsSettings = MetricsSettings()
    admin: AdminSettings = AdminSettings()
    relay: RelaySettings = RelaySettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()


def fault(key: str, message: str) -> PydanticCustomError:
    """A fault of one key that shows only beside the others; `key` is as in the file."""
    return PydanticCustomError("fault", "{message}", {"key": key, "message": message})


def state_path(path: str) -> Path:
    """Where a file of state lies: relative ones under $STATE_DIRECTORY, else the working directory.

    systemd sets the variable for StateDirectory=; of several directories the first one counts.
    """
    state_directory = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(state_directory or Path.cwd(), path)
