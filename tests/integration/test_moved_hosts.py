"""Pools and hosts get other names while sessions live, and the front dies: nobody loses count."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.reloading import Config, World, lives, reloading
from tests.integration.test_drain import command, runs

POOL = "full_desktop"


def pool_renamed(config: Config) -> None:
    config["pools"][0]["name"] = "renamed"
    config["listeners"][0] |= {"pool": "renamed", "collections": {}}


def pool_replaced(config: Config) -> None:
    """The pool is gone, with all of its hosts."""
    pool_renamed(config)
    config["pools"][0]["hosts"] = [{"name": "new", "address": "127.99.0.1:3389"}]


def host_renamed(config: Config) -> None:
    config["pools"][0]["hosts"][0]["name"] = "renamed"


def host_moved(config: Config) -> None:
    first, *others = config["pools"][0]["hosts"]
    config["pools"][0]["hosts"] = others
    config["pools"].append({"name": "renamed", "hosts": [first]})
    config["listeners"][0]["collections"] = {"moved": "renamed"}


async def kill_front(world: World) -> None:
    started = len(list(world.proxy.events("started")))
    os.kill(world.proxy.front, signal.SIGKILL)

    async def is_there() -> bool:
        return len(list(world.proxy.events("started"))) > started

    await world.proxy.until(is_there)


@pytest.mark.parametrize(
    ("change", "pool", "drained"),
    [
        (pool_renamed, "renamed", "rdsh01"),
        (pool_replaced, None, "rdsh01"),
        (host_renamed, POOL, "renamed"),
        (host_moved, "renamed", "rdsh01"),
    ],
)
async def test_sessions_on_a_host_that_was_moved_are_counted_and_waited_for(
    tmp_path: Path, change: object, pool: str | None, drained: str
) -> None:
    assert callable(change)
    async with reloading(tmp_path) as w:
        where = {"pool": POOL, "host": "rdsh01"}
        async with w.session("alice", token="rdsh01") as alice:
            config = w.config
            change(config)
            assert (await w.reload(config))["event"] == "config_reloaded"
            for restart in (False, True):
                if restart:
                    await kill_front(w)
                assert await w.proxy.metric("connections_active", **where) == 1
                assert (await w.rows())[POOL, "rdsh01"]["connections"] == 1
            only = ("--pool", pool) if pool else ()
            waiting = await command(w.proxy, "drain", drained, *only, "--wait")
            assert waiting.stderr is not None
            told = (await waiting.stderr.readline()).decode()
            assert told == "rdp-proxy: 1 connection left on this node\n"
            assert runs(waiting)
            assert await lives(alice)
        await waiting.wait()
        assert waiting.returncode == 0
        await w.proxy.until(w.forgotten("rdsh01"))
        await w.proxy.until_active(0)
