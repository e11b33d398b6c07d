"""Placement over real sockets: who is dialled, what is claimed, and what a failure costs."""

from __future__ import annotations

import asyncio

import pytest

from proxy.affinity.store import Pin, PinKey
from proxy.errors import Cause, ClientError, LimitError, ServerError
from proxy.routing.model import Reason, RepinCause, TokenFate
from proxy.routing.will import Will, Wish
from proxy.server.record import Phase
from proxy.settings import HostDown, TokenPolicy
from proxy.wire.tokens import encode_msts
from tests.patience import PATIENCE_S
from tests.unit.server.stage import ALICE, stage


async def test_a_new_client_is_balanced_pinned_and_its_request_passed_on_as_it_is() -> None:
    async with stage("answer", "answer") as farm:
        record = await farm.place(line=b"Cookie: mstshash=alice")
        pin = await farm.store.get(ALICE)
        assert pin is not None
        assert record.host == pin.host
        assert (record.reason, record.answer) == (Reason.BALANCED, "hybrid")
        host = farm.hosts[ord(pin.host) - 97]
        assert host.requests[0].endswith(b"\x01\x00\x08\x00\x03\x00\x00\x00")
        assert b"mstshash=alice\r\n" in host.requests[0]


async def test_a_client_comes_back_to_its_host() -> None:
    async with stage("answer", "answer", "answer") as farm:
        hosts = [(await farm.place()).host for _ in range(5)]
        assert len(set(hosts)) == 1
        others = {(await farm.place(source=f"203.0.113.{n}")).host for n in range(20, 26)}
        assert len(others) == 3


async def test_connections_of_one_client_at_the_same_instant_land_on_one_host() -> None:
    async with stage("answer", "answer", "answer", "answer") as farm:
        async with asyncio.TaskGroup() as tasks:
            coming = [tasks.create_task(farm.place()) for _ in range(8)]
        assert len({task.result().host for task in coming}) == 1


@pytest.mark.parametrize(
    ("manner", "cause"),
    [
        ("refuse", Cause.REFUSED),
        ("close", Cause.CLOSED),
        ("reset", Cause.RESET),
        ("silent", Cause.TIMEOUT),
    ],
)
async def test_a_host_that_fails_costs_the_client_nothing_but_time(
    manner: str, cause: Cause
) -> None:
    async with stage(manner, "answer") as farm:
        if manner == "silent":
            farm.hurry(answer_s=1.0)
        await farm.store.assign(ALICE, "a", ttl_s=600)
        record = await farm.place()
        assert (record.host, record.attempts) == ("b", 2)
        assert (record.reason, record.repin_cause) == (Reason.REPINNED, RepinCause.REFUSED)
        assert farm.observed.failed == [("a", cause)]
        pin = await farm.store.get(ALICE)
        assert pin is not None
        assert pin.host == "b"
        assert [host.live for host in farm.pool.hosts] == [0, 0]


@pytest.mark.parametrize(("manner", "answered"), [("answer", ["a"]), ("noise", [])])
async def test_only_a_connection_confirm_speaks_for_a_hosts_health(
    manner: str, answered: list[str]
) -> None:
    async with stage(manner) as farm:
        visit, far = farm.visit()
        with visit.client, far:
            placed = await farm.placer.place(visit)
            placed.server.close()
        assert farm.observed.answered == answered
        assert farm.observed.failed == []


async def test_the_loser_of_a_claim_follows_the_winner() -> None:
    async with stage("answer", "answer") as farm:
        get = farm.store.get

        async def overtaken(key: PinKey) -> Pin | None:
            """Another node pins the client between our look and our claim."""
            farm.store.get = get  # type: ignore[method-assign]
            await farm.store.assign(key, "b", ttl_s=600)
            return None

        farm.store.get = overtaken  # type: ignore[method-assign]
        farm.pool.hosts[1].live = 5
        assert (await farm.place()).host == "b"
        farm.pool.hosts[1].live = 0


async def test_a_winner_that_cannot_serve_is_not_followed() -> None:
    async with stage("answer", "answer") as farm:
        get = farm.store.get

        async def overtaken(key: PinKey) -> Pin | None:
            farm.store.get = get  # type: ignore[method-assign]
            await farm.store.assign(key, "gone", ttl_s=600)
            return None

        farm.store.get = overtaken  # type: ignore[method-assign]
        record = await farm.place()
        pin = await farm.store.get(ALICE)
        assert pin is not None
        assert record.host == pin.host == "a"


async def test_a_token_routes_its_connection_and_leaves_the_pin_alone() -> None:
    async with stage("answer", "answer") as farm:
        await farm.store.assign(ALICE, "a", ttl_s=600)
        record = await farm.place(line=encode_msts(farm.hosts[1].address))
        assert (record.host, record.fate) == ("b", TokenFate.HONOURED)
        pin = await farm.store.get(ALICE)
        assert pin is not None
        assert pin.host == "a"


async def test_a_token_sets_the_pin_where_there_is_none() -> None:
    async with stage("answer", "answer") as farm:
        await farm.place(line=encode_msts(farm.hosts[1].address))
        pin = await farm.store.get(ALICE)
        assert pin is not None
        assert pin.host == "b"


async def test_a_token_for_a_stranger_is_refused_and_nobody_dialled() -> None:
    async with stage("answer") as farm:
        stranger = farm.hosts[0].address._replace(host="127.9.9.9")
        visit, far = farm.visit(line=encode_msts(stranger))
        with visit.client, far, pytest.raises(LimitError) as refused:
            await farm.placer.place(visit)
        assert refused.value.cause is Cause.TOKEN_UNKNOWN_HOST
        assert (visit.record.phase, visit.record.attempts) == (Phase.PLACE, 0)


