"""What is counted under which labels, and how long it stays when its owner has gone."""

from __future__ import annotations

import pytest
from prometheus_client import Counter

from proxy.control.label_sets import SHOWN_S, LabelSets, Owner
from proxy.control.series import OTHER
from tests.unit.server.stage import Clock

RDP: Owner = ("listener", "rdp")
POOL: Owner = ("pool", "p")
HOST: Owner = ("host", "p", "h")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sets(clock: Clock) -> LabelSets:
    made = LabelSets(clock)
    made.follow([RDP, POOL, HOST])
    return made


def count(sets: LabelSets, name: str, *labels: str) -> float:
    """Count once; what it stands at then."""
    child = sets.bind(name, *labels)
    assert isinstance(child, Counter)
    child.inc()
    (metric,) = child.collect()
    return float(metric.samples[0].value)


def names(sets: LabelSets) -> list[str]:
    """Those with labels."""
    return [" ".join(key) for key, _ in sets.all() if len(key) > 1]


def test_one_set_of_labels_is_bound_once(sets: LabelSets) -> None:
    assert count(sets, "host_failures_total", "p", "h", "refused") == 1
    assert count(sets, "host_failures_total", "p", "h", "refused") == 2
    assert names(sets) == ["host_failures_total p h refused"]
    ((labels, value),) = sets.counts("host_failures_total")
    assert (labels, value) == ({"pool": "p", "host": "h", "cause": "refused"}, 2)


def test_series_without_labels_are_there_from_the_start(sets: LabelSets) -> None:
    assert ("affinity_store_failures_total",) in [key for key, _ in sets.all()]


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        (RDP, ["pins_moved_total", "host_failures_total"]),
        (POOL, ["connections_accepted_total", "host_failures_total"]),
        (HOST, ["connections_accepted_total", "connections_placed_total", "pins_moved_total"]),
    ],
)
def test_what_belongs_to_one_who_has_gone_is_shown_a_while_longer(
    sets: LabelSets, clock: Clock, gone: Owner, left: list[str]
) -> None:
    count(sets, "connections_accepted_total", "rdp")
    count(sets, "connections_placed_total", "rdp", "p", "pin")
    count(sets, "pins_moved_total", "p", "token")
    count(sets, "host_failures_total", "p", "h", "refused")
    sets.follow([owner for owner in (RDP, POOL, HOST) if owner != gone])
    clock.now += SHOWN_S - 1
    assert sets.let_go() == []
    assert len(names(sets)) == 4
    clock.now += 1
    assert sets.let_go() == [gone]
    assert [name.split()[0] for name in names(sets)] == left
    assert sets.let_go() == []


def test_one_that_is_back_in_time_goes_on_from_its_counts(sets: LabelSets, clock: Clock) -> None:
    count(sets, "pins_moved_total", "p", "token")
    sets.follow([RDP])
    clock.now += SHOWN_S - 1
    sets.follow([RDP, POOL])
    clock.now += SHOWN_S
    assert sets.let_go() == []
    assert count(sets, "pins_moved_total", "p", "token") == 2
    sets.follow([])
    clock.now += SHOWN_S
    assert POOL in sets.let_go()
    assert count(sets, "pins_moved_total", "p", "token") == 1


def test_following_others_does_not_make_one_stay_who_has_gone(
    sets: LabelSets, clock: Clock
) -> None:
    count(sets, "pins_moved_total", "p", "token")
    sets.follow([RDP])
    clock.now += SHOWN_S / 2
    sets.follow([RDP, HOST])
    clock.now += SHOWN_S / 2
    assert sets.let_go() == [POOL]


def test_one_comes_and_leaves_by_itself(sets: LabelSets, clock: Clock) -> None:
    old = ("listener", "old")
    count(sets, "connections_accepted_total", "old")  # has gone before it was seen
    sets.come(old)
    clock.now += SHOWN_S
    assert sets.let_go() == []
    sets.leave(old)
    sets.leave(("listener", "nobody's"))
    clock.now += SHOWN_S
    assert sets.let_go() == [old]


def test_an_owner_without_counts_is_told_too(sets: LabelSets, clock: Clock) -> None:
    sets.own(HOST)
    sets.own(("host", "p", "unknown"))
    clock.now += SHOWN_S
    assert sets.let_go() == [("host", "p", "unknown")]


def test_what_no_reload_removes_stays(sets: LabelSets, clock: Clock) -> None:
    count(sets, "host_failures_total", OTHER, OTHER, "refused")
    count(sets, "pins_moved_total", OTHER, "token")
    count(sets, "affinity_events_total", "evicted")
    count(sets, "collections_total", "rdp", OTHER)
    count(sets, "collections_total", "rdp", "Gone")
    clock.now += SHOWN_S
    assert sets.let_go() == [("alias", "rdp", "Gone")]
    assert len(names(sets)) == 4


def test_many_are_let_go_some_at_a_time(sets: LabelSets, clock: Clock) -> None:
    for number in range(250):
        count(sets, "redirect_loops_total", "gone", f"h{number}")
    clock.now += SHOWN_S
    assert [len(sets.let_go()) for _ in range(4)] == [100, 100, 50, 0]
    assert names(sets) == []


def test_what_is_let_go_while_all_are_looked_through_is_passed_over(
    sets: LabelSets, clock: Clock
) -> None:
    count(sets, "redirect_loops_total", "gone", "h1")
    looking = sets.all()
    next(looking)
    clock.now += SHOWN_S
    sets.let_go()
    assert not [key for key, _ in looking if "gone" in key]
