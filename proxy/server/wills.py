"""WillKeeper: the operator's will, in force on every node and over restarts.

It is kept in the affinity table, which nodes share and which outlives them, under keys that are no
client's, without expiry:

    will:HOST    the `Wish`, as text; changed by compare-and-set
    wills        a mark, anew with every change: one look every few seconds tells that there is one
    in_use:HOST  expires soon; nodes with connections to a host that is not ready touch it

Who empties a host means the machine. So connections of hosts that leave and were at its address, as
one that was renamed or moved to another pool, are waited for, and closed, like its own.

While the table is away the last known will stays, over restarts too: `WillsFile` has it. A table
that has lost its memory (the mark is gone) is told again by whoever remembers.

At the deadline of a drain each node closes its own connections, where the operator asked for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.affinity.store import NEVER, AffinityStore, Pin, PinKey, Touch
from proxy.affinity.wills_file import KnownWills, WillsFile
from proxy.errors import Cause, StoreError
from proxy.routing.pool import Host, Pool
from proxy.routing.will import Will, Wish
from proxy.server.record import Observer
from proxy.server.table import ConnectionTable

log = logging.getLogger(__name__)

TICK_S = 1.0
LEARN_S = 2.0  # how long what is wanted of hosts is waited for before they take clients
IN_USE_S = 5.0  # a node that is silent for so long has no more connections there
_RETRY_S = 0.25
_MARK = "wills"

_Key = tuple[str, str]  # pool and host

OnWish = Callable[[Host, bool], None]
"""Told of a host that follows another wish now, and whether it took new clients before. In the
loop: quick."""


@dataclass(slots=True)
class WillKeeper:
    """Keeps `Host.wish` as the table has it, and changes it there.

    Attributes:
        file: what this node knew before it started.
        close: ends one established connection.
        on_wish: told of every change, also of those that other nodes made.
        wall: seconds since the epoch.
        is_known: whether the table has told of all hosts since the start, or the file.
    """

    store: AffinityStore
    file: WillsFile
    node: str
    pools: Mapping[str, Pool]
    table: ConnectionTable
    observer: Observer
    close: Callable[[int, Cause], None]
    on_wish: OnWish
    wall: Callable[[], float]
    is_known: bool = False
    _in_use: set[_Key] = field(default_factory=set)
    _hears_since: float | None = None  # all that other nodes have to say
    _known: dict[_Key, Wish] = field(default_factory=dict)
    _leaving: list[Host] = field(default_factory=list)
    _marks: dict[str, str] = field(default_factory=dict)
    # What is known must not be older than what was read last: one at a time reads or changes it.
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def learn(self, at_most_s: float = LEARN_S) -> None:
        """Have the hosts follow what the table says, before clients are accepted.

        Where the table is away for longer, they follow what this node knew last; where it knew
        nothing, they are ready until the table is back.
        """
        self._recall()
        if not await _insist(self.tick, at_most_s):
            event = "wills_recalled" if self.is_known else "will_unknown"
            log.warning(event, extra={"detail": "the affinity table does not answer"})

    async def foresee(self, hosts: Iterable[_Key], at_most_s: float = LEARN_S) -> None:
        """Know what is wanted of hosts that are about to come, by pool and name.

        Where the table is away for longer, they come as this node knew them last; those that it
        never knew are ready until the table is back.
        """
        coming = [key for key in hosts if self._host(key) is None]

        async def read() -> bool:
            try:
                async with self._asking:
                    await self._read(coming)
            except StoreError:
                self.observer.store_failed()
                return False
            return True

        if not coming or await _insist(read, at_most_s):
            return
        unknown = [key for key in coming if key not in self._known]
        if unknown:
            self.is_known = False
            (pool, host), count = unknown[0], len(unknown)
            detail = f"the affinity table does not answer; hosts that came: {count}"
            log.warning("will_unknown", extra={"pool": pool, "host": host, "detail": detail})

    async def wish_for(self, pool: str, name: str) -> Wish:
        """What is wanted of a host that is not here, as far as the table answers."""
        key = (pool, name)
        known = self._known.get(key)
        if known is None:
            try:
                pin = await self.store.get(_will_of(key))
            except StoreError:
                self.observer.store_failed()
                return Wish()
            known = self._wish(key, pin.host if pin else None)
        return known.at(self.wall())

    async def run(self) -> None:
        """One tick after the other, for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    async def tick(self) -> bool:
        """Look for changes and obey what is known; False where the table did not answer."""
        try:
            async with self._asking:
                await self._ask(list(self.pools.values()))
            self.obey()
            await self._tell_use()
        except StoreError:
            self.observer.store_failed()
            self._hears_since = None
            self.obey()
            return False
        self.is_known = True
        if self._hears_since is None:
            self._hears_since = self.wall()
        await self.file.keep(KnownWills(self._marks, self._known))
        return True

    def is_in_use(self, host: Host) -> bool:
        """Whether any node may have connections to a host, under this name or one that leaves.

        Of one that is not ready this is known a few seconds later, when all nodes have had time to
        say so. Those that the table does not reach cannot.
        """
        used = self._is_used(host)
        if used or host.wish.will is Will.READY:
            return used
        if self._hears_since is None or (host.pool, host.name) in self._in_use:
            return True
        return self.wall() - max(self._hears_since, host.wish.since or 0.0) < IN_USE_S

    async def say(self, host: Host, change: Callable[[Wish], Wish]) -> None:
        """Change what is wanted of a host, on all nodes that share the table.

        Args:
            change: makes another wish of the one in force; asked again where some other node has
                changed that meanwhile, so that of two changes at one instant none is lost.

        Raises:
            StoreError: the table does not answer; nothing has changed here.
        """
        key = (host.pool, host.name)
        async with self._asking:
            pin = await self.store.get(_will_of(key))
            while True:
                found = pin.host if pin else None
                wish = change(self._wish(key, found))
                pin = await self._claim(_will_of(key), wish.pack(), expected=found)
                if pin.host == wish.pack():
                    break
            # Of this node: two that say something at one instant leave two marks.
            mark = f"{self.wall():.6f} {self.node}"
            await self.store.assign(PinKey(host.pool, _MARK), mark, ttl_s=NEVER)
            self._known[key] = wish
            # Should the table lose it at once, this node remembers. Not the very mark: what others
            # have said just before is still to be read.
            self._marks.setdefault(host.pool, f"{self.wall():.6f}")
        self.obey()

    def obey(self) -> None:
        """Let the hosts be as they are wanted, and close what is overdue."""
        now = self.wall()
        hosts = (host for pool in self.pools.values() for host in pool.hosts)
        self._leaving = [host for host in hosts if host.leaving]
        for (pool_name, name), known in list(self._known.items()):
            host = self._host((pool_name, name))
            if host is None:
                if known.will is Will.READY and known.weight is None:
                    del self._known[pool_name, name]  # adopted hosts come and go without end
                continue
            wish, took = known.at(now), host.takes
            if wish != host.wish:
                host.wish = wish
                log.info("host_wanted", extra=_fields(host, now))
                self.on_wish(host, took)
            if wish.closes_by(now) and self._is_used(host):
                self._close(host)

    def _is_used(self, host: Host) -> bool:
        """Whether this node has connections to it."""
        return any(one.live for one in self._same(host))

    def _same(self, host: Host) -> list[Host]:
        """This host, and those that leave and are the same machine."""
        address = host.address
        return [host, *(one for one in self._leaving if one.address == address and one is not host)]

    def _host(self, key: _Key) -> Host | None:
        pool = self.pools.get(key[0])
        return pool.by_name.get(key[1]) if pool else None

    def _close(self, host: Host) -> None:
        same = self._same(host)
        overdue = [conn_id for conn_id, row in self.table.rows.items() if row.host in same]
        if overdue:
            fields = {"pool": host.pool, "host": host.name, "connections": len(overdue)}
            log.warning("host_cleared", extra=fields)
        for conn_id in overdue:
            self.close(conn_id, Cause.STOPPED)

    def _recall(self) -> None:
        known = self.file.recall()
        if known is not None:
            self.is_known = True
            self._marks.update(known.marks)
            self._known.update(known.wishes)

    async def _ask(self, pools: Sequence[Pool]) -> None:
        marks = dict.fromkeys(pool.name for pool in pools)
        found = await self.store.get_each([PinKey(name, _MARK) for name in marks])
        keys = dict[_Key, None]()
        for pool, pin in zip(pools, found, strict=True):
            before = self._marks.get(pool.name)
            if pin is None:
                if before is not None:
                    await self._tell_again(pool, before)
                continue
            # What is known of hosts that are not here now must not be old when they are back.
            mine = dict.fromkeys((pool.name, host.name) for host in pool.hosts)
            mine |= dict.fromkeys(key for key in self._known if key[0] == pool.name)
            keys |= {key: None for key in mine if pin.host != before or key not in self._known}
            marks[pool.name] = pin.host
        await self._read(list(keys))
        self._marks |= {name: mark for name, mark in marks.items() if mark is not None}

    async def _tell_again(self, pool: Pool, mark: str) -> None:
        """Tell a table that has lost its memory, as far as nobody else has said anything since."""
        for key, wish in list(self._known.items()):
            if key[0] == pool.name and wish != Wish():
                pin = await self._claim(_will_of(key), wish.pack(), expected=None)
                self._known[key] = self._wish(key, pin.host)
        await self._claim(PinKey(pool.name, _MARK), mark, expected=None)

    async def _read(self, keys: Sequence[_Key]) -> None:
        found = await self.store.get_each([_will_of(key) for key in keys])
        for key, pin in zip(keys, found, strict=True):
            self._known[key] = self._wish(key, pin.host if pin else None)

    def _wish(self, key: _Key, text: str | None) -> Wish:
        """The wish that an entry of the table holds."""
        if text is None:
            return Wish()
        try:
            return Wish.unpack(text)
        except ValueError as error:  # of a version to come
            log.warning("will_unknown", extra={"host": key[1], "detail": str(error)})
            return self._known.get(key, Wish())

    async def _claim(self, key: PinKey, text: str, *, expected: str | None) -> Pin:
        return await self.store.claim(key, text, expected=expected, ttl_s=NEVER)

    async def _tell_use(self) -> None:
        """Tell the other nodes which hosts have connections from here, and hear theirs."""
        wanted = [
            host
            for pool in self.pools.values()
            for host in pool.hosts
            if host.wish.will is not Will.READY
        ]
        used = [host for host in wanted if self._is_used(host)]
        if used:
            touches = [Touch(_use_of(host), host.name, IN_USE_S) for host in used]
            await self.store.touch(self.node, touches)
        others = [host for host in wanted if host not in used]
        found = await self.store.get_each([_use_of(host) for host in others])
        told = zip(others, found, strict=True)
        self._in_use = {(host.pool, host.name) for host, pin in told if pin is not None}


async def _insist(ask: Callable[[], Awaitable[bool]], at_most_s: float) -> bool:
    """Ask until the table has answered, for so long; whether it has."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + at_most_s
    while not await ask():
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(_RETRY_S)
    return True


def _fields(host: Host, now: float) -> dict[str, object]:
    """What is wanted of a host, for the log."""
    wish = host.wish
    drains = wish.will is Will.DRAIN
    return {
        "pool": host.pool,
        "host": host.name,
        "will": wish.will,
        "weight": host.weight,
        "pins": wish.pins if drains else None,
        "deadline_s": round(wish.deadline - now) if drains and wish.deadline else None,
        "close": wish.close or None,
    }


def _will_of(key: _Key) -> PinKey:
    return PinKey(key[0], f"will:{key[1]}")


def _use_of(host: Host) -> PinKey:
    return PinKey(host.pool, f"in_use:{host.name}")
