"""What a node knew of the operator's will: kept whole, recalled, and never a reason to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.affinity.wills_file import KnownWills, WillsFile
from proxy.routing.will import Pins, Will, Wish

DRAIN = Wish(Will.DRAIN, Pins.LIVE, since=1_000_000.5, deadline=1_000_100.0, close=True, weight=7)
KNOWN = KnownWills(
    {"desktops": "5 rdsh01", "tools": "6 tool01"},
    {("desktops", "rdsh01"): DRAIN, ("tools", "ü[10.0.0.1]"): Wish(Will.MAINTENANCE)},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wills.json"


async def test_what_is_kept_is_recalled(path: Path) -> None:
    await WillsFile(path).keep(KNOWN)
    assert WillsFile(path).recall() == KNOWN
    assert [file.name for file in path.parent.iterdir()] == ["wills.json"], "no draft is left"


async def test_nothing_was_known_where_nothing_was_kept(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert WillsFile(path).recall() is None
    assert caplog.records == []


async def test_that_nothing_is_wanted_is_known_too(path: Path) -> None:
    await WillsFile(path).keep(KnownWills({}, {}))
    assert WillsFile(path).recall() == KnownWills({}, {})


async def test_hosts_of_whom_nothing_is_wanted_are_left_out(path: Path) -> None:
    file = WillsFile(path)
    await file.keep(KnownWills(KNOWN.marks, {**KNOWN.wishes, ("tools", "tool02"): Wish()}))
    assert WillsFile(path).recall() == KNOWN


async def test_the_same_again_is_not_written_again(path: Path) -> None:
    await WillsFile(path).keep(KNOWN)
    file = WillsFile(path)
    file.recall()
    path.unlink()
    await file.keep(KNOWN)
    assert not path.exists()
    await file.keep(KnownWills({"desktops": "7 rdsh01"}, {}))
    assert WillsFile(path).recall() == KnownWills({"desktops": "7 rdsh01"}, {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "3",
        "{",
        '{"desktops": 1}',
        '{"desktops": {"hosts": {}}}',
        '{"desktops": {"mark": "5", "hosts": [1]}}',
        '{"desktops": {"mark": "5", "hosts": {"rdsh01": "{}"}}}',
        '{"desktops": {"mark": "5", "hosts": {"rdsh01": 7}}}',
    ],
)
async def test_what_cannot_be_read_is_told_and_replaced(
    path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path.write_text(text)
    file = WillsFile(path)
    assert file.recall() is None
    (line,) = caplog.records
    assert (line.message, str(path) in vars(line)["detail"]) == ("will_unknown", True)
    await file.keep(KNOWN)
    assert WillsFile(path).recall() == KNOWN


async def test_bytes_that_are_no_text_are_not_read(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{}")
    assert WillsFile(path).recall() is None


async def test_a_file_that_cannot_be_written_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "not there" / "wills.json"
    file = WillsFile(path)
    await file.keep(KNOWN)
    await file.keep(KNOWN)
    (line,) = caplog.records
    assert (line.message, vars(line)["detail"]) == (
        "wills_not_kept",
        f"{path}: No such file or directory",
    )
    path.parent.mkdir()
    await file.keep(KNOWN)
    assert WillsFile(path).recall() == KNOWN
