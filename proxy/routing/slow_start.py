"""Slow start: how much of its weight a host has, so long after it came back.

A host that has just started is the one with the fewest connections: without this it would get every
new login, in the minute in which it is slowest.
"""

from __future__ import annotations

LEAST = 0.01  # it is in the ranking from the start, for when nobody else is


def warmth(age_s: float, slow_start_s: float) -> float:
    """The part of its weight, linear from `LEAST` to 1, `age_s` after a host came back."""
    return min(1.0, max(LEAST, age_s / slow_start_s))
