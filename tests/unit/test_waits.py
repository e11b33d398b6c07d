"""Waits: everybody is woken for what happened to him, in time, and nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import weakref
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from proxy.waits import READABLE, WRITABLE, Waits


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


async def test_each_waiter_is_woken_for_its_own_descriptor() -> None:
    pairs = [socket.socketpair() for _ in range(50)]
    woken: list[int] = []

    async def wait(number: int) -> None:
        await Waits.here().one(pairs[number][0].fileno(), READABLE, inf)
        woken.append(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(50):
            tasks.create_task(wait(number))
        await asyncio.sleep(0)
        for number in reversed(range(50)):
            pairs[number][1].send(b"!")
            while number not in woken:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert woken[-1] == number
    for both in pairs:
        for sock in both:
            sock.close()


async def test_what_is_ready_already_is_told_at_once(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    await Waits.here().one(near.fileno(), WRITABLE, inf)
    far.close()
    await Waits.here().one(near.fileno(), READABLE, inf)


async def test_one_loop_has_one_set_of_waits() -> None:
    assert Waits.here() is Waits.here()


async def test_a_deadline_that_is_over_ends_the_wait_and_no_other(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    now = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as tasks:
        longer = tasks.create_task(Waits.here().one(far.fileno(), READABLE, now + 60))
        with pytest.raises(TimeoutError):
            await Waits.here().one(near.fileno(), READABLE, now + 0.15)
        assert asyncio.get_running_loop().time() >= now + 0.14
        assert not longer.done()
        near.send(b"!")


async def test_a_wait_that_is_broken_off_leaves_nothing_behind(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    waits = Waits.here()
    task = asyncio.get_running_loop().create_task(waits.one(near.fileno(), READABLE, inf))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    far.send(b"!")
    await asyncio.sleep(0.02)
    await waits.one(near.fileno(), READABLE, inf)  # it may be waited for again


async def test_a_copy_elsewhere_of_a_closed_descriptor_wakes_nobody(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    waits = Waits.here()
    await waits.one(near.fileno(), WRITABLE, inf)
    copy = os.dup(near.fileno())
    number = near.fileno()
    near.close()
    other, its_peer = socket.socketpair()
    assert other.fileno() == number
    far.send(b"!")  # readable for the copy alone
    with pytest.raises(TimeoutError):
        await waits.one(number, READABLE, asyncio.get_running_loop().time() + 0.05)
    os.close(copy)
    other.close()
    its_peer.close()


async def test_a_bad_descriptor_is_an_error_and_leaves_nothing_behind(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = pair
    with pytest.raises(OSError):
        await Waits.here().first(near.fileno(), 10_000, lambda: True, inf)
    near.send(b"")
    await Waits.here().one(near.fileno(), WRITABLE, inf)


def test_the_waits_go_with_their_loop() -> None:
    async def wait() -> weakref.ref[Waits]:
        near, far = socket.socketpair()
        with near, far:
            await Waits.here().one(near.fileno(), WRITABLE, inf)
        return weakref.ref(Waits.here())

    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    known = asyncio.run(wait())
    gc.collect()
    assert known() is None
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
