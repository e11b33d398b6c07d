"""Views: what the front shows over HTTP, and where each value is read.

Counters, readiness and the operator's tables are all read from the parts that own the values, at
each request, so that there is no second copy of anything.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from proxy.affinity.store import AffinityStore, PinKey
from proxy.control.admin import AdminViews, admin_routes
from proxy.control.agents import AgentMonitor
from proxy.control.canary import Canary
from proxy.control.exposition import CONTENT_TYPE, Sample
from proxy.control.health import HealthMonitor
from proxy.control.http import Handler, HttpServer, Readiness, public_routes
from proxy.control.inventory import Inventory
from proxy.control.live import RelayState, Sources
from proxy.control.logs import RecentEvents
from proxy.control.metrics import Metrics
from proxy.control.names import user_names
from proxy.control.page import PageViews, Row, page_routes
from proxy.control.pins import PinDesk
from proxy.control.wills import WillDesk
from proxy.observers import Observers
from proxy.relay.hand_off import RelayPool
from proxy.routing.pool import Host, Pool
from proxy.server.placement import Placer
from proxy.server.record import ConnectionRecord
from proxy.server.shared_sources import SharedSources
from proxy.server.table import ConnectionTable
from proxy.settings import Settings


@dataclass(slots=True)
class Views:
    """Joins the parts of a front to the endpoints that show them.

    Attributes:
        listening: whether clients are accepted; the front says so.
        stopping: whether it has been told to stop.
        parts: those that name their own samples of metrics.
    """

    settings: Settings
    metrics: Metrics
    health: HealthMonitor
    inventory: Inventory
    canary: Canary
    agents: AgentMonitor
    pools: Mapping[str, Pool]
    table: ConnectionTable
    relays: RelayPool
    relay_count: int
    store: AffinityStore
    observers: Observers
    placer: Placer
    shared: SharedSources
    wills: WillDesk
    wall: Callable[[], float]
    stopping: Callable[[], bool]
    listening: bool = False
    parts: list[Callable[[], Iterable[Sample]]] = field(default_factory=list)
    recent: RecentEvents = field(default_factory=RecentEvents)

    def __post_init__(self) -> None:
        logging.getLogger("proxy").addHandler(self.recent)

    def servers(self) -> list[HttpServer]:
        """The endpoints that the configuration asks for, not started yet.

        Raises:
            OSError, ValueError: the bearer file or the key of the log cannot be used.
        """
        servers = []
        if self.settings.metrics.bind is not None:
            routes = public_routes(self._render, CONTENT_TYPE, self._readiness)
            servers.append(HttpServer(self.settings.metrics.bind, routes))
        if self.settings.admin.bind is not None:
            servers.append(HttpServer(self.settings.admin.bind, self._admin_routes()))
        return servers

    def _admin_routes(self) -> dict[str, Handler]:
        names = user_names(self.settings.log.users)
        pins = PinDesk(self.store, lambda: self.pools, self._records_of, names, self.wall)
        views = AdminViews(
            self.health.of,
            self._hosts,
            self._records,
            pins,
            self.wills,
            self.wall,
            self.inventory.routes() | self.canary.routes(),
        )

        async def hosts() -> list[Row]:
            return [self._page_row(host, row) async for host, row in views.host_rows({})]

        page = PageViews(
            socket.gethostname(),
            self._readiness,
            hosts,
            views.find_connections,
            self.metrics.counts,
            self.recent.newest,
            self._gauges,
            self.wall,
        )
        return admin_routes(views, self.settings.admin, page_routes(page))

    def _page_row(self, host: Host, row: Row) -> Row:
        """A host as the page shows it."""
        known = self.inventory.of(host)
        return {
            **row,
            "certificate": known.certificate if known is not None else None,
            "canary": self.canary.of(host),
        }

    def _gauges(self) -> Mapping[str, int]:
        return {
            "connections": len(self.table.rows),
            "clients held": self.placer.held,
            "relays": len(self.relays.connections),
            "shared sources": len(self.shared),
        }

    def _readiness(self) -> Readiness:
        hosts = {
            pool.name: (sum(host.alive for host in pool.hosts), len(pool.hosts))
            for pool in self.pools.values()
        }
        return Readiness(
            listening=self.listening,
            relays_attached=len(self.relays.connections),
            stopping=self.stopping(),
            store_up=self._store_is_up(),
            hosts=hosts,
        )

    async def _render(self) -> bytes:
        return await self.metrics.render(self._sources())

    def _sources(self) -> Sources:
        return Sources(
            hosts=self._hosts,
            connections=self._records,
            relays=self._relay_states,
            store_up=self._store_is_up,
            pins=self.store.size,
            held=lambda: self.placer.held,
            shared=lambda: len(self.shared),
            host_parts=(
                self._lifespans,
                self.wills.samples,
                self.inventory.samples,
                self.canary.samples,
                self.agents.samples,
            ),
            parts=(self.inventory.pool_samples, self.wills.node_samples, *self.parts),
        )

    def _lifespans(self, host: Host) -> list[Sample]:
        short = host.lifespans.all_short(self.wall())
        return [Sample("host_short_lived", (host.pool, host.name), short)]

    def _relay_states(self) -> list[RelayState]:
        attached = self.relays.connections
        return [
            RelayState(index, up=index in attached, connections=attached.get(index, 0))
            for index in range(self.relay_count)
        ]

    def _store_is_up(self) -> bool:
        return self.store.is_up

    def _hosts(self) -> list[Host]:
        return [host for pool in self.pools.values() for host in pool.hosts]

    def _records_of(self, key: PinKey) -> list[ConnectionRecord]:
        return [row.record for row in self.table.of_key(key)]

    def _records(self) -> list[ConnectionRecord]:
        return [row.record for row in self.table.rows.values()]
