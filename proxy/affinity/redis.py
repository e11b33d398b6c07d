"""RedisStore: the affinity table that several nodes share, in Redis or Valkey.

What: the contract of `proxy.affinity.store` by one-key scripts (`redis_scripts`), on one server,
behind Sentinels, or over a Cluster. The key of a pin is

    rdp-proxy:pin:POOL:{source:203.0.113.7} user:alice

with its first word in braces, which is what a Cluster places it by: both entries of a client that
is known by source and user are on one server, and the pins of a pool on all of them.

A breaker stands before each server (`breaker`); `maintain` probes those that are open, beside the
path. Memory is the server's matter (`maxmemory`, with a policy that spares keys without an expiry,
such as volatile-lru); the size is DBSIZE, so a database of its own tells it best.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from proxy.affinity.breaker import Breaker
from proxy.affinity.redis_client import (
    CALLS_MAX,
    FAILURES,
    RedisClient,
    explain,
    is_mistake,
)
from proxy.affinity.redis_scripts import (
    ASSIGN,
    CLAIM,
    FIELDS,
    MOVE,
    TOUCH,
    Script,
    milliseconds,
    read_pin,
)
from proxy.affinity.store import OnEvent, Pin, PinKey, StoreEvent, Touch, ignore_event
from proxy.errors import StoreError
from proxy.memory import Memory
from proxy.redis_url import RedisUrl

PREFIX = "rdp-proxy:pin:"
CHUNK = 250  # commands sent together
SCAN_COUNT = 500
_RECALLED = 100_000  # keys and the hosts last seen in force, for when the table is away; 30 MB
CALM_S = 5.0  # between two probes while all is well
RETRY_S = 0.5  # while anything is not
PAUSE_S = 0.02  # whatever happens

_Result = TypeVar("_Result")


class RedisStore:
    """A store on Redis servers. Made by `open`."""

    def __init__(
        self, client: RedisClient, now: Callable[[], float] | None, on_event: OnEvent
    ) -> None:
        """Connect nowhere yet: callers use `open`."""
        self._client = client
        self._now = now
        self._on_event = on_event
        self._recalled = Memory[PinKey, str](_RECALLED)
        self._breakers: defaultdict[str, Breaker] = defaultdict(Breaker)
        self._places = asyncio.Semaphore(CALLS_MAX)
        self._fault = ""  # why nobody could tell where the primaries are
        self._down_since: float | None = None
        self._wake = asyncio.Event()

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        now: Callable[[], float] | None = None,
        on_event: OnEvent = ignore_event,
    ) -> RedisStore:
        """Open the table at `url`. Servers that are merely away are waited for by `maintain`.

        Args:
            now: wall-clock time in seconds; None: that of the servers, as several nodes need it.

        Raises:
            StoreError: no waiting will help: a wrong password, name or certificate.
        """
        store = cls(RedisClient(RedisUrl.parse(url)), now, on_event)
        try:
            await store.probe_once()
        except StoreError:
            await store.close()
            raise
        return store

    @property
    def is_up(self) -> bool:
        """Whether all breakers are closed."""
        return not (self._fault or any(one.is_open for one in self._breakers.values()))

    def recall(self, key: PinKey) -> str | None:
        """The host that this node last saw in force for `key`."""
        return self._recalled.get(key)

    async def get(self, key: PinKey) -> Pin | None:
        """The pin in force, or None where it is absent or expired."""
        name = name_of(key)
        server = self._client.server_of(name)
        values = await self._guarded(server, self._client.command(server, "HMGET", name, *FIELDS))
        return self._seen(key, values)

    async def get_each(self, keys: Sequence[PinKey]) -> list[Pin | None]:
        """As `get` for each of these keys, in order."""
        pins: list[Pin | None] = [None] * len(keys)
        for server, places in self._by_server(keys).items():
            for chunk in _chunks(places):
                names = [name_of(keys[i]) for i in chunk]
                work = self._client.fields_of_each(server, names, FIELDS)
                for i, values in zip(chunk, await self._guarded(server, work), strict=True):
                    pins[i] = self._seen(keys[i], values)
        return pins

    async def claim(self, key: PinKey, host: str, *, expected: str | None, ttl_s: float) -> Pin:
        """Pin `key` to `host` unless somebody else did; return the pin in force."""
        words = host.encode(), (expected or "").encode(), milliseconds(ttl_s)
        pin = read_pin(await self._run(CLAIM, key, *words))
        self._recalled[key] = pin.host
        return pin

    async def assign(self, key: PinKey, host: str, *, ttl_s: float) -> Pin:
        """Pin `key` to `host` whatever it was before; return the pin in force."""
        pin = read_pin(await self._run(ASSIGN, key, host.encode(), milliseconds(ttl_s)))
        self._recalled[key] = pin.host
        return pin

    async def touch(self, node: str, touches: Sequence[Touch]) -> list[str]:
        """Extend the pins of live connections; return the host in force for each, in order."""
        hosts = [""] * len(touches)
        failure: StoreError | None = None
        for server, places in self._by_server([one.key for one in touches]).items():
            try:
                for chunk in _chunks(places):
                    found = await self._touch(server, node, [touches[i] for i in chunk])
                    for i, host in zip(chunk, found, strict=True):
                        hosts[i] = host
            except StoreError as error:
                failure = error  # the other servers' pins must not expire for it
        if failure is not None:
            raise failure
        return hosts

    async def move(
        self, node: str, key: PinKey, host: str, *, expected: str, quiet_s: float, ttl_s: float
    ) -> bool:
        """Move a pin from `expected` to `host`; False where anybody else has a hand on it."""
        words = node.encode(), host.encode(), expected.encode()
        times = milliseconds(quiet_s), milliseconds(ttl_s)
        moved: bool = await self._run(MOVE, key, *words, *times) == 1
        if moved:
            self._recalled[key] = host
        return moved

    async def scan(self, pool: str | None = None) -> AsyncIterator[tuple[PinKey, Pin]]:
        """All pins in force, of one pool or of all; what changes meanwhile may be seen or not."""
        pattern = f"{PREFIX}{'*' if pool is None else pool + ':*'}"
        for server in self._client.servers():
            cursor = 0
            while True:
                page = self._client.scan_page(server, cursor, pattern, SCAN_COUNT, FIELDS)
                cursor, found = await self._guarded(server, page)
                for name, values in found:
                    if pin := self._in_force(values):
                        yield key_of(name), pin
                if cursor == 0:
                    break

    async def clear(self, key: PinKey) -> bool:
        """Forget one pin; False where there was none."""
        name = name_of(key)
        was = await self.get(key)
        server = self._client.server_of(name)
        await self._guarded(server, self._client.command(server, "UNLINK", name))
        self._recalled.pop(key, None)
        return was is not None

    async def size(self) -> int:
        """How many keys the databases of the primaries hold, whatever they are."""
        command = self._client.command
        servers = self._client.servers()
        return sum([await self._guarded(one, command(one, "DBSIZE")) for one in servers])

    async def maintain(self) -> None:
        """Probe until cancelled. One task of its owner runs this."""
        while True:
            pause_s = CALM_S if self.is_up else RETRY_S
            try:
                async with asyncio.timeout(pause_s * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._wake.wait()
            except TimeoutError:
                pass
            try:
                await self.probe_once()
            except StoreError as error:
                self._on_event(StoreEvent.MAINTENANCE_FAILED, error.detail)
            _heed_cancellation()
            await asyncio.sleep(PAUSE_S)

    async def probe_once(self) -> None:
        """See where the primaries are and whether they take writes; tell where that changed.

        Raises:
            StoreError: they do not, and no waiting will cure that.
        """
        self._wake.clear()
        failures: list[BaseException] = []
        try:
            await self._client.refresh()
        except FAILURES as error:
            self._fault = explain(error)
            failures.append(error)
        else:
            servers = self._client.servers()
            for gone in self._breakers.keys() - set(servers):
                del self._breakers[gone]
            found = await asyncio.gather(*map(self._probe, servers))
            failures += [failure for failure in found if failure is not None]
            self._fault = ""  # from here on the breakers tell
        self._tell()
        for failure in failures:
            if is_mistake(failure):
                raise StoreError(f"affinity.url: {explain(failure)}") from failure

    async def close(self) -> None:
        """Give back what the store holds. The table stays."""
        await self._client.close()

    def _by_server(self, keys: Sequence[PinKey]) -> Mapping[str, list[int]]:
        """The places of these keys in their order, by the server that holds them."""
        places = defaultdict[str, list[int]](list)
        for i, key in enumerate(keys):
            places[self._client.server_of(name_of(key))].append(i)
        return places

    async def _probe(self, server: str) -> BaseException | None:
        try:
            await self._client.probe(server)
        except FAILURES as error:
            self._breakers[server].open(explain(error))
            return error
        self._breakers[server].succeeded()
        return None

    async def _run(self, script: Script, key: PinKey, *words: bytes) -> Any:
        name = name_of(key)
        server = self._client.server_of(name)
        work = self._client.run(server, script, name, self._time(), *words)
        return await self._guarded(server, work)

    async def _touch(self, server: str, node: str, touches: Sequence[Touch]) -> list[str]:
        now, by_node = self._time(), node.encode()
        rounds = [
            (name_of(one.key), now, by_node, one.host.encode(), milliseconds(one.ttl_s))
            for one in touches
        ]
        replies = await self._guarded(server, self._client.run_each(server, TOUCH, rounds))
        hosts = [reply.decode() for reply in replies]
        for one, host in zip(touches, hosts, strict=True):
            self._recalled[one.key] = host
        return hosts

    async def _guarded(self, server: str, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do `work` on a server within the time that its breaker leaves.

        Raises:
            StoreError: it failed, or the breaker is open.
        """
        breaker = self._breakers[server]
        if breaker.is_open:
            work.close()
            raise StoreError(breaker.fault)
        try:
            async with breaker.limit(), self._places:
                result = await work
        except FAILURES as error:
            breaker.failed(explain(error))
            self._wake.set()
            raise StoreError(explain(error)) from error
        finally:
            work.close()  # where it has not begun
            _heed_cancellation()
        breaker.succeeded()
        return result

    def _time(self) -> bytes:
        """The time that scripts go by: empty for the server's own."""
        return b"" if self._now is None else milliseconds(self._now())

    def _seen(self, key: PinKey, values: list[Any]) -> Pin | None:
        """The pin in force that was read under a key, which is recalled from now on."""
        pin = self._in_force(values)
        if pin is None:
            self._recalled.pop(key, None)
        else:
            self._recalled[key] = pin.host
        return pin

    def _in_force(self, values: list[Any]) -> Pin | None:
        if values[0] is None:
            return None
        pin = read_pin(values)
        is_expired = self._now is not None and pin.expires_at <= self._now()
        return None if is_expired else pin

    def _tell(self) -> None:
        """Say once that the table went away, and once that it is back."""
        if self.is_up == (self._down_since is None):
            return
        now = asyncio.get_running_loop().time()
        if self._down_since is None:
            self._down_since = now
            faults = [f"{name}: {one.fault}" for name, one in self._breakers.items() if one.is_open]
            self._on_event(StoreEvent.AWAY, self._fault or "; ".join(faults))
        else:
            detail = f"after {now - self._down_since:.1f} s"
            self._down_since = None
            self._on_event(StoreEvent.BACK, detail)


def _heed_cancellation() -> None:
    """End a task that is to end. redis-py sends by asyncio.wait_for, which in Python 3.11 forgets
    that where the server takes a command in the same turn: the task would go on for ever, and with
    it a front that was told to stop."""
    me = asyncio.current_task()
    if me is not None and me.cancelling():
        raise asyncio.CancelledError


def _chunks(places: Sequence[int]) -> Iterator[Sequence[int]]:
    """As many at a time as are sent together."""
    for start in range(0, len(places), CHUNK):
        yield places[start : start + CHUNK]


def name_of(key: PinKey) -> bytes:
    """The key of a pin in Redis."""
    tag, space, rest = key.key.partition(" ")
    return f"{PREFIX}{key.pool}:{{{tag}}}{space}{rest}".encode()


def key_of(name: bytes) -> PinKey:
    """What `name_of` was made of."""
    pool, _, key = name.decode().removeprefix(PREFIX).partition(":{")
    tag, space, rest = key.partition(" ")
    return PinKey(pool, f"{tag[:-1]}{space}{rest}")
