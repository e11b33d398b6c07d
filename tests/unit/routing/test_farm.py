"""The farm: what new configurations and answers of name servers change, and what they leave."""

from __future__ import annotations

from typing import Any

from proxy.address import Address
from proxy.routing.farm import Farm
from proxy.settings import Settings
from tests.unit.routing.farm import adopting, farm_of, pool

LISTENER = {"name": "rdp", "bind": "127.0.0.1:3389", "pool": "desktops"}


def settings(listeners: list[dict[str, Any]] | None = None, **pools: dict[str, str]) -> Settings:
    """Pools of hosts by name and address."""
    return Settings.model_validate(
        {
            "listeners": listeners or [LISTENER],
            "pools": [
                {
                    "name": name,
                    "hosts": [
                        {"name": host, "address": f"{at}:3389"} for host, at in hosts.items()
                    ],
                }
                for name, hosts in pools.items()
            ],
        }
    )


def names(farm: Farm) -> list[str]:
    return [f"{host.pool}/{host.name}" for host in farm.hosts]


def routed(farm: Farm, ip: str, listener: str = "rdp") -> str | None:
    """Where a token for an address leads."""
    host = farm.routes[listener].named_by(Address(ip, 3389))
    return host.name if host else None


def test_pools_and_routes_stay_the_same_objects_over_a_change() -> None:
    farm = Farm(settings(desktops={"a": "10.0.0.1"}))
    pools, pool, routes, (a,) = farm.pools, farm.pools["desktops"], farm.routes["rdp"], farm.hosts
    farm.change(settings(desktops={"a": "10.0.0.1", "b": "10.0.0.2"}))
    assert farm.pools is pools
    assert farm.pools["desktops"] is pool
    assert farm.routes["rdp"] is routes
    assert farm.hosts[0] is a
    assert routed(farm, "10.0.0.2") == "b"


def test_a_connection_brings_a_pool_that_is_gone_and_tokens_reach_it_while_it_is_there() -> None:
    farm = Farm(settings(desktops={"a": "10.0.0.1"}))
    assert farm.pool_of_connection("rdp", "desktops") is farm.pools["desktops"]
    for listener in ("rdp", "gone"):
        pool = farm.pool_of_connection(listener, f"of_{listener}")
        pool.adopt("b", Address(f"10.0.1.{len(farm.pools)}", 3389)).live += 1
    farm.index()
    assert (pool.leaving, len(farm.pools)) == (True, 3)
    assert (routed(farm, "10.0.1.2"), routed(farm, "10.0.1.3")) == ("b", None)
    for host in farm.hosts:
        host.live = 0
    assert farm.forget()
    assert (list(farm.pools), routed(farm, "10.0.1.2")) == (["desktops"], None)


def test_pools_stand_as_in_the_configuration_and_those_that_leave_behind_them() -> None:
    farm = Farm(settings(old={"o": "10.0.2.1"}, desktops={"a": "10.0.0.1"}))
    farm.hosts[0].live = 1
    farm.change(settings(tools={"t": "10.0.1.1"}, desktops={"a": "10.0.0.1"}))
    assert names(farm) == ["tools/t", "desktops/a", "old/o"]


def test_a_host_that_moves_is_found_by_its_new_address_alone() -> None:
    farm = Farm(settings(desktops={"a": "10.0.0.1"}))
    farm.change(settings(desktops={"a": "10.0.0.9"}))
    assert (routed(farm, "10.0.0.9"), routed(farm, "10.0.0.1")) == ("a", None)


def test_a_removed_host_is_reached_by_tokens_until_its_last_connection_has_ended() -> None:
    farm = Farm(settings(desktops={"a": "10.0.0.1", "b": "10.0.0.2"}))
    b = farm.hosts[1]
    b.live = 1
    farm.change(settings(desktops={"a": "10.0.0.1"}))
    assert names(farm) == ["desktops/a", "desktops/b"]
    assert routed(farm, "10.0.0.2") == "b"
    assert not farm.forget()
    b.live = 0
    assert farm.forget()
    assert names(farm) == ["desktops/a"]
    assert routed(farm, "10.0.0.2") is None


def test_a_removed_pool_leaves_as_its_hosts_do() -> None:
    tools = [{**LISTENER, "collections": {"Tools": "tools"}}]
    farm = Farm(settings(tools, desktops={"a": "10.0.0.1"}, tools={"t": "10.0.1.1"}))
    t = farm.pools["tools"].hosts[0]
    t.live = 1
    farm.change(settings(desktops={"a": "10.0.0.1"}))
    assert list(farm.pools) == ["desktops", "tools"]
    assert routed(farm, "10.0.1.1") == "t"
    assert farm.routes["rdp"].pool_named("tools").leaving
    farm.change(settings(desktops={"a": "10.0.0.1"}))
    assert routed(farm, "10.0.1.1") == "t", "another change later"
    t.live = 0
    assert farm.forget()
    assert list(farm.pools) == ["desktops"]
    assert [pool.name for pool in farm.routes["rdp"].pools] == ["desktops"]


