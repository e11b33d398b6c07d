"""What clients meet at hosts counts for health, and strangers cannot abuse it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from proxy.control.health import BUSY_TLS_S
from proxy.control.probe import ProbeResult
from proxy.errors import Cause
from proxy.routing.pool import Host
from proxy.settings import HealthCheck, HealthSettings
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
    assert world.details == [None], "no check has said so"


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


SHOWN = replace(PASSED, certificate=b"what the host shows")


def busy(world: World, end: float, found: ProbeResult = PASSED) -> None:
    """A client a second gets an answer."""
    while world.now < end:
        world.monitor.host_answered("desktops", "h0")
        world.until(min(end, world.now + 1), always(found))


@pytest.mark.parametrize("check", [HealthCheck.TCP, HealthCheck.X224])
def test_a_busy_host_gets_no_check_after_the_first_one(check: HealthCheck) -> None:
    pool = pool_of("10.0.0.1", health=HealthSettings(check=check))
    world = World(pool)
    busy(world, 2000)
    assert len(world.probes) == 1
    assert world.health(pool.hosts[0]).answered_s == 1
    world.until(2100, always(PASSED))
    gap = world.times(pool.hosts[0])[1] - 1999
    assert gap == pytest.approx(10), "an interval after the last answer, checks are back"
    assert len(world.probes) in range(9, 13)


def test_a_busy_hosts_certificate_is_read_every_five_minutes() -> None:
    pool = pool_of("10.0.0.1", health=HealthSettings(check=HealthCheck.TLS))
    world = World(pool)
    busy(world, 2500, SHOWN)
    times = world.times(pool.hosts[0])
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([BUSY_TLS_S] * 4)
    assert set(world.checks) == {HealthCheck.TLS}


def test_longer_intervals_than_five_minutes_hold_for_certificates_too() -> None:
    pool = pool_of("10.0.0.1", health=HealthSettings(check=HealthCheck.TLS, interval_s=3600))
    world = World(pool)
    busy(world, 5000, SHOWN)
    assert len(world.probes) == 2


def test_a_client_that_was_answered_spares_no_host_that_is_down_or_in_doubt() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.until(1003, always(PASSED))
    asked = len(world.probes)
    world.monitor.host_answered("desktops", "h0")
    world.monitor.host_failed("desktops", "h0", Cause.RESET)
    world.until(1006, always(REFUSED))
    assert not pool.hosts[0].up
    assert len(world.probes) > asked + 1
    asked = len(world.probes)
    world.monitor.host_answered("desktops", "h0")
    world.until(1010, always(REFUSED))
    assert len(world.probes) > asked + 2


def test_a_host_that_dies_after_a_client_is_found_out_as_soon_as_after_a_check() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    busy(world, 1100)
    died_at = world.now
    world.until(1200, always(REFUSED))
    assert world.turns[0][0] - died_at <= 11 + 2 * 1.1
