"""The contract of the affinity table, held over every store that is built in.

A store joins with one line in `tables.OPENERS`, beside its line in `STORES`. Each test opens the
same table twice, as two nodes (or two fronts) do, and works on both handles.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from proxy.affinity.store import NEVER, AffinityStore, Pin, PinKey, Touch
from proxy.affinity.stores import STORES, open_store
from proxy.errors import StoreError
from proxy.settings import AffinitySettings, StoreKind
from tests.unit.affinity.tables import KEY, OPENERS, T0, Clock, Place, Table


def test_every_store_that_is_built_in_stands_under_these_tests() -> None:
    assert set(OPENERS) == set(STORES)


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


async def test_a_pin_without_expiry_is_changed_by_another_such_and_by_clear_alone(
    table: Table,
) -> None:
    for_good = Pin("own", NEVER, T0)
    assert await table.one.assign(KEY, "own", ttl_s=NEVER) == for_good
    assert await table.two.get(KEY) == for_good
    assert (await table.two.claim(KEY, "b", expected="own", ttl_s=60.0)).host == "own"
    assert (await table.two.assign(KEY, "b", ttl_s=60.0)).host == "own"
    assert await table.two.touch("node", [Touch(KEY, "b", 60.0)]) == ["own"]
    table.clock.now += 1e6
    assert not await table.one.move("node", KEY, "b", expected="own", quiet_s=1.0, ttl_s=60.0)
    assert [pin.expires_at async for _key, pin in table.one.scan()] == [NEVER]
    other = await table.two.assign(KEY, "other", ttl_s=NEVER)
    assert other == Pin("other", NEVER, T0 + 1e6)
    assert await table.one.clear(KEY)
    assert (await table.one.claim(KEY, "b", expected=None, ttl_s=60.0)).host == "b"


async def test_of_changes_without_expiry_at_one_instant_none_is_lost(table: Table) -> None:
    async def add_one(store: AffinityStore, name: int) -> None:
        pin = await store.get(KEY)
        while True:
            found = pin.host if pin else None
            wanted = f"{int((found or '0').split()[0]) + 1} of {name}"
            pin = await store.claim(KEY, wanted, expected=found, ttl_s=NEVER)
            if pin.host == wanted:
                return

    await asyncio.gather(*(add_one(store, n) for n, store in enumerate([table.one, table.two] * 8)))
    pin = await table.one.get(KEY)
    assert pin is not None
    assert (pin.host.split()[0], pin.expires_at) == ("16", NEVER)
    assert (await table.two.claim(KEY, "b", expected=pin.host, ttl_s=60.0)).host == pin.host


async def test_many_pins_are_read_in_one_go(table: Table) -> None:
    keys = [PinKey("desktops", f"source:{n}") for n in range(600)]
    await table.one.touch("node", [Touch(key, f"h{n}", 60.0) for n, key in enumerate(keys[:300])])
    found = await table.two.get_each(list(reversed(keys)))
    assert found == [None] * 300 + [Pin(f"h{n}", T0 + 60, T0) for n in reversed(range(300))]
    assert table.two.recall(keys[7]) == "h7"
    assert await table.two.get_each([]) == []
    table.clock.now += 60.0
    assert await table.two.get_each(keys[:2]) == [None, None]


async def test_touches_of_a_pin_without_expiry_leave_it_so(table: Table) -> None:
    await table.one.assign(KEY, "own", ttl_s=NEVER)
    await table.one.claim(KEY, "own", expected="own", ttl_s=60.0)
    await table.two.touch("node", [Touch(KEY, "own", 60.0)])
    await table.two.assign(KEY, "own", ttl_s=60.0)
    table.clock.now += 61.0
    assert (await table.one.get(KEY)) == Pin("own", NEVER, T0)


async def test_a_table_that_answers_is_up_and_its_last_answers_are_recalled(table: Table) -> None:
    await table.one.claim(KEY, "a", expected=None, ttl_s=60.0)
    assert table.one.is_up
    assert table.one.recall(KEY) == "a"
    await table.two.touch("node", [Touch(KEY, "b", 60.0)])
    assert table.two.recall(KEY) == "a"
    await table.one.clear(KEY)
    assert table.one.recall(KEY) is None


@pytest.mark.parametrize(
    "text", ["user:jo}hn {doe", "source:2001:db8::/64 user:ä b", "token:{}", "{"]
)
async def test_a_key_of_any_text_comes_back_as_it_is(table: Table, text: str) -> None:
    key = PinKey("desk-tops.1", text)
    await table.one.claim(key, "a", expected=None, ttl_s=60.0)
    assert [found async for found, _pin in table.two.scan(key.pool)] == [key]
    assert await table.two.clear(key)


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


async def test_a_table_outlives_those_who_had_it_open(place: Place) -> None:
    for opener in OPENERS.values():
        first = await opener(place, Clock())
        pin = await first.claim(KEY, "a", expected=None, ttl_s=60.0)
        await first.close()
        second = await opener(place, Clock())
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
