"""The front: composition root. Builds every part from the settings, joins them, starts and stops.

Started by the parent as `python -m proxy.app --control-fd N --config FILE`. One front at a time
accepts, reads, decides and connects; the parent keeps its listening sockets and the relays keep its
established connections, so it owns only what it can rebuild.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from proxy import config
from proxy.affinity.store import AffinityStore, StoreEvent
from proxy.affinity.stores import open_store
from proxy.capacity import default_relays, raise_open_files
from proxy.control.health import HealthMonitor
from proxy.control.http import HttpServer
from proxy.control.logs import ConnectionLog, LogWriter
from proxy.control.metrics import Metrics
from proxy.control.names import KEY_FILE, UserNames, load_key
from proxy.control.resolver import Resolver
from proxy.errors import Cause, ConfigError, StoreError
from proxy.observers import Observers
from proxy.parent_link import ParentLink
from proxy.relay.hand_off import RelayPool
from proxy.routing.pool import Host, Pool, Routes
from proxy.server.connection import Reception
from proxy.server.dial import Dialler
from proxy.server.gate import Gate
from proxy.server.learned import LearnedTokens
from proxy.server.listener import Listener
from proxy.server.pins import PinKeeper
from proxy.server.placement import Placer
from proxy.server.shared_sources import SharedSources
from proxy.server.table import ConnectionTable
from proxy.settings import LogUsers, Settings, state_path
from proxy.views import Views

log = logging.getLogger("proxy")
wall = time.time  # noqa: TID251  (the one wall clock; whoever needs it is given it)

EXIT_START = 1
EXIT_CONFIG = 2
_RELAYS_READY_S = 10.0
_NAMES_SETTLED_S = 3.0
_LAST_ENDINGS_S = 2.0


class StartError(Exception):
    """Something that the configuration asks for cannot be had; the message says what."""


class Front:
    """Everything that runs in the front's event loop."""

    def __init__(
        self, settings: Settings, store: AffinityStore, link: ParentLink, metrics: Metrics
    ) -> None:
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.store = store
        self.link = link
        self.stopping = asyncio.Event()
        self.hurried = False
        self.pools = {pool.name: Pool(pool) for pool in settings.pools}
        self.routes = [Routes(listener, self.pools) for listener in settings.listeners]
        self.relay_count = settings.relay.processes or default_relays()
        self.metrics = metrics
        self.log = ConnectionLog(_user_names(settings.log.users))
        self.health = HealthMonitor(self.pools.values(), self._host_turned, rng=random.Random())  # noqa: S311
        self.observers = Observers(self.health, self.metrics, self.log)
        self.resolver = Resolver(self.pools.values(), self._host_moved)
        shared = [net for pool in settings.pools for net in pool.affinity.shared_sources]
        self.gate = Gate(settings.limits, shared, loop.time)
        self.table = ConnectionTable(self.pools, self.gate, self.observers, wall)
        self.relays = RelayPool(self.table, loop)
        node = socket.gethostname()
        timeouts = settings.timeouts
        self.pins = PinKeeper(store, node, self.table, self.pools, self.observers, wall)
        self.shared = SharedSources(
            settings.affinity.shared_after, self.pools, store, loop.time
        )
        self.table.watchers += [self.pins, self.shared]
        self.placer = Placer(
            store,
            node,
            Dialler(timeouts),
            timeouts,
            self.observers,
            LearnedTokens(store, self.observers, loop.time),
            self.table.host_of,
            self.shared,
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
        self.views = Views(
            settings,
            metrics,
            self.health,
            self.pools,
            self.table,
            self.relays,
            self.relay_count,
            store,
            self.observers,
            self.placer,
            self.shared,
            wall,
            self.stopping.is_set,
        )

    def stop(self) -> None:
        """Drain and end; called again: end now."""
        self.hurried = self.stopping.is_set()
        self.stopping.set()

    async def run(self) -> None:
        """Start in the order in which things depend on each other; serve; stop in reverse.

        Raises:
            StartError: an address is taken, or the relays did not come.
        """
        await self._attach_relays()
        sockets = await self._bind()
        servers = await self._serve_views()
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(part)
                for part in (
                    self.resolver.run(),
                    self.health.run(),
                    self.pins.run(),
                    self.metrics.watch_loop(),
                    self.store.maintain(),
                )
            ]
            await self.resolver.settled(_NAMES_SETTLED_S)
            listeners = self._listen(sockets, tasks)
            # What was built until now lives as long as the process: the collector may skip it.
            gc.collect()
            gc.freeze()
            self.link.ready()
            log.info("started", extra={"pid": os.getpid(), "connections": len(self.table.rows)})
            await self.stopping.wait()
            await self._drain(listeners)
            await self.pins.flush()
            for part in parts:
                part.cancel()
        for server in servers:
            await server.stop()
        self.relays.stop()
        self.metrics.close()
        log.info("stopped")

    async def _attach_relays(self) -> None:
        raise_open_files(self.settings.limits.connections, self.relay_count)
        await self.link.relays(self.relay_count)
        try:
            await self.relays.ready(self.relay_count, _RELAYS_READY_S)
        except TimeoutError:
            said = f"{self.relay_count} relays did not start within {_RELAYS_READY_S} s"
            raise StartError(said) from None

    async def _serve_views(self) -> list[HttpServer]:
        try:
            servers = self.views.servers()
        except (OSError, ValueError) as error:
            raise StartError(f"admin.bearer_file: {error}") from error
        for server in servers:
            try:
                await server.start()
            except OSError as error:
                raise StartError(str(error)) from error
        return servers

    async def _bind(self) -> list[socket.socket]:
        """The listening sockets, in the order of the listeners.

        IPv4 comes first: "::" takes what is left of its port, which may be both families.
        """
        sockets = {}
        for listener in sorted(self.settings.listeners, key=lambda it: ":" in it.bind.host):
            try:
                sockets[listener.name] = await self.link.listen(listener.bind)
            except OSError as error:
                raise StartError(f"listener {listener.name} at {listener.bind}: {error}") from error
        return [sockets[listener.name] for listener in self.settings.listeners]

    def _listen(self, sockets: list[socket.socket], tasks: asyncio.TaskGroup) -> list[Listener]:
        keepalive_s = self.settings.timeouts.keepalive_s
        listeners = [
            Listener(settings, routes, sock, self.reception, tasks, keepalive_s)
            for settings, routes, sock in zip(
                self.settings.listeners, self.routes, sockets, strict=True
            )
        ]
        for listener in listeners:
            listener.open()
        self.views.listening = True
        return listeners

    async def _drain(self, listeners: list[Listener]) -> None:
        """Take nobody new, let those who are here finish until `timeouts.stop`, end the rest."""
        self.views.listening = False
        for listener in listeners:
            await self.link.unlisten(listener.settings.bind)
            listener.close()
        log.info("stopping", extra={"connections": self.gate.connections})
        await self._connections_end(self.settings.timeouts.stop_s)
        for listener in listeners:
            listener.abandon()
        for conn_id in list(self.table.rows):
            self.relays.close(conn_id, Cause.STOPPED)
        self.hurried = False
        await self._connections_end(_LAST_ENDINGS_S)

    async def _connections_end(self, at_most_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + at_most_s
        while self.gate.connections and not self.hurried:
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(0.05)

    # What the parts tell each other

    def _host_turned(self, host: Host, up: bool, cause: Cause | None) -> None:
        self.log.host_changed(host.pool, host.name, up=up, cause=cause)
        self.placer.host_turned()

    def _host_moved(self, host: Host) -> None:
        log.info("host_resolved", extra={"host": host.name, "address": str(host.address)})
        for routes in self.routes:
            routes.index()


async def serve(control: socket.socket, path: str) -> int:
    """Run a front until it is told to stop; return its exit code."""
    front: Front

    def attach(index: int, pid: int, sock: socket.socket) -> None:
        front.relays.attach(index, pid, sock)

    def parent_gone() -> None:
        os._exit(EXIT_START)  # relays carry on; there is nobody left to serve for

    link = ParentLink(control, on_relay=attach, on_parent_gone=parent_gone)
    try:
        # A successor goes on with the configuration in force, whatever became of the file.
        text = link.last_configuration
        settings = config.load(path) if text is None else config.loads(text, path)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_CONFIG
    with LogWriter(settings.log):
        for warning in config.warnings(settings):
            log.warning("configuration", extra={"detail": warning})
        try:
            metrics = Metrics(settings, started_at=wall())

            def store_event(event: StoreEvent, detail: str) -> None:
                metrics.store_event(event)
                log.warning("affinity_store", extra={"what": event, "detail": detail})

            store = await open_store(settings.affinity, now=wall, on_event=store_event)
            front = Front(settings, store, link, metrics)
        except (StoreError, StartError) as error:
            return _cannot_start(error)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, front.stop)
        loop.add_signal_handler(signal.SIGHUP, _no_reload)
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(link.run())
            if text is None:
                link.keep_configuration(_read(path))
            try:
                await front.run()
            except StartError as error:
                return _cannot_start(error)
            finally:
                hearing.cancel()
        await store.close()
    return 0


def _cannot_start(error: Exception) -> int:
    log.critical("start_failed", extra={"detail": str(error)})
    return EXIT_START


def _user_names(mode: LogUsers) -> UserNames:
    try:
        return UserNames(mode, load_key(state_path(KEY_FILE)) if mode is LogUsers.HASH else b"")
    except OSError as error:
        raise StartError(f"log.users: {error}") from error


def _read(path: str) -> str:
    return Path(path).read_text("utf-8")


def _no_reload() -> None:
    log.warning("configuration", extra={"detail": "a changed file takes effect at the next start"})


def main(arguments: Sequence[str] | None = None) -> int:
    """The front's process."""
    parser = argparse.ArgumentParser(prog="python -m proxy.app")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--config", required=True)
    options = parser.parse_args(arguments)
    control = socket.socket(fileno=options.control_fd)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(control, options.config))


if __name__ == "__main__":
    sys.exit(main())
