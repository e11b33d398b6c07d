"""Farm: session hosts and their broker, ready to be put behind a balancer.

    async with Farm.start(hosts=4, seed=1) as farm:
        result = await farm.client(address_of_the_balancer, "alice").login()

Hosts are `rdsh01`, `rdsh02`, … on addresses of their own (127.77.0.11, …) and one common port.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from proxy.address import Address
from proxy.lab.broker import Broker
from proxy.lab.certificates import self_signed
from proxy.lab.client import Client
from proxy.lab.directory import Directory
from proxy.lab.session_host import Redirect, SessionHost, Visit

_FIRST_HOST = 11


class Farm:
    """A running farm. Made by `start`."""

    def __init__(self, broker: Broker, collections: Mapping[str, list[SessionHost]]) -> None:
        self.broker = broker
        self.collections = collections
        self.hosts: dict[str, SessionHost] = {}
        self.directory = Directory([])

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        hosts: int = 4,
        *,
        collections: Mapping[str, int] | None = None,
        redirect: Redirect | str = Redirect.TOKEN,
        seed: int = 0,
        base: str = "127.77.0.",
        port: int = 0,
        target_certificate: bool = True,
        session_s: float | None = None,
    ) -> AsyncIterator[Self]:
        """Run a farm inside the block.

        Args:
            hosts: number of hosts in the one collection `Full_Desktop`.
            collections: instead of that, collections' aliases and their numbers of hosts.
            base: first three numbers of the hosts' addresses, within 127.0.0.0/8.
            port: of all hosts; 0 takes a free one.
            target_certificate, session_s: see SessionHost.
        """
        sizes = {"Full_Desktop": hosts} if collections is None else dict(collections)
        numbers = iter(range(1, 1 + sum(sizes.values())))
        names = {
            alias: [f"rdsh{next(numbers):02}" for _ in range(size)] for alias, size in sizes.items()
        }
        broker = Broker(names, seed=seed)

        def make(name: str, address: Address) -> SessionHost:
            return SessionHost(
                name,
                address,
                self_signed(name),
                broker,
                redirect=Redirect(redirect),
                target_certificate=target_certificate,
                session_s=session_s,
            )

        farm = cls(broker, {alias: [] for alias in names})
        async with farm.standing(names, make, base, port):
            yield farm

    @asynccontextmanager
    async def standing(
        self,
        names: Mapping[str, Sequence[str]],
        make: Callable[[str, Address], SessionHost],
        base: str,
        port: int,
    ) -> AsyncIterator[None]:
        """Make and start the hosts of each collection; they are killed after the block."""
        try:
            for alias, group in names.items():
                for name in group:
                    host = make(name, Address(f"{base}{_FIRST_HOST + len(self.hosts)}", port))
                    await host.start()
                    port = host.address.port
                    self.collections[alias].append(host)
                    self.hosts[name] = host
            self.directory = Directory(host.card for host in self.hosts.values())
            for host in self.hosts.values():
                host.directory = self.directory
            yield
        finally:
            await asyncio.gather(*(host.kill() for host in self.hosts.values()))

    def client(self, address: Address, user: str, **options: Any) -> Client:
        """A client that knows the farm's certificates; `options` are those of Client."""
        return Client(address, user, self.directory, **options)

    @property
    def visits(self) -> list[Visit]:
        """All connections that any host saw."""
        return [visit for host in self.hosts.values() for visit in host.visits]

    def reset(self) -> None:
        """Forget sessions and visits, so that the same logins can be played again."""
        self.broker.reset()
        for host in self.hosts.values():
            host.visits.clear()

    def config(self, bind: Address, state: Path, **overrides: Any) -> dict[str, Any]:
        """A configuration of rdp-proxy for this farm.

        Args:
            bind: what the listener binds.
            state: directory for the affinity table and the admin socket.
            overrides: top-level sections, laid over what stands here; `listener` and `pool` are
                laid over the listener and over each pool.
        """
        listener, pool = overrides.pop("listener", {}), overrides.pop("pool", {})
        pool_of = {alias: alias.casefold() for alias in self.collections}
        config: dict[str, Any] = {
            "listeners": [
                {
                    "name": "rdp",
                    "bind": str(bind),
                    "pool": next(iter(pool_of.values())),
                    "collections": pool_of,
                }
            ],
            "pools": [
                {
                    "name": pool_of[alias],
                    "balance": "least_connections",
                    # All hosts are in one process: a busy machine makes them late, not dead.
                    "health": {"check": "x224", "interval": "1s", "timeout": "10s"},
                    "hosts": [{"name": host.name, "address": str(host.address)} for host in group],
                }
                for alias, group in self.collections.items()
            ],
            "affinity": {"store": "sqlite", "path": str(state / "affinity.db")},
            "admin": {"bind": f"unix:{state / 'admin.sock'}"},
            "relay": {"processes": 1},
        }
        config["listeners"] = [_laid_over(one, listener) for one in config["listeners"]]
        config["pools"] = [_laid_over(one, pool) for one in config["pools"]]
        return _laid_over(config, overrides)

    def config_yaml(self, bind: Address, state: Path, **overrides: Any) -> str:
        """`config` as the text of a file."""
        return _yaml(self.config(bind, state, **overrides))


def _laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def _yaml(value: Any, indent: str = "") -> str:
    """Block YAML of plain values: reading YAML is the configuration's business, not the lab's."""
    text = ""
    if isinstance(value, Mapping):
        for key, item in value.items():
            nested = isinstance(item, Mapping | list) and item
            text += f"{indent}{key}:" + (
                f"\n{_yaml(item, indent + '  ')}" if nested else f" {json.dumps(item)}\n"
            )
    else:
        for item in value:
            block = (
                _yaml(item, indent + "  ") if isinstance(item, Mapping) else f"{json.dumps(item)}\n"
            )
            text += f"{indent}- {block.lstrip()}"
    return text
