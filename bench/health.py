"""What watching many hosts costs: `python -m bench.health [--hosts N] [--check tls] [--seconds S]`.

Starts so many simulated hosts (one process, addresses of 127.91.0.0/16, TLS with certificates of
their own) and rdp-proxy before them, and measures

- the processor time of rdp-proxy (parent, front and relay) over a while without a client, with the
  checks every 10 s and, to be taken off, once a day
- how late an event loop with nothing else in it runs a timer of 1 ms while its metrics are scraped,
  and its longest turn in processor time, which others on the machine do not lengthen
- how long clients wait for their host's answer while there is a scrape: each connects, sends a
  Connection Request and reads the answer, one after the other
- how long the scrapes take meanwhile

The last three with a scrape a second and, in turn, without one: that is what the machine itself
does, and what remains is the scrape's.

The figures of docs/scaling.md come from here. Exit code 0 whatever they are.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvloop

from bench.processes import cpu_percent, family
from proxy.address import Address
from proxy.app import SWITCH_S
from proxy.control import probe
from proxy.control.exposition import CONTENT_TYPE
from proxy.control.http import HttpServer, Readiness, public_routes
from proxy.control.inventory import Inventory
from proxy.control.live import Sources
from proxy.control.metrics import Metrics
from proxy.lab.broker import Broker
from proxy.lab.certificates import self_signed
from proxy.lab.session_host import Redirect, SessionHost
from proxy.routing.pool import Pool
from proxy.settings import HostSettings, ListenerSettings, PoolSettings
from proxy.wire.x224 import NegotiationResponse, encode_connection_request

_PORT = 33890
_OPEN_FILES = 20_000
_SETTLE_S = 8.0  # first checks, and what a start costs
_SCRAPE_PAUSE_S = 0.8
_TICK_S = 0.001
_ROUNDS = 3
_PAUSE_S = 0.002  # between two clients: a farm is not under attack all the time


def address(number: int) -> Address:
    """Where a host listens."""
    return Address(f"127.91.{number // 200}.{number % 200 + 1}", _PORT)


async def serve(hosts: int) -> None:
    """Be all hosts, until the standard input ends."""
    names = [f"rdsh{number:04}" for number in range(hosts)]
    broker = Broker({"desktops": names}, seed=1)
    for number, name in enumerate(names):
        host = SessionHost(name, address(number), self_signed(name), broker, redirect=Redirect.NONE)
        await host.start()
    gc.freeze()  # else a collection among so many hosts is 80 ms in which none of them answers
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextmanager
def farm(hosts: int) -> Iterator[None]:
    """The hosts in a process of their own."""
    words = [sys.executable, "-m", "bench.health", "--serve", "--hosts", str(hosts)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        if child.stdout.readline() != b"ready\n":
            raise SystemExit("the simulated hosts did not start")
        yield
    finally:
        child.communicate()


@contextmanager
def proxy(hosts: int, check: str, interval: str) -> Iterator[tuple[list[int], Address, str]]:
    """rdp-proxy before them: its processes, its address, and where its metrics are."""
    front, metrics = free_address(), free_address()
    lines = [
        f"listeners: [{{name: rdp, bind: '{front}', pool: desktops}}]",
        "pools:",
        "  - name: desktops",
        f"    health: {{check: {check}, interval: {interval}}}",
        "    hosts:",
        *(f"      - {{name: rdsh{n:04}, address: '{address(n)}'}}" for n in range(hosts)),
        f"metrics: {{bind: '{metrics}'}}",
        "relay: {processes: 1}",
        "log: {level: error}",
    ]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "config.yaml")
        file.write_text("\n".join(lines))
        words = [sys.executable, "-m", "proxy", "run", "--config", str(file)]
        child = subprocess.Popen(words, env={"STATE_DIRECTORY": directory, "PATH": "/usr/bin"})
        try:
            await_ready(f"http://{metrics}/readyz")
            time.sleep(_SETTLE_S)
            yield family(child.pid), front, f"http://{metrics}/metrics"
        finally:
            child.terminate()
            child.wait()


def free_address() -> Address:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", int(sock.getsockname()[1]))


def await_ready(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("rdp-proxy is not ready")


def _scrape(url: str) -> tuple[float, int]:
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=30) as answer:
        size = len(answer.read())
    return time.perf_counter() - began, size


def clients(front: Address, is_over: Callable[[], bool]) -> list[float]:
    """What each of the clients that come until it is over had to wait, sorted."""
    waits = []
    request = encode_connection_request()
    while not (waits and is_over()):
        began = time.perf_counter()
        with socket.create_connection(front, 10) as sock:
            sock.sendall(request)
            sock.recv(100)
        waits.append(time.perf_counter() - began)
        time.sleep(_PAUSE_S)
    return sorted(waits)


def in_(seconds: float) -> Callable[[], bool]:
    """What is over in so many seconds."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end


