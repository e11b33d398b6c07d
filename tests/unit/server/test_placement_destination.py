"""Placement of clients that have dialled a host's own address."""

from __future__ import annotations

import pytest

from proxy.address import Address
from proxy.errors import Cause, LimitError
from proxy.routing.model import Reason, TokenFate
from proxy.server.record import Phase
from proxy.settings import HostDown, TokenPolicy
from proxy.wire.tokens import encode_msts
from tests.unit.server.stage import ALICE, stage

STRANGER = Address("192.0.2.9", 3389)


async def test_a_client_goes_to_the_host_that_it_dialled_and_its_pin_stays() -> None:
    async with stage("answer", "answer") as farm:
        await farm.store.assign(ALICE, "a", ttl_s=600)
        record = await farm.place(destination=farm.hosts[1].address)
        assert (record.host, record.reason, record.fate) == (
            "b",
            Reason.DESTINATION,
            TokenFate.ABSENT,
        )
        pin = await farm.store.get(ALICE)
        assert pin is not None
        assert pin.host == "a"


async def test_it_seeds_a_pin_where_there_is_none() -> None:
    async with stage("answer", "answer") as farm:
        await farm.place(destination=farm.hosts[1].address)
        assert (await farm.place()).reason is Reason.PIN


async def test_a_token_comes_first() -> None:
    async with stage("answer", "answer") as farm:
        line = encode_msts(farm.hosts[0].address)
        record = await farm.place(line=line, destination=farm.hosts[1].address)
        assert (record.host, record.reason) == ("a", Reason.TOKEN)


async def test_no_stranger_is_dialled() -> None:
    async with stage("answer") as farm:
        visit, far = farm.visit(destination=STRANGER)
        with visit.client, far, pytest.raises(LimitError, match=r"192\.0\.2\.9:3389") as refused:
            await farm.placer.place(visit)
        assert refused.value.cause is Cause.DESTINATION_UNKNOWN_HOST
        assert (visit.record.phase, visit.record.attempts) == (Phase.PLACE, 0)


async def test_a_host_that_is_down_is_waited_for_and_then_the_client_refused() -> None:
    async with stage("refuse", "answer", token=TokenPolicy(wait_s=1)) as farm:
        visit, far = farm.visit(destination=farm.hosts[0].address)
        with visit.client, far, pytest.raises(LimitError) as refused:
            await farm.placer.place(visit)
        assert refused.value.cause is Cause.DESTINATION_HOST_DOWN
        assert (visit.record.phase, visit.record.fate) == (Phase.PLACE, TokenFate.ABSENT)
        assert visit.record.attempts > 1


async def test_a_host_that_stays_away_may_be_given_up_for_another() -> None:
    policy = TokenPolicy(wait_s=0.1, host_down=HostDown.REBALANCE)
    async with stage("refuse", "answer", token=policy) as farm:
        record = await farm.place(destination=farm.hosts[0].address)
        assert (record.host, record.reason) == ("b", Reason.BALANCED)


async def test_a_host_that_leaves_meanwhile_is_dialled_no_more() -> None:
    async with stage("answer", "answer") as farm:
        host = farm.pool.hosts[0]
        visit, far = farm.visit(destination=host.address)
        farm.pool.change(
            farm.pool.settings.model_copy(update={"hosts": farm.pool.settings.hosts[1:]}), {}
        )
        with visit.client, far, pytest.raises(LimitError) as refused:
            await farm.placer.place(visit)
        assert refused.value.cause is Cause.DESTINATION_UNKNOWN_HOST
