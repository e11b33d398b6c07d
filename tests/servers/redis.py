"""Real Redis servers: one, behind Sentinels, or a Cluster of three. Debian has them all.

A server can be killed, stopped for a while, and started again on the same port.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tests.patience import PATIENCE_S
from tests.servers.network import Machine, Network
from tests.servers.ports import free_port

_OPEN = ("--protected-mode", "no")  # others than loopback may come: other machines of the test

# Debian has Valkey from version 13 on; where it is installed it is tested too.
BRANDS = ["redis", *(["valkey"] if shutil.which("valkey-server") else [])]


class ServerMissingError(RuntimeError):
    """A program that the tests need is not installed."""


def program(name: str, package: str) -> str:
    """The path of a server's program."""
    path = shutil.which(name)
    if path is None:
        raise ServerMissingError(
            f"{name} is not installed: apt-get install {package} (or `make packages`)"
        )
    return path


class RedisServer:
    """One redis-server (or redis-sentinel), which does not touch the disk but for its log."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        port: int | None = None,
        sentinel: bool = False,
        brand: str = "redis",
        machine: Machine | None = None,
    ) -> None:
        """Name it; `start` starts it, on this machine or on another."""
        self.machine = machine
        self.host = machine.host if machine else "127.0.0.1"
        self.port = port or free_port()
        self.directory = directory / f"redis-{self.port}"
        self.directory.mkdir()
        self._options = options
        self._sentinel = sentinel
        self._brand = brand
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As `affinity.url` has it."""
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> RedisServer:
        """Start it, empty, and wait until it listens."""
        name = f"{self._brand}-{'sentinel' if self._sentinel else 'server'}"
        # A Sentinel keeps its state in its configuration file.
        file = self.directory / "redis.conf"
        if not self._sentinel:
            file.write_text('save ""\nappendonly no\nrepl-diskless-sync-delay 0\n')
        elif not file.exists():
            file.write_text("")
        command = [program(name, name), str(file), "--port", str(self.port)]
        common = ["--bind", self.host, "--dir", str(self.directory), "--daemonize", "no"]
        where = self.machine.prefix if self.machine else ()
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *where, *command, *common, *self._options],
                stdout=log,
                stderr=log,
            )
        self.wait_until_it_listens()
        return self

    def wait_until_it_listens(self) -> None:
        """Or fail with the end of its log."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            with suppress(OSError), socket.create_connection((self.host, self.port), 1.0):
                return
            time.sleep(0.01)
        log = (self.directory / "log").read_text(errors="replace")
        raise RuntimeError(f"redis-server on port {self.port} does not start:\n{log[-2000:]}")

    def cli(self, *words: str) -> str:
        """What redis-cli says."""
        command = [
            program("redis-cli", "redis-tools"),
            "-h",
            self.host,
            "-p",
            str(self.port),
            *words,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        return done.stdout.strip()

    def kill(self) -> None:
        """SIGKILL: everything in it is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=PATIENCE_S)
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: it stays connected and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class RedisFarm:
    """Several servers that belong together, ended together."""

    def __init__(self, servers: Sequence[RedisServer] = ()) -> None:
        """Own these."""
        self.servers = list(servers)

    def close(self) -> None:
        """End them all."""
        for server in self.servers:
            server.kill()


def start_sentinels(
    directory: Path, *, down_after_ms: int = 1000, network: Network | None = None
) -> tuple[RedisFarm, str]:
    """A primary, a replica and three Sentinels; and their URL.

    With a network, each server has a machine of its own on it.
    """
    machines = _machines(network)
    primary = RedisServer(directory, *_OPEN, machine=next(machines)).start()
    follow = ("--replicaof", primary.host, str(primary.port))
    replica = RedisServer(directory, *_OPEN, *follow, machine=next(machines)).start()
    sentinels = [
        RedisServer(directory, *_OPEN, sentinel=True, machine=next(machines)) for _ in range(3)
    ]
    farm = RedisFarm([primary, replica, *sentinels])
    for sentinel in sentinels:
        (sentinel.directory / "redis.conf").write_text(
            f"sentinel monitor table {primary.host} {primary.port} 2\n"
            f"sentinel down-after-milliseconds table {down_after_ms}\n"
            "sentinel failover-timeout table 2000\n"
        )
        sentinel.start()
    wait_for(
        lambda: all(
            "num-other-sentinels\n2" in s.cli("sentinel", "master", "table")
            and "num-slaves\n1" in s.cli("sentinel", "master", "table")
            for s in sentinels
        )
    )
    wait_for(lambda: "master_link_status:up" in replica.cli("info", "replication"))
    hosts = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in sentinels)
    return farm, f"redis+sentinel://{hosts}/table"


def start_cluster(
    directory: Path, *, replicas: int = 0, timeout_ms: int = 1000, network: Network | None = None
) -> tuple[RedisFarm, str]:
    """A Cluster of three primaries, with so many replicas each; and its URL.

    With a network, each server has a machine of its own on it.
    """
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(timeout_ms), *_OPEN]
    machines = _machines(network)
    servers = [
        RedisServer(directory, *options, machine=next(machines)).start()
        for _ in range(3 * (1 + replicas))
    ]
    farm = RedisFarm(servers)
    addresses = [f"{server.host}:{server.port}" for server in servers]
    servers[0].cli(
        "--cluster", "create", *addresses, "--cluster-replicas", str(replicas), "--cluster-yes"
    )
    wait_for(lambda: all("cluster_state:ok" in s.cli("cluster", "info") for s in servers))
    wait_for(lambda: all(s.cli("cluster", "nodes").count("slave") == 3 * replicas for s in servers))
    wait_for(
        lambda: (
            sum("master_link_status:up" in s.cli("info", "replication") for s in servers)
            == 3 * replicas
        )
    )
    return farm, "redis+cluster://" + ",".join(addresses[:2])


def _machines(network: Network | None) -> Iterator[Machine | None]:
    while True:
        yield network.machine() if network else None


def wait_for(holds: Callable[[], bool]) -> None:
    """Until it does."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("the servers do not come together")
        time.sleep(0.05)
