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
    """The keys of one connection.

    Attributes:
        primary: what its pin is filed under; None: it is not pinned at all.
        latest: second entry that follows the newest pin of the source, for connections of the
            same client that come without a user name.
    """

    primary: str | None
    latest: str | None = None


NO_KEY = AffinityKey(None)


def affinity_key(
    affinity: PoolAffinity, source: IPAddress, user: str | None, *, crowded: bool = False
) -> AffinityKey:
    """The keys of a connection from `source`, whose cookie names `user` (raw, or None).

    Args:
        crowded: the source turned out to be many people: they are told apart by user where they
            say who they are.
    """
    if affinity.key is AffinityKeyKind.NONE:
        return NO_KEY
    by_source = f"source:{network_text(affinity, source)}"
    name = normal_user(user)
    shared = is_within(source, affinity.shared_sources)
    if name is None:
        return NO_KEY if shared else AffinityKey(by_source)
    if affinity.key is AffinityKeyKind.USER:
        return AffinityKey(f"user:{name}", None if shared else by_source)
    if shared or (crowded and affinity.key is AffinityKeyKind.SOURCE):
        return AffinityKey(f"{by_source} user:{name}")
    if affinity.key is AffinityKeyKind.SOURCE:
        return AffinityKey(by_source)
    return AffinityKey(f"{by_source} user:{name}", by_source)


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
