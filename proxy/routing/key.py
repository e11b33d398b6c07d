"""Affinity keys: under what a client is remembered.

    source:203.0.113.7                  an IPv4 client
    source:2001:db8:0:1::/64            an IPv6 client, by its network (addresses change daily)
    user:alice                          the name in the client's mstshash cookie
    source:203.0.113.7 user:alice       both

The user name is a hint: optional, spoofable, and cut to nine characters by mstsc, domain included
([MS-RDPBCGR] appendix A, note 43). `CONTOSOLT\\alice` and `CONTOSOLT\\bob` both send `CONTOSOLT`:
a name of nine characters may be several people's and never keys alone, whatever the operator says;
only what he files under such a name himself counts (`AffinityKey.decided`).
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
        decided: the entry of a name that may be several people's. None of them is filed there, but
            an operator may have decided where the name goes.
    """

    primary: str | None
    latest: str | None = None
    own: str | None = None
    decided: str | None = None

    @property
    def entries(self) -> tuple[str, ...]:
        """All entries that speak of the connection, the primary first."""
        return tuple(name for name in (self.primary, self.latest, self.own) if name is not None)

    def by_own(self) -> AffinityKey:
        """The key of somebody whose source is many people."""
        return AffinityKey(self.own)

    def by_decision(self) -> AffinityKey:
        """The key of somebody for whose name an operator has decided."""
        return AffinityKey(self.decided, self.latest)


NO_KEY = AffinityKey(None)
CUT_CHARACTERS = 9  # of a name that mstsc may have cut


def affinity_key(affinity: PoolAffinity, source: IPAddress, user: str | None) -> AffinityKey:
    """The keys of a connection from `source`, whose cookie names `user` (raw, or None)."""
    if affinity.key is AffinityKeyKind.NONE:
        return NO_KEY
    by_source = f"source:{network_text(affinity, source)}"
    name = normal_user(user)
    shared = is_within(source, affinity.shared_sources)
    if name is None:
        return NO_KEY if shared else AffinityKey(by_source)
    by_both, by_user = f"{by_source} user:{name}", f"user:{name}"
    if affinity.key is AffinityKeyKind.USER:
        latest = None if shared else by_source
        if len(name) == CUT_CHARACTERS:
            return AffinityKey(by_both, latest, decided=by_user)
        return AffinityKey(by_user, latest)
    if shared:
        return AffinityKey(by_both)
    if affinity.key is AffinityKeyKind.SOURCE:
        return AffinityKey(by_source, own=by_both)
    return AffinityKey(by_both, latest=by_source)


def normal_user(user: str | None) -> str | None:
    r"""One spelling of a user name: without padding, in one case; None where nothing is left.

    `DOMAIN\user`, `user@domain` and `user` are one. A name before an @ is whole even where the rest
    was cut; one behind a domain is not, so there the whole text stands for it.
    """
    text = (user or "").strip().casefold()
    if "@" in text:
        text = text.partition("@")[0]
    elif "\\" in text:
        _domain, _, name = text.partition("\\")
        text = text if name and len(text) == CUT_CHARACTERS else name
    return (user if text == user else text) or None  # one string where they are the same


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
