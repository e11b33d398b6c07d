"""Two nodes that share what they know, and clients who come to both at one instant:

    python -m bench.peers [--clients 60]

HAProxy with a stick-table that two processes share as peers, and rdp-proxy with a table in Redis,
before the same simulated farm. Each client opens one connection at each node in the same instant,
as a probe and a login behind a network load balancer may. Printed is how many clients met one host.
It needs haproxy and redis-server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import uvloop

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.wire.x224 import encode_connection_request

_START_S = 15.0
_ANSWER_S = 10.0
_HAPROXY = """\
global
    nbthread 1
defaults
    mode tcp
    timeout connect 3s
    timeout client 1m
    timeout server 1m
peers nodes
    peer a {peer_a}
    peer b {peer_b}
listen rdp
    bind {bind}
    balance leastconn
    tcp-request inspect-delay 5s
    tcp-request content accept if RDP_COOKIE
    persist rdp-cookie
    stick-table type ip size 1m expire 72h peers nodes
    stick on src
{hosts}
"""


def free_address() -> Address:
    """An address of loopback where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return Address(*sock.getsockname())


@contextmanager
def started(directory: Path, *command: str, at: Address, **more: str) -> Iterator[None]:
    """A program that listens; it is ended afterwards."""
    with (directory / "log").open("ab") as sink:
        child = subprocess.Popen(command, stdout=sink, stderr=sink, env=os.environ | more)
    try:
        deadline = time.monotonic() + _START_S
        while True:
            with suppress(OSError), socket.create_connection(at, timeout=1.0):
                break
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((directory / "log").read_text()[-1000:])
            time.sleep(0.05)
        yield
    finally:
        child.terminate()
        child.wait()


@contextmanager
def haproxy_nodes(farm: Farm, directory: Path) -> Iterator[list[Address]]:
    """Two processes of HAProxy, which are peers."""
    nodes, (peer_a, peer_b) = [free_address(), free_address()], [free_address(), free_address()]
    hosts = "\n".join(f"    server {host.name} {host.address}" for host in farm.hosts.values())
    with ExitStack() as stack:
        for name, bind in zip("ab", nodes, strict=True):
            file = directory / f"haproxy-{name}.cfg"
            file.write_text(_HAPROXY.format(bind=bind, peer_a=peer_a, peer_b=peer_b, hosts=hosts))
            command = ("haproxy", "-db", "-L", name, "-f", str(file))
            stack.enter_context(started(directory, *command, at=bind))
        yield nodes


@contextmanager
def rdp_proxy_nodes(farm: Farm, directory: Path) -> Iterator[list[Address]]:
    """Two nodes of rdp-proxy and their table."""
    nodes, redis = [free_address(), free_address()], free_address()
    server = ("redis-server", "--bind", redis.host, "--port", str(redis.port), "--save", "")
    affinity = {"store": "redis", "url": f"redis://{redis}/0"}
    with ExitStack() as stack:
        stack.enter_context(started(directory, *server, at=redis))
        for name, bind in zip("ab", nodes, strict=True):
            state = directory / name
            state.mkdir()
            metrics = {"bind": str(free_address())}
            file = state / "config.yaml"
            file.write_text(farm.config_yaml(bind, state, affinity=affinity, metrics=metrics))
            command = (sys.executable, "-m", "proxy", "run", "--config", str(file))
            stack.enter_context(started(state, *command, at=bind, STATE_DIRECTORY=str(state)))
        yield nodes


async def knock(node: Address, client: int) -> None:
    """Send a request from the client's address, wait for the answer, leave."""
    line = b"Cookie: mstshash=user%d" % client
    source = (f"127.60.{client // 250}.{client % 250 + 1}", 0)
    async with asyncio.timeout(_ANSWER_S):
        reader, writer = await asyncio.open_connection(*node, local_addr=source)
        writer.write(encode_connection_request(line=line, requested_protocols=3))
        await reader.readexactly(19)
    writer.close()


async def on_one_host(farm: Farm, nodes: list[Address], clients: int) -> int:
    """How many of the clients met one host at both nodes."""
    farm.reset()
    coming = [(node, client) for client in range(clients) for node in nodes]
    random.Random(1).shuffle(coming)  # nodes that see the same order may choose alike by chance
    await asyncio.gather(*(knock(node, client) for node, client in coming))
    met: Mapping[bytes, set[str]] = {b"Cookie: mstshash=user%d" % n: set() for n in range(clients)}
    for visit in farm.visits:
        if visit.line in met:
            met[visit.line].add(visit.host)
    return sum(len(hosts) == 1 for hosts in met.values())


async def compare(clients: int) -> None:
    """Both, one after the other."""
    contenders = {"HAProxy, peers": haproxy_nodes, "rdp-proxy, Redis": rdp_proxy_nodes}
    for name, nodes in contenders.items():
        with tempfile.TemporaryDirectory() as directory:
            async with Farm.start(hosts=4, redirect="none") as farm:
                with ExitStack() as stack:  # in a thread: the hosts are to answer meanwhile
                    begin = nodes(farm, Path(directory))
                    addresses = await asyncio.to_thread(stack.enter_context, begin)
                    found = await on_one_host(farm, addresses, clients)
        print(f"{name:18} {found} of {clients} clients met one host", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--clients", type=int, default=60)
    uvloop.run(compare(parser.parse_args().clients))


if __name__ == "__main__":
    main()
