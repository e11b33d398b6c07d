"""Each line of the decision table, and its invariants as properties."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address
from proxy.routing.decide import RULES, Question, decide, named_addresses
from proxy.routing.model import Decision, Reason, RepinCause, TokenFate
from proxy.routing.pool import Pool
from proxy.routing.routes import Routes
from proxy.routing.will import Hold, Pins, Will, Wish
from proxy.settings import Balance, TokenPolicy, UnknownHost
from proxy.wire.tokens import read_token
from tests.unit.routing.farm import adopting, farm_of, pool, routes, token_for

STRANGER = Address("192.0.2.9", 3389)
REFUSING = (Reason.TOKEN_REFUSED, Reason.DESTINATION_REFUSED, Reason.NO_HOST)


def names(decision: Decision) -> list[str]:
    return [host.name for host in decision.candidates]


def test_a_token_sends_the_client_to_its_host_alone() -> None:
    farm = pool()
    decision = decide(Question(routes(farm), farm, token_for(farm.hosts[1]), key="k", pin="a"))
    assert names(decision) == ["b"]
    assert (decision.reason, decision.fate) == (Reason.TOKEN, TokenFate.HONOURED)


def test_a_token_is_honoured_while_its_host_drains() -> None:
    farm = pool()
    farm.hosts[1].wish = Wish(Will.DRAIN)
    decision = decide(Question(routes(farm), farm, token_for(farm.hosts[1])))
    assert (names(decision), decision.fate) == (["b"], TokenFate.HONOURED)


@pytest.mark.parametrize("fault", ["down", "maintenance"])
def test_a_token_for_a_host_that_cannot_serve_names_it_all_the_same(fault: str) -> None:
    farm = pool()
    if fault == "down":
        farm.hosts[1].up = False
    else:
        farm.hosts[1].wish = Wish(Will.MAINTENANCE)
    decision = decide(Question(routes(farm), farm, token_for(farm.hosts[1])))
    assert (names(decision), decision.reason) == (["b"], Reason.TOKEN)
    assert decision.fate is TokenFate.HOST_DOWN


def test_a_token_is_looked_up_in_every_pool_of_the_listener() -> None:
    office, cad = pool("office"), pool("cad", net="10.0.1.")
    listener = routes(office, cad, collections={"CAD": "cad"})
    decision = decide(Question(listener, office, token_for(cad.hosts[2])))
    assert decision.candidates == (cad.hosts[2],)
    assert decision.pool is cad


def test_a_token_for_an_address_outside_the_farm_is_refused() -> None:
    farm = pool()
    decision = decide(Question(routes(farm), farm, token_for("192.0.2.9"), key="k", pin="a"))
    assert decision.candidates == ()
    assert (decision.reason, decision.fate) == (Reason.TOKEN_REFUSED, TokenFate.UNKNOWN_HOST)


def test_a_token_for_another_port_of_a_host_names_no_host() -> None:
    farm = pool()
    decision = decide(Question(routes(farm), farm, token_for("10.0.0.21", 3390)))
    assert decision.fate is TokenFate.UNKNOWN_HOST


def test_a_token_is_honoured_that_names_an_adopted_host() -> None:
    farm = farm_of(adopting("10.0.4.0/24"))
    token, listener, home = token_for("10.0.4.7"), farm.routes["rdp"], farm.pools["desktops"]
    assert decide(Question(listener, home, token)).fate is TokenFate.UNKNOWN_HOST
    guest = home.guest(Address("10.0.4.7", 3389))
    invited = decide(Question(listener, home, token, key="k", pin="a", guest=guest))
    assert (invited.candidates, invited.fate) == ((guest,), TokenFate.HONOURED)
    assert guest not in home.hosts
    other = decide(Question(listener, home, token_for("10.0.4.8"), key="k", guest=guest))
    assert other.fate is TokenFate.UNKNOWN_HOST
    farm.take_in(guest, 0.0)
    decision = decide(Question(listener, home, token, key="k", pin="a"))
    assert (names(decision), decision.fate) == (["[10.0.4.7]"], TokenFate.HONOURED)
    pinned = decide(Question(listener, home, key="k", pin="[10.0.4.7]"))
    assert (names(pinned)[0], pinned.reason) == ("[10.0.4.7]", Reason.PIN)


def test_an_unknown_token_goes_on_with_the_pin_where_the_operator_says_ignore() -> None:
    farm = pool(token=TokenPolicy(unknown_host=UnknownHost.IGNORE))
    decision = decide(Question(routes(farm), farm, token_for("192.0.2.9"), key="k", pin="c"))
    assert names(decision)[0] == "c"
    assert (decision.reason, decision.fate) == (Reason.PIN, TokenFate.UNKNOWN_HOST)


def test_a_client_goes_to_the_host_whose_address_it_has_dialled() -> None:
    office, cad = pool("office"), pool("cad", net="10.0.1.")
    listener = routes(office, cad, collections={"CAD": "cad"})
    host = cad.hosts[1]
    host.up, host.wish = False, Wish(Will.DRAIN)
    decision = decide(Question(listener, office, destination=host.address, key="k", pin="a"))
    assert (decision.candidates, decision.pool) == ((host,), cad)
    assert (decision.reason, decision.fate) == (Reason.DESTINATION, TokenFate.ABSENT)


def test_a_token_says_more_than_what_the_client_has_dialled() -> None:
    farm = pool(token=TokenPolicy(unknown_host=UnknownHost.IGNORE))
    dialled = farm.hosts[2].address
    decision = decide(Question(routes(farm), farm, token_for(farm.hosts[1]), dialled))
    assert (names(decision), decision.reason) == (["b"], Reason.TOKEN)
    for text in (token_for("192.0.2.1"), read_token(b"Cookie: msts=77")):
        decision = decide(Question(routes(farm), farm, text, dialled))
        assert (names(decision), decision.reason) == (["c"], Reason.DESTINATION)


def test_a_client_that_dialled_no_host_is_refused_unless_the_operator_says_ignore() -> None:
    farm = pool()
    decision = decide(Question(routes(farm), farm, destination=STRANGER, key="k", pin="a"))
    assert (names(decision), decision.reason) == ([], Reason.DESTINATION_REFUSED)
    farm = pool(token=TokenPolicy(unknown_host=UnknownHost.IGNORE))
    decision = decide(Question(routes(farm), farm, destination=STRANGER, key="k", pin="a"))
    assert (names(decision)[0], decision.reason) == ("a", Reason.PIN)


def test_an_opaque_token_goes_to_the_host_that_issued_it_where_that_is_known() -> None:
    farm = pool()
    token = read_token(b"Cookie: msts=2282941292")
    learned = decide(Question(routes(farm), farm, token, key="k", learned=farm.hosts[2], pin="a"))
    assert (names(learned), learned.reason) == (["c"], Reason.TOKEN_LEARNED)
    unknown = decide(Question(routes(farm), farm, token, key="k", pin="a"))
    assert (names(unknown)[0], unknown.reason) == ("a", Reason.PIN)
    assert learned.fate is unknown.fate is TokenFate.OPAQUE


def test_a_collection_is_no_token() -> None:
    farm = pool()
    token = read_token(b"tsv://MS Terminal Services Plugin.1.Farm")
    assert decide(Question(routes(farm), farm, token, key="k")).fate is TokenFate.ABSENT


def test_a_pin_comes_first_and_the_ranking_follows() -> None:
    farm = pool()
    farm.hosts[1].live = 9
    decision = decide(Question(routes(farm), farm, key="k", pin="b"))
    assert names(decision) == ["b", "a", "c"]
    assert (decision.reason, decision.repin_cause) == (Reason.PIN, None)


def test_a_pin_is_followed_while_its_host_drains() -> None:
    farm = pool()
    farm.hosts[1].wish = Wish(Will.DRAIN)
    decision = decide(Question(routes(farm), farm, key="k", pin="b"))
    assert (names(decision), decision.reason) == (["b", "a", "c"], Reason.PIN)


@pytest.mark.parametrize(
    ("pins", "landing"),
    [
        (Pins.KEEP, {Hold.IDLE, Hold.LIVE, Hold.FIXED}),
        (Pins.LIVE, {Hold.LIVE, Hold.FIXED}),
        (Pins.DROP, {Hold.FIXED}),
    ],
)
def test_the_operator_may_drain_a_host_of_pins_too(pins: Pins, landing: set[Hold]) -> None:
    farm = pool()
    farm.hosts[1].wish = Wish(Will.DRAIN, pins)
    for hold in Hold:
        decision = decide(Question(routes(farm), farm, key="k", pin="b", hold=hold))
        if hold in landing:
            assert (names(decision)[0], decision.reason) == ("b", Reason.PIN)
        else:
            assert "b" not in names(decision)
            assert (decision.reason, decision.repin_cause) == (Reason.REPINNED, RepinCause.DRAIN)


@pytest.mark.parametrize("pins", Pins)
def test_a_token_lands_whoever_else_is_drained(pins: Pins) -> None:
    farm = pool()
    farm.hosts[1].wish = Wish(Will.DRAIN, pins)
    decision = decide(Question(routes(farm), farm, token_for(farm.hosts[1]), key="k", pin="b"))
    assert (names(decision), decision.fate) == (["b"], TokenFate.HONOURED)


@pytest.mark.parametrize("cause", list(RepinCause)[:3])
def test_a_pin_that_cannot_be_followed_is_told_with_its_cause(cause: RepinCause) -> None:
    farm = pool()
    if cause is RepinCause.DOWN:
        farm.hosts[1].up = False
    if cause is RepinCause.MAINTENANCE:
        farm.hosts[1].wish = Wish(Will.MAINTENANCE)
    pin = "gone" if cause is RepinCause.GONE else "b"
    decision = decide(Question(routes(farm), farm, key="k", pin=pin))
    assert (decision.reason, decision.repin_cause) == (Reason.REPINNED, cause)
    assert ("b" in names(decision)) is (cause is RepinCause.GONE)


def test_a_new_client_is_balanced_over_ready_hosts_only() -> None:
    farm = pool(hosts=4)
    farm.hosts[0].up = False
    farm.hosts[1].wish = Wish(Will.DRAIN)
    decision = decide(Question(routes(farm), farm, key="k"))
    assert (names(decision), decision.reason) == (["c", "d"], Reason.BALANCED)


def test_a_client_without_a_key_is_balanced_and_not_pinned() -> None:
    farm = pool()
    assert decide(Question(routes(farm), farm)).reason is Reason.UNPINNED


@pytest.mark.parametrize("pin", [None, "a"])
def test_no_host_is_said_plainly(pin: str | None) -> None:
    farm = pool()
    for host in farm.hosts:
        host.up = False
    decision = decide(Question(routes(farm), farm, key="k", pin=pin))
    assert (decision.candidates, decision.reason) == ((), Reason.NO_HOST)


def test_while_the_table_is_away_the_hash_ranks() -> None:
    farm, other = pool(), pool()
    farm.hosts[0].live, other.hosts[1].live = 5, 7
    rankings = [
        names(decide(Question(routes(each), each, key="k", balance=Balance.HASH)))
        for each in (farm, other)
    ]
    assert rankings[0] == rankings[1]


def test_every_rule_that_has_no_decision_says_why() -> None:
    farm = pool(token=TokenPolicy(unknown_host=UnknownHost.IGNORE))
    listener = routes(farm)
    questions = [
        Question(listener, farm),
        Question(listener, farm, token_for("192.0.2.9"), STRANGER, key="k"),
        Question(listener, farm, read_token(b"Cookie: msts=1"), key="k", pin="a"),
    ]
    for question, (name, rule) in product(questions, RULES.items()):
        answer = rule(question)
        assert isinstance(answer, Decision) or " " in answer, name


@st.composite
def questions(draw: st.DrawFn) -> tuple[Routes, Question]:
    pools: list[Pool] = []
    for index in range(draw(st.integers(1, 2))):
        farm = pool(f"pool{index}", hosts=draw(st.integers(1, 4)), net=f"10.0.{index}.")
        for host in farm.hosts:
            host.up = draw(st.booleans())
            host.wish = Wish(draw(st.sampled_from(Will)), draw(st.sampled_from(Pins)))
            host.live = draw(st.integers(0, 5))
            host.credit = draw(st.integers(-200, 200))
        pools.append(farm)
    listener = routes(*pools, collections={"x": pools[-1].name})
    every = [host for farm in pools for host in farm.hosts]
    token = draw(
        st.none()
        | st.sampled_from(every).map(token_for)
        | st.sampled_from([token_for("192.0.2.1"), read_token(b"Cookie: msts=77")])
    )
    home = draw(st.sampled_from(pools))
    return listener, Question(
        listener,
        home,
        token,
        draw(st.none() | st.sampled_from([*(host.address for host in every), STRANGER])),
        draw(st.none() | st.text(max_size=3)),
        draw(st.none() | st.sampled_from(home.hosts)),
        draw(st.none() | st.sampled_from("abcdz")),
        draw(st.none() | st.sampled_from(Balance)),
        draw(st.sampled_from(Hold)),
    )


@given(questions())
def test_the_invariants_of_a_decision_hold(asked: tuple[Routes, Question]) -> None:
    listener, question = asked
    decision = decide(question)
    every = [host for farm in listener.pools for host in farm.hosts]
    assert set(decision.candidates) <= set(every)
    assert len(set(decision.candidates)) == len(decision.candidates)
    if decision.reason in (Reason.TOKEN, Reason.TOKEN_LEARNED, Reason.DESTINATION):
        assert len(decision.candidates) == 1
    elif decision.reason in REFUSING:
        assert not decision.candidates
    else:
        first_by_pin = decision.reason is Reason.PIN
        assert all(host.ready for host in decision.candidates[first_by_pin:])
        assert all(host.serves for host in decision.candidates)
        assert not first_by_pin or decision.candidates[0].admits(question.hold)
        assert {host.pool for host in decision.candidates} == {decision.pool.name}
    assert decide(question) == decision


@given(
    st.lists(st.ip_addresses(network="0.0.0.0/0").filter(int), min_size=1, max_size=8),
    st.lists(st.integers(1, 40000), min_size=1, max_size=2),
    st.sampled_from(["10.0.4.0/24", "192.0.0.0/4", "128.0.0.0/1"]),
)
def test_no_address_outside_the_networks_is_ever_a_candidate(
    addresses: list[IPv4Address], ports: list[int], network: str
) -> None:
    listed = pool(hosts=2).hosts
    farm = farm_of(adopting(network, hosts=2))
    listener, home = farm.routes["rdp"], farm.pools["desktops"]
    for address, port in product(addresses, [*ports, 3389]):
        named = Address(str(address), port)
        adopter = listener.adopter_of(named)
        guest = adopter.guest(named) if adopter else None
        known = listener.named_by(named) or guest
        token = token_for(str(address), port)
        by_token = decide(Question(listener, home, token, key="k", guest=guest))
        by_destination = decide(Question(listener, home, destination=named, key="k", guest=guest))
        inside = address in ip_network(network) and port == 3389
        assert by_token.candidates == by_destination.candidates
        if known is None:
            assert (by_token.candidates, inside) == ((), False)
        else:
            assert by_token.candidates == (known,)
            assert known.address == (str(address), port)
            assert inside or known.address in {host.address for host in listed}
        for host in decide(Question(listener, home, key="k")).candidates:
            assert host.address in {host.address for host in listed}


def test_a_host_may_be_named_by_its_token_and_by_what_the_client_has_dialled() -> None:
    token, dialled = token_for("10.0.0.21"), Address("10.0.0.22", 3389)
    assert named_addresses(token, dialled) == [Address("10.0.0.21", 3389), dialled]
    assert named_addresses(None, dialled) == [dialled]
    assert named_addresses(token, None) == [Address("10.0.0.21", 3389)]
    assert named_addresses(read_token(b"Cookie: msts=77"), None) == []
