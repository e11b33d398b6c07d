"""The rules of the table as values, without a store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.affinity.entry import Entry, assigned, claimed, moved, touched
from proxy.affinity.store import NEVER, Pin

A_PIN = Entry("a", expires_at=500.0, touched_at=90.0)


def test_a_claim_of_nothing_makes_a_pin() -> None:
    assert claimed(None, 100.0, "a", None, 60.0) == Entry("a", 160.0, 100.0, claimed_at=100.0)


def test_a_claim_that_knows_the_pin_replaces_it_and_begins_anew() -> None:
    assert claimed(A_PIN, 100.0, "b", "a", 60.0) == Entry("b", 160.0, 100.0, claimed_at=100.0)


@pytest.mark.parametrize("expected", [None, "c"])
def test_a_claim_that_errs_about_the_pin_extends_the_one_in_force(expected: str | None) -> None:
    assert claimed(A_PIN, 450.0, "b", expected, 60.0) == Entry("a", 510.0, 450.0, claimed_at=450.0)


def test_a_claim_without_expiry_alone_replaces_a_pin_without_expiry_that_it_knows() -> None:
    fixed = A_PIN._replace(expires_at=NEVER)
    assert claimed(fixed, 100.0, "b", "a", NEVER).pin == Pin("b", NEVER, 100.0)
    assert claimed(fixed, 100.0, "b", "c", NEVER).host == "a"
    assert claimed(fixed, 100.0, "b", "a", 60.0).host == "a"


def test_nothing_but_another_host_brings_an_expiry_nearer() -> None:
    assert claimed(A_PIN, 100.0, "a", "a", 60.0).expires_at == 500.0
    assert touched(A_PIN, 100.0, "node", "a", 60.0).expires_at == 500.0
    assert assigned(A_PIN, 100.0, "a", 60.0).expires_at == 500.0
    assert assigned(A_PIN, 100.0, "b", 60.0).expires_at == 160.0


def test_an_assignment_is_no_sign_of_a_connection_without_token() -> None:
    assert assigned(None, 100.0, "a", 60.0).claimed_at is None
    assert assigned(A_PIN._replace(claimed_at=80.0), 100.0, "b", 60.0).claimed_at == 80.0


def test_a_touch_with_another_host_leaves_the_nodes_mark_alone() -> None:
    assert touched(A_PIN, 100.0, "node", "b", 900.0) == A_PIN._replace(node="node", node_at=100.0)


def test_a_refused_move_is_no_entry() -> None:
    assert moved(None, 100.0, "node", "b", expected="a", quiet_s=60.0, ttl_s=60.0) is None
    assert moved(A_PIN, 100.0, "node", "c", expected="b", quiet_s=60.0, ttl_s=60.0) is None


@given(
    touches=st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 30)), max_size=8),
    mover=st.sampled_from("xyz"),
    quiet_s=st.integers(0, 100),
)
def test_two_slots_tell_each_node_when_any_other_was_there(
    touches: list[tuple[str, int]], mover: str, quiet_s: int
) -> None:
    entry, now, last = A_PIN, 100, dict[str, int]()
    for node, pause in touches:
        now += pause
        entry = touched(entry, now, node, "a", 60.0)
        last[node] = now
    disturbed = any(now - at < quiet_s for node, at in last.items() if node != mover)
    after = moved(entry, now, mover, "b", expected="a", quiet_s=quiet_s, ttl_s=60.0)
    assert (after is None) == disturbed