def test_a_pool_that_comes_back_before_it_has_left_is_the_same() -> None:
    farm = Farm(settings(desktops={"a": "10.0.0.1"}, tools={"t": "10.0.1.1"}))
    tools = farm.pools["tools"]
    tools.hosts[0].live = 1
    farm.change(settings(desktops={"a": "10.0.0.1"}))
    farm.change(settings(desktops={"a": "10.0.0.1"}, tools={"t": "10.0.1.1"}))
    assert farm.pools["tools"] is tools
    assert (tools.leaving, tools.hosts[0].ready) == (False, True)


def test_a_removed_pool_without_connections_is_gone_at_once() -> None:
    farm = Farm(settings(desktops={"a": "10.0.0.1"}, tools={"t": "10.0.1.1"}))
    farm.change(settings(desktops={"a": "10.0.0.1"}))
    assert list(farm.pools) == ["desktops"]


def test_listeners_come_and_go() -> None:
    farm = Farm(settings(desktops={"a": "10.0.0.1"}))
    second = {**LISTENER, "name": "second", "bind": "127.0.0.2:3389"}
    farm.change(settings([LISTENER, second], desktops={"a": "10.0.0.1"}))
    assert routed(farm, "10.0.0.1", "second") == "a"
    farm.change(settings([second], desktops={"a": "10.0.0.1"}))
    assert list(farm.routes) == ["second"]


def test_hosts_appear_when_their_name_is_resolved_and_follow_it() -> None:
    farm = Farm(settings(desktops={"a": "10.0.0.1", "n": "farm.example"}))
    assert farm.names == {"farm.example"}
    assert names(farm) == ["desktops/a"]
    assert farm.resolved("farm.example", ["10.0.0.9", "10.0.0.8", "10.0.0.9"])
    assert names(farm) == ["desktops/a", "desktops/n[10.0.0.8]", "desktops/n[10.0.0.9]"]
    assert routed(farm, "10.0.0.9") == "n[10.0.0.9]"
    assert not farm.resolved("farm.example", ["10.0.0.9", "10.0.0.8"]), "in another order"
    farm.hosts[1].live = 1
    assert farm.resolved("farm.example", ["10.0.0.9"])
    assert [host.leaving for host in farm.hosts] == [False, False, True]
    assert routed(farm, "10.0.0.8") == "n[10.0.0.8]"


def test_a_pool_that_leaves_follows_no_name_any_more() -> None:
    farm = Farm(settings(desktops={"a": "10.0.0.1"}, tools={"n": "farm.example"}))
    farm.resolved("farm.example", ["10.0.0.9"])
    farm.pools["tools"].hosts[0].live = 1
    farm.change(settings(desktops={"a": "10.0.0.1"}))
    assert farm.names == set()
    assert farm.found == {}
    farm.resolved("farm.example", ["10.0.0.7"])
    assert [host.leaving for host in farm.pools["tools"].hosts] == [True]


def test_an_answer_that_came_before_the_configuration_serves_it_at_once() -> None:
    farm = Farm(settings(desktops={"a": "10.0.0.1"}))
    farm.resolved("farm.example", ["10.0.0.9"])
    farm.change(settings(desktops={"n": "farm.example"}))
    assert names(farm) == ["desktops/n[10.0.0.9]"]


def test_a_token_brings_a_host_of_the_networks_into_the_farm_for_a_while() -> None:
    farm = farm_of(pool("redirectors"), adopting("10.0.4.0/24", net="10.0.1."))
    listener, address = farm.routes["rdp"], Address("10.0.4.7", 3389)
    guest = farm.pools["desktops"].guest(address)
    assert listener.named_by(address) is None
    host = farm.take_in(guest, 0.0)
    assert (host.pool, host, listener.named_by(address)) == ("desktops", guest, guest)
    farm.expire(1e6)
    assert farm.forget()
    assert listener.named_by(address) is None


def test_a_guest_whose_pool_is_forgotten_meanwhile_is_nobodys() -> None:
    farm = farm_of(pool("redirectors"), adopting("10.0.4.0/24", net="10.0.1."))
    guest = farm.pools["desktops"].guest(Address("10.0.4.7", 3389))
    del farm.pools["desktops"]
    assert farm.take_in(guest, 0.0) is guest
    assert guest not in farm.hosts
