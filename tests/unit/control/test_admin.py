"""The operator's view over real sockets: what it shows, filters, and whom it turns away."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.address import Address
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import Pin, PinKey
from proxy.control.admin import AdminViews, admin_routes
from proxy.control.http import Answer, Handler, Request
from proxy.control.inventory import Inventory
from proxy.control.pins import PinDesk
from proxy.errors import Cause, StoreError
from proxy.routing.pool import Host, Pool
from proxy.routing.will import Will, Wish
from proxy.server.record import ConnectionRecord
from proxy.settings import AdminSettings, UnixPath
from tests.unit.control.farm import connection, farm, will_desk
from tests.unit.control.test_http import ask_json, serving

NOW = 2_000.0
TCP = AdminSettings(bind=Address("127.0.0.1", 0))


CALLS = [
    ("GET", "/v1/hosts"),
    ("GET", "/v1/connections"),
    ("GET", "/v1/certificates"),
    ("GET", "/v1/pins"),
    ("DELETE", "/v1/pins?user=nobody"),
    ("PUT", "/v1/hosts/will?host=rdsh01&will=drain"),
    ("PUT", "/v1/hosts/weight?host=rdsh01&weight=0"),
]


@asynccontextmanager
async def empty_table() -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(":memory:", max_pins=10, now=lambda: NOW)
    yield store
    await store.close()


@dataclass
class _Health:
    since_s: float = 12.0004
    failures: int = 3
    cause: Cause | None = Cause.REFUSED
    detail: str | None = "no connection: Connection refused"
    checked_s: float | None = 0.5
    answered_s: float | None = None


def basic(user_and_password: str) -> str:
    return "Basic " + base64.b64encode(user_and_password.encode()).decode()


async def empty_page(_: Request) -> Answer:
    return Answer(b"")


class Proxy:
    """What an app would show."""

    def __init__(self) -> None:
        self.pools = {pool.name: Pool(pool) for pool in farm().pools}
        self.hosts: list[Host] = [host for pool in self.pools.values() for host in pool.hosts]
        self.connections: list[ConnectionRecord] = []
        self.store: Any = None

    def views(self) -> AdminViews:
        return AdminViews(
            health=lambda host: _Health() if host.name == "rdsh02" else None,
            hosts=lambda: self.hosts,
            connections=lambda: self.connections,
            pins=PinDesk(self.store, dict, lambda _: [], lambda _: {}, lambda: NOW),
            wills=will_desk(self.store, self.pools, lambda: NOW),
            wall=lambda: NOW,
            more=Inventory(map(Pool, farm().pools), lambda: NOW).routes(),
        )

    def routes(
        self, settings: AdminSettings = TCP, pages: Mapping[str, Handler] | None = None
    ) -> Any:
        return admin_routes(self.views(), settings, pages)

    async def ask(self, path: str) -> Any:
        """The JSON of a call that goes well."""
        async with serving(self.routes()) as endpoint:
            status, answer = await ask_json(endpoint, path)
            assert status == 200, answer
            return answer


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


async def test_clients_have_their_turn_while_thousands_of_hosts_are_told(proxy: Proxy) -> None:
    proxy.hosts *= 1000
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others_run = asyncio.ensure_future(others())
    rows = [row async for row in proxy.views().host_rows({})]
    others_run.cancel()
    assert len(rows) == 4000
    assert turns > 3


async def test_hosts_are_shown_with_health_will_and_load(proxy: Proxy) -> None:
    proxy.hosts[1].up, proxy.hosts[1].live = False, 4
    proxy.hosts[1].wish = Wish(Will.DRAIN, since=NOW - 60, deadline=NOW - 10, weight=7)
    hosts = (await proxy.ask("/v1/hosts"))["hosts"]
    assert [host["host"] for host in hosts] == ["rdsh01", "rdsh02", "tool01", "tool02"]
    assert hosts[1] == {
        "pool": "desktops",
        "host": "rdsh02",
        "address": "10.0.0.22:3389",
        "configured": True,
        "adopted": False,
        "up": False,
        "since_s": 12.0,
        "failures": 3,
        "cause": "refused",
        "detail": "no connection: Connection refused",
        "checked_s_ago": 0.5,
        "answered_client_s_ago": None,
        "will": "drain",
        "no_new_clients": "drain",
        "in_force": "drain",
        "will_since_s": 60.0,
        "pins": "keep",
        "deadline_s": -10.0,
        "close": False,
        "weight": 7,
        "configured_weight": 100,
        "backup": False,
        "share": 7.0,
        "connections": 4,
        "max_connections": None,
        "waiting": 0,
        "agent": None,
        "in_use": True,
        "short_lived": False,
    }
    assert hosts[0]["since_s"] is None, "health does not know it"
    hosts = (await proxy.ask("/v1/hosts?pool=tools&host=tool02"))["hosts"]
    assert [host["host"] for host in hosts] == ["tool02"]


async def test_connections_are_shown_with_what_an_operator_asks_for(proxy: Proxy) -> None:
    proxy.connections = [connection()]
    answer = await proxy.ask("/v1/connections")
    assert answer["total"] == 1
    assert answer["connections"][0] == {
        "id": "0000000000000007",
        "listener": "rdp",
        "client": "203.0.113.7:50123",
        "user": "Alice",
        "pool": "desktops",
        "host": "rdsh01",
        "host_address": "10.0.0.21:3389",
        "proxy_address": "10.0.0.1:40404",
        "reason": "token",
        "token_fate": "honoured",
        "token": "Cookie: msts=352321546.15629.0000",
        "correlation_id": "00112233445566778899aabbccddeeff",
        "answer": "hybrid",
        "relay": 1,
        "bytes_up": 100,
        "bytes_down": 5000,
        "duration_s": 1000.0,
    }


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", [1, 2, 3]),
        ("client=203.0.113.7", [1, 2]),
        ("client=2001:db8::1", [3]),
        ("client=2001:DB8:0::1", [3]),
        ("client=bob", [2, 3]),
        ("client=BOB%20", [2, 3]),
        ("client=nobody", []),
        ("host=rdsh02", [2]),
        ("pool=tools", [3]),
        ("client=bob&pool=desktops", [2]),
        ("limit=2", [1, 2]),
        ("limit=0", []),
    ],
)
async def test_connections_are_filtered(proxy: Proxy, query: str, ids: list[int]) -> None:
    proxy.connections = [
        connection(id=1),
        connection(id=2, user="bob", host="rdsh02"),
        connection(id=3, user="Bob", client=Address("2001:db8::1", 9), pool="tools", host="tool01"),
    ]
    answer = await proxy.ask(f"/v1/connections?{query}")
    assert [int(found["id"], 16) for found in answer["connections"]] == ids
    assert answer["total"] == (3 if query.startswith("limit") else len(ids))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/pins?limit=many", "limit is a whole number, not 'many'"),
        ("/v1/pins?limit=-1", "limit is a whole number"),
        ("/v1/connections?clinet=x", "unknown parameter 'clinet'; there are: client, host"),
        ("/v1/hosts?name=x", "unknown parameter 'name'; there are: host, pool"),
    ],
)
async def test_a_parameter_that_means_nothing_is_told(proxy: Proxy, path: str, words: str) -> None:
    async with serving(proxy.routes()) as endpoint:
        status, answer = await ask_json(endpoint, path)
    assert status == 400
    assert words in answer["error"]


class AwayStore:
    """A table that does not answer."""

    def scan(self, _: str | None) -> AsyncIterator[tuple[PinKey, Pin]]:
        raise StoreError("away")


async def test_a_store_that_is_away_is_told(proxy: Proxy) -> None:
    proxy.store = AwayStore()
    async with serving(proxy.routes()) as endpoint:
        status, answer = await ask_json(endpoint, "/v1/pins")
    assert status == 503
    assert "does not answer" in answer["error"]


async def test_every_call_needs_the_bearer_token_where_there_is_one(
    proxy: Proxy, tmp_path: Path
) -> None:
    file = tmp_path / "bearer"
    file.write_text(" geheim-ü \n", "utf-8")
    settings = AdminSettings(bind=Address("127.0.0.1", 0), bearer_file=str(file))
    async with empty_table() as proxy.store, serving(proxy.routes(settings)) as endpoint:
        for method, path in CALLS:
            for wrong in (None, "", "geheim", "geheim-ü2"):
                status, answer = await ask_json(endpoint, path, wrong, method)
                assert (status, answer) == (401, {"error": "a bearer token is needed"})
            assert (await ask_json(endpoint, path, "geheim-ü", method))[0] == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (basic("operator:geheim"), 200),
        (basic(":geheim"), 200),
        ("Bearer geheim", 200),
        (basic("geheim:"), 401),
        (basic("operator:falsch"), 401),
        ("Basic !", 401),
        ("Basic geheim", 401),
        (None, 401),
    ],
)
async def test_a_page_takes_the_token_as_a_password(
    proxy: Proxy, tmp_path: Path, authorization: str | None, status: int
) -> None:
    file = tmp_path / "bearer"
    file.write_text("geheim")
    settings = AdminSettings(bind=Address("127.0.0.1", 0), bearer_file=str(file))
    routes = proxy.routes(settings, {"/": empty_page})
    answer = await routes["/"](Request(authorization=authorization))
    assert answer.status == status
    if status == 401:
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    if str(authorization).startswith("Basic"):
        assert (await routes["/v1/hosts"](Request(authorization=authorization))).status == 401


async def test_a_unix_socket_is_guarded_by_its_permissions(proxy: Proxy, tmp_path: Path) -> None:
    bind = UnixPath(str(tmp_path / "admin.sock"))
    settings = AdminSettings(bind=bind, bearer_file="/nonexistent")
    async with empty_table() as proxy.store, serving(proxy.routes(settings), bind) as endpoint:
        for method, path in CALLS:
            assert (await ask_json(endpoint, path, None, method))[0] == 200


async def test_without_a_bearer_file_an_address_is_read_only(proxy: Proxy) -> None:
    async with empty_table() as proxy.store, serving(proxy.routes()) as endpoint:
        for method, path in CALLS:
            status, answer = await ask_json(endpoint, path, "guess", method)
            assert status == (200 if method == "GET" else 403)
            if method != "GET":
                assert "admin.bearer_file" in answer["error"]


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_bearer_file_lets_nobody_in(proxy: Proxy, tmp_path: Path, content: str) -> None:
    file = tmp_path / "bearer"
    file.write_text(content)
    settings = AdminSettings(bind=Address("127.0.0.1", 0), bearer_file=str(file))
    with pytest.raises(OSError, match="is empty"):
        proxy.routes(settings)


def test_a_bearer_file_that_is_missing_is_told(proxy: Proxy) -> None:
    settings = AdminSettings(bind=Address("127.0.0.1", 0), bearer_file="/nonexistent/bearer")
    with pytest.raises(OSError, match="/nonexistent/bearer"):
        proxy.routes(settings)
