"""What several of these tests start: a Redis server, a relay, a product that can be changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.upgrading import Installation
from tests.patience import PATIENCE_S
from tests.servers.redis import RedisServer
from tests.unit.affinity.conftest import patience  # noqa: F401 (a fixture)
from tests.unit.relay.harness import RelayUnderTest


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path).start()
    yield started
    started.kill()


@pytest.fixture
def patient_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that are started now let their table take its time, as `patience` does for stores.

    One that is late on a busy machine is one that is away, and then nodes rightly place clients
    without it.
    """
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "from proxy.affinity import breaker\n"
        f"breaker.CALL_LIMIT_S = breaker.SUSPECT_LIMIT_S = {PATIENCE_S}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))


@pytest.fixture
def relay() -> Iterator[RelayUnderTest]:
    started = RelayUnderTest()
    yield started
    started.kill()


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    return Installation.made(tmp_path / "lib", monkeypatch)
