"""What is peculiar to the store on Redis. What all stores do is in test_stores."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from redis.asyncio.connection import Connection

from proxy.affinity import redis
from proxy.affinity.redis import RedisStore, key_of, name_of
from proxy.affinity.store import Pin, PinKey, StoreEvent, Touch, ignore_event
from proxy.errors import StoreError
from tests.patience import PATIENCE_S
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.usefixtures("patience")

KEY = PinKey("desktops", "source:203.0.113.7 user:alice")
AWAY = "redis://127.0.0.1:{port}/0"


def test_both_entries_of_a_client_have_the_same_part_in_braces() -> None:
    name = name_of(KEY)
    assert name == b"rdp-proxy:pin:desktops:{source:203.0.113.7} user:alice"
    assert name_of(PinKey("desktops", "source:203.0.113.7")) == name.removesuffix(b" user:alice")
    assert key_of(name) == KEY


async def test_the_table_goes_by_the_servers_clock(redis_server: RedisServer) -> None:
    store = await RedisStore.open(redis_server.url)
    before = float(redis_server.cli("time").split()[0])
    pin = await store.claim(KEY, "a", expected=None, ttl_s=600.0)
    after = float(redis_server.cli("time").split()[0]) + 1.0
    assert before <= pin.touched_at < after
    assert pin == Pin("a", pin.touched_at + 600.0, pin.touched_at)
    assert 0 < int(redis_server.cli("pttl", name_of(KEY).decode())) <= 600_000
    assert await store.get(KEY) == pin
    await store.close()


async def test_a_server_that_forgot_the_scripts_is_taught_again(redis_server: RedisServer) -> None:
    store = await RedisStore.open(redis_server.url)
    for _ in range(2):
        redis_server.cli("script", "flush")
        await store.claim(KEY, "a", expected=None, ttl_s=60.0)
        redis_server.cli("script", "flush")
        touches = [Touch(PinKey("desktops", f"k{n}"), "a", 60.0) for n in range(300)]
        assert await store.touch("node", touches) == ["a"] * 300
    await store.close()


async def test_a_server_that_is_away_is_told_and_does_not_keep_the_store_from_opening() -> None:
    events: list[tuple[StoreEvent, str]] = []
    url = AWAY.format(port=free_port())
    store = await RedisStore.open(
        url, on_event=lambda event, detail: events.append((event, detail))
    )
    assert not store.is_up
    with pytest.raises(StoreError, match="refused"):
        await store.get(KEY)
    assert [event for event, _detail in events] == [StoreEvent.AWAY]
    assert "refused" in events[0][1]
    await store.close()


async def test_a_probe_leaves_nothing_behind(redis_server: RedisServer) -> None:
    redis_server.cli("flushall")
    store = await RedisStore.open(redis_server.url)
    await store.probe_once()
    assert await store.size() == 0
    await store.close()


class Forgetful:
    """A client whose first call forgets that it was cancelled."""

    def __init__(self) -> None:
        self.called = asyncio.Event()

    def server_of(self, name: bytes) -> str:
        return "one"

    def servers(self) -> list[str]:
        return ["one"]

    async def command(self, *_: object) -> list[None]:
        if self.called.is_set():
            await asyncio.sleep(0)
        else:
            self.called.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
        return [None]

    refresh = probe = command


async def asks_again_and_again(store: RedisStore) -> None:
    while True:
        await store.get(KEY)


async def maintains(store: RedisStore) -> None:
    await store.maintain()


@pytest.mark.parametrize("part", [asks_again_and_again, maintains])
async def test_a_part_that_is_to_end_ends_though_the_library_forgets_it(
    part: Callable[[RedisStore], Coroutine[None, None, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "CALM_S", 0.0)
    client: Any = Forgetful()
    running = asyncio.create_task(part(RedisStore(client, None, ignore_event)))
    await client.called.wait()
    running.cancel()
    await asyncio.wait([running], timeout=PATIENCE_S)
    assert running.cancelled()


@pytest.mark.parametrize(
    "accident",
    [
        RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"),
        AttributeError("'NoneType' object has no attribute 'writelines'"),
    ],
)
async def test_a_connection_that_the_library_closed_meanwhile_is_no_answer(
    accident: Exception, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def finds_it_closed(*_: object) -> None:
        raise accident

    store = await RedisStore.open(redis_server.url)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Connection, "_send_packed_command", finds_it_closed)
        with pytest.raises(StoreError, match="closed meanwhile"):
            await store.claim(KEY, "a", expected=None, ttl_s=60.0)
        with pytest.raises(StoreError, match="closed meanwhile"):
            await store.touch("node", [Touch(KEY, "a", 60.0)])
        await store.probe_once()
        was_up = store.is_up
    await store.probe_once()
    assert (was_up, store.is_up) == (False, True)
    await store.close()
