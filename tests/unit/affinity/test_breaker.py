"""The breaker before a server that may be away."""

from __future__ import annotations

import asyncio

import pytest

from proxy.affinity.breaker import CALL_LIMIT_S, FAILURES_MAX, SUSPECT_LIMIT_S, Breaker


async def test_three_failures_in_a_row_open_it_and_one_success_closes_it() -> None:
    breaker = Breaker()
    assert [breaker.failed("gone") for _ in range(FAILURES_MAX + 1)] == [False, False, True, False]
    assert (breaker.is_open, breaker.fault) == (True, "gone")
    breaker.succeeded()
    assert (breaker.is_open, breaker.fault) == (False, "")


def test_failures_with_a_success_between_them_do_not_open_it() -> None:
    breaker = Breaker()
    for _ in range(2 * FAILURES_MAX):
        breaker.failed("slow")
        breaker.failed("slow")
        breaker.succeeded()
    assert not breaker.is_open


def test_after_a_failure_calls_have_less_time() -> None:
    breaker = Breaker()
    assert breaker.limit_s == CALL_LIMIT_S
    breaker.failed("slow")
    assert breaker.limit_s == SUSPECT_LIMIT_S
    breaker.succeeded()
    assert breaker.limit_s == CALL_LIMIT_S


async def test_a_call_that_takes_too_long_is_ended() -> None:
    breaker = Breaker()
    breaker.failed("slow")
    with pytest.raises(TimeoutError):
        async with breaker.limit():
            await asyncio.Event().wait()


async def test_opening_lets_go_whoever_waits() -> None:
    breaker = Breaker()
    released = []

    async def call() -> None:
        with pytest.raises(TimeoutError):
            async with breaker.limit():
                await asyncio.Event().wait()
        released.append(asyncio.get_running_loop().time())

    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(call())
        await asyncio.sleep(0)
        breaker.open("gone")
    assert breaker.is_open
    assert len(released) == 5
    assert max(released) - started < CALL_LIMIT_S
