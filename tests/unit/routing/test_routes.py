"""Routes: which pool a client belongs to, and whom a token may name."""

from __future__ import annotations

import pytest

from proxy.address import Address
from proxy.wire.tokens import read_token
from tests.unit.routing.farm import adopting, pool, routes


def test_the_pool_whose_networks_have_an_address_is_its_adopter() -> None:
    office, cad = adopting("10.0.4.0/24", name="office"), adopting("10.0.5.0/24", name="cad")
    listener = routes(office, cad, token_pools=("cad",))
    assert listener.adopter_of(Address("10.0.5.1", 3389)) is cad
    assert listener.adopter_of(Address("10.0.6.1", 3389)) is None


def test_an_address_names_a_host_by_any_of_its_names() -> None:
    farm = pool(hosts=1)
    host = farm.hosts[0]
    host.names = host.names | {Address("192.0.2.1", 3389)}
    assert routes(farm).named_by(Address("192.0.2.1", 3389)) is farm.hosts[0]


def test_a_token_names_who_stays_before_who_leaves() -> None:
    old, new = pool("old"), pool("new")
    for each in old.hosts:
        each.live = 1
    listener = routes(old, new, collections={"new": "new"})
    assert listener.named_by(old.hosts[0].address) is old.hosts[0]
    old.leave()
    listener.index()
    assert listener.named_by(old.hosts[0].address) is new.hosts[0]


def test_the_first_pool_wins_where_two_hold_one_address() -> None:
    first, second = pool("first"), pool("second")
    listener = routes(first, second, collections={"two": "second"})
    assert listener.named_by(second.hosts[0].address) is first.hosts[0]


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
    assert listener.named_by(desktops.hosts[1].address) is desktops.hosts[1]
    assert [each.name for each in listener.pools] == ["redirectors", "desktops"]
    assert listener.pool_of(None) is redirectors


def test_a_pool_that_has_left_is_routed_to_no_longer() -> None:
    old, new = pool("old"), pool("new", net="10.0.1.")
    listener = routes(new, old, collections={"old": "old"})
    old.leave()
    listener.forget(old)
    assert listener.pools == (new,)
