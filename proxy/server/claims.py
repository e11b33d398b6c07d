"""Claims: what the affinity table says of a client on its way, and what it is told of him.

The table may be away at any of these steps. Then placement goes on with what this node knows by
itself, and the client's record says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.affinity.store import NEVER, AffinityStore, Pin, PinKey, Touch
from proxy.errors import StoreError
from proxy.routing.model import ONE_HOST, Reason
from proxy.routing.pool import Host
from proxy.routing.will import Hold
from proxy.server.learned import LearnedTokens
from proxy.server.record import Observer
from proxy.server.shared_sources import SharedSources
from proxy.server.visit import Visit

NEW_PIN_TTL_S = 600.0  # until a connection has lived a minute: strangers must not fill the table
LIVE_S = 150.0  # without a touch; live connections touch their pins every minute


@dataclass(slots=True)
class Claims:
    """Pins for the clients in hand.

    Attributes:
        known: the host of a client's live connections here, for when the store is away.
        shared: the sources that turned out to be many people.
        wall: seconds since the epoch.
    """

    store: AffinityStore
    node: str
    observer: Observer
    learned: LearnedTokens
    known: Callable[[PinKey], str | None]
    shared: SharedSources
    wall: Callable[[], float]

    async def look_up(self, visit: Visit) -> str | None:
        """The host that the affinity table names; what this node knows, while the table is away.

        Where a source turned out to be many people, the user's own entry counts; where an operator
        has decided for a name, that.
        """
        if visit.key.own is not None and await self._is_shared(visit):
            visit.key = visit.key.by_own()
        if visit.key.decided is not None:
            host = await self._pinned(visit, visit.key.decided)
            if host is not None:
                visit.key = visit.key.by_decision()
                return host
        name = visit.key.primary
        return await self._pinned(visit, name) if name is not None else None

    async def claim(self, visit: Visit, host: Host, expected: str | None) -> str:
        """The host that the client's pin names after we claimed it for `host`."""
        if visit.key.primary is None:
            return host.name
        key = PinKey(visit.pool.name, visit.key.primary)
        try:
            pin = await self.store.claim(key, host.name, expected=expected, ttl_s=_ttl_s(visit))
        except StoreError:
            self._away(visit)
            return host.name
        return pin.host

    async def remember(self, visit: Visit, host: Host) -> None:
        """Tell the table where the client was placed, as far as its claim has not."""
        reason = visit.record.reason
        if reason in ONE_HOST:
            await self._seed(visit, host)
        else:
            await self._note(visit, host)
        if reason in (Reason.PIN, Reason.TOKEN_LEARNED):
            await self.learned.learn(visit, host)

    async def _is_shared(self, visit: Visit) -> bool:
        try:
            return await self.shared.hold(visit.pool.name, visit.record.client.host)
        except StoreError:
            self._away(visit)
            return self.shared.knows(visit.record.client.host)

    async def _pinned(self, visit: Visit, name: str) -> str | None:
        key = PinKey(visit.pool.name, name)
        try:
            pin = await self.store.get(key)
        except StoreError:
            self._away(visit)
            known = self.known(key)
            visit.hold = Hold.LIVE if known else Hold.IDLE
            return self.store.recall(key) or known
        if pin is None:
            return None
        visit.hold = self._hold_of(pin)
        return pin.host

    def _hold_of(self, pin: Pin) -> Hold:
        if pin.expires_at == NEVER:
            return Hold.FIXED
        return Hold.LIVE if self.wall() - pin.touched_at < LIVE_S else Hold.IDLE

    async def _seed(self, visit: Visit, host: Host) -> None:
        """Who was sent to a host sets the pin only where none is in force: that routes its own
        connection."""
        touches = [Touch(key, host.name, _ttl_s(visit)) for key in visit.pin_keys()]
        try:
            await self.store.touch(self.node, touches)
        except StoreError:
            self._away(visit)

    async def _note(self, visit: Visit, host: Host) -> None:
        """Let the entries beside the primary follow to where the client was placed."""
        try:
            for key in visit.pin_keys()[1:]:
                await self.store.assign(key, host.name, ttl_s=_ttl_s(visit))
        except StoreError:
            self._away(visit)

    def _away(self, visit: Visit) -> None:
        visit.record.table_was_away = True
        self.observer.store_failed()


def _ttl_s(visit: Visit) -> float:
    return min(NEW_PIN_TTL_S, visit.pool.settings.affinity.ttl_s)
