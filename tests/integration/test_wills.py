"""What operators want of hosts is exact: whoever says it, wherever, and however many at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from proxy.lab.farm import Farm
from tests.integration.running import RunningProxy, running, two_nodes
from tests.servers.redis import RedisServer

TRIES = 40


async def ask(node: RunningProxy, method: str, path: str, **query: object) -> list[dict[str, Any]]:
    """The hosts in an answer of the admin endpoint that goes well."""
    reader, writer = await asyncio.open_unix_connection(str(node.directory / "admin.sock"))
    asked = f"/v1/{path}?{urlencode(query)}"
    writer.write(f"{method} {asked} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert head.split()[1] == b"200", body
    rows: list[dict[str, Any]] = json.loads(body)["hosts"]
    return rows


async def all_is_kept(one: RunningProxy, two: RunningProxy, host: str) -> None:
    """A will said at one node, a weight at the other, in the same instant, again and again."""
    for number in range(TRIES):
        will = ("drain", "ready")[number % 2]
        await asyncio.gather(
            ask(one, "PUT", "hosts/will", host=host, will=will),
            ask(two, "PUT", "hosts/weight", host=host, weight=number),
        )
        # Each change begins with what the table has: this one shows it, and alters nothing.
        (row,) = await ask(one, "PUT", "hosts/will", host=host, will=will)
        assert (row["will"], row["weight"]) == (will, number)

    async def both_know() -> bool:
        rows = [(await ask(node, "GET", "hosts"))[0] for node in (one, two)]
        return {(row["will"], row["weight"]) for row in rows} == {(will, number)}

    await one.until(both_know)


@pytest.mark.usefixtures("patient_nodes")
async def test_of_changes_at_two_nodes_in_one_instant_none_is_lost(
    tmp_path: Path, server: RedisServer
) -> None:
    async with (
        Farm.start(hosts=1, redirect="none") as farm,
        two_nodes(farm, tmp_path, server) as (a, b),
    ):
        await all_is_kept(a, b, *farm.hosts)


async def test_of_changes_at_one_node_in_one_instant_none_is_lost(tmp_path: Path) -> None:
    async with Farm.start(hosts=1, redirect="none") as farm, running(farm, tmp_path) as node:
        await all_is_kept(node, node, *farm.hosts)
