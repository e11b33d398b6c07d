"""One Redis server for all tests of stores, emptied before each, and tables on all stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.affinity.stores import STORES
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
def place(tmp_path: Path, redis_server: RedisServer) -> Place:
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
