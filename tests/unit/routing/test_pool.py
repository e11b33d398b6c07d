"""Hosts and pools: who serves, who is ready, and who is there at all."""

from __future__ import annotations

import pytest

from proxy.address import Address
from proxy.routing import pool as pool_module
from proxy.routing.agent import AgentWord
from proxy.routing.pool import ADOPTED_KEPT_S, Host, Pool
from proxy.routing.will import Hold, Pins, Will, Wish
from proxy.settings import HostSettings, PoolSettings
from tests.unit.routing.farm import adopting, pool, routes


def host(weight: int = 100) -> Host:
    address = Address("10.0.0.21", 3389)
    settings = HostSettings(name="a", address=address, weight=weight)
    return Host("desktops", "a", settings, address)


def named(*aliases: str, **found: list[str]) -> Pool:
    """A pool of one entry, `rdsh`, at the DNS name rdsh.example."""
    settings = HostSettings(
        name="rdsh",
        address=Address("rdsh.example", 3389),
        token_addresses=tuple(map(Address.parse, aliases)),
    )
    answers = {f"{name}.example": addresses for name, addresses in found.items()}
    return Pool(PoolSettings(name="desktops", hosts=(settings,)), answers)


@pytest.mark.parametrize(
    ("up", "will", "serves", "ready"),
    [
        (True, Will.READY, True, True),
        (True, Will.DRAIN, True, False),
        (True, Will.MAINTENANCE, False, False),
        (False, Will.READY, False, False),
    ],
)
def test_health_and_will_are_kept_apart(up: bool, will: Will, serves: bool, ready: bool) -> None:
    each = host()
    each.up, each.wish = up, Wish(will)
    assert (each.serves, each.ready) == (serves, ready)


def test_weight_zero_takes_nobody_new() -> None:
    each = host(weight=0)
    assert (each.serves, each.ready) == (True, False)


def test_a_dns_name_stands_for_as_many_hosts_as_it_has_addresses() -> None:
    assert named().hosts == ()
    each = named(rdsh=["10.0.0.21", "10.0.0.22"])
    assert list(each.by_name) == ["rdsh[10.0.0.21]", "rdsh[10.0.0.22]"]
    assert [str(host.address) for host in each.hosts] == ["10.0.0.21:3389", "10.0.0.22:3389"]


def test_an_address_that_leaves_its_name_takes_its_host_with_it_and_no_other() -> None:
    each = named(rdsh=["10.0.0.21", "10.0.0.22"])
    first, second = each.hosts
    first.live = 1
    each.change(each.settings, {"rdsh.example": ["10.0.0.22", "10.0.0.23"]})
    assert list(each.by_name) == ["rdsh[10.0.0.22]", "rdsh[10.0.0.23]", "rdsh[10.0.0.21]"]
    assert each.by_name["rdsh[10.0.0.22]"] is second
    assert each.hosts[2] is first
    assert (first.leaving, first.ready, first.serves) == (True, False, True)
    each.change(each.settings, {"rdsh.example": ["10.0.0.21"]})
    assert each.hosts == (first,)
    assert first.ready


def test_addresses_for_tokens_belong_to_a_name_with_one_address_only() -> None:
    nat = Address("192.0.2.1", 3389)
    each = named("192.0.2.1:3389", rdsh=["10.0.0.21"])
    assert each.hosts[0].names == {Address("10.0.0.21", 3389), nat}
    each.change(each.settings, {"rdsh.example": ["10.0.0.21", "10.0.0.22"]})
    assert not any(nat in host.names for host in each.hosts), "nobody can tell which is meant"


def test_a_changed_host_is_the_same_with_all_that_is_known_of_it() -> None:
    each = pool(weights=[100, 100, 100])
    one = each.hosts[1]
    one.wish, one.up, one.live = Wish(Will.DRAIN), False, 7
    each.change(pool(net="10.9.9.", weights=[1, 2, 3]).settings, {})
    assert each.hosts[1] is one
    assert (one.will, one.up, one.live, one.weight) == (Will.DRAIN, False, 7, 2)
    assert one.names == {one.address} == {Address("10.9.9.22", 3389)}


