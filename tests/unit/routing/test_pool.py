"""Hosts and routes: who serves, who is ready, and whom a token may name."""

from __future__ import annotations

import pytest

from proxy.address import Address
from proxy.routing.agent import AgentWord
from proxy.routing.pool import Host
from proxy.routing.will import Hold, Pins, Will, Wish
from proxy.settings import HostSettings
from proxy.wire.tokens import encode_msts, read_token
from tests.unit.routing.farm import pool, routes, token_for


def host(address: str = "10.0.0.21:3389", *aliases: str, weight: int = 100) -> Host:
    settings = HostSettings(
        name="a",
        address=Address.parse(address),
        weight=weight,
        token_addresses=tuple(map(Address.parse, aliases)),
    )
    return Host(settings, "desktops")


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


def test_a_dns_name_is_dialled_by_its_first_address_and_known_by_all() -> None:
    each = host("rdsh01.example:3389", "192.0.2.1:3389")
    assert Host(each.settings, "desktops").address is None
    found = [Address("10.0.0.21", 3389), Address("10.0.0.22", 3389)]
    each.resolved(found)
    assert each.address == found[0]
    assert each.names == {*found, Address("192.0.2.1", 3389)}


def test_a_token_names_a_host_by_any_of_its_names() -> None:
    farm = pool()
    listener = routes(farm)
    farm.hosts[0].resolved([Address("10.0.0.21", 3389), Address("192.168.1.1", 3389)])
    token = read_token(encode_msts(Address("192.168.1.1", 3389)))
    assert listener.named_by(token) is None
    listener.index()
    assert listener.named_by(token) is farm.hosts[0]


def test_an_opaque_token_names_nobody() -> None:
    assert routes(pool()).named_by(read_token(b"Cookie: msts=77")) is None


def test_the_first_pool_wins_where_two_hold_one_address() -> None:
    first, second = pool("first"), pool("second")
    listener = routes(first, second, collections={"two": "second"})
    assert listener.named_by(token_for(second.hosts[0])) is first.hosts[0]


@pytest.mark.parametrize(
    ("line", "home"),
    [
        (None, "office"),
        (b"tsv://MS Terminal Services Plugin.1.CAD", "cad"),
        (b"tsv://MS Terminal Services Plugin.1.cad", "cad"),
        (b"TSV://MS Terminal Services Plugin.1. cAd \0", "cad"),
        (b"tsv://MS Terminal Services Plugin.1.Other", "office"),
        (b"Cookie: msts=77", "office"),
    ],
)
def test_a_collection_chooses_the_pool(line: bytes | None, home: str) -> None:
    listener = routes(pool("office"), pool("cad", net="10.0.1."), collections={"CAD": "cad"})
    token = read_token(line) if line else None
    assert listener.pool_of(token).name == home
    assert [each.name for each in listener.pools] == ["office", "cad"]
    assert listener.pool_named("cad").name == "cad"


def test_a_collection_is_known_by_the_name_that_the_configuration_gives_it() -> None:
    listener = routes(pool("office"), pool("cad"), collections={"Full_CAD": "cad"})
    assert listener.aliases == ["Full_CAD"]
    assert listener.alias_of("FULL_cad ") == "Full_CAD"
    assert listener.alias_of("Full") is None


def test_tokens_lead_to_pools_that_nothing_else_leads_to() -> None:
    redirectors, desktops = pool("redirectors"), pool("desktops", net="10.0.1.")
    listener = routes(redirectors, desktops, token_pools=("desktops",))
    assert listener.named_by(token_for(desktops.hosts[1])) is desktops.hosts[1]
    assert [each.name for each in listener.pools] == ["redirectors", "desktops"]
    assert listener.pool_of(None) is redirectors


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
