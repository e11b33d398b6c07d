"""All that may befall a running product, one thing after the other, under load."""

from __future__ import annotations

from pathlib import Path

from tests.integration.chaos.play import QUICK, Play, play


async def test_nobody_is_hurt_by_what_should_hurt_nobody(tmp_path: Path) -> None:
    what = Play(seed=7, seconds=0, rate=5.0, residents=12, operations=QUICK)
    house, crowd, audit = await play(what, tmp_path)
    told = "\n".join([*house.model.violations, f"seed {what.seed}", *house.model.done])
    assert house.model.violations == [], told
    assert len(house.model.done) >= len(QUICK) - 4, told  # what there is nothing to do for
    assert min(crowd.redirected, crowd.echoes, audit.lines, audit.breaths) > 0
