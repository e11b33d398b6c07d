"""Three nodes before one farm, while the table that they share fails over.

    python -m tests.integration.three_nodes [--table cluster] [--fault cut] [--balance hash]

Real nodes, a real Redis behind Sentinels or as a Cluster, each server on a machine of its own, in
networks that this program makes for itself. Users log in all the time: each connection of a login,
the redirected one too, comes to the next node; three of four users have been here before. Then the
primary is killed, or stopped for a while, or cut off. What became of the logins is printed, one
line a play; the code is 1 where a login failed that should not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import uvloop

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.login import Failure, LoginResult
from tests.integration.running import RunningProxy, running
from tests.servers.network import Network, enter_own_network
from tests.servers.redis import RedisFarm, RedisServer, start_cluster, start_sentinels

TABLES = ("sentinel", "cluster")
FAULTS = ("kill", "freeze", "cut")
BALANCES = ("hash", "least_connections")
NODES = 3
AT_ONCE = 150  # logins; where the machine is too slow for the rate, they come as they can
STAY_S = 1.0
KNOWN = 200  # users who come again
FIRST_FEW_S = 0.3  # after the first who met the absence: then the breaker is open


@dataclass(frozen=True, slots=True)
class Play:
    """What is played."""

    table: str
    fault: str
    balance: str
    rate: float  # logins a second
    before_s: float
    away_s: float  # how long the primary is stopped or cut off; one that was killed stays away
    after_s: float


@dataclass(slots=True)
class Outcome:
    """What became of the logins, and what the nodes say of it."""

    play: Play
    logins: int
    rate: float
    redirected: int
    misrouted: int
    failed: dict[str, int]
    unexplained: int  # failed, and none of the connections was placed without the table
    strays: int  # clients whom nodes placed on several hosts, without the table and a token
    without_table: int  # connections
    disagreements: int
    away_s: float  # the longest that a node was without its table
    added_ms: dict[str, dict[str, float]]  # to placements: before, first few, after the breaker

    @property
    def is_good(self) -> bool:
        """Whether it is as promised, and the table was away, and users were redirected."""
        if not (self.without_table and self.redirected):
            return False
        amiss = self.failed if self.play.balance == "hash" else self.unexplained
        return not (amiss or self.misrouted)

    def words(self) -> str:
        """One line."""
        play = self.play
        failed = " ".join(f"{count} {why}" for why, count in self.failed.items()) or "0"
        added = "; ".join(
            f"{when} {ms['p50']:.1f}/{ms['p99']:.1f} ({ms['count']:.0f})"
            for when, ms in self.added_ms.items()
        )
        return (
            f"{play.table} {play.fault} {play.balance}: {self.logins} logins at {self.rate:.0f}/s,"
            f" {self.redirected} redirected, {self.misrouted} misrouted; failed: {failed},"
            f" unexplained {self.unexplained}; {self.strays} clients strayed,"
            f" {self.without_table} placed without the table, {self.disagreements} disagreed;"
            f" away {self.away_s:.1f} s; added p50/p99 ms: {added}"
        )


@dataclass(slots=True)
class Users:
    """Users who log in until they are told to stop, through all nodes."""

    farm: Farm
    nodes: list[Address]
    rate: float
    results: list[LoginResult] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: deque[int] = field(default_factory=lambda: deque(range(KNOWN)))

    async def come(self) -> None:
        """Until `stop`; returns when the last has left."""
        new, turns = itertools.count(KNOWN), itertools.count()
        places = asyncio.Semaphore(AT_ONCE)
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with asyncio.TaskGroup() as tasks:
            while not self.stop.is_set():
                await places.acquire()
                turn = next(turns)
                user = self._idle.popleft() if turn % 4 and self._idle else next(new)
                task = tasks.create_task(self._log_in(user, turn))
                task.add_done_callback(lambda _: places.release())
                due = max(due + 1 / self.rate, loop.time() - 1.0)
                await asyncio.sleep(due - loop.time())

    async def _log_in(self, user: int, turn: int) -> None:
        first, *others = (self.nodes[(turn + n) % NODES] for n in range(NODES))
        source = f"127.50.{user // 250}.{user % 250 + 1}"
        more = {"others": tuple(others), "source": source, "hold_s": STAY_S}
        client = self.farm.client(first, f"user{user}", **more)
        self.results.append(await client.login())
        self._idle.append(user)


async def play(play: Play) -> Outcome:
    """Play it, in a network of its own."""
    with tempfile.TemporaryDirectory() as directory, _table(play, Path(directory)) as (farm, url):
        async with (
            Farm.start(hosts=4) as hosts,
            _nodes(hosts, Path(directory), url, play.balance) as nodes,
        ):
            users = Users(hosts, [node.address for node in nodes], play.rate)
            coming = asyncio.create_task(users.come())
            began = time.perf_counter()
            await asyncio.sleep(play.before_s)
            fault_at = time.time()
            await _break(play, farm.servers[0], nodes)
            await asyncio.sleep(play.after_s)
            users.stop.set()
            await coming
            took = time.perf_counter() - began
            disagreements = sum([await n.metric("affinity_disagreements_total") for n in nodes])
        return _outcome(play, users.results, took, nodes, fault_at, int(disagreements))


@contextmanager
def _table(play: Play, directory: Path) -> Iterator[tuple[RedisFarm, str]]:
    network = Network()
    try:
        if play.table == "sentinel":
            farm, url = start_sentinels(directory, network=network)
        else:
            farm, url = start_cluster(directory, replicas=1, network=network)
        try:
            yield farm, url
        finally:
            farm.close()
    finally:
        network.close()


@asynccontextmanager
async def _nodes(
    farm: Farm, directory: Path, url: str, balance: str
) -> AsyncIterator[list[RunningProxy]]:
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(NODES):
            state = directory / f"node{number}"
            state.mkdir()
            affinity = {"store": "redis", "url": url}
            node = running(farm, state, affinity=affinity, pool={"balance": balance})
            nodes.append(await stack.enter_async_context(node))
        yield nodes


async def _break(play: Play, primary: RedisServer, nodes: list[RunningProxy]) -> None:
    """Until the fault is over and all nodes have found their table again."""
    machine = primary.machine
    assert machine is not None
    begin, end = {
        "kill": (primary.kill, None),
        "freeze": (primary.freeze, primary.thaw),
        "cut": (machine.cut, machine.mend),
    }[play.fault]
    begin()
    if end is not None:
        await asyncio.sleep(play.away_s)
        end()
    for node in nodes:

        async def is_back(node: RunningProxy = node) -> bool:
            told = [line["what"] for line in node.events("affinity_store")]
            return "away" in told and told[-1] == "back"

        await node.until(is_back)


def _outcome(
    play: Play,
    results: list[LoginResult],
    took_s: float,
    nodes: list[RunningProxy],
    fault_at: float,
    disagreements: int,
) -> Outcome:
    placed = [list(node.events("connection_placed")) for node in nodes]
    lines = list(itertools.chain.from_iterable(placed))
    hosts: dict[str, set[str]] = {}
    for line in lines:
        if "table" in line and "token" not in line:
            hosts.setdefault(Address.parse(line["client"]).host, set()).add(line["host"])
    blind = {Address.parse(line["client"]).host for line in lines if "table" in line}
    failures = [result for result in results if result.failure is not None]
    failed: dict[str, int] = {}
    for result in failures:
        assert result.failure is not None
        failed[result.failure] = failed.get(result.failure, 0) + 1
        told = "placed without the table" if result.source in blind else "unexplained"
        print(*result.words(), f"[{told}]")  # noqa: T201
    pinned_amiss = {Failure.UNEXPECTED_CERTIFICATE, Failure.REDIRECTED_AGAIN}
    return Outcome(
        play,
        len(results),
        len(results) / took_s,
        sum(result.tokens > 0 for result in results),
        sum(result.misrouted for result in results),
        failed,
        sum(not (it.failure in pinned_amiss and it.source in blind) for it in failures),
        sum(len(found) > 1 for found in hosts.values()),
        sum("table" in line for line in lines),
        disagreements,
        max(_away_s(node) for node in nodes),
        _added_ms(placed, fault_at),
    )


def _away_s(node: RunningProxy) -> float:
    """From the first loss of the table until it was there for good."""
    times = [_at(line) for line in node.events("affinity_store")]
    return times[-1] - times[0]


def _added_ms(placed: list[list[dict[str, Any]]], fault_at: float) -> dict[str, dict[str, float]]:
    """What the table added to placements: all that is neither connecting nor the host's answer."""
    groups: dict[str, list[float]] = {"before": [], "first few": [], "breaker open": []}
    for lines in placed:
        blind = [_at(line) for line in lines if "table" in line]
        first = min(blind, default=0.0)
        for line in lines:
            began = _at(line) - line["place_s"]
            if "table" in line:
                group = "first few" if began < first + FIRST_FEW_S else "breaker open"
            elif _at(line) < fault_at:
                group = "before"
            else:
                continue
            added = line["place_s"] - line["connect_s"] - line["answer_s"]
            groups[group].append(added * 1000)
    return {when: _percentiles(sorted(found)) for when, found in groups.items()}


def _percentiles(found: list[float]) -> dict[str, float]:
    p50, p99 = (found[len(found) * part // 100] if found else 0.0 for part in (50, 99))
    return {"count": len(found), "p50": p50, "p99": p99}


def _at(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.three_nodes")
    parser.add_argument("--table", action="append", choices=TABLES)
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--balance", action="append", choices=BALANCES)
    parser.add_argument("--rate", type=float, default=50.0, help="logins a second (50)")
    parser.add_argument("--away", type=float, default=10.0, help="seconds stopped or cut off (10)")
    parser.add_argument("--around", type=float, default=8.0, help="seconds before and after (8)")
    options = parser.parse_args()
    enter_own_network()
    plays = itertools.product(
        options.balance or BALANCES, options.table or TABLES, options.fault or FAULTS
    )
    good = True
    for balance, table, fault in plays:
        times = options.around, options.away, options.around
        outcome = uvloop.run(play(Play(table, fault, balance, options.rate, *times)))
        print(outcome.words(), flush=True)  # noqa: T201
        good = good and outcome.is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
