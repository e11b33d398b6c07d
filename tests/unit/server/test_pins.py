"""Keeping pins: touched while connections live, moved only where a token outgrew them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

import pytest

from proxy.address import Address
from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import PinKey, Touch
from proxy.errors import StoreError
from proxy.routing.model import Reason
from proxy.routing.pool import Pool
from proxy.server.gate import Gate
from proxy.server.pins import YOUNG_S, PinKeeper, touch_period_s
from proxy.server.record import ConnectionRecord
from proxy.server.table import ConnectionTable, Established
from proxy.settings import HostSettings, LimitSettings, PoolAffinity, PoolSettings
from tests.unit.server.stage import Clock, Observed

KEY = PinKey("desktops", "source:203.0.113.7")
HOUR = 3600.0


class Keeping:
    def __init__(
        self, store: SqliteStore, clock: Clock, node: str = "node", ttl_s: float = 72 * HOUR
    ) -> None:
        self.store, self.clock = store, clock
        hosts = tuple(
            HostSettings(name=name, address=Address(f"10.0.0.{n}", 3389))
            for n, name in enumerate("ab")
        )
        pool = Pool(PoolSettings(name="desktops", hosts=hosts, affinity=PoolAffinity(ttl_s=ttl_s)))
        self.pools = {"desktops": pool}
        self.observed = Observed()
        gate = Gate(LimitSettings(), [], clock)
        self.table = ConnectionTable(lambda *_: pool, gate, self.observed, clock)
        self.keeper = PinKeeper(store, node, self.table, self.pools, self.observed, clock)
        self.table.watchers.append(self.keeper)
        self._ids = iter(range(1, 1000))

    def connect(
        self, host: str, reason: Reason = Reason.PIN, *, blind: bool = False
    ) -> Established:
        at = Address("203.0.113.7", 5)
        record = ConnectionRecord(next(self._ids), "rdp", at, at, self.clock.now)
        record.pool, record.host, record.reason = "desktops", host, reason
        record.table_was_away = blind
        row = Established(record, self.pools["desktops"].by_name[host], (KEY,))
        self.table.add(row)
        return row

    async def tick(self, rows: Iterable[Established] = ()) -> None:
        await self.keeper.tick(rows)

    async def host(self) -> str | None:
        pin = await self.store.get(KEY)
        return pin.host if pin else None

    async def lasts(self, seconds: float) -> bool:
        """Whether the pin is in force so long from now."""
        pin = await self.store.get(KEY)
        return pin is not None and pin.expires_at >= self.clock.now + seconds


@pytest.fixture
async def k() -> AsyncIterator[Keeping]:
    clock = Clock()
    store = await SqliteStore.open(":memory:", max_pins=1000, now=clock)
    yield Keeping(store, clock)
    await store.close()


async def test_a_new_connections_pin_lasts_minutes_and_a_settled_ones_days(k: Keeping) -> None:
    await k.store.claim(KEY, "a", expected=None, ttl_s=600)
    row = k.connect("a")
    await k.tick([row])
    assert not await k.lasts(700)
    k.clock.now += 61
    await k.tick()
    assert await k.lasts(72 * HOUR)


async def test_the_time_to_live_begins_when_the_connection_closes(k: Keeping) -> None:
    row = k.connect("a")
    k.clock.now += 12 * HOUR
    k.table.drop(row)
    await k.tick()
    assert await k.lasts(72 * HOUR)
    assert await k.host() == "a"


async def test_probes_that_ended_at_once_are_not_touched(k: Keeping) -> None:
    k.table.drop(k.connect("a"))
    await k.tick()
    assert await k.host() is None
    row = k.connect("a")
    k.clock.now += YOUNG_S
    k.table.drop(row)
    await k.tick()
    assert await k.host() == "a"


async def test_a_pin_of_five_minutes_lasts_while_a_connection_lives_on_any_node(
    k: Keeping,
) -> None:
    one, two = (Keeping(k.store, k.clock, node, ttl_s=300) for node in ("one", "two"))
    row, other = one.connect("a"), two.connect("a")
    for second in range(0, 12 * 3600, 60):
        k.clock.now += 60
        await one.tick([row] if second < 3600 else [])  # then that node dies
        await two.tick([other])
        assert await k.lasts(299)
    two.table.drop(other)
    await two.tick()
    k.clock.now += 299
    assert await k.host() == "a"
    k.clock.now += 2
    assert await k.host() is None


async def test_connections_that_ended_while_the_table_was_away_are_told_when_it_is_back(
    k: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteStore, "is_up", False)
    blind = k.connect("a", blind=True)
    k.table.drop(blind)
    row = k.connect("b")
    k.clock.now += HOUR
    k.table.drop(row)
    await k.tick()
    assert await k.host() is None
    monkeypatch.setattr(SqliteStore, "is_up", True)
    for _ in range(2):
        await k.tick()
        assert await k.host() == "a"
    assert k.observed.disagreed == []
    assert await k.lasts(599)


async def test_those_that_ended_without_the_table_count_where_it_says_otherwise(
    k: Keeping,
) -> None:
    await k.store.claim(KEY, "a", expected=None, ttl_s=600)
    row = k.connect("b", blind=True)
    k.table.drop(row)
    for _ in range(2):
        await k.tick()
    assert k.observed.disagreed == ["desktops"]


async def test_a_short_redirected_connection_does_not_come_before_those_without_a_token(
    k: Keeping,
) -> None:
    k.table.drop(k.connect("b", Reason.TOKEN, blind=True))
    k.table.drop(k.connect("a", blind=True))
    await k.tick()
    assert await k.host() == "a"
    assert k.observed.disagreed == []


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_pool_that_has_left_is_touched_no_longer(
    k: Keeping, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await k.store.assign(KEY, "b", ttl_s=HOUR)
    row = k.connect("a", blind=True)
    k.connect("a", Reason.TOKEN)
    k.clock.now += 61
    k.table.drop(row)
    touch = k.store.touch

    async def leave_and_touch(node: str, touches: Sequence[Touch]) -> list[str]:
        k.pools.clear()
        return await touch(node, touches)

    if when == "before":
        k.pools.clear()
    monkeypatch.setattr(k.store, "touch", leave_and_touch)
    await k.tick(k.table.rows.values())
    assert await k.host() == "b"
    assert k.observed.disagreed == k.observed.moved == []


async def test_each_live_connection_has_its_turn(
    k: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.server.pins.touch_period_s", lambda _pools: 0.012)
    keys = [PinKey("desktops", f"source:10.0.{n // 250}.{n % 250}") for n in range(300)]
    for key in keys:
        k.connect("a").keys = (key,)
    running = asyncio.ensure_future(k.keeper.run())
    while await k.store.size() < len(keys):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


async def test_a_pin_that_the_table_lost_is_seeded_again(k: Keeping) -> None:
    row = k.connect("a")
    await k.store.clear(KEY)
    await k.tick([row])
    assert await k.host() == "a"


async def test_a_minute_after_a_redirection_the_pin_is_where_the_user_is(
    k: Keeping, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "proxy")
    await k.store.claim(KEY, "a", expected=None, ttl_s=600)
    k.clock.now += 1
    k.connect("b", Reason.TOKEN)
    k.clock.now += 30
    await k.tick()
    assert await k.host() == "a"
    k.clock.now += 31
    await k.tick()
    assert await k.host() == "b"
    assert k.observed.moved == ["token"]
    (line,) = [vars(line) for line in caplog.records if line.message == "pin_moved"]
    assert (line["pool"], line["to"]) == ("desktops", "b")


async def test_a_tokenless_connection_meanwhile_keeps_the_pin(k: Keeping) -> None:
    await k.store.claim(KEY, "a", expected=None, ttl_s=600)
    row = k.connect("b", Reason.TOKEN)
    k.clock.now += 40
    await k.store.claim(KEY, "a", expected="a", ttl_s=600)
    k.clock.now += 21
    await k.tick([row])
    assert await k.host() == "a"


async def test_users_behind_one_address_do_not_tear_each_other_apart(k: Keeping) -> None:
    await k.store.claim(KEY, "a", expected=None, ttl_s=600)
    rows = [k.connect("a"), k.connect("b", Reason.TOKEN)]
    k.clock.now += 61
    await k.tick(rows)
    assert await k.host() == "a"


async def test_a_connection_that_was_balanced_never_moves_a_pin(k: Keeping) -> None:
    await k.store.claim(KEY, "a", expected=None, ttl_s=600)
    row = k.connect("b", Reason.REPINNED)
    k.clock.now += 61
    await k.tick([row])
    assert await k.host() == "a"


async def test_a_table_that_is_away_is_told_and_survived(k: Keeping) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StoreError("gone")

    k.store.touch = away  # type: ignore[assignment, method-assign]
    await k.tick([k.connect("a")])
    assert k.observed.store_failures == 1


async def test_flush_touches_everything(k: Keeping) -> None:
    k.connect("a")
    await k.keeper.flush()
    assert await k.host() == "a"


def test_pins_are_touched_often_enough_for_the_shortest_ttl(k: Keeping) -> None:
    short = PoolSettings(
        name="redirectors",
        hosts=(HostSettings(name="r", address=Address("10.0.0.9", 3389)),),
        affinity=PoolAffinity(ttl_s=120),
    )
    assert touch_period_s(k.pools.values()) == 60
    assert touch_period_s([*k.pools.values(), Pool(short)]) == 30


async def test_what_nodes_could_not_agree_on_is_counted_once_and_nothing_moves(k: Keeping) -> None:
    await k.store.claim(KEY, "a", expected=None, ttl_s=600)
    row = k.connect("b", blind=True)
    same = k.connect("a", blind=True)
    for _ in range(2):
        await k.tick([row, same])
    assert k.observed.disagreed == ["desktops"]
    assert await k.host() == "a"


async def test_a_pin_to_a_host_that_cannot_serve_gives_way_to_where_the_client_is(
    k: Keeping,
) -> None:
    await k.store.claim(KEY, "a", expected=None, ttl_s=600)
    k.pools["desktops"].by_name["a"].up = False
    row = k.connect("b", blind=True)
    await k.tick([row])
    assert await k.host() == "b"
    assert k.observed.disagreed == []
