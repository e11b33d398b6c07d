"""UserNames: a user's name in the log as the operator wants it, and the key behind the hash."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest

from proxy.control.names import UserNames, hash_user, load_key, read_key
from proxy.settings import LogUsers

KEY = bytes(range(32))


def test_a_name_is_told_as_it_is_only_where_the_operator_says_plain() -> None:
    assert UserNames(LogUsers.PLAIN, KEY)(" Alice ") == {"user": " Alice "}
    assert UserNames(LogUsers.OMIT, KEY)("Alice") == {}
    assert UserNames(LogUsers.HASH, KEY)("Alice") == {"user_hash": hash_user(KEY, "Alice")}


@pytest.mark.parametrize("mode", LogUsers)
@pytest.mark.parametrize("user", [None, "", "  "])
def test_no_name_makes_no_field(mode: LogUsers, user: str | None) -> None:
    assert UserNames(mode, KEY)(user) == {}


def test_one_user_has_one_hash_whatever_the_case_and_padding() -> None:
    assert hash_user(KEY, "alice") == hash_user(KEY, " ALICE ")
    assert hash_user(KEY, "alice") != hash_user(KEY, "alicf")
    assert len(hash_user(KEY, "alice")) == 16


def test_who_lacks_the_key_cannot_compute_the_hash() -> None:
    assert hash_user(KEY, "alice") != hash_user(bytes(32), "alice")


def test_a_name_that_is_no_text_has_a_hash_too() -> None:
    assert len(hash_user(KEY, "a\udcff\x00")) == 16


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "users.key"
    key = load_key(path)
    assert len(key) == 32
    assert load_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["users.key"], "no draft stays behind"


def test_processes_that_come_at_once_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "users.key"
    with multiprocessing.get_context("spawn").Pool(4) as processes:
        keys = processes.map(load_key, [path] * 8, chunksize=1)
    assert set(keys) == {read_key(path)}


@pytest.mark.parametrize("content", ["", "no key", "00ff"])
def test_a_damaged_key_is_told_and_not_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "users.key"
    path.write_text(content)
    with pytest.raises(OSError, match="does not hold a key"):
        load_key(path)
    assert path.read_text() == content


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        load_key(tmp_path / "missing" / "users.key")
