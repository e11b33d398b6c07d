"""The contract of the affinity table, held over every store that is built in.

A store joins with one line in `SETTINGS`, beside its line in `STORES`. Each test opens the same
table twice, as two nodes (or two fronts) do, and works on both handles.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.affinity.store import AffinityStore, Pin, PinKey, Touch
from proxy.affinity.stores import STORES, open_store
from proxy.errors import StoreError
from proxy.settings import AffinitySettings, StoreKind

SETTINGS: dict[StoreKind, Callable[[Path], AffinitySettings]] = {
    StoreKind.SQLITE: lambda directory: AffinitySettings(path=str(directory / "affinity.db")),
}

KEY = PinKey("desktops", "source:203.0.113.7")
T0 = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Table:
    """One table under two handles, and the clock of both."""

    one: AffinityStore
    two: AffinityStore
    clock: Clock


@pytest.fixture(params=list(STORES))
async def table(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Table]:
    chosen = SETTINGS[request.param](tmp_path)
    clock = Clock()
    one = await open_store(chosen, now=clock)
    two = await open_store(chosen, now=clock)
    yield Table(one, two, clock)
    await two.close()
    await one.close()


def test_every_store_that_is_built_in_stands_under_these_tests() -> None:
    assert set(SETTINGS) == set(STORES)


async def test_a_store_that_is_not_built_in_is_refused_with_the_names_of_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.affinity.stores.STORES", {StoreKind.SQLITE: None})
    redis = AffinitySettings(store=StoreKind.REDIS, url="redis://127.0.0.1:6379/0")
    with pytest.raises(StoreError, match="redis is not built in; there is: sqlite"):
        await open_store(redis, now=Clock())


async def test_an_unknown_key_has_no_pin(table: Table) -> None:
    assert await table.one.get(KEY) is None


async def test_a_claim_pins_and_every_handle_sees_it(table: Table) -> None:
    pin = await table.one.claim(KEY, "a", expected=None, ttl_s=600.0)
    assert pin == Pin("a", expires_at=T0 + 600.0, touched_at=T0)
    assert await table.two.get(KEY) == pin


async def test_the_loser_of_a_claim_gets_the_winners_pin(table: Table) -> None:
    await table.one.claim(KEY, "a", expected=None, ttl_s=600.0)
    assert (await table.two.claim(KEY, "b", expected=None, ttl_s=600.0)).host == "a"
    assert (await table.two.claim(KEY, "b", expected="c", ttl_s=600.0)).host == "a"


async def test_of_many_claims_at_one_instant_one_wins(table: Table) -> None:
    for n in range(20):
        key = PinKey("desktops", f"source:{n}")
        claims = [
            store.claim(key, f"host{i}", expected=None, ttl_s=600.0)
            for i, store in enumerate([table.one, table.two] * 4)
        ]
        assert len({pin.host for pin in await asyncio.gather(*claims)}) == 1


async def test_of_many_who_saw_one_host_fail_one_moves_the_pin_on(table: Table) -> None:
    await table.one.claim(KEY, "failed", expected=None, ttl_s=600.0)
    claims = [
        store.claim(KEY, f"host{i}", expected="failed", ttl_s=600.0)
        for i, store in enumerate([table.one, table.two] * 4)
    ]
    (host,) = {pin.host for pin in await asyncio.gather(*claims)}
    assert host != "failed"


async def test_an_expired_pin_is_absent_everywhere(table: Table) -> None:
    await table.one.claim(KEY, "a", expected=None, ttl_s=60.0)
    table.clock.now += 60.0
    assert await table.one.get(KEY) is None
    assert [found async for found in table.one.scan()] == []
    assert not await table.one.move("node", KEY, "b", expected="a", quiet_s=0.0, ttl_s=60.0)
    assert not await table.one.clear(KEY)
    assert (await table.two.claim(KEY, "b", expected="c", ttl_s=60.0)).host == "b"


async def test_a_pin_of_one_pool_says_nothing_about_another(table: Table) -> None:
    await table.one.claim(KEY, "a", expected=None, ttl_s=60.0)
    other = PinKey("apps", KEY.key)
    assert await table.one.get(other) is None
    await table.one.claim(other, "b", expected=None, ttl_s=60.0)
    assert [key async for key, _pin in table.two.scan("apps")] == [other]
    assert {key async for key, _pin in table.two.scan()} == {KEY, other}


async def test_an_assignment_overrides_any_pin(table: Table) -> None:
    await table.one.claim(KEY, "a", expected=None, ttl_s=600.0)
    assert await table.two.assign(KEY, "b", ttl_s=60.0) == Pin("b", T0 + 60.0, T0)
    assert await table.one.get(KEY) == Pin("b", T0 + 60.0, T0)


async def test_touches_answer_in_order_and_seed_what_was_lost(table: Table) -> None:
    await table.one.claim(KEY, "a", expected=None, ttl_s=60.0)
    lost = PinKey("desktops", "source:lost")
    table.clock.now += 10.0
    touches = [Touch(lost, "c", 60.0), Touch(KEY, "b", 60.0), Touch(KEY, "a", 60.0)]
    assert await table.two.touch("node", touches) == ["c", "a", "a"]
    expected = Pin("a", expires_at=T0 + 70.0, touched_at=T0 + 10.0)
    assert await table.one.get(KEY) == expected
    assert await table.one.get(lost) == Pin("c", T0 + 70.0, T0 + 10.0)


async def test_a_touch_with_another_host_does_not_keep_a_pin_alive(table: Table) -> None:
    await table.one.claim(KEY, "a", expected=None, ttl_s=60.0)
    table.clock.now += 30.0
    assert await table.one.touch("node", [Touch(KEY, "b", 60.0)]) == ["a"]
    assert await table.one.get(KEY) == Pin("a", T0 + 60.0, T0)


async def test_many_touches_at_once_all_count(table: Table) -> None:
    touches = [Touch(PinKey("desktops", f"k{n}"), f"h{n % 7}", 60.0) for n in range(1234)]
    assert await table.one.touch("node", touches) == [touch.host for touch in touches]
    found = {key: pin.host async for key, pin in table.two.scan("desktops")}
    assert found == {touch.key: touch.host for touch in touches}
    assert await table.one.size() == len(touches)


async def test_no_touches_are_no_work(table: Table) -> None:
    assert await table.one.touch("node", []) == []


async def test_a_pin_moves_once_the_key_is_quiet(table: Table) -> None:
    await table.one.claim(KEY, "a", expected=None, ttl_s=600.0)
    await table.two.touch("other", [Touch(KEY, "a", 600.0)])

    async def move() -> bool:
        return await table.one.move("mine", KEY, "b", expected="a", quiet_s=60.0, ttl_s=900.0)

    assert not await move()  # a claim a moment ago, and a touch of another node
    table.clock.now += 30.0
    await table.two.touch("other", [Touch(KEY, "a", 600.0)])
    table.clock.now += 30.0
    assert not await move()  # the claim is old, the touch is not
    table.clock.now += 30.0
    await table.one.touch("mine", [Touch(KEY, "b", 600.0)])
    assert await move()  # one's own touch does not count
    assert await table.two.get(KEY) == Pin("b", T0 + 990.0, T0 + 90.0)
    assert not await move()  # it is not where it was expected


async def test_another_nodes_connection_to_another_host_holds_a_pin_where_it_is(
    table: Table,
) -> None:
    await table.one.assign(KEY, "a", ttl_s=600.0)
    await table.two.touch("other", [Touch(KEY, "c", 600.0)])
    assert not await table.one.move("mine", KEY, "b", expected="a", quiet_s=60.0, ttl_s=600.0)


async def test_a_cleared_pin_is_gone(table: Table) -> None:
    await table.one.claim(KEY, "a", expected=None, ttl_s=60.0)
    assert await table.two.clear(KEY)
    assert await table.one.get(KEY) is None
    assert not await table.two.clear(KEY)


async def test_a_scan_that_is_given_up_disturbs_nobody(table: Table) -> None:
    touches = [Touch(PinKey("desktops", f"k{n}"), "a", 60.0) for n in range(10)]
    await table.one.touch("node", touches)
    async with aclosing(table.one.scan()) as pins:  # type: ignore[type-var]
        async for _found in pins:
            break
    assert (await table.two.claim(KEY, "a", expected=None, ttl_s=60.0)).host == "a"


async def test_a_table_outlives_those_who_had_it_open(tmp_path: Path) -> None:
    for kind in STORES:
        first = await open_store(SETTINGS[kind](tmp_path), now=Clock())
        pin = await first.claim(KEY, "a", expected=None, ttl_s=60.0)
        await first.close()
        second = await open_store(SETTINGS[kind](tmp_path), now=Clock())
        assert await second.get(KEY) == pin
        assert await second.size() == 1
        await second.close()


async def test_maintenance_goes_on_until_it_is_cancelled(table: Table) -> None:
    task = asyncio.get_running_loop().create_task(table.one.maintain())
    done, _pending = await asyncio.wait([task], timeout=0.05)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# The same rules once more, by another hand: the model remembers every node's last touch.


@dataclass(slots=True)
class Known:
    host: str
    expires_at: float
    touched_at: float
    claimed_at: float = float("-inf")
    nodes: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Model:
    clock: Clock
    pins: dict[str, Known] = field(default_factory=dict)

    def get(self, key: str) -> Known | None:
        found = self.pins.get(key)
        return found if found and found.expires_at > self.clock.now else None

    def seed(self, key: str, host: str, ttl_s: float) -> Known:
        now = self.clock.now
        self.pins[key] = Known(host, now + ttl_s, now)
        return self.pins[key]

    def use(self, known: Known, host: str, ttl_s: float) -> None:
        later = self.clock.now + ttl_s
        known.expires_at = max(known.expires_at, later) if known.host == host else later
        known.host, known.touched_at = host, self.clock.now

    def claim(self, key: str, host: str, expected: str | None, ttl_s: float) -> Known:
        known = self.get(key) or self.seed(key, host, ttl_s)
        self.use(known, host if known.host == expected else known.host, ttl_s)
        known.claimed_at = self.clock.now
        return known

    def assign(self, key: str, host: str, ttl_s: float) -> Known:
        known = self.get(key) or self.seed(key, host, ttl_s)
        self.use(known, host, ttl_s)
        return known

    def touch(self, node: str, key: str, host: str, ttl_s: float) -> str:
        known = self.get(key) or self.seed(key, host, ttl_s)
        if known.host == host:
            self.use(known, host, ttl_s)
        known.nodes[node] = self.clock.now
        return known.host

    def move(
        self, node: str, key: str, host: str, expected: str, quiet_s: float, ttl_s: float
    ) -> bool:
        known = self.get(key)
        if known is None or known.host != expected:
            return False
        others = [known.claimed_at, *(at for n, at in known.nodes.items() if n != node)]
        if any(self.clock.now - at < quiet_s for at in others):
            return False
        self.use(known, host, ttl_s)
        known.nodes[node] = self.clock.now
        return True


keys, hosts, nodes = st.sampled_from("kl"), st.sampled_from("abc"), st.sampled_from("xyz")
ttls = st.sampled_from([20.0, 60.0, 300.0])
steps = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1.0, 20.0, 60.0])),
    st.tuples(st.just("claim"), keys, hosts, st.none() | hosts, ttls),
    st.tuples(st.just("assign"), keys, hosts, ttls),
    st.tuples(st.just("touch"), nodes, keys, hosts, ttls),
    st.tuples(st.just("move"), nodes, keys, hosts, hosts, st.sampled_from([5.0, 30.0]), ttls),
    st.tuples(st.just("clear"), keys),
)
numbers = itertools.count()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=st.lists(st.tuples(st.booleans(), steps), max_size=30))
async def test_any_story_ends_as_the_model_says(
    table: Table, story: list[tuple[bool, tuple[object, ...]]]
) -> None:
    pool, model = f"pool{next(numbers)}", Model(table.clock)
    for second, step in story:
        store = table.two if second else table.one
        match step:
            case ("wait", float(seconds)):
                table.clock.now += seconds
            case ("claim", str(key), str(host), expected, float(ttl)):
                assert expected is None or isinstance(expected, str)
                pin = await store.claim(PinKey(pool, key), host, expected=expected, ttl_s=ttl)
                assert pin == seen(model.claim(key, host, expected, ttl))
            case ("assign", str(key), str(host), float(ttl)):
                pin = await store.assign(PinKey(pool, key), host, ttl_s=ttl)
                assert pin == seen(model.assign(key, host, ttl))
            case ("touch", str(node), str(key), str(host), float(ttl)):
                in_force = await store.touch(node, [Touch(PinKey(pool, key), host, ttl)])
                assert in_force == [model.touch(node, key, host, ttl)]
            case ("move", str(node), str(key), str(host), str(old), float(quiet), float(ttl)):
                done = await store.move(
                    node, PinKey(pool, key), host, expected=old, quiet_s=quiet, ttl_s=ttl
                )
                assert done == model.move(node, key, host, old, quiet, ttl)
            case ("clear", str(key)):
                was = model.get(key)
                model.pins.pop(key, None)
                assert await store.clear(PinKey(pool, key)) == (was is not None)
            case _:
                pytest.fail(f"no such step: {step}")
        expected_pins = {k: seen(p) for k in model.pins if (p := model.get(k))}
        assert {k.key: p async for k, p in table.one.scan(pool)} == expected_pins


def seen(known: Known) -> Pin:
    return Pin(known.host, known.expires_at, known.touched_at)
