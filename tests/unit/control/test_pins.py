"""The operator's hand on the pins, over a real socket and a real table."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import NEVER, PinKey
from proxy.control import pins
from proxy.control.admin import AdminViews, admin_routes
from proxy.control.inventory import Inventory
from proxy.control.pins import PinDesk
from proxy.routing.pool import Pool
from proxy.server.record import ConnectionRecord
from proxy.settings import AdminSettings, PoolAffinity, UnixPath
from tests.unit.control.farm import connection, farm, will_desk
from tests.unit.control.test_http import ask_json, serving

NOW = 2_000.0
DAY_S = 86400.0
ALICE = "203.0.113.7"
BY_SOURCE = PinKey("desktops", f"source:{ALICE}")
OWN = PinKey("desktops", f"source:{ALICE} user:alice")


class Desk:
    """A desk at a table, its pools and its live connections."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.pools = {pool.name: Pool(pool) for pool in farm().pools}
        self.live: dict[PinKey, list[ConnectionRecord]] = {}
        self.inventory = Inventory(self.pools.values(), lambda: NOW)
        self.endpoint = ""
        self.wished = asyncio.Event()  # something else is wanted of a host
        self.wills = will_desk(store, self.pools, lambda: NOW, self.wished.set)

    def files_by(self, **affinity: Any) -> None:
        """Give the pool `desktops` another affinity."""
        changed = {"affinity": PoolAffinity.model_validate(affinity)}
        settings = self.pools["desktops"].settings.model_copy(update=changed)
        self.pools["desktops"] = Pool(settings)

    def views(self) -> AdminViews:
        desk = PinDesk(
            self.store,
            lambda: self.pools,
            lambda key: self.live.get(key, []),
            lambda user: {"user_hash": user[::-1]} if user else {},  # as a log that hides names
            lambda: NOW,
        )
        return AdminViews(
            health=lambda _: None,
            hosts=lambda: [host for pool in self.pools.values() for host in pool.hosts],
            connections=lambda: [connection(user="[bold]alice", host_address=None)],
            pins=desk,
            wills=self.wills,
            wall=lambda: NOW,
            more=self.inventory.routes(),
        )

    async def ask(self, method: str, path: str = "", status: int = 200, **query: Any) -> Any:
        asked = f"/v1/pins{path}?{urlencode(query)}"
        told, answer = await ask_json(self.endpoint, asked, None, method)
        assert told == status, answer
        return answer

    async def host_of(self, key: PinKey) -> str | None:
        pin = await self.store.get(key)
        return pin.host if pin else None

    async def fill(self, pins: dict[PinKey, str], ttl_s: float = 600) -> None:
        for key, host in pins.items():
            await self.store.assign(key, host, ttl_s=ttl_s)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(UnixPath(str(tmp_path / "admin.sock"))) as desk:
        yield desk


@asynccontextmanager
async def opened(bind: UnixPath) -> AsyncIterator[Desk]:
    """A desk that is served at a socket."""
    desk = Desk(await SqliteStore.open(":memory:", max_pins=1000, now=lambda: NOW))
    routes = admin_routes(desk.views(), AdminSettings(bind=bind))
    async with serving(routes, bind) as desk.endpoint:
        yield desk
    await desk.store.close()


LIST = [
    PinKey("desktops", "source:203.0.113.7"),
    PinKey("desktops", "source:2001:db8::/64"),
    PinKey("desktops", "source:203.0.113.7 user:bob"),
    PinKey("tools", "user:bob"),
    PinKey("tools", "token:0123456789abcdef"),
    PinKey("desktops", "shared:203.0.113.7"),
]
HOSTS = ["rdsh01", "rdsh02", "rdsh02", "tool01", "tool01", "-"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, {0, 1, 2, 3}),
        ({"pool": "tools"}, {3}),
        ({"host": "rdsh02"}, {1, 2}),
        ({"client": "203.0.113.7"}, {0, 2}),
        ({"client": "2001:db8::77"}, {1}),
        ({"client": "2001:db9::77"}, set()),
        ({"user": " BOB"}, {2, 3}),
        ({"user": "bob", "client": "203.0.113.7"}, {2}),
        ({"user": "bob", "host": "tool01"}, {3}),
    ],
)
async def test_what_is_listed_is_what_is_cleared(
    desk: Desk, query: dict[str, Any], found: set[int]
) -> None:
    await desk.fill(dict(zip(LIST, HOSTS, strict=True)))
    answer = await desk.ask("GET", **query)
    assert {pin["key"] for pin in answer["pins"]} == {LIST[index].key for index in found}
    assert answer["more"] is False
    if query:
        assert (await desk.ask("DELETE", **query))["cleared"] == len(found)
        left = {key for key in LIST if await desk.host_of(key)}
        assert left == {key for index, key in enumerate(LIST) if index not in found}


