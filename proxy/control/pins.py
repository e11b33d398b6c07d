"""The operator's hand on the pins: list them, show those of one client, set and clear.

    GET    /v1/pins?client=&user=&host=&pool=&limit=
    GET    /v1/pins/show?client=&user=&pool=
    PUT    /v1/pins?client=&user=&host=&pool=&ttl=
    DELETE /v1/pins?client=&user=&host=&pool=

Changes go to the table that all nodes share, so they count on every node at the next connection.
Nothing that lives moves. A connection that lives writes its own pin again where that is absent
(and leaves a different one alone), so whoever clears is told how many there are.

One client may have several entries: that of his source, and those of users seen there, which
count first. `show` tells all of them; `set` sets all of them, as if the client had just been
placed on that host.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.affinity.store import NEVER, AffinityStore, Pin, PinKey
from proxy.control.http import Answer, Handler, Request, json_answer
from proxy.control.query import QueryError, Who, hosts_meant, limit, no_such, only, parts_of, who
from proxy.notation import duration
from proxy.routing.key import affinity_key, is_within, network_text
from proxy.routing.pool import Pool
from proxy.server.record import ConnectionRecord
from proxy.settings import AffinityKeyKind

log = logging.getLogger(__name__)

_CLEARED_AT_ONCE = 32
_CLEARING_S = 20.0  # then whoever clears is told to ask for the rest: a million pins take a minute
_ANYWHERE = ipaddress.ip_address("0.0.0.0")  # for a key by user, which is the same from everywhere
_TTL = duration(60, word="never")


@dataclass(frozen=True, slots=True)
class PinDesk:
    """Reads and changes the table for an operator.

    Attributes:
        connections: the live ones on this node that an entry speaks of.
        user_fields: how a user's name may stand in the log.
        wall: seconds since the epoch.
    """

    store: AffinityStore
    pools: Callable[[], Mapping[str, Pool]]
    connections: Callable[[PinKey], Sequence[ConnectionRecord]]
    user_fields: Callable[[str | None], Mapping[str, str]]
    wall: Callable[[], float]

    def routes(self) -> dict[str, Handler]:
        """Raises StoreError and QueryError, which the admin endpoint tells."""
        return {
            "/v1/pins": self._list,
            "/v1/pins/show": self._show,
            "PUT /v1/pins": self._set,
            "DELETE /v1/pins": self._clear,
        }

    async def _list(self, request: Request) -> Answer:
        query = request.query
        only(query, "client", "user", "host", "pool", "limit")
        at_most, asked = limit(query), _Asked.of(query)
        found: list[dict[str, object]] = []
        more = False
        async for key, pin in self.store.scan(query.get("pool")):
            if not asked.holds(key, pin):
                continue
            if len(found) == at_most:
                more = True
                break
            found.append(self._row(key, pin))
        return await asyncio.to_thread(json_answer, {"pins": found, "more": more})

    async def _show(self, request: Request) -> Answer:
        query = request.query
        only(query, "client", "user", "pool")
        whom = who(query)
        if whom == Who(None, None):
            raise QueryError("a client or a user is wanted")
        shown = []
        for pool in self._chosen(query):
            entries = await self._entries(pool, whom)
            rows = [self._entry(key, pin) for key, pin in entries.items()]
            by = pool.settings.affinity.key
            note = _obstacle(pool, whom)
            shown.append({"pool": pool.name, "filed_by": by, "note": note, "pins": rows})
        return json_answer({"pools": shown})

    async def _set(self, request: Request) -> Answer:
        query = request.query
        only(query, "client", "user", "host", "pool", "ttl")
        whom, pool = who(query), self._pool_to_set(query)
        host, ttl_s = query["host"], _ttl_s(query, pool)
        obstacle = _obstacle(pool, whom)
        if obstacle is not None:
            raise QueryError(obstacle)
        first, *others = await self._entries(pool, whom)
        pin = await self.store.assign(first, host, ttl_s=ttl_s)
        if pin.host != host:
            said = f"pinned to {pin.host} without expiry: clear it first, or set with ttl=never"
            return json_answer({"error": said}, 409)
        rows = [self._entry(first, pin)]
        for key in others:
            # A decision without expiry is one on this entry: others may come to speak of others.
            other_ttl_s = min(ttl_s, pool.settings.affinity.ttl_s)
            rows.append(self._entry(key, await self.store.assign(key, host, ttl_s=other_ttl_s)))
        told = _never_null(ttl_s)
        log.info("pin_set", extra=self._told(query) | {"pool": pool.name, "ttl_s": told})
        return json_answer({"pins": rows})

    async def _clear(self, request: Request) -> Answer:
        query = request.query
        only(query, "client", "user", "host", "pool")
        if not query:
            raise QueryError("what to clear: a client, a user, a host or a pool is wanted")
        asked = _Asked.of(query)
        cleared, living, batch, more = 0, set[int](), list[PinKey](), False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CLEARING_S

        async def clear_batch() -> int:
            for key in batch:
                living.update(record.id for record in self.connections(key))
            gone = await asyncio.gather(*map(self.store.clear, batch))
            batch.clear()
            await asyncio.sleep(0)  # clients have their turn
            return sum(gone)

        try:
            async for key, pin in self.store.scan(query.get("pool")):
                if asked.holds(key, pin):
                    batch.append(key)
                if len(batch) == _CLEARED_AT_ONCE:
                    cleared += await clear_batch()
                    if more := loop.time() >= deadline:
                        break
            cleared += await clear_batch()
        finally:
            log.info("pins_cleared", extra=self._told(query) | {"count": cleared})
        return json_answer({"cleared": cleared, "connections": len(living), "more": more})

    def _chosen(self, query: Mapping[str, str]) -> list[Pool]:
        """The pool that is asked for, or all."""
        pools, name = self.pools(), query.get("pool")
        if name is None:
            return list(pools.values())
        if name not in pools:
            raise no_such("pool", name, pools)
        return [pools[name]]

    def _pool_to_set(self, query: Mapping[str, str]) -> Pool:
        """The one pool that has the host."""
        host = query.get("host")
        if host is None:
            raise QueryError("the host to pin to is wanted")
        meant = hosts_meant(query, self.pools())
        found = [it.pool for it in meant if it.name == host]
        if not found:
            names = ", ".join(it.name for it in meant)
            raise QueryError(f"{host!r} is a DNS name: name one of {names}")
        if len(found) > 1:
            names = ", ".join(found)
            raise QueryError(f"more than one pool has a host {host!r}: name one of {names}")
        return self.pools()[found[0]]

    async def _entries(self, pool: Pool, whom: Who) -> dict[PinKey, Pin | None]:
        """What the table says of somebody, under each name, and where a pin would be filed."""
        affinity = pool.settings.affinity
        names: list[str | None] = []
        if whom.source is not None or affinity.key is AffinityKeyKind.USER:
            key = affinity_key(affinity, whom.source or _ANYWHERE, whom.user)
            # In the order in which they count; where no source is named, nothing of it is meant.
            names = [key.own, key.primary, key.latest]
            decided = PinKey(pool.name, key.decided) if key.decided else None
            if whom.source is None:
                names = [key.decided or key.primary]
            elif decided is not None and await self.store.get(decided) is not None:
                names.insert(0, key.decided)
        keys = [PinKey(pool.name, name) for name in dict.fromkeys(names) if name is not None]
        entries = {key: await self.store.get(key) for key in keys}
        if whom.source is None or whom.user is None:
            network = network_text(affinity, whom.source) if whom.source is not None else None
            entries |= {
                found: pin
                async for found, pin in self.store.scan(pool.name)
                if whom.is_in(found.key) and network in (None, parts_of(found.key)[0])
            }
        return entries

    def _row(self, key: PinKey, pin: Pin) -> dict[str, object]:
        now = self.wall()
        return {
            "pool": key.pool,
            "key": key.key,
            "host": pin.host,
            "expires_in_s": _never_null(round(pin.expires_at - now, 3)),
            "touched_s_ago": round(now - pin.touched_at, 3),
        }

    def _entry(self, key: PinKey, pin: Pin | None) -> dict[str, object]:
        """An entry with the connections that it speaks of; `host` is None where there is no pin."""
        row = self._row(key, pin) if pin else {"pool": key.pool, "key": key.key, "host": None}
        connections = [
            {"id": f"{record.id:016x}", "client": str(record.client), "host": record.host}
            for record in self.connections(key)
        ]
        return row | {"connections": connections}

    def _told(self, query: Mapping[str, str]) -> dict[str, str]:
        """The question as the log may have it."""
        told = {name: query[name] for name in ("client", "host", "pool") if name in query}
        return {**told, **self.user_fields(query.get("user"))}


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which pins are meant."""

    whom: Who
    host: str | None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> _Asked:
        return cls(who(query), query.get("host"))

    def holds(self, key: PinKey, pin: Pin) -> bool:
        if parts_of(key.key) == (None, None):  # what nodes learned, kept in the same table
            return False
        if self.host is not None and self.host != pin.host:
            return False
        return self.whom == Who(None, None) or self.whom.is_in(key.key)


def _obstacle(pool: Pool, whom: Who) -> str | None:
    """Why this pool has no pin for somebody who is named like that; None where it may have one."""
    affinity = pool.settings.affinity
    if affinity.key is AffinityKeyKind.NONE:
        return f"pool {pool.name} pins nobody (its affinity.key is none)"
    if whom.source is None:
        if whom.user is None:
            return "a client or a user is wanted"
        if affinity.key is AffinityKeyKind.USER:
            return None
        return f"pool {pool.name} files pins by {affinity.key}: name the client's address too"
    if whom.user is None and is_within(whom.source, affinity.shared_sources):
        return f"{whom.source} is one of the shared sources of pool {pool.name}: name the user too"
    return None


def _ttl_s(query: Mapping[str, str], pool: Pool) -> float:
    text = query.get("ttl")
    if text is None:
        return pool.settings.affinity.ttl_s
    try:
        seconds = _TTL(text)
    except ValueError as error:
        raise QueryError(f"ttl: {error}") from None
    return seconds if isinstance(seconds, float) else NEVER


def _never_null(seconds: float) -> float | None:
    """JSON has no infinity: null is never."""
    return None if math.isinf(seconds) else seconds
