"""Of what two nodes, or two commands, want of one host at one instant nothing is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import PinKey
from proxy.routing.will import Will, Wish
from tests.unit.server.will_nodes import DRAIN, MARK, Node, Reads


async def test_a_weight_and_a_will_that_two_nodes_change_are_both_kept(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes
    await a.wants(DRAIN)
    await b.keeper.say(b.host, lambda wish: replace(wish, weight=7))
    await a.keeper.tick()
    assert a.host.wish == b.host.wish == replace(DRAIN, weight=7)
    assert a.host.weight == 7


@pytest.mark.parametrize("other", [0, 1], ids=["at one node", "at two nodes"])
async def test_of_two_changes_at_one_instant_none_is_lost(
    nodes: tuple[Node, Node], store: SqliteStore, other: int
) -> None:
    a, b = nodes[0], nodes[other]
    for node in nodes:
        node.keeper.store = Reads(store, [])  # type: ignore[assignment]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(a.keeper.say(a.host, lambda wish: replace(DRAIN, weight=wish.weight)))
        tasks.create_task(b.keeper.say(b.host, lambda wish: replace(wish, weight=7)))
    for node in nodes:
        await node.keeper.tick()
        assert node.host.wish == replace(DRAIN, weight=7)


async def test_what_was_read_before_a_change_does_not_undo_it(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, b = nodes
    await b.wants(Wish(Will.MAINTENANCE))
    table = Reads(store, [])
    a.keeper.store = table  # type: ignore[assignment]
    table.may_answer.clear()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(a.keeper.tick())
        while "will:a" not in table.read:
            table.may_answer.set()
            await asyncio.sleep(0)
            table.may_answer.clear()
        a.keeper.store = store  # the answer is on its way, and slower than what comes next
        said = tasks.create_task(a.wants(DRAIN))
        await asyncio.wait([said], timeout=0.05)
        table.may_answer.set()
    assert a.host.wish == DRAIN


async def test_a_table_that_lost_its_memory_keeps_what_was_said_since(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, b = nodes
    await a.wants(DRAIN)
    await a.keeper.tick()
    await store.clear(MARK)
    await store.clear(PinKey("desktops", "will:a"))
    await b.wants(Wish(Will.MAINTENANCE))
    await store.clear(MARK)  # as if it were still to come
    await a.keeper.tick()
    assert a.host.wish == Wish(Will.MAINTENANCE)


async def test_a_table_that_lost_its_memory_is_told_again_after_a_start_too(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, b = nodes
    await a.wants(DRAIN)
    await a.keeper.tick()
    await store.clear(MARK)
    await store.clear(PinKey("desktops", "will:a"))
    await Node("n1", store).keeper.learn(0)
    await b.keeper.tick()
    assert b.host.wish == DRAIN


async def test_a_table_that_lost_its_memory_is_told_again(
    nodes: tuple[Node, Node], store: SqliteStore
) -> None:
    a, b = nodes
    await a.wants(DRAIN)
    await b.keeper.tick()
    for teller in (b, a):  # the one who said it has not looked since
        await store.clear(MARK)
        await store.clear(PinKey("desktops", "will:a"))
        await teller.keeper.tick()
        assert await store.get(MARK) is not None
    late = Node("n3", store)
    await late.keeper.learn(0)
    assert late.host.wish == DRAIN
