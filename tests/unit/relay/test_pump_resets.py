from __future__ import annotations

import socket
import time

import pytest

from proxy.errors import Cause, Side
from proxy.relay import pump as pump_module
from proxy.relay.legs import OUTSIDE
from tests.unit.relay.harness import (
    SMALL_BUFFER,
    close_by_reset,
)
from tests.unit.relay.stepper import Stepper, carry, drain, fill


def test_a_reset_that_answers_an_end_is_not_the_cause(pump: Stepper) -> None:
    client, server, _ = carry(pump)
    client.shutdown(socket.SHUT_WR)
    pump.settle()
    close_by_reset(server)
    pump.until(pump.is_empty)
    assert pump.endings == {1: (Side.CLIENT, Cause.CLOSED)}
    client.close()


def test_a_reset_of_a_side_that_had_ended_is_noticed_without_writing_to_it(pump: Stepper) -> None:
    client, server, _ = carry(pump)
    client.shutdown(socket.SHUT_WR)
    pump.settle()
    close_by_reset(client)
    pump.until(pump.is_empty)
    assert pump.endings == {1: (Side.CLIENT, Cause.CLOSED)}
    server.close()


def test_a_hung_up_leg_with_blocked_data_leaves_the_set_until_the_flush(pump: Stepper) -> None:
    client, server, connection = carry(pump, receive_buffer=SMALL_BUFFER)
    fill(pump, server)
    close_by_reset(server)
    pump.settle()  # would spin if the leg stayed in the set
    assert connection.server.interest == OUTSIDE
    assert not pump.endings
    with pytest.raises(ConnectionResetError):
        drain(pump, client)
    pump.until(pump.is_empty)
    assert pump.endings == {1: (Side.SERVER, Cause.RESET)}
    client.close()


def test_a_side_that_takes_nothing_after_the_others_reset_is_not_waited_for_for_ever(
    pump: Stepper,
) -> None:
    client, server, _ = carry(pump, half_close_s=30.0, receive_buffer=SMALL_BUFFER)
    fill(pump, server)
    close_by_reset(server)
    pump.settle()
    pump.ahead_s += 2
    pump.step()  # a tick: what moved until now has been noted
    pump.ahead_s += 29
    pump.step()
    assert not pump.endings
    pump.ahead_s += 2
    pump.until(pump.is_empty)
    assert pump.endings == {1: (Side.LOCAL, Cause.HALF_CLOSE)}
    client.close()


def test_both_sides_blocked_and_then_reset_ends_the_connection(pump: Stepper) -> None:
    client, server, _ = carry(pump, receive_buffer=SMALL_BUFFER)
    fill(pump, server)
    fill(pump, client)
    pump.settle()
    close_by_reset(server)
    close_by_reset(client)
    pump.until(lambda: bool(pump.endings))
    pump.step()
    assert pump.is_empty(), "nobody lingers for a survivor that is dead"
    assert pump.endings[1][1] is Cause.RESET


def test_the_survivor_of_a_reset_lingers_until_it_took_what_came_before(
    pump: Stepper,
) -> None:
    client, server, connection = carry(pump, receive_buffer=4096)
    server.sendall(b"x" * 60_000)
    pump.settle()
    survivor = connection.client
    close_by_reset(server)
    pump.settle()
    parts: list[int] = []
    with pytest.raises(ConnectionResetError):
        drain(pump, client, parts)
    assert sum(parts) > 0
    pump.until(pump.is_empty)
    assert survivor.pending is None
    client.close()


def test_a_survivor_that_takes_nothing_is_reset_after_a_while(
    pump: Stepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server, _ = carry(pump, receive_buffer=4096)
    server.sendall(b"x" * 40_000)
    pump.settle()
    close_by_reset(server)
    pump.until(lambda: bool(pump.endings))
    pump.step()
    assert not pump.is_empty(), "it lingers"
    pump.ahead_s += pump_module.LINGER_S + 1
    pump.until(pump.is_empty)
    client.close()


def test_a_survivor_that_dies_while_it_lingers_is_let_go(pump: Stepper) -> None:
    client, server, _ = carry(pump, receive_buffer=4096)
    server.sendall(b"x" * 40_000)
    pump.settle()
    close_by_reset(server)
    pump.until(lambda: bool(pump.endings))
    close_by_reset(client)
    pump.until(pump.is_empty)


def test_a_write_that_fails_leaves_the_last_words_to_be_read(pump: Stepper) -> None:
    client, server, _ = carry(pump)
    client.sendall(b"input")
    server.sendall(b"last words")
    close_by_reset(server)
    time.sleep(0.05)  # all of it is in one batch
    pump.until(pump.is_empty)
    assert client.recv(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert pump.endings == {1: (Side.SERVER, Cause.RESET)}
    client.close()


def test_after_a_failed_write_the_other_side_may_still_be_slow(pump: Stepper) -> None:
    client, server, connection = carry(pump, receive_buffer=SMALL_BUFFER)
    fill(pump, server)
    close_by_reset(server)
    client.sendall(b"input")  # the write of this fails, while much waits for the client
    pump.settle()
    assert connection.server.failure is Cause.RESET
    assert connection.client.pending is not None
    waiting = len(connection.client.pending)
    parts: list[int] = []
    with pytest.raises(ConnectionResetError):
        drain(pump, client, parts)
    assert sum(parts) >= waiting
    pump.until(pump.is_empty)
    assert pump.endings == {1: (Side.SERVER, Cause.RESET)}
    client.close()