def test_a_removed_host_stays_while_it_has_connections_and_is_forgotten_then() -> None:
    each = pool()
    busy, _, idle = each.hosts
    busy.live = 1
    each.change(pool(hosts=1, net="10.7.7.").settings.model_copy(update={"hosts": ()}), {})
    assert each.hosts == (busy,)
    assert each.has(busy)
    assert not each.has(idle)
    assert each.ready() == []
    assert not each.forget()
    busy.live = 0
    assert each.forget()
    assert not each.by_name


def test_a_connection_from_before_brings_its_host_with_it() -> None:
    each = named()
    adopted = each.adopt("rdsh[10.0.0.21]", Address("10.0.0.21", 3389))
    assert (adopted.leaving, adopted.address) == (True, Address("10.0.0.21", 3389))
    adopted.live = 1
    assert each.adopt("rdsh[10.0.0.21]", Address("10.0.0.21", 3389)) is adopted
    each.change(each.settings, {"rdsh.example": ["10.0.0.21"]})
    assert each.hosts == (adopted,)
    assert adopted.ready, "the name has it still"


AUTOSCALED = Address("10.0.4.7", 3389)


def adopted(farm: Pool, address: Address = AUTOSCALED, now: float = 0.0) -> Host:
    return farm.take_in(farm.guest(address), now)


def test_a_pool_adopts_inside_its_networks_at_their_port() -> None:
    farm = adopting("10.0.4.0/24", "2001:db8::/64")
    inside = ["10.0.4.0:3389", "[2001:db8::7]:3389"]
    outside = ["10.0.5.0:3389", "10.0.4.7:3390", "[2001:db9::7]:3389", "rdsh.example:3389"]
    for text in (*inside, *outside):
        assert farm.may_adopt(Address.parse(text)) is (text in inside)
        assert not pool().may_adopt(Address.parse(text))


def test_an_adopted_host_serves_and_takes_nobody_new() -> None:
    farm = adopting("10.0.4.0/24", hosts=1)
    host = adopted(farm)
    assert (host.name, host.address, len(host.names)) == ("[10.0.4.7]", AUTOSCALED, 1)
    assert (host.serves, host.admits(Hold.IDLE), host.ready) == (True, True, False)
    farm.hosts[0].up = False
    assert farm.ready() == [], "not even when nobody else is there"


def test_an_adopted_host_stays_while_it_is_wanted() -> None:
    farm = adopting("10.0.4.0/24")
    host = adopted(farm, now=100.0)
    farm.expire(100.0 + ADOPTED_KEPT_S)
    assert not farm.forget()
    host.live = 1
    farm.expire(5000.0)
    host.live = 0
    farm.expire(5000.0 + ADOPTED_KEPT_S)
    assert farm.has(host)
    farm.expire(5000.1 + ADOPTED_KEPT_S)
    assert farm.forget()
    assert not farm.has(host)


def test_an_adopted_host_that_is_down_is_soon_forgotten_but_not_while_its_token_waits() -> None:
    farm = adopting("10.0.4.0/24")
    adopted(farm).up = False
    farm.expire(farm.settings.token.wait_s)
    assert not farm.forget()
    farm.expire(farm.settings.token.wait_s + 10.1)
    assert farm.forget()


def test_a_guest_is_nobodys_until_it_has_answered() -> None:
    farm = adopting("10.0.4.0/24")
    guest = farm.guest(AUTOSCALED)
    assert (guest.name, guest.serves, guest.ready, farm.has(guest)) == (
        *("[10.0.4.7]", True, False),
        False,
    )
    assert farm.take_in(guest, 0.0) is guest
    assert farm.has(guest)


