"""Behind Sentinels and over a Cluster a table keeps the contract: the very tests of all stores."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Iterator

import pytest

from proxy.affinity.redis import RedisStore
from tests.servers.redis import start_cluster, start_sentinels
from tests.unit.affinity import test_entry_in_stores, test_stores
from tests.unit.affinity.tables import Clock, Table

pytestmark = pytest.mark.usefixtures("patience")

# Every test that takes a table is one of this module too, with the tables below.
globals().update(
    {
        name: test
        for module in (test_stores, test_entry_in_stores)
        for name, test in vars(module).items()
        if name.startswith("test_") and "table" in inspect.signature(test).parameters
    }
)


CALM_MS = 60_000  # no fail-over because the machine is busy


@pytest.fixture(
    scope="module",
    params=[
        functools.partial(start_sentinels, down_after_ms=CALM_MS),
        functools.partial(start_cluster, timeout_ms=CALM_MS),
    ],
    ids=["sentinels", "cluster"],
)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    farm, url = request.param(tmp_path_factory.mktemp("redis"))
    yield url
    farm.close()


@pytest.fixture
async def table(url: str) -> AsyncIterator[Table]:
    clock = Clock()
    one = await RedisStore.open(url, now=clock)
    two = await RedisStore.open(url, now=clock)
    async for key, _pin in one.scan():
        await one.clear(key)
    yield Table(one, two, clock)
    await two.close()
    await one.close()
