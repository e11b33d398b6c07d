"""What the affinity table says of a client on its way, and what it is told of him."""

from __future__ import annotations

import pytest

from proxy.affinity.store import NEVER, PinKey, Touch
from proxy.errors import StoreError
from proxy.routing.model import Reason, RepinCause, TokenFate
from proxy.routing.will import Pins, Will, Wish
from proxy.server.claims import LIVE_S
from proxy.wire.tokens import encode_msts
from tests.unit.server.stage import ALICE, stage


@pytest.mark.parametrize(
    ("ttl_s", "age_s", "landing"),
    [(600, 10, Pins.LIVE), (86400, LIVE_S, Pins.KEEP), (NEVER, LIVE_S, Pins.DROP)],
)
async def test_a_drained_host_keeps_the_pins_that_the_operator_says(
    ttl_s: float, age_s: float, landing: Pins
) -> None:
    for pins in Pins:
        async with stage("answer", "answer") as farm:
            await farm.store.assign(ALICE, "a", ttl_s=ttl_s)
            farm.claims.wall.now += age_s  # type: ignore[attr-defined]
            farm.pool.hosts[0].wish = Wish(Will.DRAIN, pins)
            record = await farm.place()
            lands = list(Pins).index(pins) <= list(Pins).index(landing)
            assert record.host == ("a" if lands else "b")
            pin = await farm.store.get(ALICE)
            assert (pin and pin.host) == record.host
            assert record.repin_cause is (None if lands else RepinCause.DRAIN)


async def test_while_the_table_is_away_whom_this_node_knows_is_connected() -> None:
    async with stage("answer", "answer") as farm:
        farm.pool.hosts[0].wish = Wish(Will.DRAIN, Pins.LIVE)
        await farm.store.close()
        farm.known = "a"
        assert (await farm.place()).host == "a"
        farm.known = None
        assert (await farm.place()).host == "b"


async def test_while_the_table_is_away_clients_go_where_this_node_knows_them() -> None:
    async with stage("answer", "answer", "answer") as farm:

        async def away(*_: object, **__: object) -> None:
            raise StoreError("gone")

        touch = farm.store.touch
        for verb in ("get", "claim", "touch", "assign"):
            setattr(farm.store, verb, away)
        farm.known = "c"
        assert (await farm.place()).host == "c"
        await touch("node", [Touch(ALICE, "a", 600)])
        assert (await farm.place()).host == "a"
        farm.known = None
        await farm.store.clear(ALICE)
        assert len({(await farm.place()).host for _ in range(4)}) == 1
        assert farm.observed.store_failures >= 5
        record = await farm.place(line=encode_msts(farm.hosts[1].address))
        assert record.fate is TokenFate.HONOURED


async def test_people_behind_a_crowded_source_have_their_own_pins() -> None:
    async with stage("answer", "answer") as farm:
        farm.crowd()
        hosts = {
            user: (await farm.place(line=b"Cookie: mstshash=user%d" % user)).host
            for user in range(8)
        }
        assert set(hosts.values()) == {"a", "b"}
        for user, host in hosts.items():
            again = await farm.place(line=b"Cookie: mstshash=user%d" % user)
            assert (again.reason, again.host) == (Reason.PIN, host)


async def test_the_sources_own_entry_follows_its_newest_pin() -> None:
    affinity = {"key": "source_and_user"}
    async with stage("answer", "answer", affinity=affinity) as farm:
        await farm.place(line=b"Cookie: mstshash=alice")
        bob = await farm.place(line=b"Cookie: mstshash=bob")
        nobody = await farm.place()
        assert nobody.host == bob.host
        alice = await farm.place(line=b"Cookie: mstshash=ALICE ")
        assert (alice.reason, alice.host) == (Reason.PIN, "a")


async def test_who_was_here_before_a_source_became_crowded_keeps_the_host() -> None:
    async with stage("answer", "answer", "answer") as farm:
        lines = [b"Cookie: mstshash=user%d" % user for user in range(12)]
        before = [(await farm.place(line=line)).host for line in lines]
        assert len(set(before)) == 1
        farm.crowd()
        assert [(await farm.place(line=line)).host for line in lines] == before
        nobody = await farm.place()
        assert nobody.host == before[0]


async def test_a_newcomer_to_a_crowded_source_does_not_move_those_without_a_name() -> None:
    async with stage("answer", "answer", "answer") as farm:
        first = await farm.place()
        farm.crowd()
        newcomers = {
            (await farm.place(line=b"Cookie: mstshash=new%d" % user)).host for user in range(9)
        }
        assert len(newcomers) == 3
        assert (await farm.place()).host == first.host


async def test_a_user_who_is_new_to_a_quiet_source_follows_its_pin() -> None:
    async with stage("answer", "answer", "answer") as farm:
        first = await farm.place()
        named = await farm.place(line=b"Cookie: mstshash=anna")
        assert (named.reason, named.host) == (Reason.PIN, first.host)
        own = await farm.store.get(PinKey("desktops", "source:203.0.113.7 user:anna"))
        assert own is not None
        assert own.host == first.host


async def test_a_name_that_may_be_cut_counts_only_where_an_operator_has_decided() -> None:
    cut = b"Cookie: mstshash=CONTOSOLT"
    async with stage("answer", "answer", affinity={"key": "user"}) as farm:
        hosts = {(await farm.place(source=f"203.0.113.{n}", line=cut)).host for n in range(4)}
        assert hosts == {"a", "b"}
        await farm.store.assign(PinKey("desktops", "user:contosolt"), "b", ttl_s=NEVER)
        records = [await farm.place(source=f"203.0.113.{n}", line=cut) for n in range(4)]
        assert {(record.host, record.key) for record in records} == {("b", "user:contosolt")}
