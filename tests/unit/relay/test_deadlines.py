from __future__ import annotations

import pytest

from proxy.errors import Cause
from proxy.relay.deadlines import Deadlines
from proxy.relay.legs import Connection


def connection_of(idle_s: float | None, half_close_s: float | None, conn_id: int = 1) -> Connection:
    return Connection(conn_id, (10, 11), (0, 0), b"", idle_s=idle_s, half_close_s=half_close_s)


@pytest.fixture
def live() -> dict[int, Connection]:
    return {}


@pytest.fixture
def deadlines(live: dict[int, Connection]) -> Deadlines:
    return Deadlines(live)


def test_a_silent_connection_is_over_when_its_time_out_is(
    live: dict[int, Connection], deadlines: Deadlines
) -> None:
    live[1] = connection = connection_of(idle_s=5.0, half_close_s=None)
    deadlines.add(connection, connection.idle_s, 0.0)
    assert deadlines.first() == 5.0
    assert list(deadlines.expired(4.9)) == []
    assert list(deadlines.expired(5.0)) == [(connection, Cause.IDLE)]


def test_bytes_that_came_meanwhile_put_the_end_off(
    live: dict[int, Connection], deadlines: Deadlines
) -> None:
    live[1] = connection = connection_of(idle_s=5.0, half_close_s=None)
    deadlines.add(connection, connection.idle_s, 0.0)
    connection.changed = True
    assert list(deadlines.expired(5.0)) == []
    assert deadlines.first() == 10.0
    connection.changed = False
    assert list(deadlines.expired(10.0)) == [(connection, Cause.IDLE)]


def test_the_shorter_of_two_time_outs_ends_a_one_sided_connection(
    live: dict[int, Connection], deadlines: Deadlines
) -> None:
    live[1] = connection = connection_of(idle_s=50.0, half_close_s=5.0)
    deadlines.add(connection, connection.idle_s, 0.0)
    connection.one_sided = True
    deadlines.add(connection, connection.half_close_s, 0.0)
    assert list(deadlines.expired(6.0)) == [(connection, Cause.HALF_CLOSE)]


def test_no_time_out_is_no_deadline(live: dict[int, Connection], deadlines: Deadlines) -> None:
    live[1] = connection = connection_of(idle_s=None, half_close_s=None)
    deadlines.add(connection, connection.idle_s, 0.0)
    assert deadlines.first() is None


def test_connections_that_ended_do_not_pile_up(
    live: dict[int, Connection], deadlines: Deadlines
) -> None:
    for conn_id in range(20):
        live[conn_id] = connection_of(8 * 3600.0, None, conn_id)
        deadlines.add(live[conn_id], live[conn_id].idle_s, 0.0)
    live.clear()
    assert list(deadlines.expired(61.0)) == []
    assert deadlines.first() is None
