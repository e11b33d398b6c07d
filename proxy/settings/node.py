"""Settings of a node: its listeners, its table, its processes, what it shows and logs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from proxy import notation
from proxy.address import Address
from proxy.notation import duration, whole
from proxy.settings.section import DAY_S, Flag, Name, Networks, Rate, Section, Text, UnixPath, fault

_EVERYBODY = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


class StoreKind(StrEnum):
    """Where the affinity table lies."""

    SQLITE = "sqlite"
    REDIS = "redis"


class RouteBy(StrEnum):
    """How clients that the broker has sent on are known."""

    TOKEN = "token"  # noqa: S105
    DESTINATION = "destination"


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
    (`tsv://MS Terminal Services Plugin.1.ALIAS`), to the pool that serves it. Case does not
    count."""
    token_pools: tuple[Name, ...] = ()
    """Pools that only tokens lead to: the session hosts behind redirectors or brokers that share
    this address."""
    route_by: RouteBy = RouteBy.TOKEN
    """`token` reads the broker's routing tokens. `destination` also goes by the address that the
    client has dialled, for farms that redirect by address: where the session hosts' network is
    routed through this machine and redirected here, or a PROXY header tells that address. One
    that names no host counts as a token that names none."""
    vips: Networks = ()
    """With `route_by: destination`, further addresses of this service that are no session host's,
    such as those of a load balancer in front. This machine's own are known."""
    proxy_protocol: ProxyProtocolSettings | None = None
    """Present where a load balancer in front sends PROXY headers; absent, none is expected."""
    allow: Networks = Field(default=_EVERYBODY, min_length=1)
    """Networks that clients may come from. All others are closed at once and counted."""
    require_tls: Flag = False
    """Refuse clients that offer only standard RDP security, with a proper negotiation failure."""

    @model_validator(mode="after")
    def _vips_go_with_destinations(self) -> Self:
        if self.vips and self.route_by is not RouteBy.DESTINATION:
            raise fault("vips", "they mean something with `route_by: destination` alone")
        return self

    @property
    def pools(self) -> tuple[str, ...]:
        """Every pool that clients of this listener may come to, the default one first."""
        return tuple(dict.fromkeys([self.pool, *self.collections.values(), *self.token_pools]))


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


class CanarySettings(Section):
    """Test connections through the proxy's own listeners: would a redirection work now?"""

    interval_s: Annotated[float | None, duration(1, DAY_S, word="off")] = None
    """How often each host is tried by a connection that comes as a redirected client does, with the
    host's token, and whose certificate must be the host's own. Hosts log each of them; `off` sends
    none."""


class DnsSettings(Section):
    """Where the DNS names of session hosts are looked up."""

    servers: tuple[Annotated[Address, notation.NAME_SERVER], ...] = ()
    """Name servers to ask in place of those of /etc/resolv.conf, such as a Consul agent's
    `127.0.0.1:8600`. Without a port, 53. /etc/hosts comes first either way."""


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
    half_close_s: Annotated[float, duration(0, DAY_S)] = 30.0
    """After one end has finished, how long the other may go on."""
    keepalive_s: Annotated[float, duration(1, 32_767)] = 60.0
    """TCP keepalive on both legs: shorter than what load balancers and firewalls forget after."""
    stop_lag_s: Annotated[float, duration(0, 600)] = 0.0
    """After SIGTERM, how long clients are still accepted while `/readyz` says `stopping`: longer
    than a load balancer in front takes to notice. 0 where there is none."""
    stop_s: Annotated[float, duration(0, 30 * DAY_S)] = 30.0
    """How long, after that, open connections go on before they are closed."""


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


def state_path(path: str) -> Path:
    """Where a file of state lies: relative ones under $STATE_DIRECTORY, else the working directory.

    systemd sets the variable for StateDirectory=; of several directories the first one counts.
    """
    state_directory = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(state_directory or Path.cwd(), path)
