"""The crowd: users who log in at a steady rate, and residents whose sessions last.

Each has a source address of his own. A visitor logs in, stays a moment and leaves; some come again.
A resident talks through his session all the time, and opens another when he has had enough of it,
or when it was cut. Whatever befalls them is held against the model.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from dataclasses import dataclass, field

from proxy.lab.client import Client, Session
from proxy.lab.login import Failure, LoginResult
from tests.integration.chaos.configuration import LISTED, NAMED
from tests.integration.chaos.house import House, Node
from tests.integration.chaos.model import Journey
from tests.patience import PATIENCE_S

KNOWN = 40  # visitors who come again and again
_PLUGIN = "tsv://MS Terminal Services Plugin.1."
_STAY_S = (0.0, 1.0)
_TALK_S = (0.1, 0.6)
_REST_S = 0.2  # between two sessions
_LIFE_S = (2.0, 40.0)


@dataclass(slots=True)
class Crowd:
    """All users.

    Attributes:
        over: they are to leave, and nobody comes any more.
        open: the host and the node of each resident's session, by source.
    """

    house: House
    chance: random.Random
    rate: float
    residents: int
    over: asyncio.Event = field(default_factory=asyncio.Event)
    logins: int = 0
    redirected: int = 0
    sessions: int = 0
    echoes: int = 0
    open: dict[str, tuple[str, int]] = field(default_factory=dict)
    _runs: asyncio.Event = field(default_factory=asyncio.Event)
    _on_their_way: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: deque[int] = field(default_factory=lambda: deque(range(KNOWN)))
    _seen: set[str] = field(default_factory=set)

    async def run(self) -> None:
        """Until `over`; all have left then."""
        self._runs.set()
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.residents):
                tasks.create_task(self._reside(number))
            await self._come(tasks)

    async def pause(self) -> None:
        """Nobody comes or goes any more; sessions go on. Returns when all have arrived."""
        self._runs.clear()
        if self._on_their_way:
            self._arrived.clear()
            await self._arrived.wait()

    def resume(self) -> None:
        self._runs.set()

    def _sets_out(self) -> None:
        self._on_their_way += 1

    def _arrives(self) -> None:
        self._on_their_way -= 1
        if not self._on_their_way:
            self._arrived.set()

    async def _come(self, tasks: asyncio.TaskGroup) -> None:
        new, loop = itertools.count(KNOWN), asyncio.get_running_loop()
        due = loop.time()
        while not self.over.is_set():
            await self._runs.wait()
            is_known = self._idle and self.chance.random() < 0.7
            tasks.create_task(self._visit(self._idle.popleft() if is_known else next(new)))
            due = max(due + 1 / self.rate, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _visit(self, number: int) -> None:
        self._sets_out()
        stay_s = self.chance.uniform(*_STAY_S)
        client, nodes = self._client("visitor", number, hold_s=stay_s)
        begin = time.time()
        result = await client.login()
        self._judge(result, nodes, begin)
        self._idle.append(number)
        self._arrives()

    async def _reside(self, number: int) -> None:
        while not self.over.is_set():
            await self._runs.wait()
            self._sets_out()
            client, nodes = self._client("resident", number)
            begin = time.time()
            async with client.session() as (result, session):
                self._judge(result, nodes, begin)
                source, host = result.source, result.host
                if session is not None and source is not None and host is not None:
                    node = nodes[(len(result.legs) - 1) % len(nodes)]
                    self.open[source] = host, node.number
                    self.sessions += 1
                    self._arrives()
                    await self._talk(session, source)
                    del self.open[source]
                    self._sets_out()
            self._arrives()
            await asyncio.sleep(_REST_S)

    async def _talk(self, session: Session, source: str) -> None:
        until = time.time() + self.chance.uniform(*_LIFE_S)
        host, node = self.open[source]
        while not self.over.is_set() and (time.time() < until or not self._runs.is_set()):
            heard = time.time()
            await asyncio.sleep(self.chance.uniform(*_TALK_S))
            words = self.chance.randbytes(self.chance.choice((1, 200, 15_000)))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    same = await session.echo(words) == words
            except (OSError, ValueError) as error:
                journey = Journey(source, heard, time.time(), frozenset({node}), frozenset({host}))
                if not self.house.model.excuse_cut(journey):
                    self._accuse(f"a session of {source} on {host}, node {node}: {error!r}")
                return
            if not same:
                self._accuse(f"a session of {source} on {host} hears another's words")
            self.echoes += 1

    def _client(self, kind: str, number: int, *, hold_s: float = 0.0) -> tuple[Client, list[Node]]:
        """A user at his machine, and the nodes that his connections take in turn."""
        nodes = self.chance.sample(self.house.nodes, len(self.house.nodes))
        if number % 2:
            nodes = nodes[:1]
        first, *others = (node.proxy.address for node in nodes)
        alias = NAMED if number % 3 == 0 else LISTED
        asks = alias == NAMED or number % 4 == 0  # for its collection, as an .rdp file does
        third = 50 if kind == "visitor" else 51
        client = self.house.farm.client(
            first,
            f"{kind[0]}{number}",
            others=tuple(others),
            source=f"127.{third}.{number // 250}.{number % 250 + 1}",
            line=f"{_PLUGIN}{alias}".encode() if asks else None,
            byte_by_byte=number % 7 == 0,
            hold_s=hold_s,
            timeout_s=PATIENCE_S,
        )
        return client, nodes

    def _judge(self, result: LoginResult, nodes: list[Node], begin: float) -> None:
        self.logins += 1
        self.redirected += result.tokens > 0
        source = result.source or ""
        touched = {leg.reached for leg in result.legs} | {leg.named for leg in result.legs}
        journey = Journey(
            source,
            begin,
            time.time(),
            frozenset(node.number for node in nodes),
            frozenset(host for host in touched if host is not None),
            is_lost=result.legs[-1].reached is None,
        )
        told = " ".join(result.words())
        if result.misrouted or result.failure is Failure.WRONG_HOST:
            self._accuse(f"misrouted: {told}")
        elif result.failure and not self.house.model.excuse(journey, result.failure):
            self._accuse(f"{journey.end - begin:.1f} s: {told}")
        is_new = source not in self._seen
        self._seen.add(source)
        for place, leg in enumerate(result.legs):
            if leg.reached is None:
                continue
            by_broker = leg.named is not None
            new = is_new and place == 0 and not by_broker
            why = self.house.model.banned(journey, leg.reached, is_new=new)
            if why:
                self._accuse(f"somebody came to {leg.reached} ({why}): {told}")

    def _accuse(self, what: str) -> None:
        self.house.model.accuse(what)
