"""A table for two nodes that keep what an operator wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.affinity.sqlite import SqliteStore
from tests.unit.server.will_nodes import SHARED, Node


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(":memory:", max_pins=100, now=lambda: SHARED.now)
    yield opened
    await opened.close()


@pytest.fixture
def nodes(store: SqliteStore, tmp_path: Path) -> tuple[Node, Node]:
    SHARED.now = 1_000_000.0
    SHARED.home = tmp_path
    return Node("n1", store), Node("n2", store)
