"""pydantic's errors in plain words. Whole files with all of their problems: test_loading."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.config.document import Fault, Place, read
from proxy.config.messages import did_you_mean, faults
from proxy.settings import Settings


def found(text: str) -> list[Fault]:
    root = read(text)
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(root.tree(), by_alias=True, by_name=False)
    return list(faults(caught.value.errors(), root))


def test_the_key_that_was_probably_meant_is_named() -> None:
    assert did_you_mean("Wieght", ["name", "weight"]) == "; did you mean 'weight'?"
    assert did_you_mean("colour", ["name", "weight"]) == ""
    assert did_you_mean(["weight"], ["weight"]) == ""


def test_an_unknown_key_is_blamed_and_not_its_value() -> None:
    assert Fault(Place(1, 7), "unknown key 'lvl' in log; did you mean 'level'?") in found(
        "log: {lvl: info}"
    )


def test_a_long_key_is_shown_short() -> None:
    assert all(len(fault.message) < 100 for fault in found(f"{'x' * 900}: 1"))


def test_a_key_that_lives_elsewhere_is_sent_there() -> None:
    messages = [fault.message for fault in found("ttl: 5m\nlog: {listeners: []}")]
    assert "unknown key 'ttl'; its place is `pools.affinity`" in messages
    assert "unknown key 'listeners' in log; its place is the top level" in messages


def test_a_key_with_several_homes_is_sent_nowhere() -> None:
    assert "unknown key 'bind'" in [fault.message for fault in found("bind: off")]


def test_the_field_of_python_is_not_a_key_of_the_file() -> None:
    messages = [fault.message for fault in found("timeouts: {connect_s: 3s}")]
    assert "unknown key 'connect_s' in timeouts; did you mean 'connect'?" in messages


def test_a_list_with_a_faulty_entry_is_not_called_short() -> None:
    messages = [fault.message for fault in found("listeners: [x]\npools: []\n")]
    assert "pools: at least one entry is wanted" in messages
    assert "listeners: at least one entry is wanted" not in messages


def test_a_kind_of_error_that_is_new_keeps_the_words_of_pydantic() -> None:
    error: ErrorDetails = {"type": "novel", "loc": ("log",), "msg": "So and so", "input": "x"}
    assert list(faults([error], read("log: x"))) == [Fault(Place(1, 6), "log: So and so")]
