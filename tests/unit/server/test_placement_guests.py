"""Placement of clients whom the broker sends to a host that nobody has listed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.address import Address
from proxy.errors import Cause, LimitError
from proxy.routing.model import Reason, TokenFate
from proxy.routing.will import Will, Wish
from proxy.settings import TokenPolicy
from proxy.wire.tokens import encode_msts
from tests.unit.server.stage import SmallHost, Stage, stage

NETWORK = "127.0.0.0/8"


class Unlisted:
    """A host in the networks of a stage's pool."""

    def __init__(self, farm: Stage, manner: str = "answer", **policy: object) -> None:
        self.farm = farm
        self.host = SmallHost(manner)
        self.name = f"[{self.host.address.host}]"
        self.line = encode_msts(self.host.address)
        self.adopt_in(NETWORK, **policy)

    def adopt_in(self, *networks: str, **policy: object) -> None:
        told = {"networks": networks, "port": self.host.address.port, **policy}
        token = TokenPolicy.model_validate(told)
        pool = self.farm.pool
        pool.change(pool.settings.model_copy(update={"token": token}), {})

    async def refused(self) -> LimitError:
        visit, far = self.farm.visit(line=self.line)
        with visit.client, far, pytest.raises(LimitError) as refused:
            await self.farm.placer.place(visit)
        return refused.value


@asynccontextmanager
async def answering(farm: Stage) -> AsyncIterator[Unlisted]:
    one = Unlisted(farm)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(one.host.serve())
        yield one
        serving.cancel()
    one.host.close()


async def test_a_host_that_answers_is_adopted_with_its_connection() -> None:
    async with stage("answer") as farm, answering(farm) as one:
        for _ in range(2):
            record = await farm.place(line=one.line)
            assert (record.host, record.reason) == (one.name, Reason.TOKEN)
            assert record.fate is TokenFate.HONOURED
        host = farm.pool.by_name[one.name]
        assert (host.adopted, host.live, farm.guests.invited) == (True, 0, [host])
        assert farm.observed.answered == [one.name] * 2


async def test_clients_that_come_at_once_are_counted_on_one_host() -> None:
    async with stage("answer") as farm, answering(farm) as one:
        visits = [farm.visit(line=one.line) for _ in range(3)]
        placed = await asyncio.gather(*(farm.placer.place(visit) for visit, _ in visits))
        assert len(farm.guests.invited) == 3
        host = farm.pool.by_name[one.name]
        assert ({it.host for it in placed}, host.live, len(farm.pool.hosts)) == ({host}, 3, 2)
        for it, (visit, far) in zip(placed, visits, strict=True):
            it.give_up()
            visit.client.close()
            far.close()
        assert host.live == 0


async def test_of_a_host_that_does_not_answer_nobody_else_hears() -> None:
    async with stage("answer") as farm:
        one = Unlisted(farm, "refuse", wait_s=0.3)
        one.host.close()
        refused = await one.refused()
        assert refused.cause is Cause.TOKEN_HOST_DOWN
        assert [host.name for host in farm.pool.hosts] == ["a"]
        assert farm.observed.failed == []
        assert [guest.live for guest in farm.guests.invited] == [0]


async def test_a_host_whose_network_is_gone_is_dialled_no_more() -> None:
    async with stage("answer") as farm:
        one = Unlisted(farm, "refuse", wait_s=60.0)
        one.host.close()
        refusal = asyncio.ensure_future(one.refused())
        while not farm.guests.invited:  # noqa: ASYNC110
            await asyncio.sleep(0)
        one.adopt_in()
        assert (await refusal).cause is Cause.TOKEN_UNKNOWN_HOST


async def test_a_host_in_maintenance_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage("answer") as farm:
        one = Unlisted(farm, wait_s=0.0)

        async def guest(_: object, address: Address) -> object:
            unlisted = farm.pool.guest(address)
            unlisted.wish = Wish(Will.MAINTENANCE)
            return unlisted

        monkeypatch.setattr(farm.guests, "guest", guest)
        assert (await one.refused()).cause is Cause.TOKEN_HOST_DOWN
        assert one.host.requests == []
        one.host.close()
