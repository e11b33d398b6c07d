"""The operator's hand on the hosts, over a real socket and a real table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from proxy.address import Address
from proxy.routing.agent import AgentWord
from proxy.routing.will import Pins, Will, Wish
from proxy.settings import UnixPath
from tests.unit.control.test_http import ask_json
from tests.unit.control.test_pins import NOW, Desk, opened


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(UnixPath(str(tmp_path / "admin.sock"))) as desk:
        yield desk


async def put(desk: Desk, what: str, status: int = 200, **query: Any) -> Any:
    told, answer = await ask_json(
        desk.endpoint, f"/v1/hosts/{what}?{urlencode(query)}", None, "PUT"
    )
    assert told == status, answer
    return answer


def wish(desk: Desk, host: str = "rdsh01") -> Wish:
    return desk.pools["desktops"].by_name[host].wish


async def test_a_host_is_drained(desk: Desk) -> None:
    desk.pools["desktops"].by_name["rdsh01"].live = 3
    asked: dict[str, Any] = {"pins": "live", "deadline": "8h", "close": "true"}
    (row,) = (await put(desk, "will", host="rdsh01", will="drain", **asked))["hosts"]
    assert row == {
        "pool": "desktops",
        "host": "rdsh01",
        "address": "10.0.0.21:3389",
        "will": "drain",
        "no_new_clients": "drain",
        "in_force": "drain",
        "will_since_s": 0.0,
        "pins": "live",
        "deadline_s": 28800.0,
        "close": True,
        "weight": 100,
        "configured_weight": 100,
        "share": 100.0,
        "connections": 3,
        "max_connections": None,
        "backup": False,
        "waiting": 0,
        "agent": None,
        "in_use": True,
    }
    assert wish(desk) == Wish(Will.DRAIN, Pins.LIVE, NOW, NOW + 28800, close=True)
    assert wish(desk, "rdsh02") == Wish()


async def test_it_is_told_why_a_host_gets_no_new_clients(desk: Desk) -> None:
    pool = desk.pools["desktops"]
    first, second = pool.hosts

    def told() -> list[object]:
        return [desk.wills.row(host)["no_new_clients"] for host in pool.hosts]

    assert told() == [None, None]
    first.up, second.wish = False, Wish(weight=0)
    assert told() == ["down", "weight 0"]
    first.up, second.wish = True, Wish()
    first.settings = first.settings.model_copy(update={"max_connections": 1})
    second.settings = second.settings.model_copy(update={"backup": True})
    assert told() == [None, "backup"]
    first.live = 1
    assert told() == ["full", None]
    first.agent, second.leaving = AgentWord(Will.MAINTENANCE, since=1.0), True
    pool.take_in(pool.guest(Address("10.0.0.9", 3389)), 0.0)
    pool.hosts[2].adopted, pool.hosts[2].leaving = True, False
    assert told() == ["maintenance", "leaves", "adopted"]


async def test_a_scrape_tells_since_when_and_until_when(desk: Desk) -> None:
    hosts = [host for pool in desk.pools.values() for host in pool.hosts]
    samples = {sample[::2] for host in hosts for sample in desk.wills.samples(host)}
    assert samples == {("host_waiting_clients", 0.0)}
    desk.pools["tools"].by_name["tool01"].waiting = 2
    await put(desk, "will", host="rdsh01", will="drain", deadline="1h")
    await put(desk, "will", host="rdsh02", will="maintenance", close="true")
    told = [sample for host in hosts for sample in desk.wills.samples(host) if sample.value]
    assert told == [
        ("host_will_since_timestamp_seconds", ("desktops", "rdsh01"), NOW),
        ("host_drain_deadline_timestamp_seconds", ("desktops", "rdsh01"), NOW + 3600),
        ("host_will_since_timestamp_seconds", ("desktops", "rdsh02"), NOW),
        ("host_waiting_clients", ("tools", "tool01"), 2),
    ]


async def test_maintenance_closes_at_once_where_that_is_asked(desk: Desk) -> None:
    await put(desk, "will", host="rdsh01", will="maintenance")
    assert not wish(desk).closes_by(NOW)
    (row,) = (await put(desk, "will", host="rdsh01", will="maintenance", close="true"))["hosts"]
    assert wish(desk).closes_by(NOW)
    assert (row["will"], row["deadline_s"], row["pins"]) == ("maintenance", None, None)


async def test_a_drain_that_is_said_again_keeps_its_conditions(desk: Desk) -> None:
    await put(desk, "will", host="rdsh01", will="drain", pins="drop", deadline="1h")
    before = wish(desk)
    desk.wills.keeper.wall = lambda: NOW + 60
    await put(desk, "will", host="rdsh01", will="drain")
    assert wish(desk) == before
    await put(desk, "will", host="rdsh01", will="drain", close="true")
    assert wish(desk) == replace(before, close=True)
    await put(desk, "will", host="rdsh01", will="maintenance")
    assert (wish(desk).close, wish(desk).deadline) == (False, None)


async def test_a_weight_stays_whatever_the_will(desk: Desk) -> None:
    await put(desk, "weight", host="rdsh01", weight=7)
    await put(desk, "will", host="rdsh01", will="drain")
    (row,) = (await put(desk, "will", host="rdsh01", will="ready"))["hosts"]
    assert (row["will"], row["weight"], row["in_use"]) == ("ready", 7, False)
    (row,) = (await put(desk, "weight", host="rdsh01", weight="default"))["hosts"]
    assert row["weight"] == 100


async def test_a_name_means_the_machine_in_all_pools(desk: Desk) -> None:
    desk.pools["copies"] = desk.pools["desktops"]
    rows = (await put(desk, "will", host="rdsh01", will="drain"))["hosts"]
    assert len(rows) == 2
    rows = (await put(desk, "will", host="rdsh01", will="ready", pool="desktops"))["hosts"]
    assert len(rows) == 1


async def test_a_dns_name_means_all_of_its_addresses(desk: Desk) -> None:
    found = {"tool02.example": ["10.0.1.2", "10.0.1.3"]}
    pool = desk.pools["tools"]
    named = pool.settings.hosts[1].model_copy(update={"address": Address("tool02.example", 3389)})
    hosts = (pool.settings.hosts[0], named)
    pool.change(pool.settings.model_copy(update={"hosts": hosts}), found)
    rows = (await put(desk, "will", host="tool02", will="drain"))["hosts"]
    assert [row["host"] for row in rows] == ["tool02[10.0.1.2]", "tool02[10.0.1.3]"]
    rows = (await put(desk, "will", host="tool02[10.0.1.3]", will="ready"))["hosts"]
    assert [host.will for host in pool.hosts] == [Will.READY, Will.DRAIN, Will.READY]


@pytest.mark.parametrize(
    ("what", "query", "words"),
    [
        ("will", {"host": "rdsh01", "will": "sleep"}, "will is one of ready, drain, maintenance"),
        ("will", {"host": "rdsh01"}, "not None"),
        ("will", {"will": "drain"}, "the host is wanted"),
        ("will", {"host": "x", "will": "drain"}, "there is no host 'x' in any pool"),
        ("will", {"host": "x", "will": "drain", "pool": "tools"}, "in pool 'tools'"),
        ("will", {"host": "x", "will": "drain", "pool": "y"}, "no pool 'y'; there are: desktops"),
        ("will", {"host": "rdsh01", "will": "drain", "pins": "x"}, "one of keep, live, drop"),
        ("will", {"host": "rdsh01", "will": "ready", "pins": "keep"}, "pins is for will=drain"),
        ("will", {"host": "rdsh01", "will": "ready", "deadline": "8h"}, "is for will=drain"),
        ("will", {"host": "rdsh01", "will": "drain", "deadline": "8"}, "its unit is missing"),
        ("will", {"host": "rdsh01", "will": "drain", "close": "true"}, "close needs a deadline"),
        ("will", {"host": "rdsh01", "will": "drain", "when": "now"}, "unknown parameter 'when'"),
        ("weight", {"host": "rdsh01", "weight": "10001"}, "from 0 to 10000, or default"),
        ("weight", {"host": "rdsh01", "weight": "-1"}, "not '-1'"),
        ("weight", {"host": "rdsh01"}, "not None"),
    ],
)
async def test_what_makes_no_sense_is_told_and_changes_nothing(
    desk: Desk, what: str, query: dict[str, str], words: str
) -> None:
    answer = await put(desk, what, 400, **query)
    assert words in answer["error"]
    assert wish(desk) == Wish()