async def test_a_tokens_host_is_dialled_for_a_while_and_then_the_client_refused() -> None:
    policy = TokenPolicy(wait_s=1)
    async with stage("refuse", "answer", token=policy) as farm:
        farm.pool.hosts[0].up = False
        visit, far = farm.visit(line=encode_msts(farm.hosts[0].address))
        with visit.client, far, pytest.raises(LimitError) as refused:
            await farm.placer.place(visit)
        assert refused.value.cause is Cause.TOKEN_HOST_DOWN
        assert visit.record.fate is TokenFate.HOST_DOWN
        assert visit.record.attempts > 1
        assert not farm.hosts[1].requests


async def test_a_tokens_host_that_comes_back_in_time_gets_its_client() -> None:
    async with stage("refuse", token=TokenPolicy(wait_s=PATIENCE_S)) as farm:
        farm.pool.hosts[0].up = False
        visit, far = farm.visit(line=encode_msts(farm.hosts[0].address))
        async with asyncio.TaskGroup() as tasks:
            placing = tasks.create_task(farm.placer.place(visit))
            while visit.record.attempts < 3:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.01)
            farm.hosts[0].listening.listen()
            farm.hosts[0].manner = "answer"
            serving = tasks.create_task(farm.hosts[0].serve())
            placed = await placing
            serving.cancel()
        assert visit.record.fate is TokenFate.HONOURED
        for sock in (placed.server, visit.client, far):
            sock.close()


async def test_a_tokens_host_that_stays_away_may_be_given_up_for_another() -> None:
    policy = TokenPolicy(wait_s=0.1, host_down=HostDown.REBALANCE)
    async with stage("refuse", "answer", token=policy) as farm:
        record = await farm.place(line=encode_msts(farm.hosts[0].address))
        assert (record.host, record.fate) == ("b", TokenFate.HOST_DOWN)
        assert record.reason is Reason.BALANCED


async def test_a_token_does_not_reach_a_host_in_maintenance() -> None:
    async with stage("answer", "answer", token=TokenPolicy(wait_s=0)) as farm:
        farm.pool.hosts[0].wish = Wish(Will.MAINTENANCE)
        with pytest.raises(LimitError, match=r"token_host_down.*in maintenance"):
            await farm.place(line=encode_msts(farm.hosts[0].address))
        assert (farm.hosts[0].requests, farm.observed.failed) == ([], [])


async def test_clients_are_held_while_no_host_is_up_and_placed_as_soon_as_one_is() -> None:
    async with stage("answer") as farm:
        farm.pool.hosts[0].up = False
        visit, far = farm.visit()
        async with asyncio.TaskGroup() as tasks:
            placing = tasks.create_task(farm.placer.place(visit))
            while not farm.placer.held:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.01)
            farm.pool.hosts[0].up = True
            farm.placer.host_turned()
            placed = await placing
        assert (visit.record.host, farm.placer.held) == ("a", 0)
        for sock in (placed.server, visit.client, far):
            sock.close()


async def test_a_client_is_not_held_for_ever() -> None:
    async with stage("refuse", "refuse") as farm:
        farm.hurry(no_host_s=0.3)
        visit, far = farm.visit()
        with visit.client, far, pytest.raises(ServerError) as nobody:
            await farm.placer.place(visit)
        assert nobody.value.cause is Cause.NO_HOST
        assert visit.record.phase is Phase.PLACE


async def test_a_client_that_leaves_while_it_waits_is_let_go() -> None:
    async with stage("answer") as farm:
        farm.pool.hosts[0].up = False
        visit, far = farm.visit()
        far.close()
        with visit.client, pytest.raises(ClientError):
            await farm.placer.place(visit)


async def test_a_client_that_leaves_before_the_answer_blames_no_host() -> None:
    async with stage("silent") as farm:
        visit, far = farm.visit()
        far.close()
        with visit.client, pytest.raises(ClientError):
            await farm.placer.place(visit)
        assert farm.observed.failed == []
        assert farm.pool.hosts[0].live == 0


@pytest.mark.parametrize(("verb", "by_token"), [("assign", False), ("touch", True)])
async def test_a_client_who_is_broken_off_while_the_table_is_told_leaves_nothing_at_the_host(
    verb: str, by_token: bool
) -> None:
    async with stage("answer") as farm:
        asked = asyncio.Event()

        async def never(*_: object, **__: object) -> None:
            asked.set()
            await asyncio.Event().wait()

        setattr(farm.store, verb, never)
        token = encode_msts(farm.hosts[0].address)
        visit, far = farm.visit(line=token if by_token else b"Cookie: mstshash=alice")
        with visit.client, far:
            placing = asyncio.ensure_future(farm.placer.place(visit))
            await asked.wait()
            placing.cancel()
            await asyncio.wait([placing])
        assert placing.cancelled()
        assert farm.pool.hosts[0].live == 0
        with pytest.raises(ConnectionResetError):  # closed, with the host's answer unread
            await asyncio.get_running_loop().sock_recv(farm.hosts[0].held[0], 1)


async def test_early_bytes_of_the_client_stay_in_its_socket() -> None:
    async with stage("answer") as farm:
        visit, far = farm.visit()
        far.send(b"early")
        placed = await farm.placer.place(visit)
        assert visit.client.recv(100) == b"early"
        for sock in (placed.server, visit.client, far):
            sock.close()
