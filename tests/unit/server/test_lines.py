"""Lines: who is first, who is called, and what is left of a line that is empty."""

from __future__ import annotations

from proxy.server.lines import Lines
from tests.unit.routing.farm import pool


async def test_the_first_is_called_when_the_one_before_leaves() -> None:
    lines, farm = Lines(), pool()
    host = farm.hosts[0]
    first, second, third = (lines.join(host) for _ in range(3))
    assert [turn.is_first for turn in (first, second, third)] == [True, False, False]
    assert host.waiting == 3
    second.leave()
    assert first.called.is_set()  # he looks once more than he must
    first.leave()
    assert (third.is_first, third.called.is_set(), host.waiting) == (True, True, 1)
    assert not lines.is_free(host)
    third.leave()
    assert (lines.is_free(host), host.waiting) == (True, 0)


async def test_a_host_and_its_pool_have_lines_of_their_own() -> None:
    lines, farm = Lines(), pool()
    turns = [lines.join(farm), lines.join(farm.hosts[0])]
    assert all(turn.is_first for turn in turns)
    assert farm.hosts[0].waiting == 1
    assert lines.is_free(farm.hosts[1])


async def test_everybody_looks_when_a_host_turned() -> None:
    lines, farm = Lines(), pool()
    turns = [lines.join(farm), lines.join(farm), lines.join(farm.hosts[0])]
    lines.call()
    assert all(turn.called.is_set() for turn in turns)
