"""Contenders: the balancers that the demo compares, each as a process of its own.

A contender is an asynchronous context manager that runs a balancer in front of a farm and gives
the address to dial.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import proxy
from proxy.address import Address
from proxy.lab.farm import Farm

Contender = Callable[[Farm], AbstractAsyncContextManager[Address]]

_START_S = 60.0
_STOP_S = 15.0


class ContenderError(Exception):
    """A balancer did not start; the message has the end of what it said."""


@asynccontextmanager
async def plain(kind: str, farm: Farm) -> AsyncIterator[Address]:
    """A plain balancer of `proxy.lab.balancers`."""
    hosts = [str(host.address) for host in farm.hosts.values()]
    with tempfile.TemporaryFile() as log:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy.lab.balancers", kind, "127.0.0.1:0", *hosts),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=_environment(),
            start_new_session=True,
        )
        try:
            assert child.stdout is not None
            async with asyncio.timeout(_START_S):
                line = await child.stdout.readline()
            if not line:
                log.seek(0)
                raise ContenderError(f"{kind} did not start: {log.read()[-2000:].decode()}")
            yield Address.parse(line.decode())
        finally:
            assert child.stdin is not None
            child.stdin.close()
            await _stop(child)


@asynccontextmanager
async def rdp_proxy(farm: Farm, port: int = 0) -> AsyncIterator[Address]:
    """`rdp-proxy run` with a configuration for this farm; `port` 0 takes a free one."""
    with (
        _reserved() as free,
        _reserved() as another,
        tempfile.TemporaryDirectory(prefix="rdp-demo-") as name,
    ):
        bind, metrics = Address("127.0.0.1", port or free), Address("127.0.0.1", another)
        directory = Path(name)
        file = directory / "config.yaml"
        file.write_text(farm.config_yaml(bind, directory, metrics={"bind": str(metrics)}))
        log = directory / "log"
        with log.open("wb") as sink:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "run", "--config", str(file)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=_environment() | {"STATE_DIRECTORY": name},
                start_new_session=True,
            )
        try:
            await _until_ready(child, metrics, log)
            yield bind
        finally:
            await _stop(child)


CONTENDERS: Mapping[str, Contender] = {
    "round_robin": partial(plain, "round_robin"),
    "sticky": partial(plain, "sticky"),
    "rdp-proxy": rdp_proxy,
}


async def _until_ready(child: asyncio.subprocess.Process, metrics: Address, log: Path) -> None:
    try:
        async with asyncio.timeout(_START_S):
            while child.returncode is None:
                if await _is_ready(metrics):
                    return
                await asyncio.sleep(0.05)
            reason = f"ended with code {child.returncode}"
    except TimeoutError:
        reason = f"was not ready after {_START_S:.0f} s"
    said = await asyncio.to_thread(log.read_text, errors="replace")
    raise ContenderError(f"rdp-proxy {reason}:\n{said[-2000:]}")


async def _is_ready(metrics: Address) -> bool:
    with suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection(*metrics)
        try:
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return (await reader.readline()).split()[1:2] == [b"200"]
        finally:
            writer.close()
    return False


async def _stop(child: asyncio.subprocess.Process) -> None:
    """End a child and whatever it started: in order, or else at once."""
    if child.returncode is not None:
        return
    with suppress(ProcessLookupError):
        child.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await child.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


def _environment() -> dict[str, str]:
    """A child finds this very package, wherever the demo was started."""
    return os.environ | {"PYTHONPATH": str(Path(proxy.__file__).parents[1])}


@contextmanager
def _reserved() -> Iterator[int]:
    """A port on loopback that the kernel gives to nobody inside the block, as long as it may take
    until the proxy listens there: it can, since both set SO_REUSEADDR."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])
