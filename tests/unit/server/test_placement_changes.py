"""Placement while the configuration changes under it: decisions that are older than the change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxy.errors import Cause, LimitError, ServerError
from proxy.routing.will import Will, Wish
from proxy.settings import TokenPolicy
from proxy.wire.tokens import encode_msts
from tests.patience import PATIENCE_S
from tests.unit.server.stage import ALICE, Stage, stage


def keep(farm: Stage, *names: str) -> None:
    """Have these hosts of the configuration, and no others."""
    settings = farm.pool.settings
    hosts = tuple(host for host in settings.hosts if host.name in names)
    farm.pool.change(settings.model_copy(update={"hosts": hosts}), {})
    farm.routes.index()


def at_the_claim(
    farm: Stage, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], None]
) -> None:
    """Let something change while the first claim is on its way; it is told for whom."""
    claim, changed = farm.store.claim, list[str]()

    async def claim_and_change(key: Any, host: str, **more: Any) -> Any:
        pin = await claim(key, host, **more)
        if not changed:
            changed.append(host)
            change(host)
        return pin

    monkeypatch.setattr(farm.store, "claim", claim_and_change)


async def test_a_host_that_is_forgotten_while_it_is_claimed_is_not_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stage("answer", "answer") as farm:
        at_the_claim(farm, monkeypatch, lambda host: keep(farm, *{"a", "b"} - {host}))
        record = await farm.place()
        (left,) = farm.pool.hosts
        assert (record.host, record.attempts) == (left.name, 1)
        pin = await farm.store.get(ALICE)
        assert pin is not None
        assert pin.host == left.name, "and the pin is where the client is"


def leaves(farm: Stage) -> None:
    keep(farm, "a", "b")


def drains(farm: Stage) -> None:
    farm.pool.hosts[2].wish = Wish(Will.DRAIN)


@pytest.mark.parametrize("begins", [leaves, drains])
async def test_nobody_new_is_balanced_to_a_host_that_began_to_leave_after_the_decision(
    monkeypatch: pytest.MonkeyPatch, begins: Callable[[Stage], None]
) -> None:
    async with stage("refuse", "refuse", "answer") as farm:
        for host in farm.pool.hosts:
            host.live = 1  # they stay while they leave
        farm.pool.hosts[2].live = 2  # and this one is the last candidate
        at_the_claim(farm, monkeypatch, lambda _: begins(farm))
        farm.hurry(no_host_s=0.0)
        with pytest.raises(ServerError):
            await farm.place()
        assert farm.pool.hosts[2].name == "c"
        assert farm.hosts[2].requests == []


async def test_a_pin_reaches_a_host_that_leaves_as_long_as_it_has_connections() -> None:
    async with stage("answer", "answer") as farm:
        first = (await farm.place()).host
        assert first is not None
        farm.pool.by_name[first].live = 1
        keep(farm, *{"a", "b"} - {first})
        assert (await farm.place()).host == first
        farm.pool.by_name[first].live = 0
        farm.pool.forget()
        assert (await farm.place()).host != first


async def test_a_token_for_a_host_that_is_forgotten_while_it_is_tried_is_refused() -> None:
    async with stage("refuse", token=TokenPolicy(wait_s=60)) as farm:
        waiting = asyncio.create_task(farm.place(line=encode_msts(farm.hosts[0].address)[:-2]))
        async with asyncio.timeout(PATIENCE_S):
            while not farm.observed.failed:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        keep(farm)
        with pytest.raises(LimitError) as refused:
            await waiting
        assert refused.value.cause is Cause.TOKEN_UNKNOWN_HOST


async def test_a_client_that_waits_for_a_host_gets_one_that_comes() -> None:
    async with stage("answer") as farm:
        before = farm.pool.settings
        keep(farm)
        waiting = asyncio.create_task(farm.place())
        async with asyncio.timeout(PATIENCE_S):
            while not farm.placer.held:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        farm.pool.change(before, {})
        farm.placer.host_turned()
        assert (await waiting).host == "a"
