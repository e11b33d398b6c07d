"""The judgement of connections by their shape, with the figures of real clients."""

from __future__ import annotations

import pytest

from proxy.routing.pool import Host
from proxy.routing.signs import (
    LOOP_HOPS,
    LOOP_S,
    MOMENT_S,
    Hops,
    Passage,
    follows,
    is_glance,
    suspects_certificate,
)
from tests.unit.routing.farm import pool

FARM = pool()
A, B, _ = FARM.hosts
ELSEWHERE = pool("cad").hosts[1]
TOKEN = "Cookie: msts=352321546.15629.0000"


def glance(host: Host = B, token: str | None = None, seen_at: float = 10.0) -> Passage:
    return Passage(2, host, token, None, seen_at, is_glance=True)


@pytest.mark.parametrize(
    ("answer", "up", "down", "duration_s", "is_one"),
    [
        ("ssl", 482, 1450, 0.04, True),  # xfreerdp refuses a certificate, TLS 1.2
        ("hybrid", 462, 1799, 0.08, True),  # and TLS 1.3 before NLA
        ("ssl", 566, 1409, 0.02, True),  # rdesktop
        ("ssl", 661, 731, 0.01, True),  # the lab's client
        ("ssl", 462, 1860, 14.9, True),  # it thought about it
        ("ssl", 462, 1860, 15.0, False),
        ("hybrid", 1028, 1983, 0.07, False),  # a wrong password
        ("ssl", 3186, 171417, 1.2, False),  # a login screen
        ("ssl", 47, 19, 0.1, False),  # left with the Connection Confirm: another one's probe
        ("rdp", 482, 1450, 0.04, False),
        (None, 482, 1450, 0.04, False),
    ],
)
def test_a_glance_is_told_by_its_size(
    answer: str | None, up: int, down: int, duration_s: float, is_one: bool
) -> None:
    told = is_glance(answer, bytes_up=up, bytes_down=down, duration_s=duration_s)
    assert told is is_one


def test_a_connection_follows_another_for_a_moment_only() -> None:
    before = glance(A, seen_at=10.0)
    assert follows(glance(seen_at=10.0 + MOMENT_S), before)
    assert not follows(glance(seen_at=10.1 + MOMENT_S), before)
    assert not follows(glance(), None)


def test_a_redirected_client_that_only_glances_is_suspicious() -> None:
    login = Passage(1, A, None, None, 9.0)
    assert suspects_certificate(glance(B, TOKEN), login)
    assert suspects_certificate(glance(A, TOKEN), login), "misrouted back to where it came from"


def test_a_client_that_has_its_token_from_a_file_is_not_redirected() -> None:
    assert not suspects_certificate(glance(A, TOKEN), glance(A, TOKEN))


def test_a_second_glance_is_suspicious_at_another_host_of_the_same_pool_only() -> None:
    assert suspects_certificate(glance(B), glance(A))
    assert not suspects_certificate(glance(A), glance(A))
    assert not suspects_certificate(glance(ELSEWHERE), glance(A))


def test_a_glance_after_a_login_is_the_beginning_of_the_next_one() -> None:
    assert not suspects_certificate(glance(B), Passage(1, A, None, None, 9.0))


def test_token_connections_in_a_row_are_a_loop_and_then_counted_anew() -> None:
    hops = Hops()
    once = [False] * (LOOP_HOPS - 1) + [True]
    assert [hops.ended(float(at)) for at in range(2 * LOOP_HOPS)] == once * 2


def test_token_connections_over_a_long_time_are_none() -> None:
    hops = Hops()
    assert not any(hops.ended(at * LOOP_S / 3) for at in range(50))


@pytest.mark.parametrize(("every_s", "is_loop"), [(15.0, True), (15.1, False)])
def test_a_loop_is_five_within_a_minute(every_s: float, is_loop: bool) -> None:
    hops = Hops()
    assert [hops.ended(100 + every_s * turn) for turn in range(5)][-1] is is_loop
