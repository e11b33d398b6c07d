"""A storm of reloads under load: `python -m tests.integration.reload_storm` plays it in full.

Valid and invalid files by chance, one after the other, while clients log in at a steady rate, some
by token, and others stay. Counted is what must not happen: a login that fails or lands elsewhere
than its token says, a connection that is cut.

All hosts are one server: it listens at every address of 127.0.0.0/8, and tells each client at
which one it was met.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.address import Address
from proxy.wire.tokens import encode_msts
from proxy.wire.x224 import (
    NegotiationResponse,
    encode_connection_confirm,
    encode_connection_request,
)
from tests.integration.running import RunningProxy
from tests.patience import PATIENCE_S
from tests.servers.ports import free_port

CONFIRM = encode_connection_confirm(NegotiationResponse(1, 2))
KEPT = 20  # hosts that every valid file has: tokens name these
PACE_S = 0.2  # between two reloads


@dataclass
class Storm:
    """How much of everything, and what came of it."""

    hosts: int
    reloads: int
    logins_per_s: float
    live: int
    seed: int = 0
    logins: int = 0
    failed: list[str] = field(default_factory=list)
    cut: int = 0
    took_s: list[float] = field(default_factory=list)
    refused: int = 0
    memory_before: int = 0
    memory_after: int = 0

    def __str__(self) -> str:
        took = sorted(self.took_s)
        return (
            f"{self.hosts} hosts, {self.reloads} reloads ({self.refused} refused)"
            f" in {took[len(took) // 2] * 1000:.0f} ms, {took[-1] * 1000:.0f} ms at most;"
            f" {self.logins} logins, {len(self.failed)} failed; {self.live} live connections,"
            f" {self.cut} cut; front {self.memory_before / 1024:.1f} MiB before,"
            f" {self.memory_after / 1024:.1f} MiB after"
        )


class Hosts:
    """The server that is all session hosts."""

    port = 0

    def address(self, number: int) -> Address:
        return Address(f"127.90.{number // 250}.{number % 250 + 1}", self.port)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._answer, "0.0.0.0", 0, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readexactly(4)
            await reader.readexactly(int.from_bytes(head[2:4]) - 4)
            writer.write(CONFIRM)
            here = writer.get_extra_info("sockname")[0].encode()
            while await reader.readexactly(1):
                writer.write(here.ljust(16))
        writer.close()


class Client:
    """A connection through the proxy. Every question must find the host where it was first."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    async def connect(cls, proxy: Address, source: str, line: bytes | None) -> Client:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.bind((source, 0))
            await loop.sock_connect(sock, proxy)
            request = encode_connection_request(line=line, requested_protocols=3)
            await loop.sock_sendall(sock, request)
            client = cls(sock)
            await client._read(len(CONFIRM))
        except BaseException:
            sock.close()
            raise
        return client

    async def where(self) -> str:
        """The host's address, as it says itself."""
        await asyncio.get_running_loop().sock_sendall(self._sock, b"?")
        return (await self._read(16)).decode().strip()

    def close(self) -> None:
        self._sock.close()

    async def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = await asyncio.get_running_loop().sock_recv(self._sock, count - len(data))
            if not more:
                raise ConnectionError("closed")
            data += more
        return data


