"""What several of these tests start: a Redis server, a relay, a product that can be changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.upgrading import Installation
from tests.servers.redis import RedisServer
from tests.unit.affinity.conftest import patience  # noqa: F401 (a fixture)
from tests.unit.relay.harness import RelayUnderTest


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path).start()
    yield started
    started.kill()


@pytest.fixture
def relay() -> Iterator[RelayUnderTest]:
    started = RelayUnderTest()
    yield started
    started.kill()


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    return Installation.made(tmp_path / "lib", monkeypatch)
