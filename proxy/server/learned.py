"""Opaque tokens: whose they are is learned from where they were served.

gnome-remote-desktop redirects its clients with `Cookie: msts=<number>`, which only the issuing
host can read. The client's pin leads back to that host; once it has answered there, the token is
known for two minutes, on all nodes: a retry that comes to another node, or from another address,
finds its host.

Only values that a host issues are learned, only from a source that is pinned already, and only
after a host has answered; at most sixteen live ones a source. So a stranger can neither fill the
table nor send anybody else anywhere: he would have to guess another client's number.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from proxy.affinity.store import AffinityStore, PinKey
from proxy.errors import StoreError
from proxy.memory import Memory
from proxy.routing.pool import Host
from proxy.server.record import Observer
from proxy.server.visit import Visit

LEARNED_S = 120.0
LIVE_MAX = 16
_SOURCES = 10_000


class LearnedTokens:
    """What is known of opaque tokens. `clock` is in monotonic seconds."""

    def __init__(
        self, store: AffinityStore, observer: Observer, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._observer = observer
        self._clock = clock
        self._live = Memory[str, dict[PinKey, float]](_SOURCES)

    async def host_of(self, visit: Visit) -> Host | None:
        """The host that issued the client's token, where that is known and it is still there."""
        token = visit.token
        if token is None or not token.is_issued_by_host:
            return None
        try:
            pin = await self._store.get(self._key(visit))
        except StoreError:
            self._observer.store_failed()
            return None
        return visit.pool.by_name.get(pin.host) if pin else None

    async def learn(self, visit: Visit, host: Host) -> None:
        """The host has answered a client that was pinned to it, or known to belong there."""
        token = visit.token
        if token is None or not token.is_issued_by_host:
            return
        key = self._key(visit)
        if not self._has_room(visit.record.client.host, key):
            return
        try:
            await self._store.claim(key, host.name, expected=None, ttl_s=LEARNED_S)
        except StoreError:
            self._observer.store_failed()

    def _has_room(self, source: str, key: PinKey) -> bool:
        """Note a live token of a source; False where it has too many."""
        now = self._clock()
        live = {known: until for known, until in self._live.get(source, {}).items() if until > now}
        self._live[source] = live
        if key not in live and len(live) >= LIVE_MAX:
            return False
        live[key] = now + LEARNED_S
        return True

    @staticmethod
    def _key(visit: Visit) -> PinKey:
        assert visit.token is not None
        digest = blake2b(visit.token.line, digest_size=16).hexdigest()
        return PinKey(visit.pool.name, f"token:{digest}")
