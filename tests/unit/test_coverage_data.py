"""What killed processes have half written of what they ran."""

from __future__ import annotations

from pathlib import Path

from coverage import CoverageData

from tests.coverage_data import drop_halves


def test_data_that_are_not_whole_are_dropped_and_others_kept(tmp_path: Path) -> None:
    whole = CoverageData(str(tmp_path / ".coverage.whole"))
    whole.add_arcs({f"/a{number}.py": {(1, 2), (2, 3)} for number in range(2000)})
    data = (tmp_path / ".coverage.whole").read_bytes()
    pages = len(data) // 4096
    assert pages > 9
    torn = data[: pages // 2 * 4096] + bytes(2 * 4096) + data[(pages // 2 + 2) * 4096 :]
    halves = {"begun": b"", "half": data[: pages // 2 * 4096], "noise": b"?" * 999, "torn": torn}
    for name, part in halves.items():
        (tmp_path / f".coverage.{name}").write_bytes(part)
    (tmp_path / ".coverage").write_bytes(b"is not a process's")
    assert drop_halves(tmp_path) == [f".coverage.{name}" for name in halves]
    assert {file.name for file in tmp_path.iterdir()} == {".coverage", ".coverage.whole"}
