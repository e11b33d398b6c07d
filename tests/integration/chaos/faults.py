"""What goes wrong, or is replaced, while everything runs: processes, hosts, names, table."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.integration.chaos.configuration import LISTED, NAMED, RELAYS, names_of
from tests.integration.chaos.house import WELL, House, Node
from tests.integration.chaos.model import STRAYED
from tests.integration.chaos.wishes import pick
from tests.integration.upgrading import upgrade as command

_FRONT, _RELAY = "proxy.app", "proxy.relay.process"
_WORDS = ("up ready 50%", "up drain 100%", "up maint 100%", "down ready 100%")


async def kill_front(house: House, chance: random.Random) -> str:
    """Sessions go on; those who were in its hands are lost, and nobody else."""
    node = chance.choice(house.nodes)
    what = f"node {node.number}: the front is killed"
    mute = house.model.begin(what, nodes={node.number}, hosts=(), mutes=True)
    pid = node.proxy.front
    with house.begins_anew(what), house.model.during(mute):
        with house.model.during(house.model.begin(what, nodes={node.number})):
            _kill(node, pid)
            await _is_gone(house, node, pid)
        await _has_front(house, node)
        await house.settled()
    return what


async def kill_relay(house: House, chance: random.Random) -> str:
    """Its own sessions end, and no others."""
    node = chance.choice(house.nodes)
    what = f"node {node.number}: a relay is killed"
    pid = chance.choice(sorted(node.proxy.children(_RELAY)))
    with house.model.during(house.model.begin(what, nodes={node.number})):
        sources = sources_in(pid)
        cut = house.model.begin(what, sources=sources, nodes={node.number}, cuts=True)
        _kill(node, pid)  # between the two of them nobody can come or go
        await _is_gone(house, node, pid)
        await _has_relays(house, node)
        house.model.end(cut)
    await house.settled()
    return f"{what}, with {len(sources)} clients"


async def crash(house: House, chance: random.Random) -> str:
    """A node loses its power, and comes back."""
    node = chance.choice(house.nodes)
    what = f"node {node.number} crashes"
    trouble = house.model.begin(what, nodes={node.number}, cuts=True, mutes=True)
    with house.begins_anew(what):
        with house.model.during(trouble):
            node.crashed_at = time.time()
            await node.proxy.kill_all()
            await node.proxy.start()
        await house.settled()
    return what


async def upgrade(house: House, chance: random.Random) -> str:
    """Nobody notices."""
    node = chance.choice(house.nodes)
    with house.begins_anew(what := f"node {node.number} is upgraded"):
        code, said = await command(node.proxy)
        if code:
            house.model.accuse(f"node {node.number}, upgrade: {said}")
        await _has_relays(house, node)
        await house.settled()
    return what


async def shower(house: House, chance: random.Random) -> str:
    """SIGUSR2 again and again."""
    node = chance.choice(house.nodes)
    begun = len(node.lines.of["upgrading"])

    async def all_are_done() -> bool:
        upgrading, upgraded = node.lines.of["upgrading"], node.lines.of["upgraded"]
        return begun < len(upgrading) == len(upgraded)

    with house.begins_anew(what := f"node {node.number}: ten times SIGUSR2"):
        for _ in range(10):
            node.proxy.child.send_signal(signal.SIGUSR2)
            await asyncio.sleep(0.02)
        await house.until(all_are_done, "an upgrade is done")
        await _has_relays(house, node)
        await house.settled()
    return what


async def kill_host(house: House, chance: random.Random) -> str | None:
    host = pick(house, chance)
    if house.stands[host].away:
        return None
    with house.touching(what := f"{host} dies", host, cuts=True):
        house.stands[host].away = "killed"
        await house.farm.hosts[host].kill()
        await house.settled()
    return what


async def silence_host(house: House, chance: random.Random) -> str | None:
    """It takes new connections, and says nothing: its sessions go on."""
    host = pick(house, chance)
    pools = {pool["name"]: pool for pool in house.tree["pools"]}
    check = pools[house.pool_of(host)]["health"]["check"]
    if house.stands[host].away or check == "tcp":  # which would not notice
        return None
    with house.touching(what := f"{host} is silent", host):
        house.stands[host].away = "silent"
        house.farm.hosts[host].silence()
        await house.settled()
    return what


async def hosts_return(house: House, chance: random.Random) -> str | None:
    away = [host for host, stand in house.stands.items() if stand.away]
    if not away:
        return None
    host = chance.choice(away)
    await come_back(house, host)
    return f"{host} is back"


async def come_back(house: House, host: str) -> None:
    with house.touching(f"{host} is back", host):
        house.stands[host].away = ""
        await house.farm.hosts[host].start()
        house.tell_broker()
        await house.settled()


async def answers(house: House, chance: random.Random) -> str | None:
    """The DNS name has one host less, or one more."""
    named = names_of(house.farm.collections[NAMED])
    away = [host for host in named if not house.stands[host].is_listed]
    going = [it for it in house.victims(NAMED) if house.stands[it].is_listed]
    if away and (not going or chance.random() < 0.5):
        host = chance.choice(away)
    elif going and len(named) - len(away) > 1:
        host = chance.choice(going)
    else:
        return None
    await list_by_name(house, host, listed=not house.stands[host].is_listed)
    return f"the name server {'has' if house.stands[host].is_listed else 'no longer has'} {host}"


async def list_by_name(house: House, host: str, *, listed: bool) -> None:
    with house.touching(f"the name server's word on {host}", host):
        house.list_host(host, listed=listed)
        hosts = [it for it in house.farm.collections[NAMED] if house.stands[it.name].is_listed]
        house.names.says(*(it.address.host for it in hosts))
        await house.settled()
        house.tell_broker()


async def no_answers(house: House, chance: random.Random) -> str:
    """The name server is away for a while, which changes nothing."""
    await house.names.stop()
    await _names_are(house, 0)
    await house.settled()
    await house.names.start()
    await _names_are(house, 1)
    return "the name server is away, and back"


async def agent_word(house: House, chance: random.Random) -> str | None:
    host = chance.choice(house.victims(LISTED))
    if not house.stands[host].is_listed:
        return None
    is_well = house.stands[host].word == WELL
    word = chance.choice(_WORDS) if is_well else WELL
    await say_of(house, host, word)
    return f"the agent on {host}: {word}"


async def say_of(house: House, host: str, word: str) -> None:
    with house.touching(f"the agent on {host}: {word}", host):
        house.stands[host].word = word
        house.tell_broker()
        await house.settled()
        house.tell_broker()


async def no_table(house: House, chance: random.Random) -> str | None:
    """The shared table dies and comes back empty, or stands still for a while."""
    redis = house.redis
    if redis is None:
        return None
    dies = chance.random() < 0.5
    what = "Redis dies, and is back empty" if dies else "Redis stands still for a while"
    with house.model.during(house.model.begin(what, failures=STRAYED)):
        (redis.kill if dies else redis.freeze)()
        await _table_is(house, 0)
        await asyncio.sleep(chance.uniform(0.0, 2.0))
        (redis.start if dies else redis.thaw)()
        await _table_is(house, 1)
        await house.settled()
    return what


def sources_in(pid: int) -> set[str]:
    """Whose connections a process has: the addresses at the other ends of its sockets."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if found := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())):
                inodes.add(found[1])
    sources = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes:
            numbers = bytes.fromhex(fields[2].partition(":")[0])[::-1]
            sources.add(".".join(map(str, numbers)))
    return sources


def _kill(node: Node, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    node.killed += 1


async def _is_gone(house: House, node: Node, pid: int) -> None:
    async def is_gone() -> bool:
        return pid not in [*node.proxy.children(_FRONT), *node.proxy.children(_RELAY)]

    await house.until(is_gone, "a process that was killed is gone")


async def _has_front(house: House, node: Node) -> None:
    async def has_front() -> bool:
        return (await node.proxy.get("/readyz"))[0] == 200 and bool(await node.rows())

    await house.until(has_front, "there is a new front")


async def _has_relays(house: House, node: Node) -> None:
    async def has_relays() -> bool:
        return await node.proxy.metric("relay_up") >= RELAYS

    await house.until(has_relays, "all relays are there")


async def _names_are(house: House, up: int) -> None:
    async def are_so() -> bool:
        return all([await it.proxy.metric("dns_name_up") == up for it in house.nodes])

    await house.until(are_so, f"names are {'answered' if up else 'not answered'}")


async def _table_is(house: House, up: int) -> None:
    async def is_so() -> bool:
        return all([await it.proxy.metric("affinity_store_up") == up for it in house.nodes])

    await house.until(is_so, f"the table is {'there' if up else 'away'}")
