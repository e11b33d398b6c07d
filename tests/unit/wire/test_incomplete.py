from __future__ import annotations

import dataclasses

import pytest

from proxy.wire.incomplete import Incomplete


def test_two_equal_answers_are_one_value() -> None:
    assert Incomplete(4) == Incomplete(missing=4)
    assert Incomplete(4) != Incomplete(5)


def test_an_answer_does_not_change() -> None:
    answer = Incomplete(4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.missing = 5  # type: ignore[misc]
