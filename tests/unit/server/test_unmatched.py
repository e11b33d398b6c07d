"""Collections that no pool serves: told once, with the ones that there are, and not in floods."""

from __future__ import annotations

import logging

import pytest

from proxy.server.unmatched import UnmatchedCollections
from tests.unit.routing.farm import pool, routes

ROUTES = routes(pool("office"), pool("cad"), collections={"CAD": "cad", "Office": "office"})


def test_an_alias_is_told_once_an_hour_with_those_that_are_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unmatched = UnmatchedCollections()
    with caplog.at_level(logging.WARNING):
        for at, alias in [(0.0, "Cat"), (10.0, "cat "), (3599.0, "CAT"), (3600.0, "Cat")]:
            unmatched.note("rdp", alias, ROUTES, 1e9 + at)
    first, second = caplog.records
    assert first.getMessage() == second.getMessage() == "collection_unmatched"
    told = {key: vars(first)[key] for key in ("listener", "collection", "collections", "pool")}
    assert told == {
        "listener": "rdp",
        "collection": "Cat",
        "collections": ["CAD", "Office"],
        "pool": "office",
    }


def test_listeners_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    unmatched = UnmatchedCollections()
    with caplog.at_level(logging.WARNING):
        for listener in ("rdp", "second", "rdp"):
            unmatched.note(listener, "Cat", ROUTES, 1e9)
    assert [vars(record)["listener"] for record in caplog.records] == ["rdp", "second"]


def test_made_up_names_fill_neither_the_log_nor_the_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unmatched = UnmatchedCollections()
    with caplog.at_level(logging.WARNING):
        for number in range(10_000):
            unmatched.note("rdp", f"{number}" + "x" * 1000, ROUTES, 1e9)
    assert len(caplog.records) == 100
    assert {len(vars(record)["collection"]) for record in caplog.records} == {80}