def test_two_guests_at_one_address_become_one_host() -> None:
    farm = adopting("10.0.4.0/24")
    first, second = farm.guest(AUTOSCALED), farm.guest(AUTOSCALED)
    first.live = second.live = 1
    assert farm.take_in(first, 0.0) is farm.take_in(second, 0.0) is first
    assert (first.live, len(farm.hosts)) == (2, 4)


def test_a_guest_whose_network_is_gone_when_it_answers_leaves_with_its_connection() -> None:
    farm = adopting("10.0.4.0/24")
    guest = farm.guest(AUTOSCALED)
    guest.live = 1
    farm.change(pool().settings, {})
    host = farm.take_in(guest, 0.0)
    assert (farm.has(host), host.adopted, host.leaving) == (True, False, True)


def test_so_many_hosts_are_adopted_and_the_longest_idle_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "ADOPTED_MAX", 2)
    farm = adopting("10.0.4.0/24")
    assert farm.has_room(0.0)
    first, second = adopted(farm), adopted(farm, Address("10.0.4.8", 3389), now=10.0)
    assert not farm.has_room(59.0)
    assert farm.has_room(70.0)
    third = adopted(farm, Address("10.0.4.9", 3389), now=70.0)
    assert [it.leaving for it in (first, second, third)] == [True, False, False]
    assert farm.forget()
    second.live = third.live = 1
    farm.expire(1e6)
    assert not farm.has_room(1e6), "those are in use"
    assert len(farm.hosts) == 5


def test_adopted_hosts_go_with_their_network_and_with_their_pool() -> None:
    farm = adopting("10.0.4.0/24")
    busy, idle = adopted(farm), adopted(farm, Address("10.0.4.8", 3389))
    busy.live = 1
    farm.change(farm.settings, {})
    assert farm.hosts[3:] == (busy, idle)
    farm.change(pool().settings, {})
    assert (farm.hosts[3:], busy.leaving) == ((busy,), True)
    farm.change(adopting("10.0.4.0/24").settings, {})
    assert not busy.leaving, "the network is back"
    farm.leave()
    assert (farm.hosts, busy.leaving) == ((busy,), True)


def test_an_adopted_host_gives_way_to_one_that_is_listed_at_its_address() -> None:
    farm = adopting("10.0.4.0/24", hosts=1)
    old = adopted(farm)
    old.live = 1
    listed = HostSettings(name="new", address=AUTOSCALED)
    farm.change(farm.settings.model_copy(update={"hosts": (listed,)}), {})
    assert old.leaving
    assert routes(farm).named_by(AUTOSCALED) is farm.by_name["new"]


def test_an_adopted_host_is_at_the_port_that_its_last_token_named() -> None:
    farm = adopting("10.0.4.0/24")
    host = adopted(farm)
    host.live = 1
    farm.change(adopting("10.0.4.0/24", port=3390).settings, {})
    assert host.leaving
    assert adopted(farm, Address("10.0.4.7", 3390)) is host
    assert (host.address.port, host.leaving) == (3390, False)


def test_a_connection_from_before_brings_its_adopted_host_with_it() -> None:
    farm = adopting("10.0.4.0/24")
    host = farm.adopt("[10.0.4.7]", AUTOSCALED)
    assert (host.adopted, host.leaving) == (True, False)
    outside = farm.adopt("[10.0.5.7]", Address("10.0.5.7", 3389))
    other = farm.adopt("rdsh[10.0.4.8]", Address("10.0.4.8", 3389))
    assert [(it.adopted, it.leaving) for it in (outside, other)] == [(False, True)] * 2


def test_hosts_and_pools_tell_their_names() -> None:
    farm = pool()
    assert repr(farm) == "<Pool desktops>"
    assert repr(farm.hosts[0]) == "<Host desktops/a>"


def test_turns_are_taken_in_proportion_to_weight_by_those_who_can_serve() -> None:
    farm = pool(weights=[200, 100, 100])
    farm.hosts[2].up = False
    farm.placed(farm.hosts[0])
    assert [each.credit for each in farm.hosts] == [-100, 100, 0]


