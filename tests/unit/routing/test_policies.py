"""Rankings: weights are kept, equals take turns, and nodes agree by hash."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.policies import POLICIES, least_connections, rendezvous, round_robin
from proxy.routing.pool import Host, Pool
from proxy.settings import Balance
from tests.unit.routing.farm import pool


def play(farm: Pool, balance: Balance, times: int, *, stay: bool = True) -> Counter[str]:
    """Place clients one after the other; they stay connected, or leave at once."""
    served: Counter[str] = Counter()
    for turn in range(times):
        host = POLICIES[balance](farm.ready(), f"client {turn}")[0]
        farm.placed(host)
        served[host.name] += 1
        host.live += stay
    return served


def test_every_policy_has_its_function() -> None:
    assert set(POLICIES) == set(Balance)


def test_least_connections_fills_hosts_by_weight() -> None:
    farm = pool(weights=[100, 200, 100])
    assert play(farm, Balance.LEAST_CONNECTIONS, 400) == {"a": 100, "b": 200, "c": 100}


def test_least_connections_lets_equals_take_turns() -> None:
    assert play(pool(), Balance.LEAST_CONNECTIONS, 9, stay=False) == {"a": 3, "b": 3, "c": 3}


def test_round_robin_interleaves_by_weight() -> None:
    farm = pool(weights=[300, 100, 100])
    order = ""
    for _ in range(10):
        host = round_robin(farm.ready(), None)[0]
        farm.placed(host)
        order += host.name
    assert order == "abaca" * 2


def test_a_host_that_is_down_saves_up_no_turns() -> None:
    farm = pool()
    farm.hosts[0].up = False
    assert play(farm, Balance.ROUND_ROBIN, 30, stay=False) == {"b": 15, "c": 15}
    farm.hosts[0].up = True
    assert play(farm, Balance.ROUND_ROBIN, 9, stay=False) == {"a": 3, "b": 3, "c": 3}


def test_the_hash_spreads_clients_by_weight() -> None:
    served = play(pool(weights=[100, 200, 100]), Balance.HASH, 4000)
    assert 850 < served["a"] < 1150
    assert 1850 < served["b"] < 2150


@given(st.text(), st.integers(0, 4))
def test_a_host_that_leaves_moves_only_its_own_clients(key: str, gone: int) -> None:
    farm = pool(hosts=5)
    before = rendezvous(farm.hosts, key)
    after = rendezvous([host for host in farm.hosts if host is not farm.hosts[gone]], key)
    assert after == [host for host in before if host is not farm.hosts[gone]]


def test_the_hash_ranks_alike_whatever_the_order_of_the_hosts() -> None:
    farm = pool(hosts=5)
    assert rendezvous(farm.hosts, "k") == rendezvous(farm.hosts[::-1], "k")


def test_the_hash_takes_user_names_that_are_no_text() -> None:
    assert len(rendezvous(pool().hosts, "user:\udcff")) == 3


def test_without_a_key_the_hash_ranks_by_load() -> None:
    for idle in range(3):
        farm = pool()
        for host in farm.hosts:
            host.live = 0 if host is farm.hosts[idle] else 2
        ranked: list[Host] = rendezvous(farm.hosts, None)
        assert ranked == least_connections(farm.hosts, None)
        assert ranked[0] is farm.hosts[idle]
