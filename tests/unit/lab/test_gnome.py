"""GNOME's hand-overs: three connections of one login, all of which one host must see."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.lab import gnome
from proxy.lab.balancers import balance
from proxy.lab.gnome import GnomeFarm
from proxy.lab.login import Failure, LoginResult, Step
from proxy.lab.session_host import Stage
from proxy.wire.tokens import read_token

LOCAL = Address("127.0.0.1", 0)


async def log_in(farm: GnomeFarm, address: Address, sources: list[str]) -> list[LoginResult]:
    """One user after the other, each from an address of the list."""
    return [
        await farm.client(address, f"user{number}", source=source).login()
        for number, source in enumerate(sources)
    ]


async def test_a_login_is_three_connections_of_which_two_bring_a_number() -> None:
    async with GnomeFarm.start(hosts=1) as farm:
        host = farm.hosts["gnome01"]
        result = await farm.client(host.address, "alice").login()
        assert result.ok, result.words()
        assert [leg.step for leg in result.legs] == [Step.LOGIN, Step.REDIRECTED, Step.REDIRECTED]
        assert result.host == "gnome01"
        first, *handed_over = [visit.line for visit in host.visits]
        assert first == b"Cookie: mstshash=alice"
        assert len(set(handed_over)) == 2
        for line in handed_over:
            assert line is not None
            assert read_token(line).is_issued_by_host
            assert 0 < int(line.removeprefix(b"Cookie: msts=")) < 1 << 32
        stages = [visit.stage for visit in host.visits]
        assert stages == [Stage.REDIRECTED, Stage.REDIRECTED, Stage.ACTIVE]


async def test_both_hand_overs_may_share_one_number() -> None:
    async with GnomeFarm.start(hosts=1, one_number=True) as farm:
        result = await farm.client(farm.hosts["gnome01"].address, "alice").login()
        assert result.ok, result.words()
        assert len({leg.line for leg in result.legs}) == 2


async def test_a_client_waits_for_greeter_and_session_to_start() -> None:
    async with GnomeFarm.start(hosts=1, start_s=0.2) as farm:
        result = await farm.client(farm.hosts["gnome01"].address, "alice").login()
        assert result.time_to_active_s is not None
        assert result.time_to_active_s > 0.4


async def test_a_number_of_another_host_is_dropped_unanswered_and_counted() -> None:
    async with GnomeFarm.start(hosts=2) as farm:
        first, second = farm.hosts.values()
        line = b"Cookie: msts=2282941292"
        result = await farm.client(second.address, "alice", line=line).login()
        assert result.failure is Failure.ABORTED_HANDOVER
        assert "The hand-over was aborted" in result.words()[-1]
        assert [visit.stage for visit in second.visits] == [Stage.ABORTED]
        assert (farm.aborted_handovers, first.visits) == (1, [])


async def test_a_number_ends_with_its_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async with GnomeFarm.start(hosts=1) as farm:
        address = farm.hosts["gnome01"].address
        used = (await farm.client(address, "alice").login()).legs[1].line
        again = await farm.client(address, "alice", line=used).login()
        assert again.failure is Failure.ABORTED_HANDOVER
        monkeypatch.setattr(gnome, "_HANDOVER_S", -1.0)
        late = await farm.client(address, "alice").login()
        assert (late.failure, len(late.legs)) == (Failure.ABORTED_HANDOVER, 2)


async def test_other_tokens_begin_a_login_as_a_cookie_does() -> None:
    async with GnomeFarm.start(hosts=1) as farm:
        line = b"tsv://MS Terminal Services Plugin.1.GNOME"
        result = await farm.client(farm.hosts["gnome01"].address, "alice", line=line).login()
        assert result.ok, result.words()


async def test_a_blind_balancer_fails_most_logins_and_a_sticky_one_none() -> None:
    sources = [f"127.30.0.{number + 1}" for number in range(12)]
    failed: dict[str, Counter[Failure | None]] = {}
    async with GnomeFarm.start(hosts=4) as farm:
        addresses = [host.address for host in farm.hosts.values()]
        for kind in ("round_robin", "sticky"):
            farm.reset()
            async with balance(kind, LOCAL, addresses) as door:
                results = await log_in(farm, door, sources)
            failed[kind] = Counter(result.failure for result in results)
            assert farm.aborted_handovers == failed[kind][Failure.ABORTED_HANDOVER]
    assert failed["sticky"] == {None: 12}
    assert failed["round_robin"][Failure.ABORTED_HANDOVER] > 6


async def test_users_behind_one_address_stay_together_where_the_source_is_pinned() -> None:
    async with GnomeFarm.start(hosts=4) as farm:
        addresses = [host.address for host in farm.hosts.values()]
        async with balance("sticky", LOCAL, addresses) as door:
            results = await log_in(farm, door, ["127.30.1.1"] * 6)
        assert {result.host for result in results} == {"gnome01"}
        assert farm.aborted_handovers == 0


async def test_the_configuration_names_the_farms_hosts(tmp_path: Path) -> None:
    async with GnomeFarm.start(hosts=2) as farm:
        (pool,) = farm.config(LOCAL, tmp_path)["pools"]
        assert pool["name"] == "gnome"
        assert [host["name"] for host in pool["hosts"]] == ["gnome01", "gnome02"]
