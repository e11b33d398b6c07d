"""Several collections behind one address, and session hosts behind redirectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.lab.farm import Farm
from tests.integration.running import running

PLUGIN = "tsv://MS Terminal Services Plugin.1."
SPELLINGS = ("{}", "{} ", "{}\0", " {}")
USERS = 12  # of each collection


def spelled(alias: str, number: int) -> bytes:
    """A collection's line, as .rdp files and callers of the ActiveX control vary it."""
    alias = (alias, alias.upper(), alias.lower())[number % 3]
    return (PLUGIN + SPELLINGS[number % len(SPELLINGS)].format(alias)).encode()


async def test_tokens_of_three_collections_behind_one_address_are_never_misrouted(
    tmp_path: Path,
) -> None:
    sizes = {"Office": 2, "Full_CAD": 2, "Tools": 2}
    async with Farm.start(collections=sizes, seed=3) as farm, running(farm, tmp_path) as proxy:
        results, expected = [], {}
        for number in range(USERS):
            for alias, hosts in farm.collections.items():
                user = f"{alias}{number}"
                expected[user] = hosts[number % 2].name
                farm.broker.place(user, expected[user])
                # Everybody from the same few addresses: a source may use all three collections.
                client = farm.client(
                    proxy.address,
                    user,
                    line=spelled(alias, number),
                    source=f"127.61.0.{number % 3 + 1}",
                )
                results.append(await client.login())
        assert [result.words() for result in results if not result.ok] == []
        assert {result.user: result.host for result in results} == expected
        assert sum(result.misrouted for result in results) == 0
        assert (tokens := sum(result.tokens for result in results)) >= USERS
        assert await proxy.metric("tokens_total", fate="honoured") == tokens
        asked = [leg for result in results for leg in result.legs if leg.named is None]
        counted = [await proxy.metric("collections_total", alias=alias) for alias in sizes]
        assert sum(counted) == len(asked)
        assert await proxy.metric("collections_total", alias="other") == 0


async def test_a_collection_that_is_none_is_served_by_default_counted_and_told_once(
    tmp_path: Path,
) -> None:
    sizes = {"Office": 1, "CAD": 1}
    async with Farm.start(collections=sizes) as farm, running(farm, tmp_path) as proxy:
        for number in range(3):
            line = f"{PLUGIN}Cat".encode()
            result = await farm.client(proxy.address, f"user{number}", line=line).login()
            assert result.host == "rdsh01"
        await proxy.until_ended(6)
        assert await proxy.metric("collections_total", alias="other") == 6
        (line_of_log,) = proxy.events("collection_unmatched")
        assert line_of_log["collection"] == "Cat"
        assert line_of_log["collections"] == ["Office", "CAD"]
        assert line_of_log["pool"] == "office"


async def test_behind_redirectors_everybody_comes_to_his_session_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"Redirectors": 2, "Desktops": 3}
    async with Farm.start(collections=sizes, seed=5) as farm:
        desktops = [host.name for host in farm.collections["Desktops"]]
        arrive = farm.broker.arrive

        def arrive_anywhere(user: str, host: str) -> str:
            """Redirectors serve nobody: all sessions are on desktops."""
            return arrive(user, host if host in desktops else desktops[0])

        monkeypatch.setattr(farm.broker, "arrive", arrive_anywhere)
        listener = {
            "collections": {"Full_Desktop": "redirectors"},
            "token_pools": ["desktops"],
        }
        pool = {"balance": "round_robin", "affinity": {"key": "source", "ttl": "5m"}}
        async with running(farm, tmp_path, listener=listener, pool=pool) as proxy:
            for number in range(12):
                line = f"{PLUGIN}Full_Desktop".encode() if number % 2 else None
                source = f"127.62.0.{number + 1}"
                client = farm.client(proxy.address, f"user{number}", line=line, source=source)
                result = await client.login()
                assert result.ok, result.words()
                assert (result.host in desktops, result.tokens, result.misrouted) == (True, 1, 0)
            await proxy.until_ended(36)
            placed = [(line["pool"], line["reason"]) for line in proxy.events("connection_placed")]
            assert placed.count(("desktops", "token")) == 12
            assert placed.count(("redirectors", "pin")) == 12
            assert not list(proxy.events("host_short_lived"))
            assert not list(proxy.events("suspected_certificate_mismatch"))
