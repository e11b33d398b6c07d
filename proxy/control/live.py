"""Live series: what already stands somewhere else, read from there at each scrape.

Values are taken in the event loop, by the callables of `Sources`, host by host: whatever comes or
goes while the loop has its turns between two of them, each is asked about what is there. So no
second copy can go stale.

A new series: a line in `series.SERIES`, and a `Sample` from the part that owns the value
(`host_parts` and `parts` of `Sources`).
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from proxy import __version__
from proxy.control.exposition import Exposition, Sample
from proxy.control.series import OTHER
from proxy.errors import StoreError
from proxy.routing.pool import Host
from proxy.routing.will import Will
from proxy.server.record import ConnectionRecord

_PINS_TIMEOUT_S = 1.0


class RelayState(NamedTuple):
    """One relay as the front sees it."""

    relay: int
    up: bool
    connections: int


class Sources(NamedTuple):
    """Where live values are read at a scrape: called in the event loop, each must be quick.

    `pins` may wait, for a second at most, and may raise StoreError. `host_parts` and `parts` name
    their samples themselves, of one host or of the rest.
    """

    hosts: Callable[[], Iterable[Host]]
    connections: Callable[[], Iterable[ConnectionRecord]]  # the established ones
    relays: Callable[[], Iterable[RelayState]]
    store_up: Callable[[], bool]
    pins: Callable[[], Awaitable[int]]
    held: Callable[[], int]
    shared: Callable[[], int]
    host_parts: tuple[Callable[[Host], Iterable[Sample]], ...] = ()
    parts: tuple[Callable[[], Iterable[Sample]], ...] = ()


@dataclass(slots=True)
class Carried:
    """What the connections to one host carried, less what an earlier front has counted."""

    up: int = 0
    down: int = 0

    def add(self, up: int, down: int) -> None:
        self.up += up
        self.down += down


async def write(
    page: Exposition,
    sources: Sources,
    ended_bytes: Mapping[tuple[str, str], Carried],
    started_at: float,
) -> None:
    """Write all live series, also where nothing can be said of one now."""
    pins = await _pins(sources)
    if pins is not None:
        page.add("affinity_pins", (), pins)
    await _write_bytes(page, sources, ended_bytes)
    for host in list(sources.hosts()):
        _write_host(page, host)
        for host_part in sources.host_parts:
            page.add_all(host_part(host))
        await page.slices.turn()
    for part in sources.parts:
        page.add_all(part())
        await page.slices.turn()
    for relay in sources.relays():
        page.add("relay_up", (str(relay.relay),), relay.up)
        page.add("relay_connections", (str(relay.relay),), relay.connections)
    page.add("held_clients", (), sources.held())
    page.add("shared_sources", (), sources.shared())
    page.add("affinity_store_up", (), sources.store_up())
    page.add("start_time_seconds", (), started_at)
    page.add("build_info", (__version__, platform.python_version()), 1)
    page.add("open_files_limit", (), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    page.add("open_files", (), len(await asyncio.to_thread(os.listdir, "/proc/self/fd")))


def _write_host(page: Exposition, host: Host) -> None:
    labels = (host.pool, host.name)
    page.add("connections_active", labels, host.live)
    page.add("host_up", labels, host.alive)
    for will in Will:
        page.add("host_will", (*labels, will), host.wish.will is will)


async def _write_bytes(
    page: Exposition, sources: Sources, ended_bytes: Mapping[tuple[str, str], Carried]
) -> None:
    # The records move on while the loop has its turns, but bytes only ever grow; the sums of what
    # has ended are taken in one step with the list, so none counts twice.
    sums = {key: Carried(carried.up, carried.down) for key, carried in ended_bytes.items()}
    for record in list(sources.connections()):
        key = (record.pool or OTHER, record.host or OTHER)
        sums.setdefault(key, Carried()).add(record.bytes_up, record.bytes_down)
        await page.slices.turn()
    for (pool, host), carried in sums.items():
        page.add("bytes_total", (pool, host, "up"), max(0, carried.up))
        page.add("bytes_total", (pool, host, "down"), max(0, carried.down))
        await page.slices.turn()


async def _pins(sources: Sources) -> int | None:
    try:
        async with asyncio.timeout(_PINS_TIMEOUT_S):
            return await sources.pins()
    except (StoreError, TimeoutError):
        return None
