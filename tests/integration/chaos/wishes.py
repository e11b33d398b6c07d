"""What the operator says while everything runs: wills, weights, pins."""

from __future__ import annotations

import random
from urllib.parse import urlencode

from tests.integration.chaos.configuration import LISTED, NAMED, names_of
from tests.integration.chaos.house import WELL, House


def pick(house: House, chance: random.Random) -> str:
    """A host to which something may be done."""
    both = house.victims(LISTED), house.victims(NAMED)
    return chance.choice([*both[0], *both[1]])


async def say(house: House, chance: random.Random, what: str, **query: str) -> None:
    """Change something at one of the nodes."""
    node = chance.choice(house.nodes)
    status, answer = await node.ask(f"/v1/{what}?{urlencode(query)}", "PUT")
    if status != 200:
        house.model.accuse(f"node {node.number}, {what} {query}: {status} {answer}")


def _ready_for_a_word(house: House, host: str) -> bool:
    """An operator's word takes back an agent's, but for a front that starts later: no such word."""
    stand = house.stands[host]
    return stand.is_listed and stand.word == WELL


def _named(house: House, host: str) -> dict[str, str]:
    return {"host": house.name_of(host), "pool": house.pool_of(host)}


async def drain(house: House, chance: random.Random) -> str | None:
    host, pins = pick(house, chance), chance.choice(("keep", "live", "drop"))
    wish = house.wish_of(host)
    if not _ready_for_a_word(house, host) or wish.will == "maintenance":
        return None
    with house.touching(what := f"drain {host} --pins {pins}", host):
        wish.will, wish.pins = "drain", pins
        await say(house, chance, "hosts/will", **_named(house, host), will="drain", pins=pins)
        await house.settled()
    return what


async def clear(house: House, chance: random.Random) -> str | None:
    """Out with everybody: at the deadline of a drain, or at once."""
    host, by_deadline = pick(house, chance), chance.random() < 0.5
    if not _ready_for_a_word(house, host):
        return None
    if by_deadline:
        what = f"drain {host} --deadline 1s --close"
        query = {"will": "drain", "deadline": "1s", "close": "true"}
    else:
        what = f"maintenance {host} --close"
        query = {"will": "maintenance", "close": "true"}
    with house.touching(what, host, cuts=True):
        house.wish_of(host).will = "maintenance"
        house.tell_broker()
        await say(house, chance, "hosts/will", **_named(house, host), **query)
        await house.settled()

        async def is_empty() -> bool:
            name = house.name_of(host)
            rows = [row for node in house.nodes for row in await node.rows()]
            return not any(row["connections"] for row in rows if row["host"] == name)

        await house.until(is_empty, f"{host} is cleared")
    return what


async def maintenance(house: House, chance: random.Random) -> str | None:
    host = pick(house, chance)
    if not _ready_for_a_word(house, host):
        return None
    with house.touching(what := f"maintenance {host}", host):
        house.wish_of(host).will = "maintenance"
        house.tell_broker()
        await say(house, chance, "hosts/will", **_named(house, host), will="maintenance")
        await house.settled()
    return what


async def ready(house: House, chance: random.Random) -> str | None:
    """One that is not, if there is any."""
    waiting = [
        host
        for host in house.farm.hosts
        if _ready_for_a_word(house, host) and house.wish_of(host).will != "ready"
    ]
    if not waiting:
        return None
    host = chance.choice(waiting)
    await make_ready(house, chance, host)
    return f"ready {host}"


async def make_ready(house: House, chance: random.Random, host: str) -> None:
    with house.touching(f"ready {host}", host):
        house.wish_of(host).will = "ready"
        await say(house, chance, "hosts/will", **_named(house, host), will="ready")
        await house.settled()
        house.tell_broker()


async def restore(house: House, chance: random.Random, host: str) -> None:
    """Want nothing of a host any more."""
    if house.stands[host].is_listed and house.wish_of(host).will != "ready":
        await make_ready(house, chance, host)
    if house.stands[host].is_listed and house.wish_of(host).weight is not None:
        await set_weight(house, chance, host, "default")


async def weigh(house: House, chance: random.Random) -> str | None:
    host, weight = pick(house, chance), chance.choice(("0", "1", "50", "10000", "default"))
    if not house.stands[host].is_listed:
        return None
    await set_weight(house, chance, host, weight)
    return f"weight {host} {weight}"


async def set_weight(house: House, chance: random.Random, host: str, weight: str) -> None:
    with house.touching(f"weight {host} {weight}", host):
        house.wish_of(host).weight = None if weight == "default" else int(weight)
        await say(house, chance, "hosts/weight", **_named(house, host), weight=weight)
        await house.settled()


async def set_pin(house: House, chance: random.Random) -> str | None:
    """One visitor is sent to another host."""
    number, ttl = chance.randrange(1, 40, 3), chance.choice(("1h", "never"))  # not of NAMED
    listed = [it for it in names_of(house.farm.collections[LISTED]) if house.stands[it].is_listed]
    host, source = chance.choice(listed), f"127.50.0.{number + 1}"
    what = f"pins set {source} {host} --ttl {ttl}"
    query = _named(house, host) | {"client": source, "user": f"v{number}"}
    with house.model.during(house.model.begin(what, sources={source})):
        await clear_pins(house, chance, client=source)
        await say(house, chance, "pins", **query, ttl=ttl)
    return what


async def forget_pins(house: House, chance: random.Random) -> str | None:
    """Of one host, or of everybody in a collection."""
    host = pick(house, chance)
    if not house.stands[host].is_listed:
        return None
    if chance.random() < 0.5:
        query, hosts = _named(house, host), [host]
    else:
        alias = chance.choice((LISTED, NAMED))
        hosts = names_of(house.farm.collections[alias])
        query = {"pool": house.pool_of(hosts[0])}
    trouble = house.model.begin(what := f"pins clear {query}", hosts=hosts)
    with house.model.during(trouble):
        await clear_pins(house, chance, **query)
    return what


async def clear_pins(house: House, chance: random.Random, **query: str) -> None:
    node = chance.choice(house.nodes)
    status, answer = await node.ask(f"/v1/pins?{urlencode(query)}", "DELETE")
    if status != 200:
        house.model.accuse(f"node {node.number}, pins clear {query}: {status} {answer}")
