"""The configuration that chaos begins with, as a tree that operations change.

`{node}` in it is the number of a node and `{state}` its directory: so one tree is all nodes' file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.session_host import SessionHost
from tests.servers.ports import free_port

Tree = dict[str, Any]

LISTED, NAMED = "Full_Desktop", "Accounting"  # hosts by address in the file; by DNS name
SIZES = {LISTED: 4, NAMED: 3}
SPARE = "spare"  # a pool that comes and goes; nobody is there
RELAYS = 2


def first_tree(farm: Farm, name_server: Address, agents: int, redis: str | None) -> Tree:
    """Two pools behind one listener.

    Args:
        agents: the port of agents on the hosts that are listed.
        redis: the URL of the table; None for a file of one node.
    """
    # Down and up at the first check that says so; a busy machine makes hosts late, not dead.
    health: Tree = {"check": "x224", "interval": "1s", "timeout": "10s", "rise": 1, "fall": 1}
    listed = [{"name": it.name, "address": str(it.address)} for it in farm.collections[LISTED]]
    port = farm.collections[NAMED][0].address.port
    affinity = {"store": "sqlite", "path": "{state}/affinity.db"}
    return {
        "listeners": [
            {
                "name": "rdp",
                "bind": f"127.0.1.{{node}}:{free_port()}",
                "pool": "full_desktop",
                "collections": {LISTED: "full_desktop", NAMED: "accounting"},
            }
        ],
        "pools": [
            {
                "name": "full_desktop",
                "hosts": listed,
                "health": health | {"agent": {"port": agents}},
            },
            {
                "name": "accounting",
                "hosts": [{"name": "acc", "address": f"farm.example:{port}"}],
                "health": health,
            },
        ],
        "dns": {"servers": [str(name_server)]},
        "affinity": {"store": "redis", "url": redis} if redis else affinity,
        "admin": {"bind": "unix:{state}/admin.sock"},
        "metrics": {"bind": f"127.0.2.{{node}}:{free_port()}"},
        "relay": {"processes": RELAYS},
        "timeouts": {"no_host": "30s", "stop": "1s"},
        "limits": {"connections": 1000},
    }


def text_for(number: int, state: Path, tree: Tree) -> str:
    """The file of one node."""
    text = json.dumps(tree, indent=1)
    return text.replace("{node}", str(number)).replace("{state}", str(state))


def names_of(hosts: Iterable[SessionHost]) -> list[str]:
    return [host.name for host in hosts]
