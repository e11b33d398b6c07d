"""Two xrdp hosts with rdp-proxy in front of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.address import Address
from tests.integration.running import RunningProxy, serving
from tests.interop.shadow import ShadowHost
from tests.interop.xrdp import XrdpHost, xrdp
from tests.servers.ports import free_port

_LOOKS = {"rdsh01": "203040", "rdsh02": "604020"}  # backgrounds, to be told apart at a glance


@asynccontextmanager
async def two_xrdp_hosts(directory: Path) -> AsyncIterator[list[XrdpHost]]:
    """Run two hosts inside the block."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                xrdp(name, f"127.77.9.{number}", colour, directory / name)
            )
            for number, (name, colour) in enumerate(_LOOKS.items(), 1)
        ]


@asynccontextmanager
async def proxy_before(
    hosts: Sequence[XrdpHost | ShadowHost],
    directory: Path,
    affinity: Mapping[str, Any] | None = None,
    **listener: Any,
) -> AsyncIterator[RunningProxy]:
    """Run rdp-proxy inside the block; `listener` is laid over its listener.

    New clients go to the hosts in turn: without pins every second connection of anybody would
    meet the other host.
    """
    bind, metrics = (Address("127.0.0.1", free_port()) for _ in range(2))
    config = {
        "listeners": [{"name": "rdp", "bind": str(bind), "pool": "desktops", **listener}],
        "pools": [
            {
                "name": "desktops",
                "balance": "round_robin",
                "affinity": dict(affinity or {}),
                "health": {"timeout": "10s"},  # on a busy machine a host is late, not dead
                "hosts": [{"name": host.name, "address": str(host.address)} for host in hosts],
            }
        ],
        "affinity": {"store": "sqlite", "path": str(directory / "affinity.db")},
        "admin": {"bind": f"unix:{directory / 'admin.sock'}"},
        "metrics": {"bind": str(metrics)},
        "relay": {"processes": 1},
    }
    # JSON is YAML.
    proxy = RunningProxy(directory, json.dumps(config), bind, metrics)
    async with serving(proxy):
        yield proxy
