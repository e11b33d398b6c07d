"""The rules across sections, and what they pass over. Their sentences: see test_loading."""

from __future__ import annotations

import pytest

from proxy.config.checks import faults
from proxy.config.document import Place, read

POOL = "pools: [{name: desktops, hosts: [{name: rdsh01, address: '10.0.0.21:3389'}]}]\n"


def places(text: str) -> list[Place]:
    return [fault.place for fault in faults(read(text))]


def binds(*addresses: str, rest: str = "metrics: {bind: off}") -> list[int]:
    """The lines (the first address is in line 1) whose bind is taken already."""
    lines = "".join(
        f"\n  {{name: n{index}, bind: '{bind}', pool: desktops}},"
        for index, bind in enumerate(addresses)
    )
    return [place.line - 1 for place in places(f"listeners: [{lines}\n]\n{POOL}{rest}\n")]


@pytest.mark.parametrize(
    "text",
    ["", "a", "[]", "listeners: x\npools: {}", "listeners: [x]\npools: [[]]", "metrics: off"],
)
def test_other_shapes_are_passed_over(text: str) -> None:
    assert places(f"{text}\nx: y" if ":" in text else "x: y") == []


def test_values_that_cannot_be_read_are_passed_over() -> None:
    assert binds("x", "x") == []
    assert (
        places("pools: [{hosts: [{address: x}, {address: x}, {token_addresses: [[], x]}]}]") == []
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.0.0.0:3389", "0.0.0.0:3389"),
        ("0.0.0.0:3389", "10.0.0.1:3389"),
        ("10.0.0.1:3389", "0.0.0.0:3389"),
        ("[::]:3389", "[2001:db8::1]:3389"),
        ("[2001:db8::1]:3389", "[2001:DB8:0::1]:3389"),
    ],
)
def test_one_port_cannot_be_given_twice(one: str, other: str) -> None:
    assert binds(one, other) == [2]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.0.0.0:3389", "[::]:3389"),
        ("0.0.0.0:3389", "0.0.0.0:3390"),
        ("10.0.0.1:3389", "10.0.0.2:3389"),
        ("127.0.0.1:0", "127.0.0.1:0"),
    ],
)
def test_binds_that_the_kernel_can_both_give_are_fine(one: str, other: str) -> None:
    assert binds(one, other) == []


def test_the_default_bind_of_metrics_takes_part() -> None:
    assert binds("0.0.0.0:9389", rest="") == [1]
    assert binds("0.0.0.0:9389", rest="metrics: {bind: '127.0.0.1:9390'}") == []
    assert binds("0.0.0.0:9389", rest="metrics: {bind: '127.0.0.1:9389'}") == [3 + 1]


def test_pools_are_not_called_unknown_while_none_has_a_name() -> None:
    assert places("listeners: [{pool: desktops}]\npools: [{nam: desktops}]") == []


def tokens(first: str, second: str, *, listener: str = "{pool: a, collections: {x: b}}") -> int:
    """How many faults two hosts of two pools have."""
    return len(
        places(
            f"listeners: [{listener}]\n"
            f"pools:\n- {{name: a, hosts: [{first}]}}\n- {{name: b, hosts: [{second}]}}\n"
        )
    )


ONE = "{name: one, address: '10.0.0.1:3389', token_addresses: [192.0.2.1]}"
OTHER = "{name: other, address: '10.0.0.2:3389', token_addresses: ['192.0.2.1:3389']}"
SAME = "{name: same, address: '10.0.0.1:3389', token_addresses: [192.0.2.1]}"
NAMED = "{name: named, address: 'rdsh01.example:3389'}"


def test_a_token_leads_to_one_machine_only() -> None:
    assert tokens(ONE, OTHER) == 1
    assert tokens(ONE, "{name: other, address: '192.0.2.1:3389'}") == 1


def test_one_machine_may_serve_two_pools() -> None:
    assert tokens(ONE, SAME) == 0


def test_tokens_of_pools_without_a_common_listener_do_not_meet() -> None:
    assert tokens(ONE, OTHER, listener="{pool: a}, {pool: b}") == 0


def test_a_port_tells_token_addresses_apart() -> None:
    assert tokens(ONE, OTHER.replace("'192.0.2.1:3389'", "'192.0.2.1:3390'")) == 0


def test_a_dispute_behind_two_listeners_is_told_once() -> None:
    assert tokens(ONE, OTHER, listener=", ".join(["{pool: a, collections: {x: b}}"] * 2)) == 1


def test_a_token_address_that_cannot_be_read_claims_nothing() -> None:
    assert tokens(ONE, "{name: other, address: '10.0.0.2:1', token_addresses: [x, []]}") == 0


def test_a_host_known_by_name_claims_no_token_by_itself() -> None:
    assert tokens(NAMED, NAMED.replace("named", "again")) == 0
