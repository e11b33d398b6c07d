"""Hosts with `max_connections`: who belongs there waits his turn, who is new goes elsewhere."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack

import pytest

from proxy.affinity.store import Pin, PinKey
from proxy.errors import Cause, ClientError, LimitError, ServerError
from proxy.routing.model import Reason
from proxy.routing.pool import Host
from proxy.routing.will import Will, Wish
from proxy.server import placement
from proxy.wire.tokens import encode_msts
from tests.patience import PATIENCE_S
from tests.unit.server.stage import ALICE, Stage, stage

BOB = PinKey("desktops", "source:203.0.113.8")


def room_for(hosts: Iterable[Host], places: int) -> None:
    for host in hosts:
        changed = {"max_connections": places}
        host.settings = host.settings.model_copy(update=changed)


async def waits(farm: Stage, count: int) -> None:
    """Let the loop turn until so many clients are held."""
    while farm.placer.held < count:  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(0)


def free(farm: Stage, host: Host) -> None:
    """A connection ended; the poll would find it a moment later."""
    host.live -= 1
    farm.placer.host_turned()


async def test_newcomers_go_elsewhere_and_a_place_is_never_given_twice() -> None:
    async with stage("answer", "answer") as farm:
        room_for(farm.pool.hosts[:1], 1)
        async with AsyncExitStack() as stack:
            for number in range(4):
                visit, far = farm.visit(source=f"203.0.113.{number}")
                stack.enter_context(far)
                stack.enter_context(visit.client)
                placed = await farm.placer.place(visit)
                stack.enter_context(placed.server)
        assert [host.live for host in farm.pool.hosts] == [1, 3]


@pytest.mark.parametrize("line", [None, "token"])
async def test_who_belongs_to_a_full_host_waits_for_a_place_there(line: str | None) -> None:
    async with stage("answer", "answer") as farm:
        full, other = farm.pool.hosts
        room_for([full], 3)
        full.live = 3
        token = encode_msts(farm.hosts[0].address) if line else None
        if line is None:
            await farm.store.assign(ALICE, "a", ttl_s=600)
        coming = asyncio.create_task(farm.place(line=token))
        await waits(farm, 1)
        assert (full.waiting, full.live, other.live) == (1, 3, 0)
        free(farm, full)
        record = await coming
        assert (record.host, record.reason) == ("a", Reason.TOKEN if line else Reason.PIN)
        assert (full.waiting, full.live) == (0, 2)


async def test_places_are_given_in_the_order_of_coming_and_no_newcomer_takes_one() -> None:
    async with stage("answer") as farm:
        (full,) = farm.pool.hosts
        room_for([full], 1)
        full.live = 1
        await farm.store.assign(ALICE, "a", ttl_s=600)
        await farm.store.assign(BOB, "a", ttl_s=600)
        order: list[str] = []

        async def come(name: str, source: str) -> None:
            await farm.place(source=source)
            order.append(name)

        async with asyncio.TaskGroup() as clients:
            clients.create_task(come("alice", "203.0.113.7"))
            await waits(farm, 1)
            clients.create_task(come("bob", "203.0.113.8"))
            await waits(farm, 2)
            clients.create_task(come("new", "203.0.113.9"))
            await waits(farm, 3)
            clients.create_task(come("newer", "203.0.113.10"))
            await waits(farm, 4)
            free(farm, full)
        assert order == ["alice", "bob", "new", "newer"]
        assert (full.live, farm.placer.held) == (0, 0)


async def test_places_that_come_free_at_once_are_taken_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "RETRY_S", 3600.0)
    async with stage("answer") as farm:
        room_for(farm.pool.hosts, 1)
        farm.pool.hosts[0].live = 1
        async with asyncio.timeout(PATIENCE_S / 2), asyncio.TaskGroup() as clients:
            for number in range(4):
                clients.create_task(farm.place(source=f"203.0.113.{number}"))
                await waits(farm, number + 1)
            room_for(farm.pool.hosts, 9)
            farm.placer.host_turned()
        assert farm.placer.held == 0


async def test_only_the_first_in_line_looks_again_by_himself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "RETRY_S", 0.001)
    async with stage("answer") as farm, asyncio.TaskGroup() as clients:
        room_for(farm.pool.hosts, 1)
        farm.pool.hosts[0].live = 1
        looks: Counter[PinKey] = Counter()
        get = farm.store.get

        async def look(key: PinKey) -> Pin | None:
            looks[key] += 1
            return await get(key)

        monkeypatch.setattr(farm.store, "get", look)
        for number, source in enumerate(("203.0.113.7", "203.0.113.8")):
            clients.create_task(farm.place(source=source))
            await waits(farm, number + 1)
        while looks[ALICE] < 10:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert looks[BOB] == 1
        free(farm, farm.pool.hosts[0])


async def test_who_finds_no_host_is_told_so_though_one_that_drains_is_full() -> None:
    async with stage("answer") as farm:
        (host,) = farm.pool.hosts
        room_for([host], 1)
        host.live, host.wish = 1, Wish(Will.DRAIN)
        farm.hurry(no_host_s=0.3)
        with pytest.raises(ServerError) as refused:
            await farm.place()
        assert refused.value.cause is Cause.NO_HOST


async def test_who_stands_in_line_when_the_last_host_goes_is_told_that_there_is_none() -> None:
    async with stage("answer") as farm:
        (host,) = farm.pool.hosts
        room_for([host], 1)
        host.live = 1
        farm.hurry(no_host_s=2.0)
        coming = asyncio.create_task(farm.place())
        await waits(farm, 1)
        host.up = False
        farm.placer.host_turned()
        with pytest.raises(ServerError) as refused:
            await coming
        assert refused.value.cause is Cause.NO_HOST


@pytest.mark.parametrize("pinned", [True, False])
async def test_after_a_while_a_client_of_a_full_host_is_refused(pinned: bool) -> None:
    async with stage("answer", "answer") as farm:
        hosts = farm.pool.hosts[: 1 if pinned else 2]
        room_for(hosts, 1)
        for host in hosts:
            host.live = 1
        if pinned:
            await farm.store.assign(ALICE, "a", ttl_s=600)
        farm.hurry(no_host_s=0.3)
        visit, far = farm.visit()
        with visit.client, far, pytest.raises(LimitError) as refused:
            await farm.placer.place(visit)
        assert refused.value.cause is Cause.HOST_FULL
        assert visit.record.host == ("a" if pinned else None)
        assert (farm.hosts[0].requests, farm.hosts[1].requests) == ([], [])
        assert farm.pool.hosts[0].waiting == 0
        assert farm.placer.lines.is_free(farm.pool)


async def test_a_client_that_leaves_the_line_holds_up_nobody() -> None:
    async with stage("answer") as farm:
        (full,) = farm.pool.hosts
        room_for([full], 1)
        full.live = 1
        await farm.store.assign(ALICE, "a", ttl_s=600)
        visit, far = farm.visit()
        with visit.client:
            coming = asyncio.create_task(farm.placer.place(visit))
            await waits(farm, 1)
            far.close()
            farm.placer.host_turned()
            with pytest.raises(ClientError):
                await coming
        assert (full.waiting, farm.placer.held) == (0, 0)


async def test_who_waits_for_a_host_that_is_taken_out_goes_elsewhere() -> None:
    async with stage("answer", "answer") as farm:
        full = farm.pool.hosts[0]
        room_for([full], 1)
        full.live = 1
        await farm.store.assign(ALICE, "a", ttl_s=600)
        coming = asyncio.create_task(farm.place())
        await waits(farm, 1)
        full.wish = Wish(Will.MAINTENANCE)
        farm.placer.host_turned()
        record = await coming
        assert (record.host, record.reason) == ("b", Reason.REPINNED)
