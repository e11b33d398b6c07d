"""The front's process: `python -m proxy.app --control-fd N --config FILE`, started by the parent.

It reads the configuration, opens the log and the affinity table, and runs a `Front` until it is
told to stop.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

import uvloop

from proxy import config
from proxy.affinity.store import StoreEvent
from proxy.affinity.stores import open_store
from proxy.control.logs import LogWriter
from proxy.control.metrics import Metrics
from proxy.errors import ConfigError, StoreError
from proxy.front import Front, StartError, wall
from proxy.parent_link import ParentLink
from proxy.reload import Reloader
from proxy.settings import Settings

log = logging.getLogger("proxy")

EXIT_START = 1
EXIT_CONFIG = 2
# How long a thread may hold the interpreter while the loop wants it: one reads new configurations,
# and with Python's 5 ms each wake of the loop would wait so long meanwhile.
SWITCH_S = 0.0005


async def serve(control: socket.socket, path: str) -> int:
    """Run a front until it is told to stop; return its exit code."""
    front: Front

    def attach(index: int, pid: int, sock: socket.socket, *, retired: bool) -> None:
        front.attach(index, pid, sock, retired=retired)

    def retire() -> None:
        front.leave()

    def parent_gone() -> None:
        os._exit(EXIT_START)  # relays carry on; there is nobody left to serve for

    link = ParentLink(control, on_relay=attach, on_retire=retire, on_parent_gone=parent_gone)
    try:
        settings, text, refused = _configuration(link, path)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_CONFIG
    with LogWriter(settings.log) as writer:
        if refused is not None:
            log.error("configuration", extra={"detail": f"the last good one is used: {refused}"})
        for warning in config.warnings(settings):
            log.warning("configuration", extra={"detail": warning})
        try:
            metrics = Metrics(started_at=wall())

            def store_event(event: StoreEvent, detail: str) -> None:
                metrics.store_event(event)
                log.warning("affinity_store", extra={"what": event, "detail": detail})

            store = await open_store(settings.affinity, now=wall, on_event=store_event)
            front = Front(settings, text, store, link, metrics)
        except (StoreError, StartError) as error:
            return _cannot_start(error)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, front.stop)
        reloader = Reloader(path, front, writer, wall, refused=refused is not None)
        front.views.parts.append(reloader.samples)
        loop.add_signal_handler(signal.SIGHUP, reloader.ask)
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(link.run())
            try:
                await front.run(meanwhile=reloader.run)
            except StartError as error:
                return _cannot_start(error)
            finally:
                hearing.cancel()
        await store.close()
    return 0


def _cannot_start(error: Exception) -> int:
    log.critical("start_failed", extra={"detail": str(error)})
    return EXIT_START


def _configuration(link: ParentLink, path: str) -> tuple[Settings, str, str | None]:
    """The settings, their text, and why the file was not used, where that is so.

    A front that takes the place of one that died goes on with the configuration in force, whatever
    became of the file; in an upgrade the file counts, if it can be used.

    Raises:
        ConfigError: there is nothing that can be used.
    """
    last = link.last_configuration
    refused = None
    if last is None or link.is_upgrade:
        try:
            text = config.read(path)
            return config.loads(text, path), text, None
        except ConfigError as error:
            if last is None:
                raise
            refused = str(error)
    return config.loads(last, path), last, refused


def main(arguments: Sequence[str] | None = None) -> int:
    """The front's process."""
    parser = argparse.ArgumentParser(prog="python -m proxy.app")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--config", required=True)
    options = parser.parse_args(arguments)
    control = socket.socket(fileno=options.control_fd)
    sys.setswitchinterval(SWITCH_S)
    gc.disable()  # until the front is built: nothing of it is garbage
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(control, options.config))


if __name__ == "__main__":
    sys.exit(main())
