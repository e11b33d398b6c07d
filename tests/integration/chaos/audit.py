"""What has to hold, all the time and at the end.

What a node says of a connection is compared with what its host saw of it; what it counts with who
is really there; what it owns at the end with what it owned before the first client came.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from proxy.address import Address
from proxy.affinity.redis_client import CALLS_MAX
from proxy.lab.session_host import Visit
from proxy.wire.tokens import read_token
from tests.integration.chaos.configuration import RELAYS
from tests.integration.chaos.crowd import Crowd
from tests.integration.chaos.faults import sources_in
from tests.integration.chaos.house import House, Node
from tests.integration.chaos.lines import Line, at

_LOOK_S = 0.2
_SLACK_S = 2.0  # between what is done and the line that tells of it
# How long after a trouble its last trace may come: a check's patience, a canary's.
_NOTICED_S = {"host_down": 10.0, "canary_failed": 40.0}
_FILES = {"config.yaml", "log"}  # of the test
_STATE = {"affinity.db", "affinity.db.lock", "log-users.key", "wills.json"}
# Of the front. Connections to a shared table stay, as many as it may have; and threads that wait
# for files and names, as many as asyncio lets there be.
_GROWTH = {
    "descriptors": 10 + CALLS_MAX,
    "threads": 4 + (os.cpu_count() or 1),
    "MiB": 64,
}
_PIPES = 4  # descriptors that a relay may keep for the next in need


@dataclass(frozen=True, slots=True)
class Belongings:
    """What the processes of a node have: of the front, then of each relay."""

    front: dict[str, int]
    relays: list[int]  # descriptors
    clients: set[str]  # whose connections relays have

    @classmethod
    def of(cls, node: Node) -> Belongings:
        front = Path(f"/proc/{node.proxy.front}")
        memory = re.search(r"VmRSS:\s+(\d+)", (front / "status").read_text())
        assert memory is not None
        has = {
            "descriptors": _count(front / "fd"),
            "threads": _count(front / "task"),
            "MiB": int(memory[1]) >> 10,
        }
        relays = node.proxy.children("proxy.relay.process")
        descriptors = [_count(Path(f"/proc/{pid}/fd")) for pid in relays]
        return cls(has, descriptors, set().union(*map(sources_in, relays)))

    def grown(self, now: Belongings) -> list[str]:
        """What is more now than it was, and should not be."""
        found = [
            f"the front has {now.front[what]} {what}, {had} at first"
            for what, had in self.front.items()
            if now.front[what] > had + _GROWTH[what]
        ]
        if len(now.relays) != RELAYS or max(now.relays) > max(self.relays) + _PIPES:
            found.append(f"descriptors of relays: {now.relays}, {self.relays} at first")
        if now.clients:
            found.append(f"relays have connections with {now.clients}")
        return found


@dataclass(slots=True)
class Audit:
    """Of a house and its crowd."""

    house: House
    crowd: Crowd
    lines: int = 0
    asked: int = 0
    breaths: int = 0
    _visits: dict[tuple[str, str], list[Visit]] = field(default_factory=lambda: defaultdict(list))
    _seen: Counter[str] = field(default_factory=Counter)
    _living: dict[str, tuple[int, float]] = field(default_factory=dict)  # by connection id
    _ended: dict[str, Line] = field(default_factory=dict)
    _turned: Counter[tuple[int, str]] = field(default_factory=Counter)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await asyncio.gather(*(self._ask(node) for node in self.house.nodes))
            self.read()

    def read(self) -> None:
        """Judge all lines that were written meanwhile."""
        for name, host in self.house.farm.hosts.items():
            fresh = host.visits[self._seen[name] :]
            self._seen[name] += len(fresh)
            for visit in fresh:
                self._visits[str(host.address), str(visit.peer)].append(visit)
        for node in self.house.nodes:
            node.lines.read()
            placed, node.lines.placed = node.lines.placed, []
            ended, node.lines.ended = node.lines.ended, []
            for line in placed:
                self._placed(node, line)
            for line in ended:
                self._over(node, line)
            for event in _NOTICED_S:
                lines = node.lines.of[event]
                for line in lines[self._turned[node.number, event] :]:
                    self._host_failed(node, line)
                self._turned[node.number, event] = len(lines)

    async def _ask(self, node: Node) -> None:
        """The operator's socket and the health check answer at any time."""
        begin = time.time()
        try:
            status, answer = await node.ask("/v1/hosts")
            ready, _ = await node.proxy.get("/readyz")
            trouble = None if (status, ready) == (200, 200) else f"{status} {answer}, {ready}"
        except (OSError, ValueError, IndexError) as error:
            trouble = repr(error)
        self.asked += 1
        if trouble and not self.house.model.is_mute(node.number, begin, time.time()):
            self._accuse(f"node {node.number} does not answer: {trouble}")

    def _placed(self, node: Node, line: Line) -> None:
        self.lines += 1
        when = at(line)
        self._living[line["id"]] = node.number, when
        seen = self._visits[line["host_address"], line["proxy_address"]]
        if not any(self._is_true(line, visit) for visit in seen):
            self._accuse(f"node {node.number} says {line}, the host {seen}")
        cause = line.get("repin_cause")
        since = when - line["place_s"] - _SLACK_S
        if cause and not self.house.model.may_repin(cause, since, when):
            self._accuse(f"node {node.number}: nobody had to lose a pin: {line}")

    def _is_true(self, line: Line, visit: Visit) -> bool:
        """Whether a line tells of what a host saw."""
        named = read_token(visit.line).address if visit.line else None
        by_token = line["reason"] == "token"
        return (
            line["host"] == self.house.name_of(visit.host)
            and by_token == (named is not None)
            and (named is None or str(named) == line["host_address"])
            and line.get("token_fate") in (("honoured",) if by_token else (None, "absent"))
        )

    def _over(self, node: Node, line: Line) -> None:
        model, when = self.house.model, at(line)
        begin = when - line["duration_s"] - _SLACK_S
        if line["phase"] != "relay":
            if line["side"] != "client" and not model.is_troubled(begin, when):
                self._accuse(f"node {node.number}: {line}")
            return
        if line["id"] in self._ended:
            self._accuse(f"node {node.number}: ended twice: {self._ended[line['id']]}, {line}")
        self._ended[line["id"]] = line
        known = self._living.pop(line["id"], None)
        if known is None and not model.is_mute(node.number, begin, when):
            self._accuse(f"node {node.number}: it was never placed: {line}")
        if line["side"] == "local" and not model.is_troubled(when - _SLACK_S, when):
            self._accuse(f"node {node.number}: {line}")

    def _host_failed(self, node: Node, line: Line) -> None:
        names = {self.house.name_of(host): host for host in self.house.farm.hosts}
        host, when = names.get(line["host"]), at(line)
        model = self.house.model
        is_known = host is None or model.is_down(host, when)
        since = when - _NOTICED_S[line["event"]]
        if not is_known and not model.is_troubled(since, when, host=host):
            self._accuse(f"node {node.number}: {line}")

    async def breathe(self) -> None:
        """Let nobody come or go for a moment, and count."""
        await self.crowd.pause()
        wrong: list[str] = []

        async def is_so() -> bool:
            wrong[:] = [it for node in self.house.nodes for it in await self._counts(node)]
            return not wrong

        await self.house.until(is_so, "all counts are right", lambda: "; ".join(wrong))
        self.breaths += 1
        self.crowd.resume()

    async def _counts(self, node: Node) -> list[str]:
        """Where a node counts others than are there."""
        here = Counter(host for host, number in self.crowd.open.values() if number == node.number)
        rows, counted = await node.rows(), Counter[str]()
        names = {str(it.address): name for name, it in self.house.farm.hosts.items()}
        for row in rows:
            if row["connections"] or row["waiting"]:
                counted[names[row["address"]]] += row["connections"]
        _, shown = await node.ask("/v1/connections")
        clients = {Address.parse(row["client"]).host for row in shown["connections"]}
        there = {source for source, (_, number) in self.crowd.open.items() if number == node.number}
        metric, sent = node.proxy.metric, len(there)
        counts = {
            "hosts' connections": (counted, here),
            "clients": (clients, there),
            "total": (shown["total"], sent),
            "active": (await metric("connections_active"), sent),
            "of relays": (await metric("relay_connections"), sent),
            "held": (await metric("held_clients"), 0),
            "accepted": (
                await metric("connections_accepted_total"),
                await metric("connections_ended_total") + sent,
            ),
        }
        return [
            f"node {node.number}, {what}: {said}, really {really}"
            for what, (said, really) in counts.items()
            if said != really
        ]

    async def leftovers(self, node: Node, before: Belongings) -> None:
        """What is left when the last client has gone."""
        grown: list[str] = []

        async def is_clean() -> bool:
            grown[:] = before.grown(Belongings.of(node))
            return not grown

        await self.house.until(is_clean, f"node {node.number} is as before", lambda: str(grown))
        died = len(node.lines.of["process_ended"])
        if died != node.killed:
            self._accuse(f"node {node.number}: {died} processes died, {node.killed} were killed")

    async def stopped(self, node: Node) -> None:
        """What is left of a node that was stopped."""
        code = await node.proxy.stop()
        if code:
            self._accuse(f"node {node.number} ends with code {code}")
        left = {path.name for path in node.proxy.directory.iterdir()} - _FILES - _STATE
        if left:
            self._accuse(f"node {node.number} leaves {sorted(left)}")
        self.read()
        for conn_id, (number, when) in self._living.items():
            if number == node.number and when > node.crashed_at:
                self._accuse(f"node {number}: connection {conn_id} was placed, and never ended")

    def _accuse(self, what: str) -> None:
        self.house.model.accuse(what)


def _count(directory: Path) -> int:
    return len(list(directory.iterdir()))
