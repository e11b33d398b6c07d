"""Live series: what already stands somewhere else, read from there at each scrape.

`Live.read` takes the values in the event loop, by the callables of `Sources`; prometheus_client
then writes them in a thread, as `Metrics.render` has it. So no second copy can go stale.

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

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

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
class Live(Collector):
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
        return cls(
            [(h.pool, h.name, h.up, h.wish.will, h.live) for h in sources.hosts()],
            list(sources.connections()),
            {key: Carried(sum_.up, sum_.down) for key, sum_ in ended_bytes.items()},
            list(sources.relays()),
            [sample for part in sources.parts for sample in part()],
            {
                "held_clients": sources.held(),
                "shared_sources": sources.shared(),
                "affinity_store_up": sources.store_up(),
                "affinity_pins": pins,
                "start_time_seconds": started_at,
            },
        )

    def collect(self) -> Iterator[Metric]:
        """Every series, also where nothing can be said of it now."""
        shown = set()
        for family in self._families():
            shown.add(family.name)
            yield family
        for name, series in SERIES.items():
            is_live = series.kind == "gauge" or name in LIVE_COUNTERS
            if is_live and PREFIX + name.removesuffix("_total") not in shown:
                yield _family(name)

    def _families(self) -> Iterator[Metric]:
        active, up, will = map(_family, ("connections_active", "host_up", "host_will"))
        for pool, host, is_up, wanted, live in self._hosts:
            active.add_metric((pool, host), live)
            up.add_metric((pool, host), is_up)
            for state in Will:
                will.add_metric((pool, host, state), state is wanted)
        relay_up, relay_connections = map(_family, ("relay_up", "relay_connections"))
        for relay in self._relays:
            relay_up.add_metric((str(relay.relay),), relay.up)
            relay_connections.add_metric((str(relay.relay),), relay.connections)
        build = _family("build_info")
        build.add_metric((__version__, platform.python_version()), 1)
        yield from (active, up, will, relay_up, relay_connections, build, self._carried())
        yield from self._of_parts()
        files = {
            "open_files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 (names only)
            "open_files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }
        for name, value in (self._single | files).items():
            if value is not None:
                family = _family(name)
                family.add_metric((), value)
                yield family

    def _of_parts(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, labels, value in self._samples:
            family = families.get(name) or families.setdefault(name, _family(name))
            family.add_metric(labels, value)
        return families.values()

    def _carried(self) -> Metric:
        # The records may move on while this thread reads them, but bytes only ever grow; the sums
        # of what has ended were taken in the loop together with the list, so none counts twice.
        for record in self._connections:
            key = (record.pool or OTHER, record.host or OTHER)
            self._bytes.setdefault(key, Carried()).add(record.bytes_up, record.bytes_down)
        family = _family("bytes_total")
        for (pool, host), carried in self._bytes.items():
            family.add_metric((pool, host, "up"), max(0, carried.up))
            family.add_metric((pool, host, "down"), max(0, carried.down))
        return family


def _family(name: str) -> GaugeMetricFamily | CounterMetricFamily:
    series = SERIES[name]
    kind = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    return kind(PREFIX + name, series.text, labels=series.labels)


async def _pins(sources: Sources) -> int | None:
    try:
        async with asyncio.timeout(_PINS_TIMEOUT_S):
            return await sources.pins()
    except (StoreError, TimeoutError):
        return None
