"""What people read: tables, counts, and configurations that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.console import WRONG, CommandError, load, number, say, table, time_text, why


def test_a_table_has_a_dash_where_nothing_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    table(["name", "up", "load"], [{"name": "[b]x", "up": True, "load": 5}, {"name": "y"}])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["name", "up", "load"], ["[b]x", "yes", "5"], ["y", "-", "-"]]


def test_numbers_stand_at_the_right_and_words_at_the_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table(["up", "load"], [{"up": False, "load": 5}])
    assert capsys.readouterr().out.splitlines()[1].rstrip() == "no     5"


def test_a_table_is_whole_however_wide_and_without_empty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    names = " ".join(f"rdsh{number:02}.example" for number in range(40))
    table(["host", "cause", "names"], [{"host": "a", "names": names}, {"host": "b"}])
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in lines] == ["host  names", f"a     {names}", "b     -"]
    table(["host", "cause"], [])
    assert capsys.readouterr().out.split() == ["host", "cause"]


def test_what_could_play_with_the_terminal_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    say("CN=\x1b[2Jü\nCN=\u202e")
    table(["user"], [{"user": "a\x1b]0;b\x07\nc"}])
    assert capsys.readouterr().out.split() == [
        r"CN=\x1b[2Jü",
        r"CN=\u202e",
        "user",
        r"a\x1b]0;b\x07\nc",
    ]


def test_one_is_singular() -> None:
    assert [number(count, "pin") for count in (0, 1, 2)] == ["0 pins", "1 pin", "2 pins"]


def test_a_time_has_its_two_largest_units() -> None:
    times = (-1, 0.4, 59.6, 3601, 93_784)
    assert [time_text(seconds) for seconds in times] == [
        "0 s",
        "0 s",
        "1 min",
        "1 h 1 s",
        "1 d 2 h",
    ]


def test_a_configuration_that_cannot_be_used_is_a_wrong_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError, match=r"none.yaml:1:1: the file cannot be read") as told:
        load(str(tmp_path / "none.yaml"))
    assert (told.value.code, told.value.prefix) == (WRONG, "")
    say("done")
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file or directory"), "No such file or directory"),
        (TimeoutError("timed out"), "timed out"),
        (ValueError("no HTTP"), "no HTTP"),
    ],
)
def test_what_went_wrong_is_told_without_its_number(error: Exception, text: str) -> None:
    assert why(error) == text