def test_the_operators_weight_counts_in_place_of_the_configured_one() -> None:
    each = host(weight=10)
    each.wish = Wish(weight=0)
    assert (each.weight, each.ready) == (0, False)


@pytest.mark.parametrize("up", [True, False])
def test_a_pin_lands_where_health_and_the_will_admit_it(up: bool) -> None:
    each = host()
    each.up, each.wish = up, Wish(Will.DRAIN, Pins.LIVE)
    assert [each.admits(hold) for hold in Hold] == [False, up, up]


def test_a_full_host_takes_nobody_new_and_its_places_are_for_those_who_wait() -> None:
    each = host()
    each.live = 1_000_000
    assert (each.full, each.has_place, each.ready) == (False, True, True)
    each.settings = each.settings.model_copy(update={"max_connections": 3})
    each.live, each.waiting = 2, 0
    assert (each.full, each.has_place, each.ready) == (False, True, True)
    each.waiting = 1
    assert (each.full, each.has_place, each.ready) == (True, True, False)
    each.live = 3
    assert (each.full, each.has_place, each.serves) == (True, False, True)


def test_a_backup_takes_new_clients_only_while_nobody_else_is_ready() -> None:
    farm = pool()
    backup = farm.hosts[0]
    backup.settings = backup.settings.model_copy(update={"backup": True})
    assert farm.ready() == list(farm.hosts[1:])
    farm.hosts[1].up = False
    assert farm.ready() == [farm.hosts[2]]
    farm.hosts[2].wish = Wish(Will.DRAIN)
    assert farm.ready() == [backup]
    backup.up = False
    assert farm.ready() == []


def test_a_host_that_warms_up_has_a_part_of_its_weight() -> None:
    each = host(weight=200)
    each.warmth = 0.25
    assert (each.share, each.weight, each.ready) == (50, 200, True)


def test_an_agents_will_counts_where_the_operator_wants_nothing_else() -> None:
    each = host()
    each.agent = AgentWord(Will.DRAIN, since=100.0)
    assert (each.will, each.serves, each.ready) == (Will.DRAIN, True, False)
    assert all(each.admits(hold) for hold in Hold)
    each.wish = Wish(Will.MAINTENANCE, since=50.0)
    assert (each.will, each.serves) == (Will.MAINTENANCE, False)
    each.wish, each.agent = Wish(), AgentWord(Will.MAINTENANCE, since=100.0)
    assert (each.serves, any(each.admits(hold) for hold in Hold)) == (False, False)


def test_the_operators_ready_takes_back_what_the_agent_has_said_until_then() -> None:
    each = host()
    each.agent = AgentWord(Will.DRAIN, down=True, since=100.0)
    each.wish = Wish(since=200.0)
    assert (each.will, each.alive, each.ready) == (Will.READY, True, True)
    each.agent = AgentWord(Will.DRAIN, down=True, since=300.0)
    assert (each.will, each.alive, each.ready) == (Will.DRAIN, False, False)


def test_an_agent_may_say_that_its_host_does_not_serve() -> None:
    each = host()
    each.agent = AgentWord(down=True, since=1.0)
    assert (each.up, each.alive, each.serves) == (True, False, False)
    each.up, each.agent = False, AgentWord()
    assert not each.alive


def test_an_agent_gives_a_part_of_the_weight_unless_the_operator_says_how_much() -> None:
    each = host(weight=80)
    each.agent = AgentWord(percent=25)
    assert (each.share, each.weight) == (20, 80)
    each.agent = AgentWord(percent=0)
    assert not each.ready
    each.wish = Wish(weight=40)
    assert (each.share, each.ready) == (40, True)


def test_an_agent_may_say_how_many_connections_are_enough() -> None:
    each = host()
    each.agent, each.live = AgentWord(max_connections=2), 2
    assert (each.full, each.has_place) == (True, False)
