"""A running proxy whose configuration a test changes while clients come and stay."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.address import Address
from proxy.control.client import ask
from proxy.lab.client import Session
from proxy.lab.farm import Farm
from proxy.wire.tokens import encode_msts
from tests.integration.running import RunningProxy, running

Config = dict[str, Any]


class World:
    """A farm, a proxy in front of it, and the configuration that it started with as a tree."""

    def __init__(self, farm: Farm, proxy: RunningProxy, config: Config) -> None:
        self.farm, self.proxy = farm, proxy
        self._config = json.dumps(config)
        self.first_text = proxy.file.read_text()
        self._sources = (
            f"127.30.{number // 250}.{number % 250 + 1}" for number in itertools.count()
        )

    @property
    def config(self) -> Config:
        """The first configuration, to be changed as one likes."""
        config: Config = json.loads(self._config)
        return config

    def without(self, host: str) -> Config:
        config = self.config
        hosts = config["pools"][0]["hosts"]
        config["pools"][0]["hosts"] = [it for it in hosts if it["name"] != host]
        return config

    def with_listeners(self, *more: tuple[str, Address]) -> Config:
        config = self.config
        first = config["listeners"][0]
        config["listeners"] += [first | {"name": name, "bind": str(at)} for name, at in more]
        return config

    def put(self, config: Config | str) -> None:
        """In the place of the file, at once."""
        self.put_at(draft := self.proxy.file.with_suffix(".draft"), config)
        draft.replace(self.proxy.file)

    def put_at(self, path: Path, config: Config | str) -> None:
        path.write_text(config if isinstance(config, str) else json.dumps(config))

    async def reload(self, config: Config | str) -> Config:
        """Put it, ask for it by SIGHUP; the line that tells the outcome."""
        before = len(self.outcomes())
        self.put(config)
        self.proxy.child.send_signal(signal.SIGHUP)

        async def told() -> bool:
            return len(self.outcomes()) > before

        await self.proxy.until(told)
        return self.outcomes()[before]

    def outcomes(self) -> list[Config]:
        lines = [*self.proxy.events("config_reloaded"), *self.proxy.events("config_refused")]
        return sorted(lines, key=lambda line: str(line["time"]))

    async def rows(self) -> dict[tuple[str, str], Config]:
        """What the admin endpoint says of each host, by pool and name."""
        endpoint = f"unix:{self.proxy.directory / 'admin.sock'}"
        _, body = await asyncio.to_thread(ask, endpoint, "/v1/hosts")
        return {(row["pool"], row["host"]): row for row in json.loads(body)["hosts"]}

    async def hosts(self) -> dict[str, tuple[bool, int]]:
        """By name, whether each host is configured, and its connections."""
        rows = (await self.rows()).values()
        return {row["host"]: (row["configured"], row["connections"]) for row in rows}

    def forgotten(self, host: str, pool: str = "full_desktop") -> Callable[[], Awaitable[bool]]:
        async def is_gone() -> bool:
            return (pool, host) not in await self.rows()

        return is_gone

    def is_refused(self, address: Address) -> bool:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family) as sock:
            return sock.connect_ex(address) != 0

    @asynccontextmanager
    async def session(self, user: str, token: str | None = None) -> AsyncIterator[Session]:
        """A session of a user from a machine of his own, `token` being the host that it names."""
        line = None
        if token is not None:
            self.farm.broker.place(user, token)
            line = encode_msts(self.farm.hosts[token].address).removesuffix(b"\r\n")
        client = self.farm.client(self.proxy.address, user, source=next(self._sources), line=line)
        async with client.session() as (result, session):
            assert session is not None, result.words()
            assert token in (None, result.host)
            yield session

    async def log_in(self, user: str, address: Address | None = None) -> str | None:
        """The host where a user lands; None where the login fails."""
        at = address or self.proxy.address
        return (await self.farm.client(at, user, source=next(self._sources)).login()).host


async def lives(session: Session) -> bool:
    return await session.echo(b"still there?") == b"still there?"


@asynccontextmanager
async def reloading(tmp_path: Path, hosts: int = 3, **overrides: Any) -> AsyncIterator[World]:
    async with Farm.start(hosts=hosts) as farm, running(farm, tmp_path, **overrides) as proxy:
        metrics = {"bind": str(proxy.metrics_address)}
        yield World(farm, proxy, farm.config(proxy.address, tmp_path, metrics=metrics, **overrides))
