"""What thousands of hosts cost: `python -m bench.large [--hosts N]`.

Starts rdp-proxy before so many hosts (one server that is all of them, at addresses of
127.80.0.0/16) and tells how long a start takes, what the processes hold, and of a scrape, of what
people look at and of a reload how long it takes, and how long clients wait for their host's answer
meanwhile. They come one after the other from a process of their own; what they wait where nothing
else is done is told first.

The figures of docs/scaling.md come from here. Exit code 0 whatever they are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench.health import await_ready, clients, free_address, told
from bench.processes import family
from proxy.address import Address
from proxy.control.client import ask
from proxy.wire.x224 import NegotiationResponse, encode_connection_confirm

_SETTLE_S = 12.0  # checks of all hosts
_CONFIRM = encode_connection_confirm(NegotiationResponse(1, 2))
_ROUNDS = 3
_LOOK_S = 0.01


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = await reader.readexactly(4)
        await reader.readexactly(int.from_bytes(head[2:4]) - 4)
        writer.write(_CONFIRM)
        await reader.read()
    except (OSError, asyncio.IncompleteReadError):
        pass
    writer.close()


async def serve(port: int) -> None:
    """Be all hosts, until the standard input ends."""
    server = await asyncio.start_server(_answer, "0.0.0.0", port, backlog=4000)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


@contextmanager
def beside(*words: str) -> Iterator[subprocess.Popen[str]]:
    """This program in another process, whose work is over when its input ends."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.large", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.readline()  # "ready"
    with child:
        yield child
        if child.stdin and not child.stdin.closed:
            child.communicate()


class Node:
    """One rdp-proxy before the hosts."""

    def __init__(self, directory: Path, hosts: int, port: int) -> None:
        self.address, self.metrics = free_address(), free_address()
        self.admin = f"unix:{directory}/admin.sock"
        self._file, self._log = directory / "config.yaml", directory / "log"
        self._names = [f"rdsh{number:04}" for number in range(hosts)]
        self._port = port
        self._write()
        began = time.perf_counter()
        words = [sys.executable, "-m", "proxy", "run", "--config", str(self._file)]
        with self._log.open("wb") as log:
            environment = {"STATE_DIRECTORY": str(directory), "PATH": "/usr/bin"}
            self.child = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        await_ready(f"http://{self.metrics}/readyz")
        self.start_s = time.perf_counter() - began

    def reload(self) -> None:
        """Rename a host, and wait until that is in force."""
        before = self._reloads()
        self._names[0] += "x"
        self._write()
        self.child.send_signal(signal.SIGHUP)
        while self._reloads() == before:
            time.sleep(_LOOK_S)

    def scrape(self) -> None:
        urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=60).read()

    def look(self, path: str) -> None:
        ask(self.admin, path)

    def command(self) -> None:
        words = [sys.executable, "-m", "proxy", "hosts", "--admin", self.admin]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    def memory(self) -> str:
        """What its processes hold: parent, front and relay."""
        found = []
        for pid in family(self.child.pid):
            status = Path(f"/proc/{pid}/status").read_text()
            match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
            assert match is not None
            found.append(f"{int(match[1]) / 1024:.0f}")
        return " + ".join(found)

    def _reloads(self) -> int:
        return self._log.read_text().count('"config_reloaded"')

    def _write(self) -> None:
        hosts = [
            {"name": name, "address": f"127.80.{n // 250}.{n % 250 + 1}:{self._port}"}
            for n, name in enumerate(self._names)
        ]
        config = {
            "listeners": [{"name": "rdp", "bind": str(self.address), "pool": "desktops"}],
            "pools": [{"name": "desktops", "hosts": hosts}],
            "metrics": {"bind": str(self.metrics)},
            "admin": {"bind": self.admin},
            "relay": {"processes": 1},
            "timeouts": {"stop": "1s"},
        }
        self._file.write_text(json.dumps(config, indent=1))


def _ended() -> bool:
    """Whether the standard input has ended."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def measure(hosts: int) -> None:
    """Print all figures."""
    port = free_address().port
    with tempfile.TemporaryDirectory() as directory, beside("--serve", str(port)):
        node = Node(Path(directory), hosts, port)
        try:
            print(f"{hosts} hosts: ready after {node.start_s:.2f} s")
            time.sleep(_SETTLE_S)
            print(f"MB in parent + front + relay: {node.memory()}")
            for what, act in (
                ("nothing", lambda: time.sleep(3)),
                ("scrape", node.scrape),
                ("/v1/hosts", lambda: node.look("/v1/hosts")),
                ("page", lambda: node.look("/")),
                ("rdp-proxy hosts", node.command),
                ("reload", node.reload),
            ):
                for _ in range(_ROUNDS):
                    with beside("--clients", str(node.address)) as child:
                        began = time.perf_counter()
                        act()
                        took = time.perf_counter() - began
                        waits = child.communicate()[0].strip()
                    print(f"{what}: {took:.2f} s; clients wait {waits}", flush=True)
            print(f"MB in parent + front + relay: {node.memory()}")
        finally:
            node.child.terminate()
            node.child.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.large", description=__doc__)
    parser.add_argument("--hosts", type=int, default=5000)
    parser.add_argument("--serve", metavar="PORT", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clients", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
    elif options.clients:
        print("ready", flush=True)
        print(told(clients(Address.parse(options.clients), _ended)))
    else:
        measure(options.hosts)


if __name__ == "__main__":
    main()
