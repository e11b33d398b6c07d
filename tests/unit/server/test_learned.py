"""Opaque tokens lead back to the host that issued them, and to nobody else's."""

from __future__ import annotations

import pytest

from proxy.errors import StoreError
from proxy.routing.model import Reason, TokenFate
from proxy.server.learned import LIVE_MAX
from tests.unit.server.stage import ALICE, stage

GNOME = b"Cookie: msts=2282941292"


async def test_an_opaque_token_is_learned_from_the_host_that_the_pin_led_to() -> None:
    async with stage("answer", "answer", "answer") as farm:
        await farm.store.assign(ALICE, "b", ttl_s=600)
        first = await farm.place(line=GNOME)
        assert (first.reason, first.fate) == (Reason.PIN, TokenFate.OPAQUE)
        elsewhere = await farm.place(line=GNOME, source="198.51.100.1")
        assert (elsewhere.reason, elsewhere.host) == (Reason.TOKEN_LEARNED, "b")


async def test_an_opaque_token_of_a_source_without_a_pin_teaches_nothing() -> None:
    async with stage("answer", "answer", "answer") as farm:
        first = await farm.place(line=GNOME)
        assert first.reason is Reason.BALANCED
        elsewhere = await farm.place(line=GNOME, source="198.51.100.1")
        assert elsewhere.reason is Reason.BALANCED


@pytest.mark.parametrize("line", [b"tsv://MS Terminal Services Plugin.1.X", b"mth://localhost/1/2"])
async def test_lines_that_every_first_connection_brings_teach_nothing(line: bytes) -> None:
    async with stage("answer", "answer", "answer") as farm:
        await farm.store.assign(ALICE, "b", ttl_s=600)
        await farm.place(line=line)
        elsewhere = await farm.place(line=line, source="198.51.100.1")
        assert elsewhere.reason is Reason.BALANCED


async def test_a_source_teaches_a_bounded_number_of_tokens() -> None:
    async with stage("answer", "answer") as farm:
        await farm.store.assign(ALICE, "b", ttl_s=600)
        for number in range(LIVE_MAX + 1):
            await farm.place(line=b"Cookie: msts=%d" % (number + 1))
        assert (await farm.place(line=b"Cookie: msts=1", source="198.51.100.1")).host == "b"
        last = b"Cookie: msts=%d" % (LIVE_MAX + 1)
        unknown = await farm.place(line=last, source="198.51.100.2")
        assert unknown.reason is Reason.BALANCED


async def test_a_token_whose_host_failed_teaches_nothing() -> None:
    async with stage("refuse", "answer", "answer") as farm:
        await farm.store.assign(ALICE, "a", ttl_s=600)
        assert (await farm.place(line=GNOME)).reason is Reason.REPINNED
        elsewhere = await farm.place(line=GNOME, source="198.51.100.1")
        assert elsewhere.reason is Reason.BALANCED


async def test_while_the_table_is_away_a_token_teaches_nothing_and_costs_no_login() -> None:
    async with stage("answer") as farm:

        async def away(*_: object, **__: object) -> None:
            raise StoreError("gone")

        await farm.store.assign(ALICE, "a", ttl_s=600)
        farm.store.claim = away  # type: ignore[assignment, method-assign]
        assert (await farm.place(line=GNOME)).host == "a"
        farm.store.get = away  # type: ignore[method-assign]
        assert (await farm.place(line=GNOME)).host == "a"
        assert farm.observed.store_failures >= 2
