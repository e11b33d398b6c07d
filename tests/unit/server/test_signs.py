"""Following clients from one connection to the next: whom signs know again, and what they tell."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from proxy.address import Address
from proxy.errors import Cause, Side
from proxy.routing.lifespans import SHORT_S
from proxy.routing.model import Reason, TokenFate
from proxy.routing.pool import Pool
from proxy.routing.signs import LOOP_HOPS, Sign
from proxy.server import signs as module
from proxy.server.record import ConnectionRecord, Ending, Phase
from proxy.server.signs import Signs
from proxy.server.table import Established
from proxy.settings import HostSettings, PoolAffinity, PoolSettings
from tests.unit.server.stage import Clock, Observed

TOKEN, OTHER_TOKEN = "Cookie: msts=1.15629.0000", "Cookie: msts=2.15629.0000"
GATEWAY, OFFICE = "10.9.0.1", "203.0.113.99"
CLOSED = Ending(Phase.RELAY, Side.CLIENT, Cause.CLOSED)


class Known:
    """Sources that turned out to be many people."""

    def knows(self, source: str) -> bool:
        return source == OFFICE


class House:
    def __init__(self) -> None:
        hosts = tuple(
            HostSettings(name=name, address=Address(f"10.0.0.{number}", 3389))
            for number, name in enumerate("abc", 1)
        )
        affinity = PoolAffinity(shared_sources=(ip_network("10.9.0.0/24"),))
        self.pool = Pool(PoolSettings(name="desktops", hosts=hosts, affinity=affinity))
        self.clock = Clock()
        self.observed = Observed()
        pools = {"desktops": self.pool}
        self.signs = Signs(pools, Known(), self.observed, self.clock)  # type: ignore[arg-type]
        self._ids = iter(range(1, 100_000))

    def connect(
        self, host: str = "a", *, source: str = "203.0.113.7", **more: object
    ) -> Established:
        at = Address(source, 50000)
        record = ConnectionRecord(next(self._ids), "rdp", at, at, self.clock.now)
        record.pool, record.host, record.answer = "desktops", host, "ssl"
        record.reason = Reason.BALANCED
        for name, value in more.items():
            setattr(record, name, value)
        row = Established(record, self.pool.by_name[host], ())
        self.signs.established(row)
        return row

    def end(
        self, row: Established, up: int, down: int, after_s: float, ending: Ending = CLOSED
    ) -> None:
        self.clock.now += after_s
        record = row.record
        record.ending, record.bytes_up, record.bytes_down = ending, up, down
        record.duration_s = self.clock.now - record.accepted_at
        self.signs.gone(row)

    def glance(self, host: str = "a", **more: Any) -> None:
        self.end(self.connect(host, **more), 482, 1450, 0.1)

    def login(self, host: str = "a", after_s: float = 2.0, **more: Any) -> None:
        self.end(self.connect(host, **more), 1454, 4000, after_s)

    @property
    def told(self) -> list[tuple[Sign, str | None]]:
        return [(sign, record.host) for sign, record, _ in self.observed.signs]


def by_token(text: str = TOKEN) -> dict[str, Any]:
    return {"token": text, "fate": TokenFate.HONOURED, "reason": Reason.TOKEN}


def by_destination(host: str = "10.0.0.2") -> dict[str, Any]:
    return {"destination": Address(host, 3389), "reason": Reason.DESTINATION}


@pytest.fixture
def house() -> House:
    return House()


def test_a_second_glance_at_another_host_is_suspected_with_its_evidence(house: House) -> None:
    house.glance("a")
    house.clock.now += 20
    house.glance("b")
    ((sign, record, evidence),) = house.observed.signs
    assert (sign, record.host) == (Sign.CERTIFICATE_MISMATCH, "b")
    assert evidence == {
        "previous_id": 1,
        "previous_host": "a",
        "previous_was_glance": True,
        "previous_s_ago": 20.0,
    }


def test_who_has_stayed_for_long_did_not_leave_for_a_certificate(house: House) -> None:
    house.glance("a")
    stayed = house.connect("b")
    house.clock.now += SHORT_S
    house.connect("a", source="203.0.113.8")
    house.end(stayed, 482, 1450, 0.1)
    assert house.told == []


def test_after_a_suspicion_the_client_begins_anew(house: House) -> None:
    for host in "abcabc":
        house.glance(host)
    assert house.told == [(Sign.CERTIFICATE_MISMATCH, host) for host in "bac"]


def test_a_redirected_client_that_glances_is_suspected(house: House) -> None:
    house.login("a", user="alice")
    house.glance("b", **by_token())
    assert house.told == [(Sign.CERTIFICATE_MISMATCH, "b")]


def test_a_client_that_was_redirected_by_address_and_glances_is_suspected(house: House) -> None:
    house.login("a", user="alice")
    house.glance("b", user="alice", **by_destination())
    assert house.told == [(Sign.CERTIFICATE_MISMATCH, "b")]


@pytest.mark.parametrize("before", [{"user": "bob"}, {"user": "alice", **by_destination()}])
def test_nobody_is_suspected_who_dials_a_host_by_himself(
    house: House, before: dict[str, Any]
) -> None:
    house.login("b", **before)
    house.glance("b", user="alice", **by_destination())
    assert house.told == []


def test_a_good_login_is_not_suspected_at_any_of_its_steps(house: House) -> None:
    for _ in range(3):
        house.glance("a", user="alice")
        house.login("a", user="alice")
        house.login("b", after_s=3600, **by_token())
    assert house.told == []


def test_nothing_is_suspected_where_the_connection_before_is_too_long_ago(house: House) -> None:
    house.glance("a")
    house.clock.now += 121
    house.glance("b")
    assert house.told == []


def test_users_behind_one_address_are_told_apart_by_name(house: House) -> None:
    house.glance("a", user="alice")
    house.glance("b", user="bob")
    assert house.told == []
    house.glance("b", user="ALICE")
    assert house.told == [(Sign.CERTIFICATE_MISMATCH, "b")]


@pytest.mark.parametrize("source", [GATEWAY, OFFICE])
def test_many_people_without_names_are_judged_by_token_only(house: House, source: str) -> None:
    house.glance("a", source=source)
    house.glance("b", source=source)
    assert house.told == []
    house.glance("c", source=source, **by_token())
    assert house.told == [(Sign.CERTIFICATE_MISMATCH, "c")]


@pytest.mark.parametrize("names", [("alice", None), (None, "alice")])
def test_a_name_that_one_of_two_connections_lacks_is_no_other_client(
    house: House, names: tuple[str | None, str | None]
) -> None:
    for host, user in zip("ab", names, strict=True):
        house.glance(host, user=user)
    assert house.told == [(Sign.CERTIFICATE_MISMATCH, "b")]


@pytest.mark.parametrize("cause", [Cause.TIMEOUT, Cause.RELAY_DIED])
def test_a_connection_that_broke_is_no_glance(house: House, cause: Cause) -> None:
    house.login("a")
    row = house.connect("b", **by_token())
    house.end(row, 482, 1450, 0.1, Ending(Phase.RELAY, Side.LOCAL, cause))
    assert house.told == []


def test_a_connection_that_no_relay_took_is_nothing(house: House) -> None:
    house.signs.gone(house.connect("a"))
    house.glance("b")
    assert house.told == []


def test_a_client_that_tokens_send_on_and_on_is_a_loop(house: House) -> None:
    house.login("a")
    for number in range(LOOP_HOPS):
        house.login("bc"[number % 2], after_s=1, **by_token((TOKEN, OTHER_TOKEN)[number % 2]))
    assert house.told == [(Sign.REDIRECT_LOOP, "b")]
    assert house.observed.signs[0][2] == {"hops": LOOP_HOPS, "within_s": 60.0}


def test_a_client_that_is_sent_to_one_address_after_the_other_is_a_loop(house: House) -> None:
    house.login("a", user="alice")
    for number in range(LOOP_HOPS):
        sent = by_destination(f"10.0.0.{2 + number % 2}")
        house.login("bc"[number % 2], after_s=1, user="alice", **sent)
    assert house.told == [(Sign.REDIRECT_LOOP, "b")]


def test_a_client_that_dials_one_host_again_and_again_is_no_loop(house: House) -> None:
    for _ in range(2 * LOOP_HOPS):
        house.login("b", after_s=1, user="alice", **by_destination())
    assert house.told == []


def test_logins_that_are_redirected_once_each_are_no_loop(house: House) -> None:
    for _ in range(20):
        house.login("a", after_s=1)
        house.login("b", after_s=1, **by_token())
    assert house.told == []


def test_token_connections_that_last_are_no_loop(house: House) -> None:
    for _ in range(20):
        house.login("b", after_s=15, **by_token())
    assert house.told == []


def test_a_host_where_nobody_stays_is_told_once(house: House) -> None:
    for number in range(12):
        house.login("a", source=f"203.0.113.{number}")
    assert house.told == [(Sign.SHORT_LIVED, "a")]
    assert house.pool.by_name["a"].lifespans.all_short(house.clock.now)


def test_glances_and_our_own_endings_say_nothing_about_a_host(house: House) -> None:
    stopped = Ending(Phase.RELAY, Side.LOCAL, Cause.STOPPED)
    for number in range(20):
        source = f"203.0.113.{number}"
        house.glance("a", source=source)
        house.end(house.connect("a", source=source), 1454, 4000, 1, stopped)
    assert house.told == []


def test_a_redirector_does_its_work_however_short_its_connections(house: House) -> None:
    for number in range(30):
        source = f"203.0.113.{number}"
        house.login("a", source=source)
        house.login("b", after_s=3600, source=source, **by_token())
    assert house.told == []


def test_a_client_that_comes_again_with_its_token_was_not_sent_on(house: House) -> None:
    for number in range(6):
        for _ in range(2):
            house.login("b", source=f"203.0.113.{number}", **by_token())
    assert house.told == [(Sign.SHORT_LIVED, "b")]


def test_memory_is_bounded_and_the_longest_unseen_client_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CLIENTS", 3)
    house = House()
    house.glance("a", source="203.0.113.1")
    for number in (2, 3, 4):
        house.glance("a", source=f"203.0.113.{number}")
    house.glance("b", source="203.0.113.1")
    assert house.told == [], "forgotten"
    house.glance("b", source="203.0.113.4")
    assert house.told == [(Sign.CERTIFICATE_MISMATCH, "b")]
