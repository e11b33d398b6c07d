"""Balancing policies: each ranks the hosts that are ready, best first.

A policy returns a ranking and not a host, so that the next candidate is known when the first
refuses. All are weighted. To add one: a function here and a line in `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import log

from proxy.routing.pool import Host
from proxy.settings import Balance

Policy = Callable[[Sequence[Host], str | None], list[Host]]


def least_connections(hosts: Sequence[Host], key: str | None) -> list[Host]:  # noqa: ARG001
    """Fewest connections per weight, counting the one to come; equals take turns."""
    return sorted(hosts, key=lambda host: ((host.live + 1) / host.share, -_turn(host)))


def rendezvous(hosts: Sequence[Host], key: str | None) -> list[Host]:
    """Weighted rendezvous hashing: every node that sees the same hosts ranks them alike.

    A host that leaves moves only its own clients. Score: -weight / ln(u), u uniform in (0, 1)
    from the hash of key and host ([Wang & Ravishankar 1998], weighted form by Schindelhauer).
    Without a key there is nothing to agree on: least connections spread best.
    """
    if key is None:
        return least_connections(hosts, key)
    return sorted(hosts, key=lambda host: _score(key, host), reverse=True)


def round_robin(hosts: Sequence[Host], key: str | None) -> list[Host]:  # noqa: ARG001
    """Turns in proportion to weight."""
    return sorted(hosts, key=_turn, reverse=True)


POLICIES: dict[Balance, Policy] = {
    Balance.LEAST_CONNECTIONS: least_connections,
    Balance.HASH: rendezvous,
    Balance.ROUND_ROBIN: round_robin,
}


def _turn(host: Host) -> float:
    return host.credit + host.share


def _score(key: str, host: Host) -> float:
    digest = blake2b(f"{key}\0{host.name}".encode(errors="surrogateescape"), digest_size=7).digest()
    uniform = (int.from_bytes(digest) + 0.5) / (1 << 56)
    return -host.share / log(uniform)
