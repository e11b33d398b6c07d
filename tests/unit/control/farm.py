"""A small farm and a connection to it, as the tests of `proxy.control` need them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxy import config
from proxy.address import Address
from proxy.affinity.wills_file import KnownWills, WillsFile
from proxy.control.wills import WillDesk
from proxy.routing.model import Reason, TokenFate
from proxy.routing.pool import Pool
from proxy.server.record import ConnectionRecord, Phase
from proxy.server.table import ConnectionTable
from proxy.server.wills import WillKeeper
from proxy.settings import Settings

FARM = """
listeners:
  - name: rdp
    bind: 127.0.0.1:0
    pool: desktops
    collections: {Tools: tools}
  - name: second
    bind: 127.0.0.2:0
    pool: tools
    allow: [192.0.2.0/24]
    require_tls: true
    proxy_protocol: {trusted: [192.0.2.7/32]}
pools:
  - name: desktops
    hosts:
      - {name: rdsh01, address: 10.0.0.21:3389}
      - {name: rdsh02, address: 10.0.0.22:3389}
  - name: tools
    affinity: {key: user}
    balance: hash
    hosts:
      - {name: tool01, address: 10.0.1.1:3389}
      - {name: tool02, address: 10.0.1.2:3389}
"""


class NoFile(WillsFile):
    """Remembers nothing."""

    async def keep(self, known: KnownWills) -> None:
        pass


def will_desk(
    store: Any,
    pools: dict[str, Pool],
    wall: Callable[[], float],
    on_wish: Callable[[], None] = lambda: None,
) -> WillDesk:
    """A desk that changes what is wanted of the hosts in `pools`."""
    nobody: Any = None
    table = ConnectionTable(nobody, nobody, nobody, wall)

    def hear(*_: object) -> None:
        on_wish()

    keeper = WillKeeper(store, NoFile(Path()), "node", pools, table, nobody, nobody, hear, wall)
    return WillDesk(keeper, lambda: pools, wall)


def farm() -> Settings:
    return config.loads(FARM)


def connection(**changes: Any) -> ConnectionRecord:
    """An established connection of alice to rdsh01, with what a test wants otherwise."""
    fields: dict[str, Any] = {
        "id": 7,
        "listener": "rdp",
        "peer": Address("203.0.113.7", 50123),
        "client": Address("203.0.113.7", 50123),
        "accepted_at": 1_000.0,
        "phase": Phase.RELAY,
        "user": "Alice",
        "token": "Cookie: msts=352321546.15629.0000",
        "token_address": Address("10.0.0.21", 3389),
        "requested_protocols": 3,
        "correlation_id": "00112233445566778899aabbccddeeff",
        "pool": "desktops",
        "host": "rdsh01",
        "host_address": Address("10.0.0.21", 3389),
        "proxy_address": Address("10.0.0.1", 40404),
        "key": "source:203.0.113.7",
        "reason": Reason.TOKEN,
        "fate": TokenFate.HONOURED,
        "attempts": 1,
        "answer": "hybrid",
        "request_s": 0.001,
        "place_s": 0.004,
        "connect_s": 0.0005,
        "answer_s": 0.003,
        "relay": 1,
        "bytes_up": 100,
        "bytes_down": 5000,
    }
    return ConnectionRecord(**(fields | changes))
