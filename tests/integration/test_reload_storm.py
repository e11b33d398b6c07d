"""Many reloads in a row, of good and of bad files, while clients come and stay."""

from __future__ import annotations

from pathlib import Path

from tests.integration.reload_storm import Storm, play


async def test_no_login_fails_and_nobody_is_cut_whatever_is_reloaded(tmp_path: Path) -> None:
    storm = await play(Storm(hosts=100, reloads=20, logins_per_s=10, live=50, seed=1), tmp_path)
    assert storm.failed == []
    assert storm.cut == 0
    assert storm.logins >= 20
    assert len(storm.took_s) + storm.refused == 20
    assert min(len(storm.took_s), storm.refused) > 0
