"""The operator's will: whom it admits, when it is overdue, and how nodes tell it to each other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.will import Hold, Pins, Will, Wish

WISHES = st.builds(
    Wish,
    st.sampled_from(Will),
    st.sampled_from(Pins),
    st.none() | st.floats(0, 1e10),
    st.none() | st.floats(0, 1e10),
    st.booleans(),
    st.none() | st.integers(0, 10_000),
)


@given(WISHES)
def test_a_wish_is_told_whole(wish: Wish) -> None:
    assert Wish.unpack(wish.pack()) == wish


@pytest.mark.parametrize("will", Will)
def test_only_a_drain_asks_whose_pin_it_is(will: Will) -> None:
    for hold in Hold:
        admitted = {pins for pins in Pins if Wish(will, pins).admits(hold)}
        if will is Will.DRAIN:
            assert Pins.KEEP in admitted
            assert (Pins.DROP in admitted) is (hold is Hold.FIXED)
        else:
            assert admitted == (set(Pins) if will is Will.READY else set())


def test_a_drain_that_is_to_be_closed_ends_in_maintenance() -> None:
    wish = Wish(Will.DRAIN, since=100.0, deadline=500.0, close=True, weight=7)
    assert (wish.at(499.9), wish.closes_by(499.9)) == (wish, False)
    over = wish.at(500.0)
    assert (over.will, over.since, over.weight) == (Will.MAINTENANCE, 500.0, 7)
    assert over.closes_by(500.0)
    assert over.at(600.0) == over


def test_a_deadline_alone_closes_nothing() -> None:
    wish = Wish(Will.DRAIN, deadline=500.0)
    assert (wish.at(900.0), wish.closes_by(900.0)) == (wish, False)
    assert not Wish(Will.MAINTENANCE, close=True).closes_by(900.0)


def test_what_a_newer_version_adds_is_passed_over() -> None:
    fields = json.loads(Wish(Will.DRAIN).pack()) | {"mood": "sunny"}
    assert Wish.unpack(json.dumps(fields)) == Wish(Will.DRAIN)


@pytest.mark.parametrize(
    "change",
    [
        {"will": "sleep"},
        {"pins": None},
        {"since": "noon"},
        {"deadline": []},
        {"weight": -1},
        {"weight": 10_001},
        {"weight": True},
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Wish.unpack(json.dumps(json.loads(Wish().pack()) | change))


@pytest.mark.parametrize("text", ["", "rdsh01", "[]", "{}", "null", "7"])
def test_another_text_is_no_wish(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Wish.unpack(text)
