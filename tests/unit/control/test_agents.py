"""Agents on session hosts: asked over real sockets, heard, and silent."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain

import pytest

from proxy import sockets
from proxy.address import Address
from proxy.control.agents import MAX_IN_FLIGHT, AgentMonitor, ask_agent
from proxy.routing.agent import LINE_MAX_BYTES, AgentWord
from proxy.routing.pool import Host, Pool
from proxy.routing.will import Will
from proxy.settings import HostSettings, PoolSettings
from tests.unit.server.stage import Clock


@contextmanager
def agent(*pieces: bytes, leaves: bool = True) -> Iterator[Address]:
    """An agent that says these pieces to whoever connects."""
    listening = socket.create_server(("127.0.0.1", 0))
    staying: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):  # the listening socket is shut down
            while True:
                sock, _ = listening.accept()
                staying.append(sock)
                for piece in pieces:
                    sock.sendall(piece)
                    time.sleep(0.01)
                if leaves:
                    sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Address(*listening.getsockname())
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for sock in (listening, *staying):
            sock.close()


class World:
    """A pool whose hosts have agents at `port`, and who was told of what."""

    def __init__(self, port: int = 1, hosts: int = 2) -> None:
        settings = {
            "name": "desktops",
            "health": {"agent": {"port": port}, "interval": "10s", "timeout": "2s"},
            "hosts": [
                HostSettings(name=f"h{number}", address=Address("127.0.0.1", 3389 + number))
                for number in range(hosts)
            ],
        }
        self.pool = Pool(PoolSettings.model_validate(settings))
        self.clock = Clock()
        self.turned: list[tuple[str, bool]] = []
        self.monitor = AgentMonitor(
            {"desktops": self.pool}, self.heard, random.Random(7), self.clock, self.clock
        )

    def heard(self, host: Host, took: bool) -> None:
        self.turned.append((host.name, took))

    def begin(self, after_s: float) -> list[str]:
        self.clock.now += after_s
        return [visit.host.name for visit in self.monitor.begin()]


@pytest.mark.parametrize(
    ("pieces", "line"),
    [
        ([b"up 75%\n"], b"up 75%\n"),
        ([b"up ", b"75%\r\nand more"], b"up 75%\r\nand more"),
        ([b"drain"], b"drain"),
        ([], None),
        ([b"x" * 600], b"x" * LINE_MAX_BYTES),
    ],
)
async def test_one_line_is_read(pieces: list[bytes], line: bytes | None) -> None:
    with agent(*pieces) as address:
        assert await ask_agent(address, 10) == line


async def test_an_agent_that_says_a_line_and_stays_is_not_waited_for() -> None:
    with agent(b"ready\n", leaves=False) as address:
        assert await ask_agent(address, 10) == b"ready\n"


async def test_an_agent_that_is_silent_or_absent_says_nothing() -> None:
    with agent(leaves=False) as address:
        assert await ask_agent(address, 0.05) is None
    with agent() as address:
        pass
    assert await ask_agent(address, 5) is None


def test_each_host_is_asked_at_its_interval_and_not_twice_at_once() -> None:
    world = World()
    assert world.begin(0) == []
    assert sorted(world.begin(2)) == ["h0", "h1"]
    assert world.begin(20) == []  # both are still being asked
    for host in world.pool.hosts:
        world.monitor.finish(host, b"up\n")
    assert sorted(world.begin(0)) == ["h0", "h1"]
    for host in world.pool.hosts:
        world.monitor.finish(host, b"up\n")
    assert world.begin(8.9) == []
    assert sorted(world.begin(2.2)) == ["h0", "h1"]


def test_only_so_many_are_asked_at_once() -> None:
    world = World(hosts=MAX_IN_FLIGHT + 5)
    world.begin(0)
    assert len(world.begin(2)) == MAX_IN_FLIGHT


def test_where_agents_are_silent_all_have_their_turn() -> None:
    world = World(hosts=MAX_IN_FLIGHT + 5)
    world.begin(0)
    first = world.begin(2)
    for name in first:
        world.monitor.finish(world.pool.by_name[name], None)
    later = world.begin(20)
    assert {host.name for host in world.pool.hosts} <= {*first, *later}


@pytest.mark.parametrize("change", ["address", "agent"])
def test_what_an_agent_said_that_is_asked_no_more_counts_no_more(change: str) -> None:
    world = World(hosts=1)
    (host,) = world.pool.hosts
    world.begin(0)
    world.begin(2)
    world.monitor.finish(host, b"drain 10%\n")
    world.turned.clear()
    settings = world.pool.settings
    if change == "address":
        moved = settings.hosts[0].model_copy(update={"address": Address("127.0.0.2", 3389)})
        world.pool.change(settings.model_copy(update={"hosts": (moved,)}), {})
    else:
        health = settings.health.model_copy(update={"agent": None})
        world.pool.change(settings.model_copy(update={"health": health}), {})
    world.begin(1)
    assert (host.agent, world.turned) == (AgentWord(), [("h0", False)])
    assert [it.name for it in world.monitor.samples(host)] == []


async def test_a_visit_that_is_broken_off_is_no_silence(caplog: pytest.LogCaptureFixture) -> None:
    with agent(b"up", leaves=False) as address:
        world = World(address.port, hosts=1)
        world.begin(0)
        world.clock.now += 2
        (visit,) = world.monitor.begin()
        visiting = asyncio.create_task(world.monitor._ask(visit))
        await asyncio.sleep(0)
        visiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await visiting
    assert caplog.records == []


async def test_a_want_of_descriptors_is_no_silence(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(hosts=1)
    world.begin(0)
    world.clock.now += 2
    (visit,) = world.monitor.begin()

    def none_left(_: Address) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(sockets, "unconnected", none_left)
    await world.monitor._ask(visit)
    assert caplog.records == []
    assert len(world.begin(20)) == 1, "it is asked again in its time"


async def test_what_the_agent_of_another_address_says_meanwhile_is_not_heard() -> None:
    with agent(b"drain\n") as address:
        world = World(address.port, hosts=1)
        (host,) = world.pool.hosts
        world.begin(0)
        world.clock.now += 2
        (visit,) = world.monitor.begin()
        host.address = Address("127.0.0.2", 3389)
        world.begin(0)
        await world.monitor._ask(visit)
        assert host.agent == AgentWord()
        assert world.begin(3) == ["h0"], "the one that is there now is asked"


def test_a_pool_without_agents_asks_nobody() -> None:
    world = World()
    health = world.pool.settings.health.model_copy(update={"agent": None})
    world.pool.settings = world.pool.settings.model_copy(update={"health": health})
    assert world.begin(0) + world.begin(20) == []


def test_a_word_counts_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    host = world.pool.hosts[0]
    for _ in range(2):
        world.monitor.finish(host, b"drain 50% #leaving\n")
    assert host.agent == AgentWord(Will.DRAIN, False, 50, None, "leaving", world.clock.now)
    assert world.turned == [("h0", True)]
    assert [(line.message, line.__dict__["detail"]) for line in caplog.records] == [
        ("agent_said", "leaving")
    ]
    world.monitor.finish(host, b"20%\n")
    assert (host.agent.percent, len(world.turned)) == (20, 1)
    for line in (b"ready", b"0%", b"5%", b"6%"):
        world.monitor.finish(host, line)
    assert world.turned[1:] == [("h0", False), ("h0", True), ("h0", False)]


def test_silence_changes_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    host = world.pool.hosts[0]
    world.monitor.finish(host, b"drain\n")
    for _ in range(2):
        world.monitor.finish(host, None)
    assert host.will is Will.DRAIN
    world.monitor.finish(host, b"drain\n")
    for _ in range(2):
        world.monitor.finish(host, b"HTTP/1.1 400 Bad Request\r\n")
    assert [line.message for line in caplog.records] == [
        "agent_said",
        "agent_silent",
        "agent_not_understood",
    ]


def test_a_scrape_tells_what_agents_say() -> None:
    world = World()
    world.begin(0)
    assert list(world.monitor.samples(world.pool.hosts[0])) == []
    world.monitor.finish(world.pool.hosts[0], b"maint 30%\n")
    world.monitor.finish(world.pool.hosts[1], None)
    samples = chain.from_iterable(map(world.monitor.samples, world.pool.hosts))
    told = {(name, *labels[1:]): value for name, labels, value in samples}
    assert told["host_agent_up", "h0"] == told["host_agent_will", "h0", "maintenance"] == 1
    assert told["host_agent_will", "h0", "ready"] == told["host_agent_up", "h1"] == 0
    assert told["host_agent_percent", "h0"] == 30


async def test_it_asks_by_itself() -> None:
    with agent(b"drain\n") as address:
        world = World(address.port, hosts=1)
        world.begin(0)
        world.clock.now += 5
        heard = asyncio.Event()
        world.monitor.on_word = lambda *_: heard.set()
        running = asyncio.create_task(world.monitor.run())
        await heard.wait()
        running.cancel()
    assert world.pool.hosts[0].will is Will.DRAIN