def told(waits: list[float]) -> str:
    p50, p99 = (waits[len(waits) * percent // 100] * 1000 for percent in (50, 99))
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {waits[-1] * 1000:.2f} ms ({len(waits)})"


def measure(hosts: int, check: str, seconds: float) -> None:
    """Print all figures of one kind of check."""
    for interval in ("24h", "10s"):
        with proxy(hosts, check, interval) as (pids, front, metrics):
            percent = cpu_percent(pids, seconds)
            print(f"{hosts} hosts, check {check} every {interval}: {percent:.2f} % of one core")
    with proxy(hosts, check, "10s") as (_, front, metrics):
        for _ in range(_ROUNDS):
            print(f"not scraped: clients wait {told(clients(front, in_(seconds)))}")
            with scraper(metrics):
                waits = clients(front, in_(seconds))
            print(f"scraped:     clients wait {told(waits)}")


async def stalls(hosts: int, seconds: float) -> None:
    """Print how long a front's event loop cannot run while its metrics are scraped."""
    settings = [HostSettings(name=f"rdsh{n:04}", address=address(n)) for n in range(hosts)]
    pool = Pool(PoolSettings(name="desktops", hosts=tuple(settings)))
    listener = ListenerSettings(name="rdp", bind=Address("127.0.0.1", 0), pool=pool.name)
    inventory = Inventory([pool], time.time)
    found = probe.ProbeResult(True, None, "", 0.01, NegotiationResponse(3, 2), None, "TLSv1.3")
    der = self_signed("rdsh").der
    for host in pool.hosts:
        inventory.checked(host, replace(found, certificate=der))

    async def pins() -> int:
        return 0

    host_parts, parts = (inventory.samples,), (inventory.pool_samples,)
    sources = Sources(
        lambda: pool.hosts, list, list, lambda: True, pins, int, int, host_parts, parts
    )
    metrics = Metrics(started_at=0.0)
    metrics.follow([listener], [pool])
    ready = Readiness(True, 1, False, True, {})
    routes = public_routes(lambda: metrics.render(sources), CONTENT_TYPE, lambda: ready)
    server = HttpServer(Address("127.0.0.1", 0), routes)
    await server.start()
    gc.freeze()
    for _ in range(_ROUNDS):
        print(f"not scraped: {await _stalled(seconds)}")
        with scraper(f"http://{server.bound}/metrics"):
            told = await _stalled(seconds)
        print(f"scraped:     {told}")
    await server.stop()


async def _stalled(seconds: float) -> str:
    """How late timers were and how long the longest turn took, half of the seconds for each."""
    late, end = [], time.perf_counter() + seconds / 2
    while (due := time.perf_counter() + _TICK_S) < end:
        await asyncio.sleep(_TICK_S)
        late.append(time.perf_counter() - due)
    longest, end = 0.0, time.perf_counter() + seconds / 2
    while time.perf_counter() < end:
        began = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - began)
    return f"a timer is late by {told(sorted(late))}; longest turn {longest * 1000:.2f} ms of CPU"


@contextmanager
def scraper(url: str) -> Iterator[None]:
    """A process that scrapes once a second, until it is left; then tell what it told last."""
    words = [sys.executable, "-m", "bench.health", "--scrape", url]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        child.stdout.readline()  # "ready": what its start costs is over
        yield
    finally:
        child.terminate()
        told, _ = child.communicate()
        print(told.splitlines()[-1])


def scrape(url: str) -> None:
    """Scrape about once a second, and tell after each how long they took."""
    print("ready", flush=True)
    took = []
    while True:
        time.sleep(_SCRAPE_PAUSE_S)
        seconds, size = _scrape(url)
        took.append(seconds)
        middle = sorted(took)[len(took) // 2]
        print(
            f"{len(took)} scrapes of {size / 1e6:.2f} MB: median {middle * 1000:.0f} ms, "
            f"max {max(took) * 1000:.0f} ms",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.health", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--check", choices=("tcp", "x224", "tls"), default="x224")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scrape", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    if options.serve:
        asyncio.run(serve(options.hosts))
    elif options.scrape is not None:
        scrape(options.scrape)
    else:
        sys.setswitchinterval(SWITCH_S)
        uvloop.run(stalls(options.hosts, options.seconds))
        with farm(options.hosts):
            measure(options.hosts, options.check, options.seconds)


if __name__ == "__main__":
    main()
