"""Affinity keys: under what a client is remembered.

    source:203.0.113.7                  an IPv4 client
    source:2001:db8:0:1::/64            an IPv6 client, by its network (addresses change daily)
    user:alice                          the name in the client's mstshash cookie
    source:203.0.113.7 user:alice       both

The user name is a hint: optional, cut to nine characters by mstsc (`DOMAIN\\us`), and spoofable.
It never keys alone unless the operator says so.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from proxy.settings import AffinityKeyKind, PoolAffinity

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class AffinityKey:
    """Under what a connection is filed.

    Attributes:
        primary: what its pin is filed under; None: it is not pinned at all.
        latest: second entry that follows the newest pin of the source, for connections of the
            same client that come without a user name.
        own: the user's own entry beside that of his source. It follows the source's until the
            source turns out to be many people, and is what tells them apart then.
    """

    primary: str | None
    latest: str | None = None
    own: str | None = None

    @property
    def entries(self) -> tuple[str, ...]:
        """All entries that speak of the connection, the primary first."""
        return tuple(name for name in (self.primary, self.latest, self.own) if name is not None)

    def by_own(self) -> AffinityKey:
        """The key of somebody whose source is many people."""
        return AffinityKey(self.own)


NO_KEY = AffinityKey(None)


def affinity_key(affinity: PoolAffinity, source: IPAddress, user: str | None) -> AffinityKey:
    """The keys of a connection from `source`, whose cookie names `user` (raw, or None)."""
    if affinity.key is AffinityKeyKind.NONE:
        return NO_KEY
    by_source = f"source:{network_text(affinity, source)}"
    name = normal_user(user)
    shared = is_within(source, affinity.shared_sources)
    if name is None:
        return NO_KEY if shared else AffinityKey(by_source)
    if affinity.key is AffinityKeyKind.USER:
        return AffinityKey(f"user:{name}", latest=None if shared else by_source)
    by_both = f"{by_source} user:{name}"
    if shared:
        return AffinityKey(by_both)
    if affinity.key is AffinityKeyKind.SOURCE:
        return AffinityKey(by_source, own=by_both)
    return AffinityKey(by_both, latest=by_source)


def normal_user(user: str | None) -> str | None:
    """One spelling of a user name: without padding, in one case; None where nothing is left."""
    return (user or "").strip().casefold() or None


def network_text(affinity: PoolAffinity, source: IPAddress) -> str:
    """The source as far as it counts: its address, or the network that its prefix leaves."""
    prefix = affinity.ipv4_prefix if source.version == 4 else affinity.ipv6_prefix
    if prefix == source.max_prefixlen:
        return str(source)
    return str(ipaddress.ip_network(f"{source}/{prefix}", strict=False))


def is_within(
    address: IPAddress, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
) -> bool:
    """Whether one of the networks holds the address."""
    return any(address in network for network in networks)
