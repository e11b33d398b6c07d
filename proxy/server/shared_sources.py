"""Sources that turn out to be shared: many people behind one address, whom nobody told us of.

Pinned by source alone they would all be on one host. A source with more live connections than
`affinity.shared_after` is taken for many people from then on: who names a user is pinned by source
and user. Nobody loses his host over it, because the user's own entry has followed that of the
source all the time (`AffinityKey.own`).

The affinity table tells the other nodes, which ask at most every few seconds a source; a node keeps
to it while it runs: a source that empties at night is still the same office in the morning.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Callable, Mapping

from proxy.affinity.store import AffinityStore, PinKey
from proxy.errors import StoreError
from proxy.memory import Memory
from proxy.routing.key import is_within
from proxy.routing.pool import Pool
from proxy.server.table import Established

log = logging.getLogger(__name__)

_REMEMBERED = 10_000  # sources; the longest known goes first
_ASK_AGAIN_S = 5.0
_MARK = "-"  # in place of a host


class SharedSources:
    """Watches the connections for sources with many of them (TableWatcher).

    Args:
        after: how many are still one person; None: never look.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        after: int | None,
        pools: Mapping[str, Pool],
        store: AffinityStore,
        clock: Callable[[], float],
    ) -> None:
        self.after = after
        self._pools = pools
        self._store = store
        self._clock = clock
        self._live: Counter[str] = Counter()
        self._shared = Memory[str, None](_REMEMBERED)
        self._untold: list[PinKey] = []
        self._asked = Memory[PinKey, float](_REMEMBERED)

    def __len__(self) -> int:
        return len(self._shared)

    def knows(self, source: str) -> bool:
        """Whether this node has learned that an address is many people."""
        return source in self._shared

    async def hold(self, pool: str, source: str) -> bool:
        """Whether an address is many people, as far as any node knows.

        Raises:
            StoreError: the table did not say.
        """
        if self.after is None:
            return False
        while self._untold:
            key = self._untold.pop()  # before the wait: others come here meanwhile
            told = self._pools.get(key.pool)
            if told is None:
                continue
            try:
                await self._store.assign(key, _MARK, ttl_s=told.settings.affinity.ttl_s)
            except StoreError:
                self._untold.append(key)
                raise
        if source in self._shared:
            return True
        key = PinKey(pool, f"shared:{source}")
        now = self._clock()
        while self._asked and now - next(iter(self._asked.values())) >= _ASK_AGAIN_S:
            self._asked.popitem(last=False)
        if key in self._asked:
            return False
        if await self._store.get(key) is None:
            self._asked[key] = now
            return False
        self._shared[source] = None
        return True

    def established(self, row: Established) -> None:
        """A connection came (TableWatcher)."""
        source = row.record.client.host
        self._live[source] += 1
        if self.after is None or self._live[source] <= self.after or source in self._shared:
            return
        if not self._is_declared(row):
            self._turn(row)

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

    def _turn(self, row: Established) -> None:
        source = row.record.client.host
        self._shared[source] = None
        self._untold.append(PinKey(row.record.pool or "", f"shared:{source}"))
        detail = "if this is an RD Gateway or a NAT, list it in shared_sources of the pool"
        fields = {"source": source, "connections": self._live[source], "detail": detail}
        log.warning("source_shared", extra=fields)
