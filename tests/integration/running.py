"""`rdp-proxy run` as a process of its own, with its configuration, logs and metrics at hand."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.wire.x224 import encode_connection_request
from tests.patience import PATIENCE_S
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer


class RunningProxy:
    """A running proxy. Made by `running`; `start` and `kill_all` play crashes."""

    def __init__(self, directory: Path, config: str, address: Address, metrics: Address) -> None:
        self.directory = directory
        self.address = address
        self.metrics_address = metrics
        self.file = directory / "config.yaml"
        self.file.write_text(config)
        self.log_file = directory / "log"
        self.prefix: Sequence[str] = ()
        self.child: asyncio.subprocess.Process

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log_file.open("ab") as sink:
            self.child = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", *self.prefix),  # it does not outlive the test
                *(sys.executable, "-m", "proxy", "run", "--config", str(self.file)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=os.environ | {"STATE_DIRECTORY": str(self.directory)},
                start_new_session=True,
            )
        await self.until_ready()

    async def until_ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                assert self.child.returncode is None, self.log_file.read_text()
                with suppress(OSError, IndexError):
                    status, _ = await self.get("/readyz")
                    if status == 200:
                        return
                await asyncio.sleep(0.05)

    async def stop(self) -> int:
        """End it in order; its exit code."""
        if self.child.returncode is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self.child.wait()
            except TimeoutError:
                await self.kill_all()
                raise
        code = self.child.returncode
        assert code is not None
        return code

    async def kill_all(self) -> None:
        """SIGKILL to the parent, the front and the relays at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        await self.child.wait()

    def children(self, module: str) -> list[int]:
        """The pids of the parent's children that run `proxy.<module>`."""
        pids = []
        for task in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = re.search(r"^PPid:\t(\d+)$", (task / "status").read_text(), re.MULTILINE)
                words = (task / "cmdline").read_bytes().split(b"\0")
                if parent and int(parent[1]) == self.child.pid and module.encode() in words:
                    pids.append(int(task.name))
        return pids

    @property
    def front(self) -> int:
        (pid,) = self.children("proxy.app")
        return pid

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET at the metrics address."""
        reader, writer = await asyncio.open_connection(*self.metrics_address)
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return int(head.split()[1]), body.decode()
        finally:
            writer.close()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        _, text = await self.get("/metrics")
        total = 0.0
        for line in text.splitlines():
            if line.startswith((f"rdp_proxy_{name}{{", f"rdp_proxy_{name} ")):
                found = dict(re.findall(r'(\w+)="([^"]*)"', line))
                if labels.items() <= found.items():
                    total += float(line.rsplit(" ", 1)[1])
        return total

    def events(self, event: str) -> Iterator[dict[str, Any]]:
        """The log lines of one kind so far."""
        for line in self.log_file.read_text().splitlines():
            if line.startswith("{"):
                fields = json.loads(line)
                if fields["event"] == event:
                    yield fields

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not await holds():
            assert time.monotonic() < deadline, "it did not come to hold"
            await asyncio.sleep(0.05)

    async def until_active(self, count: int) -> None:
        """Wait until there are so many connections: a client's own end is known a little later."""

        async def are_there() -> bool:
            return await self.metric("connections_active") == count

        await self.until(are_there)

    async def until_ended(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many connections have their end in the log; their lines."""
        deadline = time.monotonic() + PATIENCE_S
        while len(lines := list(self.events("connection_ended"))) < count:
            assert time.monotonic() < deadline, f"{len(lines)} of {count} connections ended"
            await asyncio.sleep(0.05)
        return lines

    async def until_ended_by_metric(self, count: int) -> int:
        """Wait until so many connections were counted as ended."""
        deadline = time.monotonic() + PATIENCE_S
        while (ended := await self.metric("connections_ended_total")) < count:
            assert time.monotonic() < deadline, f"{ended} of {count} connections ended"
            await asyncio.sleep(0.05)
        return int(ended)


@asynccontextmanager
async def running(farm: Farm, directory: Path, **overrides: Any) -> AsyncIterator[RunningProxy]:
    """rdp-proxy in front of a farm.

    `overrides` as for `Farm.config`; besides `metrics` an address, and `prefix` a command that
    begins it.
    """
    prefix: Sequence[str] = overrides.pop("prefix", ())
    bind = overrides.pop("bind", None) or Address("127.0.0.1", free_port())
    metrics = overrides.pop("metrics", None) or Address("127.0.0.1", free_port())
    config = farm.config_yaml(bind, directory, metrics={"bind": str(metrics)}, **overrides)
    proxy = RunningProxy(directory, config, bind, metrics)
    proxy.prefix = prefix
    async with serving(proxy):
        yield proxy


@asynccontextmanager
async def serving(proxy: RunningProxy) -> AsyncIterator[None]:
    """Run it inside the block; its log must tell of no fault in the program."""
    await proxy.start()
    try:
        yield
    finally:
        if proxy.child.returncode is None:
            await proxy.stop()
        assert "Traceback" not in proxy.log_file.read_text(), proxy.log_file.read_text()


@asynccontextmanager
async def two_nodes(
    farm: Farm, directory: Path, server: RedisServer, **overrides: Any
) -> AsyncIterator[tuple[RunningProxy, RunningProxy]]:
    """Two of them in front of a farm, which share a table."""
    async with AsyncExitStack() as stack:
        nodes = []
        for name in ("a", "b"):
            state = directory / name
            state.mkdir()
            affinity = {"store": "redis", "url": server.url}
            node = running(farm, state, affinity=affinity, **overrides)
            nodes.append(await stack.enter_async_context(node))
        yield nodes[0], nodes[1]


async def knock(address: Address, source: str, line: bytes | None = None) -> None:
    """Send a request, wait for the host's answer, leave."""
    reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
    writer.write(encode_connection_request(line=line, requested_protocols=3))
    await reader.readexactly(19)
    writer.close()
