"""One Redis server for all tests of stores, emptied before each, and tables on all stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.affinity import breaker, redis_client
from proxy.affinity.stores import STORES
from tests.patience import PATIENCE_S
from tests.servers.redis import BRANDS, RedisServer
from tests.unit.affinity.tables import OPENERS, Clock, Place, Table


@pytest.fixture(scope="session", params=BRANDS)
def redis_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), brand=request.param).start()
    yield server
    server.kill()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server on a busy machine take its time: how long calls may take is tested elsewhere."""
    for module in (breaker, redis_client):
        monkeypatch.setattr(module, "CALL_LIMIT_S", PATIENCE_S)
    monkeypatch.setattr(breaker, "SUSPECT_LIMIT_S", PATIENCE_S)
    monkeypatch.setattr(redis_client, "CONNECT_LIMIT_S", PATIENCE_S)


@pytest.fixture
def place(tmp_path: Path, redis_server: RedisServer, patience: None) -> Place:
    redis_server.cli("flushall")
    return Place(tmp_path, redis_server.url)


@pytest.fixture(params=list(STORES))
async def table(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Table]:
    clock = Clock()
    one = await OPENERS[request.param](place, clock)
    two = await OPENERS[request.param](place, clock)
    yield Table(one, two, clock)
    await two.close()
    await one.close()
