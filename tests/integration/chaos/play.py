"""Plays operations one after the other, in rounds: in each of them every one once, in any order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.integration.chaos import faults, reloads, wishes
from tests.integration.chaos.audit import Audit, Belongings
from tests.integration.chaos.crowd import Crowd
from tests.integration.chaos.house import WELL, House, HungError, open_house

Operation = Callable[[House, random.Random], Awaitable[str | None]]

QUICK: Sequence[Operation] = (
    wishes.drain,
    wishes.clear,
    wishes.maintenance,
    wishes.ready,
    wishes.weigh,
    wishes.set_pin,
    wishes.forget_pins,
    reloads.weights,
    reloads.come_or_go,
    reloads.policies,
    reloads.limits,
    reloads.keys,
    reloads.checks,
    reloads.rename,
    reloads.spare,
    reloads.doors,
    reloads.bad_files,
    reloads.storm,
    faults.kill_front,
    faults.kill_relay,
    faults.upgrade,
    faults.kill_host,
    faults.hosts_return,
    faults.answers,
    faults.agent_word,
    faults.no_table,
)
SLOW: Sequence[Operation] = (
    faults.crash,
    faults.shower,
    faults.silence_host,
    faults.no_answers,
)
_PACE_S = (0.1, 1.0)  # from one to the next
_BREATH_EVERY = 9  # operations


@dataclass(frozen=True, slots=True)
class Play:
    """What is played.

    Attributes:
        seconds: no round begins later; 0 is one round.
        operations: those of a round.
    """

    seed: int
    seconds: float
    nodes: int = 1
    rate: float = 8.0
    residents: int = 20
    operations: Sequence[Operation] = (*QUICK, *SLOW)


async def play(what: Play, directory: Path) -> tuple[House, Crowd, Audit]:
    """Play it; what came of it."""
    async with open_house(directory, what.nodes, what.seed) as house:
        crowd = Crowd(house, random.Random(what.seed), what.rate, what.residents)
        audit = Audit(house, crowd)
        try:
            await house.settled()
            before = [Belongings.of(node) for node in house.nodes]
            async with asyncio.TaskGroup() as tasks:
                coming = tasks.create_task(crowd.run())
                watching = tasks.create_task(audit.watch())
                try:
                    await _rounds(what, house, audit)
                    await _restore(house)
                    await audit.breathe()
                except HungError:
                    pass
                crowd.over.set()
                crowd.resume()
                await coming
                await audit.breathe()
                watching.cancel()
            for node, had in zip(house.nodes, before, strict=True):
                await audit.leftovers(node, had)
                await audit.stopped(node)
        except HungError:
            pass
    return house, crowd, audit


async def _rounds(what: Play, house: House, audit: Audit) -> None:
    chance = random.Random(what.seed)
    until = time.monotonic() + what.seconds
    while True:
        for operation in chance.sample(what.operations, len(what.operations)):
            begin = time.time()
            house.model.done.append(f"{operation.__name__} …")
            told = await operation(house, chance)
            if told is None:
                house.model.done.pop()
                continue
            at, took_s = begin - house.model.began, time.time() - begin
            house.model.done[-1] = f"{at:6.1f} s  {told}  ({took_s:.1f} s)"
            await asyncio.sleep(chance.uniform(*_PACE_S))
            if len(house.model.done) % _BREATH_EVERY == 0:
                await audit.breathe()
            if house.model.violations:
                return
        if time.monotonic() >= until:
            return


async def _restore(house: House) -> None:
    """All is as it was at first."""
    chance = random.Random(0)
    for host, stand in house.stands.items():
        if stand.away:
            await faults.come_back(house, host)
        if stand.word != WELL:
            await faults.say_of(house, host, WELL)
    hosts = list(house.farm.hosts)
    with house.touching("all is as at first", *hosts):
        for host in hosts:
            house.list_host(host, listed=True)
        house.names.says(*(house.farm.hosts[it].address.host for it in hosts if house.is_named(it)))
        await house.reload(house.base)
        house.tell_broker()
    for host in hosts:
        await wishes.restore(house, chance, host)
