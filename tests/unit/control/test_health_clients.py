"""What clients meet at hosts counts for health, and strangers cannot abuse it."""

from __future__ import annotations

import itertools

import pytest

from proxy.control.probe import ProbeResult
from proxy.errors import Cause
from proxy.routing.pool import Host
from tests.unit.control.health_world import (
    PASSED,
    REFUSED,
    SILENT,
    World,
    always,
    pool_of,
)


def test_refused_clients_turn_a_host_down_without_waiting_for_a_check() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.until(1005, always(PASSED))
    for _ in range(3):
        assert pool.hosts[0].up
        world.monitor.host_failed("desktops", "h0", Cause.REFUSED)
    assert [turn[1:] for turn in world.turns] == [("h0", False, Cause.REFUSED)]


@pytest.mark.parametrize("cause", [Cause.CLOSED, Cause.RESET, Cause.TIMEOUT, Cause.UNREACHABLE])
def test_what_clients_bytes_may_have_caused_turns_a_host_only_when_a_check_agrees(
    cause: Cause,
) -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.until(1005, always(PASSED))
    for _ in range(100):
        world.monitor.host_failed("desktops", "h0", cause)
    assert pool.hosts[0].up
    asked = len(world.probes)
    world.until(1006, always(SILENT))
    assert len(world.probes) == asked + 1
    assert [turn[1:] for turn in world.turns] == [("h0", False, Cause.TIMEOUT)]


def test_a_passed_check_clears_what_strangers_caused() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    for second in range(60):
        for _ in range(10):
            world.monitor.host_failed("desktops", "h0", Cause.CLOSED)
        world.until(1001 + second, always(PASSED))
    assert world.turns == []
    assert world.health(pool.hosts[0]).failures == 0


def test_a_failed_client_brings_the_next_check_forward_to_one_a_second_at_most() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.until(1003, always(PASSED))
    assert len(world.probes) == 1
    for tenth in range(1, 51):
        world.monitor.host_failed("desktops", "h0", Cause.RESET)
        world.until(1003 + tenth / 10, always(PASSED))
    gaps = [later - earlier for earlier, later in itertools.pairwise(world.times(pool.hosts[0]))]
    assert len(gaps) == 6
    assert min(gaps) >= 1


def test_failures_of_clients_and_checks_count_together() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.monitor.host_failed("desktops", "h0", Cause.RESET)
    world.monitor.host_failed("desktops", "h0", Cause.RESET)
    assert world.health(pool.hosts[0]).failures == 2
    world.until(1000, always(REFUSED))
    assert len(world.probes) == 1
    assert not pool.hosts[0].up


def test_a_clients_success_takes_back_the_failures_of_clients() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    for _ in range(10):
        world.monitor.host_failed("desktops", "h0", Cause.REFUSED)
        world.monitor.host_failed("desktops", "h0", Cause.REFUSED)
        world.monitor.host_answered("desktops", "h0")
        assert world.health(pool.hosts[0]).cause is None
    assert world.turns == []


def test_a_clients_success_does_not_take_back_failed_checks() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)

    def refuses(_: Host) -> ProbeResult:
        world.monitor.host_answered("desktops", "h0")
        return REFUSED

    world.until(1010, refuses)
    assert [turn[1:] for turn in world.turns] == [("h0", False, Cause.REFUSED)]


def test_clients_bring_no_host_back() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.until(1100, always(REFUSED))
    for _ in range(10):
        world.monitor.host_answered("desktops", "h0")
    assert not pool.hosts[0].up


def test_a_failed_client_asks_for_no_second_probe_beside_the_one_in_flight() -> None:
    world = World(pool_of("10.0.0.1"))
    world.now += 5
    (watched,) = world.monitor.begin()
    world.monitor.host_failed("desktops", "h0", Cause.RESET)
    world.now += 3
    assert world.monitor.begin() == []
    world.monitor.finish(watched, SILENT)
    assert world.health(watched.host).failures == 2
    assert world.monitor.begin() == [watched], "asked every second while in doubt"
