"""The house: a farm, its name server and agents, one or two nodes before it, and their table.

It also knows how all of it should be now, and waits until every node shows just that.
"""

from __future__ import annotations

import asyncio
import copy
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.address import Address
from proxy.control.client import ask
from proxy.lab.farm import Farm
from tests.integration.chaos.configuration import (
    LISTED,
    NAMED,
    SIZES,
    SPARE,
    Tree,
    first_tree,
    names_of,
    text_for,
)
from tests.integration.chaos.lines import Lines
from tests.integration.chaos.model import STRAYED, Model, Trouble
from tests.integration.running import RunningProxy
from tests.patience import PATIENCE_S
from tests.servers.names import NameServer
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer
from tests.streams import listening

WELL = "up ready 100%"
_LEAST = {LISTED: 2, NAMED: 1}  # hosts of a collection that are left in peace
_CAUSES = ("gone", "maintenance", "down", "drain", "refused")


@dataclass(slots=True)
class Node:
    """One node, numbered from 1."""

    number: int
    proxy: RunningProxy
    lines: Lines
    killed: int = 0  # processes that we have killed, and that its parent has to tell of
    crashed_at: float = 0.0

    async def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Status and answer of the admin socket."""
        endpoint = f"unix:{self.proxy.directory / 'admin.sock'}"
        status, body = await asyncio.to_thread(
            ask, endpoint, path, method=method, timeout_s=PATIENCE_S
        )
        return status, json.loads(body)

    async def rows(self) -> list[Tree]:
        """What it says of hosts."""
        _, answer = await self.ask("/v1/hosts")
        rows: list[Tree] = answer["hosts"]
        return rows


@dataclass(slots=True)
class Stand:
    """How a host should stand, as far as it is not well."""

    away: str = ""  # killed, silent
    is_listed: bool = True
    word: str = WELL  # of its agent

    @property
    def heard(self) -> list[str]:
        """What nodes hear of its agent, which they ask while the host is listed."""
        return (self.word if self.is_listed else WELL).split()

    @property
    def agent_will(self) -> str:
        return {"drain": "drain", "maint": "maintenance"}.get(self.heard[1], "ready")

    @property
    def is_alive(self) -> bool:
        return not self.away and self.heard[0] != "down"


@dataclass(slots=True)
class Wish:
    """What the operator has said of a host."""

    will: str = "ready"
    pins: str = "keep"
    weight: int | None = None


@dataclass(slots=True)
class House:
    """Everything. Made by `open_house`."""

    farm: Farm
    model: Model
    names: NameServer
    nodes: list[Node]
    redis: RedisServer | None
    tree: Tree
    base: Tree
    stands: dict[str, Stand]
    wishes: dict[tuple[str, str], Wish] = field(default_factory=dict)
    _leaving: dict[str, Trouble] = field(default_factory=dict)

    # The configuration

    async def reload(self, tree: Tree) -> None:
        """Give a configuration to all nodes; it is in force at each of them, and settled."""
        self.tree = tree
        for node in self.nodes:
            text = text_for(node.number, node.proxy.directory, tree)
            await self._give(node, text, "applied", "unchanged")
        await self.settled()

    async def refuse(self, text: Callable[[Node], str]) -> None:
        """Give one that cannot be used to all nodes, and take it away again."""
        for node in self.nodes:
            await self._give(node, text(node), "refused")
        await self.reload(self.tree)

    async def _give(self, node: Node, text: str, *outcomes: str) -> None:
        before = await self._reloads(node, *outcomes)
        self.put(node, text)

        async def is_so() -> bool:
            return await self._reloads(node, *outcomes) > before

        refused = node.lines.of["config_refused"]
        await self.until(is_so, f"a file is {' or '.join(outcomes)}", lambda: str(refused[-1:]))

    def put(self, node: Node, text: str) -> None:
        draft = node.proxy.file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(node.proxy.file)
        node.proxy.child.send_signal(signal.SIGHUP)

    async def _reloads(self, node: Node, *outcomes: str) -> float:
        counts = [await node.proxy.metric("config_reloads_total", outcome=it) for it in outcomes]
        return sum(counts)

    # How all should be

    def list_host(self, host: str, *, listed: bool) -> None:
        """The configuration, or the name server, is to have a host; or no longer."""
        self.stands[host].is_listed = listed
        if host in self._leaving:
            self.model.end(self._leaving.pop(host))
        if not listed:
            self.tell_broker()
            # Each node knows a host that leaves for as long as it has connections there itself.
            what = f"{host} leaves one node before the other"
            trouble = self.model.begin(what, hosts=[host], failures=STRAYED, across=True)
            self._leaving[host] = trouble

    def pool_of(self, host: str) -> str:
        """The pool that has a host of the farm in the configuration."""
        (alias,) = (it for it, hosts in self.farm.collections.items() if host in names_of(hosts))
        pool: str = self.tree["listeners"][0]["collections"][alias]
        return pool

    def is_named(self, host: str) -> bool:
        """Whether a host of the farm is one by its DNS name."""
        return host in names_of(self.farm.collections[NAMED])

    def name_of(self, host: str) -> str:
        """How nodes call a host of the farm."""
        return f"acc[{self.farm.hosts[host].address.host}]" if self.is_named(host) else host

    def wish_of(self, host: str) -> Wish:
        return self.wishes.setdefault((self.pool_of(host), host), Wish())

    def is_well(self, host: str) -> bool:
        """Whether new clients may come."""
        return self.stands[host] == Stand() and self.wish_of(host).will == "ready"

    def victims(self, alias: str) -> list[str]:
        """Hosts of a collection to which something may be done, or more than was."""
        hosts = names_of(self.farm.collections[alias])
        well = [host for host in hosts if self.is_well(host)]
        return hosts if len(well) > _LEAST[alias] else [it for it in hosts if it not in well]

    def in_force(self, host: str) -> str:
        will = self.wish_of(host).will
        return self.stands[host].agent_will if will == "ready" else will

    def _expected(self, host: str) -> Tree:
        return {
            "up": self.stands[host].is_alive,
            "will": self.wish_of(host).will,
            "in_force": self.in_force(host),
            "weight": self.weight_of(host),
        }

    def weight_of(self, host: str) -> int:
        weight = self.wish_of(host).weight
        return self.configured(host).get("weight", 100) if weight is None else weight

    def configured(self, host: str) -> Tree:
        """The entry in the file that a host comes from."""
        entries = [it for pool in self.tree["pools"] for it in pool["hosts"]]
        name = self.name_of(host).partition("[")[0]
        return next((it for it in entries if it["name"] == name), {})

    async def amiss(self) -> list[str]:
        """Where a node shows a host in another way than it should be."""
        wanted = {
            (self.pool_of(host), self.name_of(host)): self._expected(host)
            for host in self.farm.hosts
            if self.stands[host].is_listed
        }
        found = []
        for node in self.nodes:
            shown = [it for it in await node.rows() if it["configured"] and it["pool"] != SPARE]
            rows = {(it["pool"], it["host"]): it for it in shown}
            if rows.keys() != wanted.keys():
                found.append(f"node {node.number} has {sorted(rows)}, not {sorted(wanted)}")
                continue
            for key, expected in wanted.items():
                said = {name: rows[key][name] for name in expected}
                if said != expected:
                    found.append(f"node {node.number}, {key}: {said}, not {expected}")
        return found

    async def settled(self) -> None:
        """Wait until all nodes show everything as it should be; then bans are as they follow."""
        amiss: list[str] = []

        async def is_so() -> bool:
            nonlocal amiss
            amiss = await self.amiss()
            return not amiss

        await self.until(is_so, "all is as it should be", lambda: "; ".join(amiss))
        for host in self.farm.hosts:
            self._ban(host)

    @contextmanager
    def touching(self, what: str, *hosts: str, cuts: bool = False) -> Iterator[Trouble]:
        """Something is done to hosts: their clients may feel it inside the block."""
        for host in hosts:
            self.model.lift(host)
        trouble = self.model.begin(what, hosts=hosts, cuts=cuts, causes=_CAUSES)
        with self.model.during(trouble):
            yield trouble

    def begins_anew(self, what: str) -> AbstractContextManager[Trouble]:
        """A front starts, which has not heard yet what agents say of their hosts."""
        said = [host for host, stand in self.stands.items() if stand.heard != WELL.split()]
        return self.touching(what, *said)

    def tell_broker(self) -> None:
        """The broker sends nobody where nobody may come, and knows who is there."""
        for host, stand in self.stands.items():
            if stand.is_alive and stand.is_listed and self.in_force(host) != "maintenance":
                self.farm.broker.regain(host)
            else:
                self.farm.broker.lose(host)

    def _ban(self, host: str) -> None:
        stand, will = self.stands[host], self.in_force(host)
        pins = self.wish_of(host).pins if self.wish_of(host).will == "drain" else "keep"
        causes = {
            "gone": not stand.is_listed,
            "maintenance": will == "maintenance",
            "down": not stand.is_alive,
            "refused": bool(stand.away),
            "drain": will == "drain" and pins != "keep",
            "drain keep": will == "drain" and pins == "keep",
            "weight 0": self.weight_of(host) == 0,
        }
        why = [cause for cause, is_so in causes.items() if is_so]
        everybody = bool({"maintenance", "down"} & set(why))
        self.model.ban(host, why, everybody=everybody)

    async def until(
        self,
        holds: Callable[[], Any],
        what: str,
        detail: Callable[[], str] = lambda: "",
    ) -> None:
        """Wait for what has to come; that it does not is a violation."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with suppress(OSError, ValueError, IndexError):  # a front that was killed is not back
                if await holds():
                    return
            if time.monotonic() > deadline:
                self.model.accuse(f"it did not come to be that {what}: {detail()}")
                raise HungError(what)
            await asyncio.sleep(0.05)


