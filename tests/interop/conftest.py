"""What the tests with real clients share: a display for them to draw on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.interop.display import Display, display


@pytest_asyncio.fixture
async def screen(tmp_path: Path) -> AsyncIterator[Display]:
    """An X display of the test's own."""
    async with display(tmp_path / "display") as running:
        yield running
