"""Slow start: the weight of a host that came back grows."""

from __future__ import annotations

from proxy.routing.slow_start import LEAST
from proxy.server.slow_start import SlowStart
from tests.unit.routing.farm import pool
from tests.unit.server.stage import Clock


def test_the_weight_of_a_host_that_came_back_grows_until_it_is_whole() -> None:
    farm, clock = pool(slow_start_s=60), Clock()
    host = farm.hosts[0]
    keeper = SlowStart({"desktops": farm}, clock)
    keeper.begin(host)
    assert (host.warmth, host.share, host.weight) == (LEAST, 1.0, 100)
    shares = []
    for _ in range(4):
        clock.now += 20
        keeper.tick()
        shares.append(round(host.share, 6))
    assert shares == [33.333333, 66.666667, 100, 100]


def test_a_pool_without_slow_start_takes_a_host_as_it_is() -> None:
    farm = pool()
    keeper = SlowStart({"desktops": farm}, Clock())
    keeper.begin(farm.hosts[0])
    assert farm.hosts[0].warmth == 1.0


def test_a_pool_that_is_gone_or_changed_its_mind_leaves_nobody_half_warm() -> None:
    farm, clock = pool(slow_start_s=60), Clock()
    pools = {"desktops": farm}
    keeper = SlowStart(pools, clock)
    keeper.begin(farm.hosts[0])
    del pools["desktops"]
    keeper.tick()
    assert farm.hosts[0].warmth == 1.0
    keeper.begin(farm.hosts[1])
    assert farm.hosts[1].warmth == 1.0