class Play:
    """One storm in front of one running proxy."""

    def __init__(self, storm: Storm, hosts: Hosts, proxy: RunningProxy) -> None:
        self.storm, self.hosts, self.proxy = storm, hosts, proxy
        self.chance = random.Random(storm.seed)  # of the files: they are the same in each play
        self._whims = random.Random(storm.seed)  # of the clients, who come when they can
        self.over = asyncio.Event()
        self._read_to = 0

    async def run(self) -> None:
        storm = self.storm
        async with asyncio.TaskGroup() as tasks:
            held = [
                await Client.connect(self.proxy.address, f"127.91.{n // 250}.{n % 250 + 1}", None)
                for n in range(storm.live)
            ]
            staying = [tasks.create_task(self._stay(client)) for client in held]
            coming = tasks.create_task(self._come(tasks))
            await self._reload("")  # what is grown once is grown before it is measured
            storm.memory_before = self._memory()
            for _ in range(storm.reloads):
                await self._reload(self._file(), timed=True)
            await self._reload(json.dumps(config_of(self)))
            self.over.set()
            await asyncio.gather(coming, *staying)
            storm.memory_after = self._memory()

    async def _reload(self, text: str, *, timed: bool = False) -> None:
        self._outcomes()
        draft = self.proxy.file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.proxy.file)
        self.proxy.child.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE_S
        while not (outcomes := self._outcomes()):
            assert time.monotonic() < deadline, "no word of the reload"
            await asyncio.sleep(0.02)
        await asyncio.sleep(PACE_S)  # all lines of a refusal are one outcome
        if timed and "took_s" in outcomes[0]:
            self.storm.took_s.append(outcomes[0]["took_s"])
        elif timed:
            self.storm.refused += 1

    def _outcomes(self) -> list[dict[str, Any]]:
        """The lines of reloads that were written since the last time."""
        with self.proxy.log_file.open("rb") as log:
            log.seek(self._read_to)
            whole = log.read().rpartition(b"\n")[0]
        self._read_to += len(whole)
        return [json.loads(it) for it in whole.splitlines() if b'"event":"config_re' in it]

    def _file(self) -> str:
        """A valid file, or one that cannot be used."""
        config = config_of(self)
        pool = config["pools"][0]
        few = self.chance.randrange(self.storm.hosts // 4)
        gone = set(self.chance.sample(range(KEPT, self.storm.hosts), few))
        pool["hosts"] = [host for n, host in enumerate(pool["hosts"]) if n not in gone]
        for host in self.chance.sample(pool["hosts"], 10):
            host["weight"] = self.chance.randrange(1, 200)
        pool["balance"] = self.chance.choice(["least_connections", "hash", "round_robin"])
        config["timeouts"]["idle"] = self.chance.choice(["off", "1h"])
        if self.chance.random() < 0.5:
            more = {"name": "second", "bind": f"127.0.0.3:{self.proxy.address.port}"}
            config["listeners"].append(config["listeners"][0] | more)
        if self.chance.random() < 0.7:
            return json.dumps(config)
        return self.chance.choice(_WRONG)(config, self)

    async def _come(self, tasks: asyncio.TaskGroup) -> None:
        """Logins at a steady rate, whatever becomes of those before."""
        began, count = time.monotonic(), 0
        while not self.over.is_set():
            count += 1
            tasks.create_task(self._log_in(count))
            await asyncio.sleep(
                max(0.0, began + count / self.storm.logins_per_s - time.monotonic())
            )

    async def _log_in(self, number: int) -> None:
        """Twice from one machine, as a login does; by token every fourth."""
        source = f"127.92.{number // 250 % 250}.{number % 250 + 1}"
        named = self.hosts.address(self._whims.randrange(KEPT)) if number % 4 == 0 else None
        line = encode_msts(named).removesuffix(b"\r\n") if named else None
        self.storm.logins += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                first = await Client.connect(self.proxy.address, source, line)
                landed = await first.where()
                second = await Client.connect(self.proxy.address, source, line)
                again = await second.where()
                first.close()
                second.close()
        except (OSError, TimeoutError) as error:
            self.storm.failed.append(repr(error))
            return
        if landed != again or (named and landed != named.host):
            self.storm.failed.append(f"{landed}, then {again}, for {named}")

    async def _stay(self, client: Client) -> None:
        at = await client.where()
        while not self.over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(2 + 6 * self._whims.random()):
                    await self.over.wait()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    same = await client.where() == at
            except (OSError, TimeoutError):
                same = False
            if not same:
                self.storm.cut += 1
                break
        client.close()

    def _memory(self) -> int:
        """Resident memory of the front in KiB."""
        status = Path(f"/proc/{self.proxy.front}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1])


def config_of(play: Play) -> dict[str, Any]:
    return config(play.storm, play.hosts, play.proxy.address, play.proxy.metrics_address)


def config(storm: Storm, hosts: Hosts, bind: Address, metrics: Address) -> dict[str, Any]:
    farm = [{"name": f"rdsh{n:03}", "address": str(hosts.address(n))} for n in range(storm.hosts)]
    return {
        "listeners": [{"name": "rdp", "bind": str(bind), "pool": "desktops"}],
        "pools": [{"name": "desktops", "hosts": farm}],
        "metrics": {"bind": str(metrics)},
        "relay": {"processes": 1},
        "timeouts": {"stop": "1s"},
    }


def _twice(config: dict[str, Any], play: Play) -> str:
    config["pools"][0]["hosts"].append(config["pools"][0]["hosts"][0])
    return json.dumps(config)


def _taken(config: dict[str, Any], play: Play) -> str:
    """An address that another program has, beside one that is free."""
    for name, host in (("free", "127.0.0.4"), ("taken", "127.0.0.5")):
        port = play.hosts.port if name == "taken" else play.proxy.address.port
        more = {"name": name, "bind": f"{host}:{port}"}
        config["listeners"].append(config["listeners"][0] | more)
    return json.dumps(config)


_WRONG: list[Callable[[dict[str, Any], Play], str]] = [
    lambda config, play: json.dumps(config)[: play.chance.randrange(1, 5000)],
    lambda config, play: json.dumps(config | {"pools": []}),
    lambda config, play: json.dumps(config).replace('"desktops"', '"nowhere"', 1),
    lambda config, play: "",
    _twice,
    _taken,
]


async def play(storm: Storm, directory: Path) -> Storm:
    """Play it; the storm with its results."""
    hosts = Hosts()
    bind, metrics = Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port())
    async with hosts.serve():
        text = json.dumps(config(storm, hosts, bind, metrics))
        proxy = RunningProxy(directory, text, bind, metrics)
        await proxy.start()
        try:
            await Play(storm, hosts, proxy).run()
        finally:
            await proxy.stop()
        assert "Traceback" not in proxy.log_file.read_text(), proxy.log_file.read_text()
    return storm


def main() -> int:
    """The storm in full, or as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--logins", type=float, default=50, help="a second")
    parser.add_argument("--live", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    storm = Storm(args.hosts, args.reloads, args.logins, args.live, args.seed)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(play(storm, Path(directory)))
    sys.stdout.write(f"{storm}\n")
    for failure in storm.failed[:5]:
        sys.stdout.write(f"  {failure}\n")
    return 1 if storm.failed or storm.cut else 0


if __name__ == "__main__":
    sys.exit(main())
