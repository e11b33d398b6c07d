"""Who may come in, and how many."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from proxy.errors import Cause, LimitError
from proxy.server.gate import Gate
from proxy.settings import LimitSettings, Rate

ALICE, BOB, GATEWAY = (ip_address(f"10.0.0.{last}") for last in (1, 2, 100))
EVERYBODY = [ip_network("0.0.0.0/0")]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def gate(clock: Clock | None = None, **limits: object) -> Gate:
    shared = [ip_network("10.0.0.100/32")]
    return Gate(LimitSettings.model_validate(limits), shared, clock or Clock())


def cause_of(refused: pytest.ExceptionInfo[LimitError]) -> Cause:
    return refused.value.cause


def test_a_source_outside_allow_is_refused() -> None:
    with pytest.raises(LimitError) as refused:
        gate().enter(ALICE, str(ALICE), [ip_network("192.168.0.0/16")])
    assert cause_of(refused) is Cause.NOT_ALLOWED


def test_a_source_beyond_its_connections_is_refused_until_one_leaves() -> None:
    each = gate(connections_per_source=2)
    each.enter(ALICE, str(ALICE), EVERYBODY)
    each.adopt(str(ALICE))
    with pytest.raises(LimitError) as refused:
        each.enter(ALICE, str(ALICE), EVERYBODY)
    assert cause_of(refused) is Cause.LIMIT
    each.enter(BOB, str(BOB), EVERYBODY)
    each.leave(str(ALICE))
    each.enter(ALICE, str(ALICE), EVERYBODY)


def test_shared_sources_are_not_counted() -> None:
    each = gate(connections_per_source=1, new_connections_per_source=Rate(1, 60))
    for _ in range(5):
        each.enter(GATEWAY, str(GATEWAY), EVERYBODY)


def test_a_source_may_connect_as_often_as_its_rate_allows() -> None:
    clock = Clock()
    each = gate(clock, new_connections_per_source=Rate(3, 60))
    for _ in range(3):
        each.enter(ALICE, str(ALICE), EVERYBODY)
    with pytest.raises(LimitError):
        each.enter(ALICE, str(ALICE), EVERYBODY)
    each.enter(BOB, str(BOB), EVERYBODY)
    clock.now += 20
    each.enter(ALICE, str(ALICE), EVERYBODY)
    with pytest.raises(LimitError):
        each.enter(ALICE, str(ALICE), EVERYBODY)


def test_the_number_of_all_connections_is_limited() -> None:
    each = gate(connections=2)
    each.connections = 2
    assert not each.is_over_limit
    each.connections = 3
    assert each.is_over_limit


def test_rates_are_remembered_for_a_bounded_number_of_sources() -> None:
    each = gate(new_connections_per_source=Rate(1, 60))
    for number in range(10_100):
        each.enter(ip_address(number), str(ip_address(number)), EVERYBODY)
    with pytest.raises(LimitError):
        each.enter(ip_address(10_099), str(ip_address(10_099)), EVERYBODY)
    each.enter(ip_address(0), str(ip_address(0)), EVERYBODY)


def test_a_limit_that_comes_later_counts_those_who_are_in() -> None:
    each = gate()
    each.enter(ALICE, str(ALICE), EVERYBODY)
    each.enter(GATEWAY, str(GATEWAY), EVERYBODY)
    each.change(LimitSettings(connections=1, connections_per_source=1), [])
    for source in (ALICE, GATEWAY):
        with pytest.raises(LimitError) as refused:
            each.enter(source, str(source), EVERYBODY)
        assert cause_of(refused) is Cause.LIMIT
    each.leave(str(ALICE))
    each.enter(ALICE, str(ALICE), EVERYBODY)
