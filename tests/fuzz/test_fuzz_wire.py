"""The fuzzer itself: it finds what is broken, keeps it, and its oracles can say no."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.errors import Cause, WireError
from proxy.wire.incomplete import Incomplete
from tests.fuzz.fuzz_wire import SEEDS, fuzz, mutate
from tests.fuzz.oracles import ORACLES, check_answers


def test_every_oracle_has_seeds_that_hold() -> None:
    assert set(SEEDS) == set(ORACLES)
    for name, seeds in SEEDS.items():
        for seed in seeds:
            ORACLES[name](seed)


def test_mutations_of_one_seed_are_the_same_again() -> None:
    data = SEEDS["connection_request"][0]
    first, second = (
        [mutate(data, chance) for _ in range(50)] for chance in (random.Random(1), random.Random(1))
    )
    assert first == second
    assert len(set(first)) > 25


def test_a_finding_is_kept_as_a_file(tmp_path: Path) -> None:
    def broken(data: bytes) -> None:
        if data:
            raise IndexError("past the end")

    file = fuzz(10, 1, {"token": broken}, tmp_path)
    assert file is not None
    assert file.parent == tmp_path / "token"
    with pytest.raises(IndexError):
        broken(bytes.fromhex(file.read_text(encoding="ascii")))


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    assert fuzz(0.2, 1, findings=tmp_path) is None


def _greedy(data: bytes) -> bytes | Incomplete:
    return data if len(data) == 2 else Incomplete(5)


def _fickle(data: bytes) -> bytes | Incomplete:
    raise WireError(Cause.NOT_TPKT if len(data) % 2 else Cause.TPKT_LENGTH)


def _stuck(data: bytes) -> bytes | Incomplete:
    return Incomplete(0)


def _leaky(data: bytes) -> bytes | Incomplete:
    raise IndexError


@pytest.mark.parametrize("parse", [_greedy, _fickle, _stuck, _leaky])
def test_the_oracle_sees_a_parser_that_breaks_its_contract(
    parse: Callable[[bytes], bytes | Incomplete],
) -> None:
    with pytest.raises((AssertionError, IndexError)):
        check_answers(parse, b"abc")
