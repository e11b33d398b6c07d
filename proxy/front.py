"""Front: the one mind of a node. It builds all parts, joins them, starts and stops.

One front at a time accepts, reads, decides and connects; the parent keeps its listening sockets and
the relays keep its established connections, so it owns only what it can rebuild.

A new configuration changes the parts in place, in one step (`Front.change`): whoever holds a host
or a pool holds the right one still, and no connection notices.

In an upgrade two overlap. The new one attaches to the relays, binds nothing anew, and when it is
ready the parent tells the old one to leave: that accepts nobody any more, and ends when those whom
it has in hand are with their hosts.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping

from proxy.affinity.store import AffinityStore
from proxy.affinity.wills_file import WILLS_FILE, WillsFile
from proxy.capacity import default_relays, raise_open_files
from proxy.config.changes import Change, changes, clashes, in_force
from proxy.control.agents import AgentMonitor
from proxy.control.canary import Canary, Door
from proxy.control.health import HealthMonitor
from proxy.control.http import HttpServer
from proxy.control.inventory import Inventory
from proxy.control.logs import ConnectionLog
from proxy.control.metrics import Metrics
from proxy.control.names import user_names
from proxy.control.wills import WillDesk
from proxy.errors import Cause
from proxy.host_keeper import HostKeeper
from proxy.listeners import Listeners
from proxy.observers import Observers
from proxy.parent_link import ParentLink
from proxy.relay.hand_off import RelayPool
from proxy.routing.pool import Host
from proxy.server.canaries import Canaries
from proxy.server.claims import Claims
from proxy.server.connection import Reception
from proxy.server.dial import Dialler
from proxy.server.gate import Gate
from proxy.server.learned import LearnedTokens
from proxy.server.pins import PinKeeper
from proxy.server.placement import Placer
from proxy.server.shared_sources import SharedSources
from proxy.server.signs import Signs
from proxy.server.slow_start import SlowStart
from proxy.server.table import ConnectionTable
from proxy.server.wills import WillKeeper
from proxy.settings import Settings, shared_sources, state_path
from proxy.views import Views

log = logging.getLogger("proxy")
wall = time.time  # noqa: TID251  (the one wall clock; whoever needs it is given it)

_RELAYS_READY_S = 10.0
_LAST_ENDINGS_S = 2.0
IN_HAND_S = 30.0  # how long a front that leaves may take for the clients that it has accepted


class StartError(Exception):
    """Something that the configuration asks for cannot be had; the message says what."""


class Front:
    """Everything that runs in the front's event loop."""

    def __init__(
        self,
        settings: Settings,
        text: str,
        store: AffinityStore,
        link: ParentLink,
        metrics: Metrics,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.text = text  # of the configuration
        self.store = store
        self.link = link
        self.stopping = asyncio.Event()
        self.hurried = False
        self.replaced = False
        self.hosts = HostKeeper(settings, self._hosts_changed)
        pools = self.hosts.farm.pools
        self.relay_count = settings.relay.processes or default_relays()
        self.metrics = metrics
        try:
            self.log = ConnectionLog(user_names(settings.log.users))
        except OSError as error:
            raise StartError(f"log.users: {error}") from error
        self.inventory = Inventory(pools.values(), wall)
        self.health = HealthMonitor(
            pools.values(),
            self._host_turned,
            self.inventory.checked,
            rng=random.Random(),  # noqa: S311
        )
        self.observers = Observers(self.health, self.metrics, self.log)
        self.gate = Gate(settings.limits, shared_sources(settings.pools), loop.time)
        pool_of = self.hosts.farm.pool_of_connection
        self.table = ConnectionTable(pool_of, self.gate, self.observers, wall)
        self.relays = RelayPool(self.table, loop, on_ready=link.relay_ready, in_charge=False)
        # The same over restarts, and another for a second proxy on this machine.
        node = f"{socket.gethostname()}:{state_path('')}"
        timeouts = settings.timeouts
        self.pins = PinKeeper(store, node, self.table, pools, self.observers, wall)
        self.shared = SharedSources(settings.affinity.shared_after, pools, store, loop.time)
        signs = Signs(pools, self.shared, self.observers, wall)
        self.table.watchers += [self.pins, self.shared, signs]
        claims = Claims(
            store,
            node,
            self.observers,
            LearnedTokens(store, self.observers, loop.time),
            self.table.host_of,
            self.shared,
            wall,
        )
        self.placer = Placer(claims, Dialler(timeouts), timeouts, self.observers, self.hosts)
        self.slow_start = SlowStart(pools, loop.time)
        self.wills = WillKeeper(
            store,
            WillsFile(state_path(WILLS_FILE)),
            node,
            pools,
            self.table,
            self.observers,
            self.relays.close,
            self._host_wanted,
            wall,
        )
        # Ids are unique among all fronts whose connections one relay may hold.
        ids = itertools.count(int.from_bytes(os.urandom(4)) << 32)
        self.reception = Reception(
            timeouts,
            self.gate,
            self.placer,
            self.relays,
            self.table,
            self.observers,
            wall,
            ids.__next__,
        )
        self.canaries = Canaries(self.reception, self.placer.dialler, self.relays)
        self.agents = AgentMonitor(pools, self._host_wanted, random.Random(), loop.time, wall)  # noqa: S311
        self.canary = Canary(
            settings.canary.interval_s, self._doors, self.canaries.expect, self.inventory, wall
        )
        self.listeners = Listeners(link, self.canaries)
        self.views = Views(
            settings,
            metrics,
            self.health,
            self.inventory,
            self.canary,
            self.agents,
            pools,
            self.table,
            self.relays,
            self.relay_count,
            store,
            self.observers,
            self.placer,
            self.shared,
            WillDesk(self.wills, lambda: pools, wall),
            wall,
            lambda: self.stopping.is_set() and not self.replaced,  # the node goes on
        )
        self.views.parts.append(self.hosts.samples)

    def attach(self, index: int, pid: int, sock: socket.socket, *, retired: bool) -> None:
        """Have a relay; one more than the configuration wants takes nothing new."""
        self.relays.attach(index, pid, sock, retired=retired or index >= self.relay_count)

    def stop(self) -> None:
        """Drain and end; called again: end now."""
        self.hurried = self.stopping.is_set()
        self.stopping.set()
        if self.replaced:
            self.listeners.abandon()

    def leave(self) -> None:
        """A newer front accepts clients: finish those in hand, and end."""
        self.replaced = True
        self.relays.step_down()
        self.stopping.set()

    async def run(self, meanwhile: Callable[[], Coroutine[None, None, None]]) -> None:
        """Start in the order in which things depend on each other; serve; stop in reverse.

        Args:
            meanwhile: what else is to be done while clients are accepted.

        Raises:
            StartError: an address is taken, or the relays did not come.
        """
        await self._attach_relays()
        await self._bind(self.settings)
        servers = self._view_servers()
        shown = {server: await self._bind_view(server) for server in servers}
        if not self.link.is_upgrade:  # else the old one shows what is, until this one is ready
            await self._serve(shown)
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(part)
                for part in (
                    self.hosts.run(),
                    self.health.run(),
                    self.pins.run(),
                    self.canary.run(),
                    self.agents.run(),
                    self.slow_start.run(),
                    self.metrics.watch_loop(),
                    self.store.maintain(),
                )
            ]
            await self.hosts.settled()
            await self.wills.learn()
            self.hosts.wills = self.wills
            parts.append(tasks.create_task(self.wills.run()))
            # What was built until now lives as long as the process: the collector may skip it.
            gc.collect()
            gc.freeze()
            gc.enable()
            if self.link.is_upgrade:
                self.views.listening = True  # the node does: the old one accepts still
                await self._serve(shown)
            async with asyncio.TaskGroup() as clients:
                self._listen(clients)
                self.relays.take_over()
                self.link.keep_configuration(self.text)
                self.link.ready()
                log.info("started", extra={"pid": os.getpid(), "connections": len(self.table.rows)})
                beside = clients.create_task(meanwhile())
                await self.stopping.wait()
                beside.cancel()
                if self.replaced:
                    await self._leave(servers)
                else:
                    await self._drain()
            await self.pins.flush()
            for part in parts:
                part.cancel()
        for server in servers:
            await server.stop()
        self.relays.stop()
        log.info("stopped")

    async def change(self, settings: Settings, text: str) -> list[Change]:
        """Take another configuration, between two steps of the event loop; what differs.

        Before anything changes, new listeners are bound and new DNS names have been asked, so that
        an address that is taken refuses all of it, and new pools have their hosts at once. Hosts
        and pools that are gone leave, as `proxy.routing.pool` has it.

        Raises:
            StartError: a listener's address cannot be had; all is as before.
        """
        found = await asyncio.to_thread(changes, self.settings, settings)
        if clash := clashes(self.settings, settings):
            raise StartError("; ".join(clash))
        settings = in_force(self.settings, settings)
        await self._bind(settings)
        await self.wills.foresee(await self.hosts.prepare(settings))
        limits = self.settings.limits
        self.settings = self.views.settings = settings
        self.text = text
        self.gate.change(settings.limits, shared_sources(settings.pools))
        self.shared.after = settings.affinity.shared_after
        self.canary.interval_s = settings.canary.interval_s
        timeouts = settings.timeouts
        self.placer.timeouts = self.placer.dialler.timeouts = self.reception.timeouts = timeouts
        self.hosts.change(settings)
        self._open_listeners()
        if settings.limits != limits:
            raise_open_files(settings.limits.connections, self.relay_count)
        await self.listeners.release()
        self.link.keep_configuration(text)
        return found

    async def _attach_relays(self) -> None:
        raise_open_files(self.settings.limits.connections, self.relay_count)
        await self.link.relays(self.relay_count)
        try:
            await self.relays.ready(self.relay_count, _RELAYS_READY_S)
        except TimeoutError:
            said = f"{self.relay_count} relays did not start within {_RELAYS_READY_S} s"
            raise StartError(said) from None
        self.hosts.adopted()

    def _view_servers(self) -> list[HttpServer]:
        try:
            return self.views.servers()
        except (OSError, ValueError) as error:
            raise StartError(f"admin.bearer_file: {error}") from error

    async def _bind_view(self, server: HttpServer) -> socket.socket | None:
        """Its listening socket, so that no scrape is refused between two fronts."""
        if server.address is None:
            return None
        try:
            return await self.link.listen(server.address)
        except OSError as error:
            raise StartError(f"cannot serve at {server.address}: {error.strerror}") from error

    async def _serve(self, shown: Mapping[HttpServer, socket.socket | None]) -> None:
        for server, sock in shown.items():
            try:
                await server.start(sock, succeeds=self.link.is_upgrade)
            except OSError as error:
                raise StartError(str(error)) from error

    async def _bind(self, settings: Settings) -> None:
        try:
            await self.listeners.bind(settings.listeners)
        except OSError as error:
            raise StartError(error.strerror) from error

    def _listen(self, clients: asyncio.TaskGroup) -> None:
        self._clients = clients
        self._open_listeners()
        self.views.listening = True

    def _open_listeners(self) -> None:
        settings = self.settings
        self.listeners.change(
            settings.listeners, self.hosts.farm.routes, settings.timeouts.keepalive_s, self._clients
        )

    async def _leave(self, servers: Iterable[HttpServer]) -> None:
        """Accept and show nothing; those in hand have a while until they are abandoned."""
        self.listeners.close()
        log.info("replaced", extra={"pid": os.getpid()})
        asyncio.get_running_loop().call_later(IN_HAND_S, self.listeners.abandon)
        for server in servers:
            await server.stop()

    async def _drain(self) -> None:
        """Let balancers in front notice, take nobody new, let those who are here finish until
        `timeouts.stop`, end the rest."""
        log.info("stopping", extra={"connections": self.gate.connections})
        await self._while(lambda: True, self.settings.timeouts.stop_lag_s)
        self.views.listening = False
        self.listeners.close()
        await self.listeners.release()
        await self._while(lambda: self.gate.connections > 0, self.settings.timeouts.stop_s)
        self.listeners.abandon()
        for conn_id in list(self.table.rows):
            self.relays.close(conn_id, Cause.STOPPED)
        self.hurried = False
        await self._while(lambda: self.gate.connections > 0, _LAST_ENDINGS_S)

    async def _while(self, holds: Callable[[], bool], at_most_s: float) -> None:
        """Wait while something holds, unless somebody is in a hurry."""
        deadline = asyncio.get_running_loop().time() + at_most_s
        while holds() and not self.hurried:
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(0.05)

    # What the parts tell each other

    def _host_turned(self, host: Host, up: bool, cause: Cause | None, detail: str | None) -> None:
        self.log.host_changed(host.pool, host.name, up=up, cause=cause, detail=detail)
        if up:
            self.slow_start.begin(host)
        self.placer.host_turned()

    def _host_wanted(self, host: Host, took: bool) -> None:
        if host.takes and not took:
            self.slow_start.begin(host)
        self.placer.host_turned()

    def _doors(self) -> list[Door]:
        """The listeners that the canary may come to."""
        return [Door(it.settings.name, it.bound, it.routes) for it in self.listeners.open]

    def _hosts_changed(self) -> None:
        """Hosts have come, gone or moved: whoever watches them learns it."""
        pools = self.hosts.farm.pools.values()
        self.inventory.watch(pools)
        self.health.watch(pools)
        self.metrics.follow(self.settings.listeners, pools)
        self.wills.obey()
        self.placer.host_turned()
