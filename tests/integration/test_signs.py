"""What the shape of connections tells, on the running product, where the truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.lab.farm import Farm
from tests.integration.running import RunningProxy, running
from tests.integration.sign_calibration import tally


@pytest.mark.parametrize("contender", ["round_robin", "sticky"])
async def test_before_a_blind_balancer_every_mismatch_is_suspected_and_nothing_else(
    tmp_path: Path, contender: str
) -> None:
    found = await tally(contender, tmp_path, users=20, logins=2, nat=0.4)
    assert found.mismatches >= 10
    assert (found.hits, found.false_alarms) == (found.mismatches, 0)


async def test_the_product_meets_no_mismatch_and_suspects_none(tmp_path: Path) -> None:
    found = await tally("rdp-proxy", tmp_path, users=20, logins=2, nat=0.4)
    assert found.looks > 80
    assert (found.mismatches, found.hits, found.false_alarms) == (0, 0, 0)


async def test_a_suspicion_is_counted_and_told_with_its_evidence(tmp_path: Path) -> None:
    """A token_addresses that is wrong: the proxy goes to rdsh01 for tokens that mean rdsh02."""
    async with Farm.start(hosts=2) as farm:
        first, second = farm.hosts.values()
        wrong = [
            {
                "name": "rdsh01",
                "address": str(first.address),
                "token_addresses": [str(second.address)],
            }
        ]
        async with running(farm, tmp_path, pool={"hosts": wrong}) as proxy:
            farm.broker.place("alice", "rdsh02")
            result = await farm.client(proxy.address, "alice").login()
            assert result.failure == "unexpected_certificate"
            await proxy.until_ended(3)  # each after what it told
            (line,) = proxy.events("suspected_certificate_mismatch")
            assert (line["host"], line["reason"]) == ("rdsh01", "token")
            assert line["token_address"] == str(second.address)
            assert (line["previous_host"], line["previous_was_glance"]) == ("rdsh01", False)
            counted = await proxy.metric(
                "suspected_certificate_mismatch_total", pool="full_desktop", host="rdsh01"
            )
            assert counted == 1


async def told(proxy: RunningProxy, metric: str) -> bool:
    return await proxy.metric(metric) == 1


async def test_a_client_that_hosts_send_in_circles_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Farm.start(hosts=2) as farm, running(farm, tmp_path) as proxy:
        other = {"rdsh01": "rdsh02", "rdsh02": "rdsh01"}
        monkeypatch.setattr(farm.broker, "arrive", lambda _user, host: other[host])
        client = farm.client(proxy.address, "alice", redirections=5)
        assert (await client.login()).failure == "redirected_again"
        await proxy.until_ended(7)
        assert await told(proxy, "redirect_loops_total")
        (loop,) = proxy.events("redirect_loop")
        assert (loop["hops"], loop["reason"], loop["token_fate"]) == (5, "token", "honoured")


async def test_a_host_where_nobody_stays_is_told_until_somebody_does(tmp_path: Path) -> None:
    async with Farm.start(hosts=1) as farm, running(farm, tmp_path) as proxy:
        for number in range(10):
            source = f"127.60.0.{number + 1}"
            result = await farm.client(proxy.address, f"user{number}", source=source).login()
            assert result.ok, result.words()
        await proxy.until_ended(20)
        assert await told(proxy, "host_short_lived")
        (line,) = proxy.events("host_short_lived")
        assert (line["host"], line["event"]) == ("rdsh01", "host_short_lived")

        async def cleared() -> bool:
            return not await told(proxy, "host_short_lived")

        async with farm.client(proxy.address, "patient").session() as (_, session):
            assert session is not None
            await proxy.until(cleared)
