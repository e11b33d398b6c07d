"""Tables to test: one of each store that is built in, opened twice, and the clock of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from proxy.affinity.redis import RedisStore
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import AffinityStore, PinKey
from proxy.settings import StoreKind

KEY = PinKey("desktops", "source:203.0.113.7")
T0 = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


Opener = Callable[["Place", Clock], Awaitable[AffinityStore]]


@dataclass(slots=True)
class Place:
    """Where tables lie."""

    directory: Path
    redis_url: str


OPENERS: dict[StoreKind, Opener] = {
    StoreKind.SQLITE: lambda place, clock: SqliteStore.open(
        str(place.directory / "affinity.db"), max_pins=1_000_000, now=clock
    ),
    StoreKind.REDIS: lambda place, clock: RedisStore.open(place.redis_url, now=clock),
}


@dataclass(slots=True)
class Table:
    """One table under two handles, and the clock of both."""

    one: AffinityStore
    two: AffinityStore
    clock: Clock
