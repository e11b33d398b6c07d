"""Whether connections to a host last: what counts against it, and what clears it."""

from __future__ import annotations

from proxy.routing.lifespans import SHORT_S, Lifespans


def fail(lifespans: Lifespans, count: int, at: float = 0.0, clients: int = 3) -> list[bool]:
    """So many short connections of so many clients, one after the other; when it turned."""
    turned = []
    for number in range(count):
        lifespans.began(number, at + number)
        turned.append(lifespans.ended(number, at + number + 1, f"client{number % clients}"))
    return turned


def test_ten_short_connections_of_three_clients_turn_a_host_once() -> None:
    lifespans = Lifespans()
    assert fail(lifespans, 12) == [False] * 9 + [True, False, False]
    assert lifespans.all_short(20)


def test_however_many_clients_fail_only_a_few_are_remembered() -> None:
    lifespans = Lifespans()
    fail(lifespans, 50, clients=50)
    assert len(lifespans._clients) == 3


def test_two_clients_are_not_enough_however_often_they_try() -> None:
    lifespans = Lifespans()
    assert not any(fail(lifespans, 100, clients=2))
    assert not lifespans.all_short(200)


def test_one_connection_that_lasts_clears_the_host() -> None:
    lifespans = Lifespans()
    lifespans.began(1000, 0)
    fail(lifespans, 10, at=1)
    assert lifespans.all_short(SHORT_S - 0.1)
    assert not lifespans.all_short(SHORT_S)
    assert fail(lifespans, 10, at=20)[-1], "then all of them are short again"


def test_a_connection_that_has_lasted_long_ago_says_nothing_at_its_end() -> None:
    lifespans = Lifespans()
    lifespans.began(1000, 0)
    fail(lifespans, 10, at=20)
    assert not lifespans.ended(1000, 31, "client")
    assert lifespans.all_short(31)


def test_a_connection_that_has_lasted_is_none_of_the_short_ones() -> None:
    lifespans = Lifespans()
    lifespans.began(1000, 0)
    fail(lifespans, 9, at=20)
    assert not lifespans.ended(1000, 31, "client0")
    assert not lifespans.all_short(31)


def test_what_tells_nothing_of_the_host_is_not_counted() -> None:
    lifespans = Lifespans()
    fail(lifespans, 9)
    for number in range(50):
        lifespans.began(number, number)
        assert not lifespans.ended(number, number + 1, None)
    assert not lifespans.all_short(51)


def test_a_host_that_sends_clients_on_does_its_work() -> None:
    lifespans = Lifespans()
    fail(lifespans, 9)
    lifespans.works()
    assert not any(fail(lifespans, 9, at=10))
