"""The status page: whole without a script, true, and deaf to what clients write into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.address import Address
from proxy.control.canary import Door, Verdict, Way
from proxy.control.certificates import Certificate
from proxy.control.http import Answer, Readiness, Request
from proxy.control.page import PageViews, page_routes
from proxy.control.query import QueryError
from proxy.routing.routes import Routes
from proxy.settings import ListenerSettings
from tests.unit.control.health_world import pool_of

ROUTES = Routes(
    ListenerSettings(name="rdp", bind=Address("127.0.0.1", 0), pool="p"), {"p": pool_of("10.0.0.1")}
)
WAY = Way(Door("rdp", Address("127.0.0.1", 3389), ROUTES), ROUTES.default, Address("10.0.0.1", 1))
HOSTILE = "<script>alert('&')</script>"
HOST = {
    "pool": "desktops",
    "host": "rdsh01",
    "address": "10.0.0.21:3389",
    "up": True,
    "cause": None,
    "since_s": 7200.0,
    "will": "ready",
    "in_force": "ready",
    "agent": None,
    "deadline_s": None,
    "weight": 100,
    "share": 100.0,
    "connections": 3,
    "max_connections": None,
    "waiting": 0,
    "certificate": None,
    "canary": None,
    "short_lived": False,
}
CONNECTION = {
    "client": "203.0.113.7:50123",
    "user": HOSTILE,
    "pool": "desktops",
    "host": "rdsh01",
    "reason": "pin",
    "token_fate": "opaque",
    "token": HOSTILE,
    "answer": None,
    "bytes_up": 812,
    "bytes_down": 3_000_000_000_000,
    "duration_s": 90.0,
}
EVENT = {"time": "2026-11-26T12:00:00.000Z", "level": "warning", "event": "host_down", "host": "a"}


class House:
    def __init__(self) -> None:
        self.ready: dict[str, Any] = {"stopping": False, "store_up": True}
        self.hosts: list[Mapping[str, Any]] = [HOST]
        self.connections: list[Mapping[str, Any]] = [CONNECTION]
        self.total = 1
        self.asked: Mapping[str, str] = {}
        self.counters: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        self.events: list[Mapping[str, Any]] = [EVENT]
        views = PageViews(
            "node1",
            lambda: Readiness(listening=True, relays_attached=1, hosts={}, **self.ready),
            self._hosts,
            self._find,
            lambda name: self.counters.get(name, []),
            lambda: self.events,
            lambda: {"connections": 7},
            lambda: 1_800_000_000.0,
        )
        self.routes = page_routes(views)

    async def _hosts(self) -> list[Mapping[str, Any]]:
        return self.hosts

    async def _find(self, query: Mapping[str, str]) -> Mapping[str, Any]:
        self.asked = query
        return {"connections": self.connections, "total": self.total}

    async def answer(self, **query: str) -> Answer:
        return await self.routes["/"](Request(query))

    async def text(self, **query: str) -> str:
        """What a reader sees: without marks, blanks as one."""
        page = (await self.answer(**query)).body.decode()
        return " ".join(re.sub(r"<[^>]+>", " ", page.partition("<body>")[2]).split())


@pytest.fixture
def house() -> House:
    return House()


async def test_a_browser_may_load_nothing_from_elsewhere_and_run_nothing(house: House) -> None:
    answer = await house.answer()
    assert answer.content_type == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
    page = answer.body.decode()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//|style=""", page)


async def test_what_clients_write_is_shown_as_they_wrote_it_and_is_no_mark(house: House) -> None:
    page = (await house.answer()).body.decode()
    assert page.count("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;") == 2


async def test_hosts_are_shown_with_what_is_wrong(house: House) -> None:
    house.hosts = [
        HOST,
        HOST
        | {
            "host": "rdsh02",
            "up": False,
            "cause": "refused",
            "since_s": 42.0,
            "will": "drain",
            "in_force": "drain",
            "short_lived": True,
            "certificate": Certificate("ab", "cd", subject="CN=farm", not_after=1_800_000_000.0),
            "canary": Verdict("another host answers", WAY, 0.0),
        },
        HOST
        | {
            "host": "rdsh03",
            "since_s": None,
            "certificate": Certificate("ab", "cd"),
            "canary": Verdict(None, None, 0.0),
        },
    ]
    places = {"share": 5.2, "max_connections": 4, "waiting": 2}
    house.hosts.append(HOST | {"host": "rdsh05", "deadline_s": 7200.0} | places)
    said = {"up": False, "in_force": "maintenance", "agent": {"down": True}}
    house.hosts.append(HOST | {"host": "rdsh04"} | said)
    labels = {"pool": "desktops", "host": "rdsh02"}
    house.counters["suspected_certificate_mismatch_total"] = [(labels, 2.0)]
    text = await house.text()
    assert "rdsh01 10.0.0.21:3389 up 2.0 h ready 100 3 desktops" in text
    assert "rdsh02 10.0.0.21:3389 down (refused) 42 s drain 100 3 CN=farm, until 2027-01-15" in text
    assert "another host answers 2 suspected certificate mismatches nobody stays" in text
    assert "ready, 2.0 h left 100, now 5 3 of 4, 2 waiting" in text
    assert "rdsh03 10.0.0.21:3389 up ready 100 3 no subject, until ? works" in text
    assert "down (says its agent) 2.0 h maintenance, says its agent 100" in text


async def test_counters_are_summed_without_zeros_largest_first(house: House) -> None:
    house.counters["tokens_total"] = [
        ({"listener": "a", "fate": "absent"}, 1.0),
        ({"listener": "a", "fate": "honoured"}, 3.0),
        ({"listener": "b", "fate": "honoured"}, 4.0),
        ({"listener": "b", "fate": "opaque"}, 0.0),
    ]
    house.counters["collections_total"] = [({"listener": "a", "alias": "other"}, 5.0)]
    text = await house.text()
    assert "What became of tokens honoured 7 absent 1 How" in text
    assert "Nobody was placed yet." in text
    assert "Collections asked for a / other 5" in text


async def test_connections_are_found_by_what_is_asked(house: House) -> None:
    house.total = 5000
    text = await house.text(client="alice", host="", refresh="off")
    assert house.asked == {"client": "alice", "limit": "100"}
    assert "Connections, filtered: 5000" in text
    assert "1 of them are shown." in text
    assert "812 B 3.0 TB 90 s" in text
    with pytest.raises(QueryError):
        await house.answer(nonsense="x")


async def test_it_asks_for_itself_anew_unless_it_is_told_not_to(house: House) -> None:
    assert b'http-equiv="refresh"' in (await house.answer()).body
    assert b'http-equiv="refresh"' not in (await house.answer(refresh="off")).body


async def test_a_node_that_is_not_ready_says_why(house: House) -> None:
    house.ready = {"stopping": True, "store_up": False}
    house.events = []
    text = await house.text()
    assert "not ready: stopping affinity table does not answer" in text
    assert "Nothing yet." in text


async def test_long_times_are_days_and_minutes(house: House) -> None:
    house.connections = [CONNECTION | {"duration_s": s} for s in (600.0, 400_000.0)]
    text = await house.text()
    assert "10 min" in text
    assert "5 d" in text


async def test_its_dress_and_no_icon_come_from_the_same_place(house: House) -> None:
    style = await house.routes["/page.css"](Request())
    assert style.content_type == "text/css; charset=utf-8"
    assert b"url(" not in style.body
    assert b"@import" not in style.body
    assert (await house.routes["/favicon.ico"](Request())).status == 204
