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

from pydantic import Field

from proxy.settings.node import (
    AdminSettings,
    AffinitySettings,
    CanarySettings,
    DnsSettings,
    LimitSettings,
    ListenerSettings,
    LogFormat,
    LogLevel,
    LogSettings,
    LogUsers,
    MetricsSettings,
    ProxyProtocolSettings,
    RelaySettings,
    RouteBy,
    StoreKind,
    TimeoutSettings,
    state_path,
)
from proxy.settings.pools import (
    AffinityKeyKind,
    Balance,
    HealthCheck,
    HealthSettings,
    HostDown,
    HostSettings,
    PoolAffinity,
    PoolSettings,
    TokenPolicy,
    UnknownHost,
    shared_sources,
)
from proxy.settings.section import (
    Network,
    Rate,
    Section,
    UnixPath,
    fault,
)

__all__ = [
    "AdminSettings",
    "AffinityKeyKind",
    "AffinitySettings",
    "Balance",
    "CanarySettings",
    "DnsSettings",
    "HealthCheck",
    "HealthSettings",
    "HostDown",
    "HostSettings",
    "LimitSettings",
    "ListenerSettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "LogUsers",
    "MetricsSettings",
    "Network",
    "PoolAffinity",
    "PoolSettings",
    "ProxyProtocolSettings",
    "Rate",
    "RelaySettings",
    "RouteBy",
    "Section",
    "Settings",
    "StoreKind",
    "TimeoutSettings",
    "TokenPolicy",
    "UnixPath",
    "UnknownHost",
    "fault",
    "shared_sources",
    "state_path",
]


class Settings(Section):
    """A whole configuration."""

    listeners: tuple[ListenerSettings, ...] = Field(min_length=1)
    pools: tuple[PoolSettings, ...] = Field(min_length=1)
    affinity: AffinitySettings = AffinitySettings()
    canary: CanarySettings = CanarySettings()
    dns: DnsSettings = DnsSettings()
    metrics: MetricsSettings = MetricsSettings()
    admin: AdminSettings = AdminSettings()
    relay: RelaySettings = RelaySettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
