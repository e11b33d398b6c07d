from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy import channel
from proxy.errors import Cause, Side
from proxy.relay import contract
from proxy.relay.contract import RelayEnding, Row
from proxy.relay.legs import Connection
from proxy.relay.reports import Reports
from tests.unit.relay.stepper import Stepper

CLOSED = (Side.CLIENT, Cause.CLOSED)


class Front:
    """The far end of a relay's channel, read by the test."""

    def __init__(self, pump: Stepper) -> None:
        self.sock, self.relays_end = channel.pair()
        pump.open_door(self.relays_end.fileno(), self._called)
        self.calls = 0

    def _called(self) -> None:
        self.calls += 1

    def read(self) -> list[contract.ToFront]:
        messages = []
        while (message := channel.receive(self.sock)) is not None:
            messages.append(contract.decode_to_front(message.data))
        return messages

    def stuff(self) -> int:
        """Fill its queue; with how many messages."""
        count = 0
        while channel.send(self.relays_end, contract.encode_end()):
            count += 1
        return count


@pytest.fixture
def front(pump: Stepper) -> Iterator[Front]:
    front = Front(pump)
    yield front
    front.sock.close()
    front.relays_end.close()


def connection(conn_id: int, up: int = 0, down: int = 0) -> Connection:
    return Connection(conn_id, (-1, -1), (up, down), b"rec", idle_s=None, half_close_s=None)


def test_a_new_front_hears_hello_the_rows_and_the_end(pump: Stepper, front: Front) -> None:
    reports = Reports()
    reports.ended(connection(1, 10, 20), *CLOSED)
    pump.connections[2] = connection(2, 30, 40)
    reports.greet(front.relays_end, pump)
    reports.flush(pump)
    pump.connections.clear()
    hello, *rows, end = front.read()
    assert isinstance(hello, contract.Hello)
    told = [row for message in rows if isinstance(message, contract.Rows) for row in message.rows]
    assert told == [Row(1, 10, 20, b"rec", RelayEnding(*CLOSED, 10, 20)), Row(2, 30, 40, b"rec")]
    assert end == contract.End()


@pytest.fixture
def two(pump: Stepper, front: Front) -> Iterator[tuple[Reports, Front, Front]]:
    """Of two fronts the older was told of an ending when the newer came, as in an upgrade."""
    newer = Front(pump)
    reports = Reports()
    reports.greet(front.relays_end, pump)
    reports.ended(connection(1), *CLOSED)
    reports.flush(pump)
    front.read()
    reports.greet(newer.relays_end, pump)
    reports.flush(pump)
    assert rows_in(newer.read()) == []
    yield reports, front, newer
    newer.sock.close()
    newer.relays_end.close()


def rows_in(said: list[contract.ToFront]) -> list[int]:
    return [row.conn_id for one in said if isinstance(one, contract.Rows) for row in one.rows]


def test_an_ending_that_one_front_was_told_is_not_told_to_the_next_one(
    pump: Stepper, two: tuple[Reports, Front, Front]
) -> None:
    reports, older, newer = two
    reports.acknowledged([1])
    reports.lost(older.relays_end)
    reports.flush(pump)
    assert newer.read() == []


def test_an_ending_that_a_front_took_with_it_is_told_to_the_present_one(
    pump: Stepper, two: tuple[Reports, Front, Front]
) -> None:
    reports, older, newer = two
    reports.lost(older.relays_end)
    reports.flush(pump)
    assert rows_in(newer.read()) == [1]
    reports.forget_front()
    reports.lost(newer.relays_end)
    reports.greet(older.relays_end, pump)
    reports.flush(pump)
    assert rows_in(older.read()) == [1], "and so on"


def test_endings_of_a_batch_go_in_one_message_and_wait_for_their_account(
    pump: Stepper, front: Front
) -> None:
    reports = Reports()
    reports.greet(front.relays_end, pump)
    reports.flush(pump)
    front.read()
    for conn_id in (1, 2, 3):
        reports.ended(connection(conn_id, conn_id, 0), *CLOSED)
    reports.flush(pump)
    (ended,) = front.read()
    assert isinstance(ended, contract.Ended)
    assert [conn_id for conn_id, _ in ended.endings] == [1, 2, 3]
    assert reports.has_front
    reports.acknowledged([1, 3, 99])
    assert list(reports.unacknowledged) == [2]
    reports.acknowledged([2])
    assert reports.unacknowledged == {}


def test_without_a_front_endings_are_kept_and_nothing_else(pump: Stepper) -> None:
    reports = Reports()
    reports.progress([connection(1)])
    reports.handed_over(connection(2))
    reports.ended(connection(3), *CLOSED)
    reports.flush(pump)
    assert list(reports.unacknowledged) == [3]
    assert not reports.has_front


def test_a_front_that_is_busy_hears_everything_later_and_only_the_last_counts(
    pump: Stepper, front: Front
) -> None:
    reports = Reports()
    reports.greet(front.relays_end, pump)
    reports.flush(pump)
    stuffed = front.stuff()
    moving = connection(1)
    ended = connection(2, 5, 5)
    reports.progress([moving, ended])
    reports.flush(pump)
    for count in range(10):
        moving.client.received = count
        reports.progress([moving])
        reports.flush(pump)
    reports.ended(ended, *CLOSED)
    reports.flush(pump)
    assert len(front.read()) >= stuffed
    calls = front.calls
    pump.until(lambda: front.calls > calls)  # epoll tells that there is room
    reports.flush(pump)
    reports.flush(pump)
    said = front.read()
    progress = [one.counts for one in said if isinstance(one, contract.Progress)]
    assert progress[-1] == ((1, 9, 0),)
    assert len(progress) <= 2
    assert [one for one in said if isinstance(one, contract.Ended)]
    pump.settle()  # it does not ask for room any more


def test_a_front_that_is_replaced_while_it_is_busy_is_not_asked_for_room_any_more(
    pump: Stepper, front: Front
) -> None:
    reports = Reports()
    front.stuff()
    reports.greet(front.relays_end, pump)
    reports.flush(pump)
    newest = Front(pump)
    reports.greet(newest.relays_end, pump)
    reports.flush(pump)
    front.read()
    pump.settle()  # would spin if the old one were still asked for
    assert reports.speaks_to(newest.relays_end)
    assert not reports.speaks_to(front.relays_end)
    assert [type(one) for one in newest.read()] == [contract.Hello, contract.End]
    newest.sock.close()
    newest.relays_end.close()


def test_a_front_that_dies_in_the_middle_is_no_error(pump: Stepper, front: Front) -> None:
    reports = Reports()
    reports.greet(front.relays_end, pump)
    front.sock.close()
    reports.ended(connection(1), *CLOSED)
    reports.flush(pump)
    assert list(reports.unacknowledged) == [1]


def test_what_an_older_front_handed_over_is_a_row_for_the_newest(
    pump: Stepper, front: Front
) -> None:
    reports = Reports()
    reports.greet(front.relays_end, pump)
    reports.flush(pump)
    front.read()
    reports.handed_over(connection(8, 1, 2))
    reports.ended(connection(8, 1, 2), *CLOSED)
    reports.flush(pump)
    rows, ended = front.read()
    assert rows == contract.Rows((Row(8, 1, 2, b"rec"),))
    assert ended == contract.Ended(((8, RelayEnding(*CLOSED, 1, 2)),))