class HungError(Exception):
    """What has to come does not: there is no point in going on."""


@asynccontextmanager
async def open_house(directory: Path, nodes: int, seed: int) -> AsyncIterator[House]:
    """Everything, inside the block."""
    model = Model()
    async with AsyncExitStack() as stack:
        farm = await stack.enter_async_context(Farm.start(collections=SIZES, seed=seed))
        names = NameServer(directory)
        stack.push_async_callback(names.stop)
        names.says(*(host.address.host for host in farm.collections[NAMED]))
        await names.start()
        redis = RedisServer(directory).start() if nodes > 1 else None
        if redis is not None:
            stack.callback(redis.kill)
        stands = {name: Stand() for name in farm.hosts}
        agents = await _agents(stack, farm, stands)
        tree = first_tree(farm, names.address, agents, redis.url if redis else None)
        house = House(farm, model, names, [], redis, tree, copy.deepcopy(tree), stands)
        for number in range(1, nodes + 1):
            house.nodes.append(await _node(stack, house, directory, number))
        yield house


async def _agents(stack: AsyncExitStack, farm: Farm, stands: dict[str, Stand]) -> int:
    """Agents on the hosts that have them; their port."""
    port = free_port()
    for host in farm.collections[LISTED]:

        async def speak(
            _: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = host.name
        ) -> None:
            with suppress(OSError):
                writer.write(f"{stands[name].word}\n".encode())
                await writer.drain()

        await stack.enter_async_context(listening(speak, host.address.host, port))
    return port


async def _node(stack: AsyncExitStack, house: House, directory: Path, number: int) -> Node:
    state = directory / f"node{number}"
    state.mkdir()
    text = text_for(number, state, house.tree)
    tree = json.loads(text)
    bind, metrics = (Address.parse(it["bind"]) for it in (tree["listeners"][0], tree["metrics"]))
    proxy = RunningProxy(state, text, bind, metrics)
    await proxy.start()
    stack.push_async_callback(proxy.kill_all)
    return Node(number, proxy, Lines(proxy.log_file, house.model))
