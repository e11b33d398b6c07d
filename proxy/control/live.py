"""Live series: what already stands somewhere else, read from there at each scrape.

`Live.read` takes the values in the event loop, by the callables of `Sources`; `text` then writes
them in a thread, as `Metrics.render` has it. So no second copy can go stale. It writes Prometheus'
text format itself: a farm of 1,000 hosts has 25,000 lines, and by prometheus_client's objects for
each of them the thread is in the event loop's way five times as long.

A new series: a line in `series.SERIES`, and a `Sample` from the part that owns the value (`parts`
of `Sources`).
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from proxy import __version__
from proxy.control.series import PREFIX, SERIES
from proxy.errors import StoreError
from proxy.routing.pool import Host
from proxy.routing.will import Will
from proxy.server.record import ConnectionRecord

OTHER = "other"  # where a label has no value
LIVE_COUNTERS = frozenset(  # counted by those who own them
    {"bytes_total", "config_reloads_total", "host_certificate_changes_total"}
)

_PINS_TIMEOUT_S = 1.0


class RelayState(NamedTuple):
    """One relay as the front sees it."""

    relay: int
    up: bool
    connections: int


class Sample(NamedTuple):
    """One value of a gauge or counter of `SERIES`."""

    name: str
    labels: tuple[str, ...]
    value: float


class Sources(NamedTuple):
    """Where live values are read at a scrape: called in the event loop, each must be quick.

    `pins` may wait, for a second at most, and may raise StoreError. `parts` are those that name
    their samples themselves.
    """

    hosts: Callable[[], Iterable[Host]]
    connections: Callable[[], Iterable[ConnectionRecord]]  # the established ones
    relays: Callable[[], Iterable[RelayState]]
    store_up: Callable[[], bool]
    pins: Callable[[], Awaitable[int]]
    held: Callable[[], int]
    shared: Callable[[], int]
    parts: tuple[Callable[[], Iterable[Sample]], ...] = ()


@dataclass(slots=True)
class Carried:
    """What the connections to one host carried, less what an earlier front has counted."""

    up: int = 0
    down: int = 0

    def add(self, up: int, down: int) -> None:
        self.up += up
        self.down += down


@dataclass(slots=True)
class Live:
    """The values of one scrape that stand elsewhere, taken in the loop and written in a thread."""

    _hosts: list[tuple[str, str, bool, Will, int]]
    _connections: list[ConnectionRecord]
    _bytes: dict[tuple[str, str], Carried]
    _relays: list[RelayState]
    _samples: list[Sample]
    _single: dict[str, float | None]

    @classmethod
    async def read(
        cls,
        sources: Sources,
        ended_bytes: Mapping[tuple[str, str], Carried],
        started_at: float,
    ) -> Self:
        """The values as they are now."""
        pins = await _pins(sources)
        samples: list[Sample] = []
        for part in sources.parts:  # each takes a millisecond or two where hosts are many
            await asyncio.sleep(0)
            samples += part()
        return cls(
            [(h.pool, h.name, h.alive, h.wish.will, h.live) for h in sources.hosts()],
            list(sources.connections()),
            {key: Carried(sum_.up, sum_.down) for key, sum_ in ended_bytes.items()},
            list(sources.relays()),
            samples,
            {
                "held_clients": sources.held(),
                "shared_sources": sources.shared(),
                "affinity_store_up": sources.store_up(),
                "affinity_pins": pins,
                "start_time_seconds": started_at,
            },
        )

    def text(self) -> bytes:
        """All live series in Prometheus' text format, also where nothing can be said of one now."""
        lines: dict[str, list[str]] = {
            name: [f"# HELP {PREFIX}{name} {series.text}\n# TYPE {PREFIX}{name} {series.kind}\n"]
            for name, series in SERIES.items()
            if series.kind == "gauge" or name in LIVE_COUNTERS
        }
        known: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}
        for name, labels, value in self._all():
            key = (SERIES[name].labels, labels)
            text = known.get(key) or known.setdefault(key, _label_text(*key))
            lines[name].append(f"{PREFIX}{name}{text} {float(value)!r}\n")
        return "".join(line for family in lines.values() for line in family).encode()

    def _all(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        for pool, host, is_up, wanted, live in self._hosts:
            yield "connections_active", (pool, host), live
            yield "host_up", (pool, host), is_up
            for state in Will:
                yield "host_will", (pool, host, state), state is wanted
        for relay in self._relays:
            yield "relay_up", (str(relay.relay),), relay.up
            yield "relay_connections", (str(relay.relay),), relay.connections
        yield "build_info", (__version__, platform.python_version()), 1
        yield from self._carried()
        yield from self._samples
        yield "open_files", (), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (names only)
        yield "open_files_limit", (), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        for name, value in self._single.items():
            if value is not None:
                yield name, (), value

    def _carried(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        # The records may move on while this thread reads them, but bytes only ever grow; the sums
        # of what has ended were taken in the loop together with the list, so none counts twice.
        for record in self._connections:
            key = (record.pool or OTHER, record.host or OTHER)
            self._bytes.setdefault(key, Carried()).add(record.bytes_up, record.bytes_down)
        for (pool, host), carried in self._bytes.items():
            yield "bytes_total", (pool, host, "up"), max(0, carried.up)
            yield "bytes_total", (pool, host, "down"), max(0, carried.down)


def _label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = zip(names, map(_escaped, values), strict=True)
    inner = ",".join(f'{name}="{value}"' for name, value in pairs)
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


async def _pins(sources: Sources) -> int | None:
    try:
        async with asyncio.timeout(_PINS_TIMEOUT_S):
            return await sources.pins()
    except (StoreError, TimeoutError):
        return None