async def test_a_list_ends_at_its_limit_and_says_so(desk: Desk) -> None:
    await desk.fill(dict(zip(LIST, HOSTS, strict=True)))
    answer = await desk.ask("GET", limit="3")
    assert (len(answer["pins"]), answer["more"]) == (3, True)
    assert (await desk.ask("GET", limit="4"))["more"] is False


async def test_pins_are_listed_with_their_age_and_never_is_null(desk: Desk) -> None:
    await desk.fill({BY_SOURCE: "rdsh01"})
    await desk.fill({OWN: "rdsh02"}, NEVER)
    mortal, fixed = sorted((await desk.ask("GET"))["pins"], key=lambda pin: str(pin["key"]))
    assert mortal == {
        "pool": "desktops",
        "key": "source:203.0.113.7",
        "host": "rdsh01",
        "expires_in_s": 600.0,
        "touched_s_ago": 0.0,
    }
    assert fixed["expires_in_s"] is None


async def test_clearing_wants_to_know_what(desk: Desk) -> None:
    answer = await desk.ask("DELETE", status=400)
    assert "a client, a user, a host or a pool is wanted" in answer["error"]


async def test_a_whole_pool_is_cleared_in_batches(desk: Desk) -> None:
    await desk.fill({PinKey("desktops", f"user:{number}"): "rdsh01" for number in range(150)})
    assert (await desk.ask("DELETE", pool="desktops"))["cleared"] == 150
    assert [pin async for pin in desk.store.scan()] == []


async def test_whoever_clears_is_told_who_will_write_the_pins_again(desk: Desk) -> None:
    await desk.fill({BY_SOURCE: "rdsh01", OWN: "rdsh01"})
    desk.live = {BY_SOURCE: [connection(id=1), connection(id=2)], OWN: [connection(id=1)]}
    answer = await desk.ask("DELETE", client=ALICE)
    assert answer == {"cleared": 2, "connections": 2, "more": False}


async def test_a_long_clearing_pauses_and_is_asked_for_the_rest(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "_CLEARING_S", 0.0)
    await desk.fill({PinKey("desktops", f"user:{number}"): "rdsh01" for number in range(100)})
    cleared = [0]
    while (answer := await desk.ask("DELETE", pool="desktops"))["more"]:
        cleared.append(answer["cleared"])
    assert sum(cleared) + answer["cleared"] == 100
    assert len(cleared) > 2


async def test_a_client_is_set_under_the_pools_own_key_for_the_pools_own_time(desk: Desk) -> None:
    answer = await desk.ask("PUT", client=ALICE, host="rdsh02")
    (pin,) = answer["pins"]
    assert (pin["key"], pin["host"], pin["expires_in_s"]) == (BY_SOURCE.key, "rdsh02", 3 * DAY_S)
    assert await desk.host_of(BY_SOURCE) == "rdsh02"


async def test_a_network_that_counts_as_one_client_is_set_whole(desk: Desk) -> None:
    await desk.ask("PUT", client="2001:db8::77", host="rdsh02", ttl="90m")
    pin = await desk.store.get(PinKey("desktops", "source:2001:db8::/64"))
    assert pin is not None
    assert (pin.host, pin.expires_at) == ("rdsh02", NOW + 5400)


async def test_setting_a_client_takes_the_users_seen_there_along(desk: Desk) -> None:
    elsewhere = PinKey("desktops", "source:203.0.113.8 user:alice")
    await desk.fill({BY_SOURCE: "rdsh01", OWN: "rdsh01", elsewhere: "rdsh01"})
    answer = await desk.ask("PUT", client=ALICE, host="rdsh02")
    assert [pin["key"] for pin in answer["pins"]] == [BY_SOURCE.key, OWN.key]
    assert await desk.host_of(OWN) == "rdsh02"
    assert await desk.host_of(elsewhere) == "rdsh01"


async def test_setting_a_user_at_an_address_decides_his_own_entry_first(desk: Desk) -> None:
    answer = await desk.ask("PUT", client=ALICE, user="Alice", host="rdsh02", ttl="never")
    assert [(pin["key"], pin["expires_in_s"]) for pin in answer["pins"]] == [
        (OWN.key, None),
        (BY_SOURCE.key, 3 * DAY_S),
    ]


async def test_a_user_is_set_by_name_where_the_pool_files_by_user(desk: Desk) -> None:
    answer = await desk.ask("PUT", user="Bob", host="tool02", ttl="never")
    assert [pin["key"] for pin in answer["pins"]] == ["user:bob"]
    pin = await desk.store.get(PinKey("tools", "user:bob"))
    assert pin is not None
    assert (pin.host, pin.expires_at) == ("tool02", NEVER)


