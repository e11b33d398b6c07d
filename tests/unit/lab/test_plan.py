"""Plans are drawn from their seed."""

from __future__ import annotations

from proxy.lab.plan import SHARED_SOURCE, make_plan

HOSTS = ["rdsh01", "rdsh02", "rdsh03"]


def test_the_same_seed_draws_the_same_plan_and_another_seed_another_one() -> None:
    plans = [make_plan(HOSTS, users=20, logins=3, nat=0.0, seed=seed) for seed in (7, 7, 8)]
    assert plans[0] == plans[1] != plans[2]
    assert plans[0].size == 60


def test_users_have_addresses_of_their_own_and_some_of_them_move() -> None:
    plan = make_plan(HOSTS, users=300, logins=4, nat=0.0, seed=1)
    sources = [{login.source for login in own} for own in plan.logins]
    assert sum(map(len, sources)) == len(set().union(*sources))
    assert 0 < sum(len(own) > 1 for own in sources) < 300
    assert set(plan.sessions.values()) == set(HOSTS)


def test_the_share_behind_nat_has_one_address() -> None:
    plan = make_plan(HOSTS, users=10, logins=2, nat=0.3, seed=1)
    shared = [own for own in plan.logins if {login.source for login in own} == {SHARED_SOURCE}]
    assert len(shared) == 3
