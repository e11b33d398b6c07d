"""Files that are put in the place of the configuration while everything runs, good and bad."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from proxy.address import Address
from tests.integration.chaos.configuration import LISTED, NAMED, SPARE, Tree, names_of, text_for
from tests.integration.chaos.house import House, Node
from tests.integration.chaos.model import STRAYED
from tests.servers.ports import free_port


async def weights(house: House, chance: random.Random) -> str:
    tree = copy.deepcopy(house.tree)
    for entry in chance.sample(hosts := _listed(tree), chance.randint(1, len(hosts))):
        entry["weight"] = chance.randint(1, 10_000)
    await house.reload(tree)
    return "weights"


async def come_or_go(house: House, chance: random.Random) -> str | None:
    """A listed host is taken out of the file, or put back."""
    away = [it for it in names_of(house.farm.collections[LISTED]) if not house.stands[it].is_listed]
    if away and chance.random() < 0.5:
        return await come(house, chance.choice(away))
    tree = copy.deepcopy(house.tree)
    going = [it for it in house.victims(LISTED) if house.stands[it].is_listed]
    if not going or len(_listed(tree)) == 1:
        return None
    host = chance.choice(going)
    _listed(tree)[:] = [it for it in _listed(tree) if it["name"] != host]
    with house.touching(what := f"{host} is taken out of the file", host):
        house.list_host(host, listed=False)
        await house.reload(tree)
    return what


async def come(house: House, host: str) -> str:
    tree = copy.deepcopy(house.tree)
    entry = next(it for it in _listed(house.base) if it["name"] == host)
    _listed(tree).append(copy.deepcopy(entry))
    with house.touching(what := f"{host} is put into the file", host):
        house.list_host(host, listed=True)
        await house.reload(tree)
        house.tell_broker()
    return what


async def policies(house: House, chance: random.Random) -> str:
    tree = copy.deepcopy(house.tree)
    for pool in tree["pools"]:
        pool["balance"] = chance.choice(("least_connections", "hash", "round_robin"))
        pool["slow_start"] = chance.choice(("off", "5s"))
        pool["token"] = {"wait": chance.choice(("5s", "20s"))}
    for entry in _listed(tree):
        entry["max_connections"] = chance.choice(("off", 500))
    await house.reload(tree)
    return f"policies {[pool['balance'] for pool in tree['pools']]}"


async def limits(house: House, chance: random.Random) -> str:
    tree = copy.deepcopy(house.tree)
    tree["limits"] = {
        "connections": chance.randint(500, 2000),
        "connections_per_source": chance.choice(("off", 50)),
        "new_connections_per_source": chance.choice(("off", "100/s")),
    }
    tree["timeouts"] |= {
        "idle": chance.choice(("off", "1h")),
        "keepalive": chance.choice(("30s", "60s")),
        "half_close": chance.choice(("10s", "30s")),
    }
    tree["log"] = {"level": chance.choice(("info", "debug"))}
    await house.reload(tree)
    return "limits, timeouts, log level"


async def keys(house: House, chance: random.Random) -> str:
    """What makes a client: whoever is between two connections may lose his pin."""
    tree = copy.deepcopy(house.tree)
    for pool in tree["pools"]:
        key = chance.choice(("source", "source_and_user"))
        pool["affinity"] = {"key": key, "ttl": chance.choice(("1h", "72h"))}
    told = [pool["affinity"]["key"] for pool in tree["pools"]]
    trouble = house.model.begin(what := f"affinity keys {told}", failures=STRAYED)
    with house.model.during(trouble):
        await house.reload(tree)
    return what


async def checks(house: House, chance: random.Random) -> str:
    tree = copy.deepcopy(house.tree)
    silent = any(stand.away == "silent" for stand in house.stands.values())
    for pool in tree["pools"][:2]:
        pool["health"] |= {
            "check": chance.choice(("x224", "tls") if silent else ("tcp", "x224", "tls")),
            "interval": chance.choice(("500ms", "1s", "2s")),
        }
    tree["canary"] = {"interval": chance.choice(("off", "1s", "5s"))}
    tree["listeners"][0]["route_by"] = chance.choice(("token", "destination"))
    await house.reload(tree)
    told = [pool["health"]["check"] for pool in tree["pools"][:2]]
    return f"checks {told}, canary {tree['canary']['interval']}"


async def rename(house: House, chance: random.Random) -> str:
    """A pool and the listener have other names: pins of that pool are lost."""
    tree = copy.deepcopy(house.tree)
    pool, listener = tree["pools"][1], tree["listeners"][0]
    pool["name"] = "accounts" if pool["name"] == "accounting" else "accounting"
    for door in tree["listeners"]:
        door["collections"][NAMED] = pool["name"]
    listener["name"] = chance.choice(("rdp", "front", "main"))
    hosts = names_of(house.farm.collections[NAMED])
    what = f"pool {pool['name']}, listener {listener['name']}"
    with house.touching(what, *hosts):
        house.tree = tree
        house.tell_broker()
        await house.reload(tree)
        house.tell_broker()
    return what


async def spare(house: House, chance: random.Random) -> str:
    """A pool that nobody needs comes, or goes."""
    tree = copy.deepcopy(house.tree)
    if len(tree["pools"]) > 2:
        del tree["pools"][2]
        del tree["listeners"][0]["collections"]["Spare"]
        what = "the spare pool goes"
    else:
        tree["pools"].append({"name": SPARE, "hosts": [{"name": "s1", "address": "127.0.9.9:9"}]})
        tree["listeners"][0]["collections"]["Spare"] = SPARE
        what = "a spare pool comes"
    await house.reload(tree)
    return what


async def doors(house: House, chance: random.Random) -> str:
    """A second listener comes, moves or goes; who came by it stays."""
    tree = copy.deepcopy(house.tree)
    old = tree["listeners"][1]["bind"] if len(tree["listeners"]) > 1 else None
    if old is None or chance.random() < 0.5:
        new = f"127.0.3.{{node}}:{free_port()}"
        tree["listeners"][1:] = [tree["listeners"][0] | {"name": "second", "bind": new}]
    else:
        new, tree["listeners"][1:] = None, []
    async with AsyncExitStack() as stack:
        sessions = []
        for node in house.nodes if old else ():
            entered = _door(house, node, str(old)).session()
            result, session = await stack.enter_async_context(entered)
            if session is None:
                house.model.accuse(f"by the second listener: {result.words()}")
            else:
                sessions.append(session)
        await house.reload(tree)
        for session in sessions:
            if await session.echo(b"still there?") != b"still there?":
                house.model.accuse("a session that came by the second listener")
    for node in house.nodes:
        if new is not None:
            result = await _door(house, node, new).login()
            if result.failure is not None:
                house.model.accuse(f"by the new listener: {result.words()}")
        if old is not None and not await _refuses(_at(node, old)):
            house.model.accuse(f"{old} still accepts clients")
    return f"the second listener: {old} -> {new}"


async def bad_files(house: House, chance: random.Random) -> str:
    """One that cannot be used, of each kind at some time."""
    name = chance.choice(list(_WRONG))
    before = [await node.rows() for node in house.nodes]
    await house.refuse(lambda node: _WRONG[name](json.loads(_text(house, node)), node))
    for node, rows in zip(house.nodes, before, strict=True):
        now = {(it["pool"], it["host"]) for it in await node.rows() if it["configured"]}
        if now != {(it["pool"], it["host"]) for it in rows if it["configured"]}:
            house.model.accuse(f"a file with {name} has changed something")
    return f"a file with {name}"


async def storm(house: House, chance: random.Random) -> str:
    """SIGHUP after SIGHUP, with another file each time."""
    for _ in range(count := chance.randint(10, 40)):
        tree = copy.deepcopy(house.tree)
        _listed(tree)[0]["weight"] = chance.randint(1, 1000)
        for node in house.nodes:
            house.put(node, text_for(node.number, node.proxy.directory, tree))
            for _ in range(chance.randint(0, 3)):
                node.proxy.child.send_signal(signal.SIGHUP)
    for node in house.nodes:
        await _is_quiet(house, node)
    await house.reload(house.tree)
    return f"a storm of {count} SIGHUPs"


async def _is_quiet(house: House, node: Node) -> None:
    """Whether the last file of all is in force: no reload comes any more."""
    wanted = json.loads(node.proxy.file.read_text())["pools"][0]["hosts"][0]

    async def has_it() -> bool:
        rows = [it for it in await node.rows() if it["host"] == wanted["name"]]
        return any(it["configured_weight"] == wanted["weight"] for it in rows)

    await house.until(has_it, "the last file of a storm is in force")


def _listed(tree: Tree) -> list[Tree]:
    hosts: list[Tree] = tree["pools"][0]["hosts"]
    return hosts


def _text(house: House, node: Node) -> str:
    return text_for(node.number, node.proxy.directory, house.tree)


def _at(node: Node, bind: str) -> Address:
    return Address.parse(bind.replace("{node}", str(node.number)))


def _door(house: House, node: Node, bind: str) -> Any:
    source = f"127.52.0.{node.number}"
    return house.farm.client(_at(node, bind), "door", source=source, timeout_s=60.0)


async def _refuses(address: Address) -> bool:
    try:
        _, writer = await asyncio.open_connection(*address)
    except OSError:
        return True
    writer.close()
    return False


def _changed(tree: Tree, **sections: Any) -> str:
    return json.dumps(tree | sections)


def _taken(tree: Tree, node: Node) -> str:
    """One address is free, the other is the node's own for metrics."""
    more = [
        tree["listeners"][0] | {"name": name, "bind": bind}
        for name, bind in (("free", f"127.0.4.1:{free_port()}"), ("x", tree["metrics"]["bind"]))
    ]
    return _changed(tree, listeners=[*tree["listeners"], *more])


_WRONG: dict[str, Callable[[Tree, Node], str]] = {
    "half of its text": lambda tree, _: json.dumps(tree)[: len(json.dumps(tree)) // 2],
    "no pools": lambda tree, _: _changed(tree, pools=[]),
    "nothing": lambda tree, _: "",
    "an unknown key": lambda tree, _: _changed(tree, what="else"),
    "a pool twice": lambda tree, _: _changed(tree, pools=[*tree["pools"], tree["pools"][0]]),
    "an unknown pool": lambda tree, _: json.dumps(tree).replace(
        '"pool": "full_desktop"', '"pool": "nowhere"'
    ),
    "an address that is taken": _taken,
}
