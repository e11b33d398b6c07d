"""The share of its weight that a host has after it came back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.slow_start import LEAST, warmth

AGES = st.floats(0, 1e6)


@given(AGES, AGES, st.floats(1, 86400))
def test_it_only_grows_and_stays_within_its_bounds(one: float, other: float, whole: float) -> None:
    younger, older = sorted((one, other))
    assert LEAST <= warmth(younger, whole) <= warmth(older, whole) <= 1


def test_it_is_linear() -> None:
    assert [warmth(age, 60) for age in (0, 15, 30, 60, 90)] == [LEAST, 0.25, 0.5, 1, 1]
