"""A play's figures."""

from __future__ import annotations

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.login import Failure, Leg, LoginResult, Step
from proxy.lab.plan import Plan, PlannedLogin
from proxy.lab.play import Run, percentile, play


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 50) == 50.0
    assert percentile(values, 99) == 99.0
    assert percentile([7.0], 50) == 7.0
    assert percentile([], 50) is None


def test_a_summary_counts_failures_tokens_and_misrouted_tokens() -> None:
    here = Address("127.0.0.1", 1)
    right = Leg(Step.REDIRECTED, here, b"t", named="rdsh01", reached="rdsh01")
    wrong = Leg(Step.REDIRECTED, here, b"t", named="rdsh01", reached="rdsh02")
    nowhere = Leg(Step.REDIRECTED, here, b"t", named="rdsh01")
    results = [
        LoginResult("a", legs=[right]),
        LoginResult("b", legs=[wrong], failure=Failure.UNEXPECTED_CERTIFICATE),
        LoginResult("c", legs=[nowhere], failure=Failure.TIMEOUT),
    ]
    assert Run("sticky", results, added_ms=[1.004, 3.0]).summary() == {
        "balancer": "sticky",
        "logins": 3,
        "failed": 2,
        "unexpected_certificate": 1,
        "tokens": 3,
        "tokens_misrouted": 1,
        "added_ms_p50": 1.0,
        "added_ms_p99": 3.0,
    }


async def test_each_play_begins_with_the_same_sessions_and_measures_what_succeeds() -> None:
    plan = Plan([[PlannedLogin("alice", "127.5.0.1", 0.0, 0.0)] * 2], sessions={"alice": "rdsh02"})
    seen: list[int] = []
    async with Farm.start(hosts=2) as farm:
        address = farm.hosts["rdsh02"].address
        farm.broker.place("alice", "rdsh01")
        for _ in range(2):
            run = await play(farm, plan, "none", address, lambda run: seen.append(len(run.results)))
            assert [result.host for result in run.results] == ["rdsh02"] * 2
            assert len(run.added_ms) == 2
        failing = await play(farm, plan, "none", farm.hosts["rdsh01"].address, lambda _: None)
    assert seen == [1, 2, 1, 2]
    assert len(failing.failures) == 2
    assert failing.added_ms == []
