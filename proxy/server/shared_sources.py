"""Sources that turn out to be shared: many people behind one address, whom nobody told us of.

Pinned by source alone they would all be on one host. A source with more live connections than
`affinity.shared_after` is taken for many people from then on: who names a user and is not known yet
is balanced, and pinned by source and user. Everybody else keeps the host: people have had entries
of their own beside their source's all the time (`AffinityKey.own`).

Each node goes by what it sees, and keeps to it while it runs: a source that empties at night is
still the same office in the morning.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping

from proxy.routing.key import is_within
from proxy.routing.pool import Pool
from proxy.server.table import Established

log = logging.getLogger(__name__)

_REMEMBERED = 10_000  # sources; the longest known goes first


class SharedSources:
    """Watches the table for sources with many live connections (TableWatcher).

    Args:
        after: how many are still one person; None: never look.
    """

    def __init__(self, after: int | None, pools: Mapping[str, Pool]) -> None:
        self._after = after
        self._pools = pools
        self._live: Counter[str] = Counter()
        self._shared: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._shared)

    def holds(self, source: str) -> bool:
        """Whether this address turned out to be many people."""
        return source in self._shared

    def established(self, row: Established) -> None:
        """A connection came (TableWatcher)."""
        source = row.record.client.host
        self._live[source] += 1
        if self._after is None or self._live[source] <= self._after or source in self._shared:
            return
        if not self._is_declared(row):
            self._turn(source)

    def gone(self, row: Established) -> None:
        """A connection ended (TableWatcher)."""
        source = row.record.client.host
        self._live[source] -= 1
        if not self._live[source]:
            del self._live[source]

    def _is_declared(self, row: Established) -> bool:
        pool = self._pools.get(row.record.pool or "")
        source = ipaddress.ip_address(row.record.client.host)
        return pool is None or is_within(source, pool.settings.affinity.shared_sources)

    def _turn(self, source: str) -> None:
        self._shared[source] = None
        if len(self._shared) > _REMEMBERED:
            self._shared.popitem(last=False)
        advice = "if this is an RD Gateway or a NAT, list it in shared_sources of the pool"
        fields = {"source": source, "connections": self._live[source], "advice": advice}
        log.warning("source_shared", extra=fields)
