"""The rules of the table once more, by another hand, against every store that is built in.

The model remembers every node's last touch; a store keeps two of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.affinity.store import NEVER, Pin, PinKey, Touch
from tests.unit.affinity.tables import Clock, Table


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
        may_replace = known.host == expected and (ttl_s == NEVER or known.expires_at != NEVER)
        self.use(known, host if may_replace else known.host, ttl_s)
        known.claimed_at = self.clock.now
        return known

    def assign(self, key: str, host: str, ttl_s: float) -> Known:
        known = self.get(key) or self.seed(key, host, ttl_s)
        stays = known.expires_at == NEVER and ttl_s != NEVER
        self.use(known, known.host if stays else host, ttl_s)
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
        if known is None or known.host != expected or known.expires_at == NEVER:
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
    st.tuples(st.just("claim"), keys, hosts, st.none() | hosts, ttls | st.just(NEVER)),
    st.tuples(st.just("assign"), keys, hosts, ttls | st.just(NEVER)),
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
    found = await table.two.get_each([PinKey(pool, k) for k in "lkl"])
    known = [model.get(k) for k in "lkl"]
    assert found == [seen(p) if p else None for p in known]


def seen(known: Known) -> Pin:
    return Pin(known.host, known.expires_at, known.touched_at)
