"""AgentMonitor: asks the agents on session hosts how they are, and keeps `Host.agent`.

A pool has them where `health.agent` says so. A visit is a TCP connection and one line (see
`routing.agent`), as often as the pool's health checks are. An agent that does not answer changes
nothing, as HAProxy has it: whether the host lives is for health checks to say. What an agent has
said counts until it says something else, until the operator makes the host ready, or until it is
asked no more: the configuration has no agent there, or the host is at another address.

Work is bounded: at most MAX_IN_FLIGHT visits at once, each under the pool's `health.timeout`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy import sockets
from proxy.address import Address
from proxy.control.exposition import Sample
from proxy.errors import Cause
from proxy.routing.agent import LINE_MAX_BYTES, AgentWord
from proxy.routing.pool import Host, Pool
from proxy.routing.will import Will

log = logging.getLogger(__name__)

TICK_S = 0.5
MAX_IN_FLIGHT = 128
_SPREAD_S = 2.0  # over which the first visits are spread
_JITTER = 0.1

OnWord = Callable[[Host, bool], None]
"""Told of a host whose agent wants or says something else now, and whether it took new clients
before."""


class Visit(NamedTuple):
    """Whom to ask, where, and how often."""

    host: Host
    agent: Address
    timeout_s: float
    interval_s: float


@dataclass(slots=True)
class AgentMonitor:
    """Keeps `Host.agent` for the hosts of `pools`.

    Attributes:
        on_word: quick, and never raises.
        rng: spreads the visits.
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    pools: Mapping[str, Pool]
    on_word: OnWord
    rng: random.Random
    clock: Callable[[], float]
    wall: Callable[[], float]
    _at: dict[Host, Visit] = field(default_factory=dict)
    _due: dict[Host, float] = field(default_factory=dict)
    _answers: dict[Host, bool] = field(default_factory=dict)
    _in_flight: set[Host] = field(default_factory=set)

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as visits:
            while True:
                for visit in self.begin():
                    visits.create_task(self._ask(visit))
                await asyncio.sleep(TICK_S)

    def begin(self) -> list[Visit]:
        """The visits that are due; each counts as in flight until `finish`."""
        now, due, at = self.clock(), dict[Host, float](), dict[Host, Visit]()
        for visit in self._with_agents():
            host, spread_s = visit.host, min(_SPREAD_S, visit.interval_s)
            at[host] = visit
            if host in self._at and self._at[host].agent != visit.agent:
                self._forget(host)
            due[host] = self._due.get(host, now + spread_s * self.rng.random())
        for host in self._at.keys() - at.keys():
            self._forget(host)
        self._due, self._at = due, at
        waiting = [host for host in due if due[host] <= now and host not in self._in_flight]
        waiting.sort(key=due.__getitem__)  # where agents are silent, all have their turn still
        begun = [at[host] for host in waiting[: MAX_IN_FLIGHT - len(self._in_flight)]]
        for visit in begun:
            rest_s = visit.interval_s * self.rng.uniform(1 - _JITTER, 1 + _JITTER)
            due[visit.host] = now + rest_s
            self._in_flight.add(visit.host)
        return begun

    def finish(self, host: Host, line: bytes | None) -> None:
        """Take what an agent said; None where it did not answer."""
        self._in_flight.discard(host)
        answered = line is not None
        was_heard, self._answers[host] = self._answers.get(host, True), answered
        if line is None:
            if was_heard:
                log.warning("agent_silent", extra=self._fields(host))
            return
        try:
            said = host.agent.and_now(line, self.wall())
        except ValueError as error:
            self._answers[host] = False
            if was_heard:
                extra = self._fields(host) | {"detail": str(error)}
                log.warning("agent_not_understood", extra=extra)
            return
        before, took = host.agent, host.takes
        host.agent = said
        has_turned = (said.will, said.down) != (before.will, before.down)
        if has_turned:
            log.warning("agent_said", extra=self._fields(host))
        if has_turned or host.takes is not took:  # a share of 0 % keeps everybody new away, too
            self.on_word(host, took)

    def samples(self, host: Host) -> Iterator[Sample]:
        """Whether the agent of a host answers, and what it wants."""
        if host not in self._answers:
            return
        labels = (host.pool, host.name)
        yield Sample("host_agent_up", labels, self._answers[host])
        yield Sample("host_agent_percent", labels, host.agent.percent)
        for will in Will:
            yield Sample("host_agent_will", (*labels, will), will is host.agent.will)

    async def _ask(self, visit: Visit) -> None:
        try:
            line = await ask_agent(visit.agent, visit.timeout_s)
        except OSError:  # descriptors or ports are wanting here: that says nothing of the agent
            return
        finally:
            self._in_flight.discard(visit.host)
        asked = self._at.get(visit.host)
        if asked is not None and asked.agent == visit.agent:
            self.finish(visit.host, line)

    def _with_agents(self) -> Iterator[Visit]:
        for pool in self.pools.values():
            health = pool.settings.health
            if health.agent is not None:
                for host in pool.hosts:
                    agent = Address(host.address.host, health.agent.port)
                    yield Visit(host, agent, health.timeout_s, health.interval_s)

    def _forget(self, host: Host) -> None:
        """Nobody asks this agent any more, so what it has said counts no more."""
        self._answers.pop(host, None)
        self._due.pop(host, None)
        if host.agent != AgentWord():
            took, host.agent = host.takes, AgentWord()
            self.on_word(host, took)

    def _fields(self, host: Host) -> dict[str, object]:
        said = host.agent
        fields = {"pool": host.pool, "host": host.name, "will": said.will, "down": said.down}
        return fields | {"detail": said.detail or None}


async def ask_agent(address: Address, timeout_s: float) -> bytes | None:
    """The line that the agent at `address` says; None where none comes in time.

    Raises:
        OSError: for a want of our own.
    """
    until = asyncio.get_running_loop().time() + timeout_s
    heard = bytearray()
    try:
        sock = await sockets.connect(address, until)
        with sock:
            while len(heard) < LINE_MAX_BYTES and b"\r" not in heard and b"\n" not in heard:
                piece = await sockets.receive(sock, LINE_MAX_BYTES - len(heard), until)
                if not piece:
                    break
                heard += piece
    except OSError as error:
        if sockets.cause_of(error) is Cause.INTERNAL:
            raise
        return None
    return bytes(heard) or None
