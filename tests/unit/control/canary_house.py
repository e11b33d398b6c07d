"""A canary before a front that sends its tokens wherever the test wants."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import chain
from typing import Any

import pytest

from proxy.address import Address
from proxy.control.canary import Canary, Door
from proxy.control.http import Request
from proxy.control.inventory import Inventory
from proxy.lab.farm import Farm
from proxy.routing.pool import Host, Pool
from proxy.routing.routes import Routes
from proxy.server.canaries import Arrival
from proxy.settings import HealthSettings, HostSettings, ListenerSettings, PoolSettings
from proxy.wire.x224 import (
    parse_connection_request,
)
from tests.patience import PATIENCE_S
from tests.streams import carry, listening

NOW = 1_800_000_000.0
Step = Callable[[Host], Address | str]


class House:
    """A pool of the farm's hosts, a canary, and the front door that it comes to.

    `leads` says for the host that a token names where the front brings it, or why it does not.
    """

    def __init__(self, farm: Farm, caplog: pytest.LogCaptureFixture) -> None:
        self.farm = farm
        hosts = tuple(HostSettings(name=it.name, address=it.address) for it in farm.hosts.values())
        health = HealthSettings(timeout_s=PATIENCE_S)
        self.pool = Pool(PoolSettings(name="desktops", hosts=hosts, health=health))
        listener = ListenerSettings(name="rdp", bind=Address("0.0.0.0", 0), pool="desktops")
        self.routes = Routes(listener, {"desktops": self.pool})
        self.inventory = Inventory([self.pool], lambda: NOW)
        self.leads: Step = lambda host: host.address
        self.passes_as: Host | None = None
        self.expected: dict[Address, Arrival] = {}
        self.tried: list[Address] = []
        self.doors: list[Door] = []
        self.canary = Canary(0.01, lambda: self.doors, self.expect, self.inventory, lambda: NOW)
        self._caplog = caplog
        caplog.set_level(logging.INFO, "proxy")

    @contextmanager
    def expect(self, own: Address) -> Iterator[Arrival]:
        arrival = self.expected[own] = Arrival()
        yield arrival
        del self.expected[own]

    async def receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrival = self.expected[Address(*writer.get_extra_info("peername"))]
        head = await reader.readexactly(4)
        data = head + await reader.readexactly(int.from_bytes(head[2:4], "big") - 4)
        request = parse_connection_request(data)
        assert hasattr(request, "routing_token")
        assert request.routing_token is not None
        assert request.routing_token.address is not None
        host = self.routes.named_by(request.routing_token.address)
        assert host is not None
        self.tried.append(request.routing_token.address)
        to = self.leads(host)
        if isinstance(to, str):
            arrival.refused = to
        else:
            arrival.host = self.passes_as or host
            far_reader, far_writer = await asyncio.open_connection(*to)
            far_writer.write(data)
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    def host(self, name: str) -> Host:
        return self.pool.by_name[name]

    def address_of(self, name: str) -> Address:
        return self.farm.hosts[name].address

    def samples(self) -> dict[str, float]:
        told = chain.from_iterable(map(self.canary.samples, self.pool.hosts))
        return {sample.labels[1]: sample.value for sample in told}

    def events(self) -> list[dict[str, Any]]:
        told = [vars(record) | {"event": record.message} for record in self._caplog.records]
        self._caplog.clear()
        return [event for event in told if event["event"].startswith("canary")]

    async def shown(self) -> list[dict[str, Any]]:
        answer = await self.canary.routes()["/v1/canary"](Request())
        rows: list[dict[str, Any]] = json.loads(answer.body)["canary"]
        return rows


@asynccontextmanager
async def house(
    caplog: pytest.LogCaptureFixture, base: str, hosts: int = 2
) -> AsyncIterator[House]:
    async with Farm.start(hosts=hosts, base=base) as farm:
        here = House(farm, caplog)
        async with listening(here.receive) as address:
            here.doors = [Door("rdp", Address("0.0.0.0", address.port), here.routes)]
            yield here