async def test_a_pin_without_expiry_gives_way_to_another_decision_only(desk: Desk) -> None:
    await desk.ask("PUT", user="bob", host="tool01", ttl="never")
    answer = await desk.ask("PUT", status=409, user="bob", host="tool02", ttl="7d")
    assert "pinned to tool01 without expiry" in answer["error"]
    await desk.ask("PUT", user="bob", host="tool02", ttl="never")
    assert await desk.host_of(PinKey("tools", "user:bob")) == "tool02"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"client": ALICE}, "the host to pin to is wanted"),
        ({"host": "rdsh01"}, "a client or a user is wanted"),
        ({"client": "alice", "host": "rdsh01"}, "client is an IP address, not 'alice'"),
        ({"client": ALICE, "host": "rdsh09"}, "no host 'rdsh09' in any pool"),
        ({"client": ALICE, "host": "rdsh01", "pool": "tools"}, "no host 'rdsh01' in pool 'tools'"),
        ({"client": ALICE, "host": "rdsh01", "pool": "x"}, "no pool 'x'; there are: desktops"),
        ({"user": "alice", "host": "rdsh01"}, "files pins by source: name the client's address"),
        ({"client": ALICE, "host": "rdsh01", "ttl": "soon"}, "ttl: a time such as 250ms"),
        ({"client": ALICE, "host": "rdsh01", "ttl": "5s"}, "at least 60 s"),
        ({"client": ALICE, "host": "rdsh01", "for": "1h"}, "unknown parameter 'for'"),
    ],
)
async def test_what_cannot_be_set_is_told(desk: Desk, query: dict[str, str], words: str) -> None:
    answer = await desk.ask("PUT", status=400, **query)
    assert words in answer["error"]
    assert await desk.store.size() == 0


async def test_a_host_of_two_pools_wants_the_pools_name(desk: Desk) -> None:
    desk.pools["more"] = Pool(desk.pools["desktops"].settings.model_copy(update={"name": "more"}))
    answer = await desk.ask("PUT", status=400, client=ALICE, host="rdsh01")
    assert "name one of desktops, more" in answer["error"]
    await desk.ask("PUT", client=ALICE, host="rdsh01", pool="more")
    assert await desk.host_of(PinKey("more", BY_SOURCE.key)) == "rdsh01"


async def test_who_is_not_pinned_cannot_be_set_and_show_says_why(desk: Desk) -> None:
    for affinity, words in (
        ({"key": "none"}, "pins nobody"),
        ({"shared_sources": ["203.0.113.0/24"]}, "name the user too"),
    ):
        desk.files_by(**affinity)
        answer = await desk.ask("PUT", status=400, client=ALICE, host="rdsh01")
        assert words in answer["error"]
        (shown,) = (await desk.ask("GET", "/show", client=ALICE, pool="desktops"))["pools"]
        assert words in shown["note"]
        assert shown["pins"] == []


async def test_show_tells_every_entry_and_its_connections_and_where_none_is(desk: Desk) -> None:
    await desk.fill({OWN: "rdsh02"})
    desk.live = {OWN: [connection(id=1, host="rdsh02")], BY_SOURCE: [connection(id=1)]}
    shown = (await desk.ask("GET", "/show", client=ALICE, user="alice", pool="desktops"))["pools"]
    live = {"id": "0000000000000001", "client": "203.0.113.7:50123"}
    assert shown == [
        {
            "pool": "desktops",
            "filed_by": "source",
            "note": None,
            "pins": [
                {
                    "pool": "desktops",
                    "key": OWN.key,
                    "host": "rdsh02",
                    "expires_in_s": 600.0,
                    "touched_s_ago": 0.0,
                    "connections": [live | {"host": "rdsh02"}],
                },
                {
                    "pool": "desktops",
                    "key": BY_SOURCE.key,
                    "host": None,
                    "connections": [live | {"host": "rdsh01"}],
                },
            ],
        }
    ]


async def test_show_finds_a_user_wherever_he_is_filed(desk: Desk) -> None:
    await desk.fill({OWN: "rdsh02", PinKey("tools", "user:alice"): "tool01"})
    pools = (await desk.ask("GET", "/show", user="alice"))["pools"]
    assert [pin["key"] for pool in pools for pin in pool["pins"]] == [OWN.key, "user:alice"]


async def test_show_wants_to_know_whom(desk: Desk) -> None:
    answer = await desk.ask("GET", "/show", status=400)
    assert answer["error"] == "a client or a user is wanted"


async def test_every_change_is_a_line_in_the_log_that_names_users_as_it_may(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "proxy.control.pins"):
        await desk.ask("PUT", user="irene", host="tool01", ttl="never")
        await desk.ask("DELETE", client=ALICE, pool="desktops")
    first, second = (vars(record) for record in caplog.records)
    assert (first["msg"], first["pool"], first["host"]) == ("pin_set", "tools", "tool01")
    assert (first["user_hash"], first["ttl_s"]) == ("eneri", None)
    assert "user" not in first
    assert (second["msg"], second["client"], second["count"]) == ("pins_cleared", ALICE, 0)
