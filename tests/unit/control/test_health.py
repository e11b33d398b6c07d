"""Rules of the health monitor, with a clock and probes that the test holds in its hands."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from proxy.address import Address
from proxy.control.health import MAX_IN_FLIGHT, TLS_S, HealthMonitor
from proxy.control.probe import ProbeResult
from proxy.errors import Cause
from proxy.routing.pool import Host
from proxy.routing.will import Will, Wish
from proxy.settings import HealthCheck, HealthSettings
from tests.patience import PATIENCE_S
from tests.unit.control.health_world import (
    OWN_WANT,
    PASSED,
    REFUSED,
    SILENT,
    World,
    always,
    pool_of,
)


def test_hosts_count_as_up_before_their_first_check() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    assert pool.hosts[0].up
    health = world.health(pool.hosts[0])
    assert (health.up, health.last, health.checked_s) == (True, None, None)


def test_first_checks_are_spread_over_two_seconds() -> None:
    pool = pool_of(*(f"10.0.0.{n}" for n in range(1, 101)))
    world = World(pool)
    assert len(world.monitor.begin()) < 5
    world.until(1002, always(PASSED))
    # Those of the first moment are in flight still; every other host was asked once.
    assert len(world.probes) > 95
    assert sum(time < 1001 for time, _ in world.probes) in range(30, 71)


def test_a_host_that_is_up_is_checked_every_interval_give_or_take_a_tenth() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.until(2000, always(PASSED))
    times = world.times(pool.hosts[0])
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) in range(90, 111)
    assert min(gaps) >= 9
    assert max(gaps) <= 11
    assert max(gaps) - min(gaps) > 1
    assert world.turns == []


@pytest.mark.parametrize("fall", [1, 3])
def test_fall_failures_in_a_row_turn_a_host_down(fall: int) -> None:
    pool = pool_of("10.0.0.1", health=HealthSettings(fall=fall))
    world = World(pool)
    failures = iter([REFUSED] * (fall - 1) + [PASSED] + [REFUSED] * (fall - 1) + [PASSED])
    world.until(1500, lambda _: next(failures, PASSED))
    assert world.turns == []
    seen = len(world.probes)
    world.until(2000, always(REFUSED))
    assert [turn[1:] for turn in world.turns] == [("h0", False, Cause.REFUSED)]
    assert not pool.hosts[0].up
    assert sum(time <= world.turns[0][0] for time, _ in world.probes) - seen == fall


def test_a_dead_host_is_down_before_fall_times_interval_even_where_it_swallows_everything() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.until(1100, always(PASSED))

    def silence(_: Host) -> ProbeResult:
        world.now += 3.0
        return SILENT

    world.until(1200, silence)
    died_at, *_ = world.turns[0]
    assert died_at - 1100 <= 11 + 3 * 3
    assert world.health(pool.hosts[0]).cause is Cause.TIMEOUT


def test_a_failure_that_turned_nobody_leaves_no_cause_behind() -> None:
    pool = pool_of("10.0.0.1", health=HealthSettings(fall=3))
    world = World(pool)
    causes = []

    def refuses_twice(host: Host) -> ProbeResult:
        causes.append(world.health(host).cause)
        return REFUSED if len(causes) <= 2 else PASSED

    world.until(1030, refuses_twice)
    assert causes[:5] == [None, Cause.REFUSED, Cause.REFUSED, None, None]
    assert world.turns == []


def test_a_host_that_is_down_is_asked_every_second() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.until(1100, always(REFUSED))
    down_at = world.turns[0][0]
    gaps = [time for time in world.times(pool.hosts[0]) if time > down_at]
    assert len(gaps) in range(80, 106)


@pytest.mark.parametrize("rise", [1, 2, 4])
def test_a_host_is_up_within_two_seconds_of_its_return(rise: int) -> None:
    pool = pool_of("10.0.0.1", health=HealthSettings(rise=rise))
    world = World(pool)
    world.until(1100, always(REFUSED))
    asked = len(world.probes)
    world.until(1102, always(PASSED))
    assert [turn[1:] for turn in world.turns[1:]] == [("h0", True, None)]
    up_at = world.turns[1][0]
    assert sum(time <= up_at for time, _ in world.probes) - asked == rise
    assert world.health(pool.hosts[0]).since_s == pytest.approx(1102 - up_at)


def test_passes_that_are_not_in_a_row_bring_no_host_back() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.until(1100, always(REFUSED))
    flapping = iter([PASSED, REFUSED] * 10)
    world.until(1112, lambda _: next(flapping, REFUSED))
    assert len(world.turns) == 1
    assert next(flapping, None) is None, "all of them were asked for"


def test_shorter_intervals_than_a_second_hold_for_hosts_that_are_down_too() -> None:
    pool = pool_of("10.0.0.1", health=HealthSettings(interval_s=0.1))
    world = World(pool)
    world.until(1010, always(REFUSED))
    assert len(world.probes) in range(85, 116)


def test_the_proxys_own_want_says_nothing_of_a_host() -> None:
    pool = pool_of("10.0.0.1", "10.0.0.2")
    world = World(pool)
    world.until(1200, lambda host: OWN_WANT if host.name == "h0" else REFUSED)
    world.monitor.host_failed("desktops", "h0", Cause.INTERNAL)
    assert (pool.hosts[0].up, pool.hosts[1].up) == (True, False)
    world.until(1400, lambda host: REFUSED if host.name == "h0" else OWN_WANT)
    assert (pool.hosts[0].up, pool.hosts[1].up) == (False, False)
    assert len(world.turns) == 2
    assert OWN_WANT not in [result for _, result in world.checked]


def test_hosts_in_maintenance_are_checked_and_turn() -> None:
    pool = pool_of("10.0.0.1")
    pool.hosts[0].wish = Wish(Will.MAINTENANCE)
    world = World(pool)
    world.until(1100, always(REFUSED))
    world.until(1200, always(PASSED))
    assert [up for _, _, up, _ in world.turns] == [False, True]


def test_names_that_are_not_configured_are_ignored() -> None:
    world = World(pool_of("10.0.0.1"))
    world.monitor.host_failed("desktops", "gone", Cause.REFUSED)
    world.monitor.host_answered("gone", "h0")
    assert [health.failures for health in world.monitor.snapshot()] == [0]


def test_no_more_probes_than_the_cap_are_in_flight() -> None:
    pool = pool_of(*(f"10.0.{n // 250}.{n % 250 + 1}" for n in range(1000)))
    world = World(pool)
    world.now += 5
    in_flight = world.monitor.begin()
    assert len(in_flight) == MAX_IN_FLIGHT
    assert world.monitor.begin() == []
    assert world.monitor.rest_s() == math.inf, "nothing to wait for but the end of a probe"
    world.monitor.finish(in_flight[0], PASSED)
    assert world.monitor.rest_s() == 0
    assert len(world.monitor.begin()) == 1


def test_tls_is_begun_once_a_minute_while_all_is_well_and_by_each_check_in_doubt() -> None:
    pool = pool_of("10.0.0.1", health=HealthSettings(check=HealthCheck.TLS))
    world = World(pool)

    def shown(_: Host) -> ProbeResult:
        is_tls = world.checks[-1] is HealthCheck.TLS
        return replace(PASSED, certificate=b"what the host shows" if is_tls else None)

    world.until(1600, shown)
    began = [
        at for (at, _), check in zip(world.probes, world.checks, strict=True) if check == "tls"
    ]
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert len(gaps) in (8, 9)
    assert min(gaps) >= TLS_S
    assert max(gaps) <= TLS_S + 11
    assert set(world.checks) == {HealthCheck.TLS, HealthCheck.X224}
    asked = len(world.checks)
    world.until(1700, always(REFUSED))
    assert world.checks[asked + 1 :] == [HealthCheck.TLS] * (len(world.checks) - asked - 1)
    asked = len(world.checks)
    world.until(1702, shown)
    assert pool.hosts[0].up
    assert world.checks[asked : asked + 2] == [HealthCheck.TLS] * 2


def test_a_thousand_hosts_are_all_asked_once_an_interval() -> None:
    pool = pool_of(*(f"10.0.{n // 250}.{n % 250 + 1}" for n in range(1000)))
    world = World(pool)
    world.until(1060, always(PASSED))
    asked = {host: len(world.times(host)) for host in pool.hosts}
    assert set(asked.values()) <= {5, 6, 7}


def test_a_new_configuration_keeps_what_is_known_of_hosts_that_stay() -> None:
    pool = pool_of("10.0.0.1", "10.0.0.2", "10.0.0.3")
    world = World(pool)
    world.until(1100, always(REFUSED))
    pool.change(pool_of("10.0.0.1", "10.9.9.9").settings, {})
    world.monitor.watch([pool])
    assert [host.up for host in pool.hosts] == [False, True], "at another address it begins anew"
    assert [health.host for health in world.monitor.snapshot()] == ["h0", "h1"]
    world.until(1103, always(PASSED))
    assert pool.hosts[0].up


def test_a_new_configuration_puts_no_check_off_and_brings_none_forward() -> None:
    pool = pool_of("10.0.0.1", "10.0.0.2")
    world = World(pool)
    world.until(1010, always(PASSED))
    asked = len(world.probes)
    for _ in range(100):
        world.now += 0.05
        world.monitor.watch([pool])
        world.until(world.now, always(PASSED))
    assert len(world.probes) - asked in (1, 2), "of two hosts, within half an interval"


def test_other_rules_of_checking_count_at_once() -> None:
    pool = pool_of("10.0.0.1", health=HealthSettings(interval_s=3600))
    world = World(pool)
    world.until(1010, always(PASSED))
    pool.change(pool_of("10.0.0.1", health=HealthSettings(interval_s=1)).settings, {})
    world.monitor.watch([pool])
    asked = len(world.probes)
    world.until(1020, always(PASSED))
    assert len(world.probes) - asked in range(8, 13)


def test_a_probe_that_outlives_its_host_changes_nothing() -> None:
    world = World(pool_of("10.0.0.1"))
    world.now += 5
    (watched,) = world.monitor.begin()
    world.monitor.watch([pool_of("10.0.0.1", name="other")])
    world.monitor.finish(watched, REFUSED)
    assert [(h.pool, h.failures, h.last) for h in world.monitor.snapshot()] == [("other", 0, None)]
    world.until(1010, always(PASSED))
    assert {host.pool for _, host in world.probes} == {"other"}


def test_a_probe_in_flight_over_a_new_configuration_counts_and_is_not_doubled() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    world.now += 5
    (watched,) = world.monitor.begin()
    pool.change(pool_of("10.0.0.1", health=HealthSettings(fall=9)).settings, {})
    world.monitor.watch([pool])
    world.now += 5
    assert world.monitor.begin() == []
    world.monitor.finish(watched, REFUSED)
    assert world.health(pool.hosts[0]).failures == 1


class Probed:
    """A probe that records its calls and answers when it is told to."""

    def __init__(self, results: Sequence[ProbeResult]) -> None:
        self.results = list(results)
        self.calls: list[tuple[Address, float, float]] = []
        self.answered = asyncio.Event()
        self.exhausted = asyncio.Event()

    async def __call__(
        self, address: Address, timeout_s: float, connect_s: float = 0
    ) -> ProbeResult:
        self.calls.append((address, timeout_s, connect_s))
        if self.results:
            self.answered.set()
            return self.results.pop(0)
        self.exhausted.set()
        await asyncio.Event().wait()
        raise AssertionError("a probe that was never to end")


async def test_run_probes_as_configured_and_ends_its_probes_when_cancelled() -> None:
    health = HealthSettings(check=HealthCheck.TLS, interval_s=0.1, fall=2, rise=1, timeout_s=2)
    pool = pool_of("10.0.0.1", health=health)
    probe = Probed([REFUSED, REFUSED, PASSED])
    turns: list[bool] = []
    found: list[ProbeResult] = []
    monitor = HealthMonitor(
        [pool],
        lambda host, up, cause, detail: turns.append(up),
        lambda host, result: found.append(result),
        rng=random.Random(7),
        probes={HealthCheck.TLS: probe},
    )
    run = asyncio.create_task(monitor.run())
    async with asyncio.timeout(PATIENCE_S):
        await probe.exhausted.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert turns == [False, True]
    assert found == [REFUSED, REFUSED, PASSED]
    address = Address("10.0.0.1", 3389)
    # A host that is down gets a second for the TCP connection alone.
    assert probe.calls == [
        (address, 2, 2),
        (address, 2, 2),
        (address, 2, 1),
        (address, 2, 2),
    ]


async def test_run_hurries_when_a_client_fails() -> None:
    pool = pool_of("10.0.0.1", health=HealthSettings(check=HealthCheck.TCP, interval_s=86400))
    probe = Probed([PASSED])
    monitor = HealthMonitor(
        [pool],
        lambda host, up, cause, detail: None,
        lambda host, result: None,
        rng=random.Random(7),
        probes={HealthCheck.TCP: probe},
    )
    run = asyncio.create_task(monitor.run())
    async with asyncio.timeout(PATIENCE_S):
        await probe.answered.wait()
        assert monitor.snapshot()[0].last is PASSED
        monitor.host_failed("desktops", "h0", Cause.RESET)
        await probe.exhausted.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert len(probe.calls) == 2


def test_what_a_check_says_of_a_host_that_turns_down_is_told() -> None:
    pool = pool_of("10.0.0.1")
    world = World(pool)
    says = "TLS: UNEXPECTED_EOF_WHILE_READING"
    world.until(1010, always(ProbeResult(False, Cause.TLS_FAILED, says, 0.01)))
    assert world.details == [says]
    assert world.health(pool.hosts[0]).detail == says
    world.until(1020, always(PASSED))
    assert world.details == [says, None]
    assert world.health(pool.hosts[0]).detail is None
