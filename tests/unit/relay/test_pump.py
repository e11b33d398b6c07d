from __future__ import annotations

import gc
import os
import socket

import pytest

from proxy.errors import Cause, Side
from proxy.relay import pump as pump_module
from proxy.relay.legs import Connection, Leg
from proxy.relay.pipes import PIPE_BYTES
from proxy.relay.pump import Pump
from tests.unit.relay.harness import (
    SMALL_BUFFER,
    close_by_reset,
    read_to_end,
    tcp_pair,
)
from tests.unit.relay.stepper import Stepper, carry, drain, fill, until_readable


def test_an_idle_connection_owns_no_buffer_and_the_loop_sleeps(pump: Stepper) -> None:
    client, server, connection = carry(pump)
    client.sendall(b"once")
    pump.until(lambda: connection.client.received == 4)
    assert server.recv(10) == b"once"
    assert connection.client.pending is connection.server.pending is None
    pump.until(lambda: pump.progress == [1])
    assert Pump._patience(pump) == -1
    client.close()
    server.close()


def test_what_is_not_taken_waits_and_the_source_is_not_read_meanwhile(pump: Stepper) -> None:
    client, server, connection = carry(pump, receive_buffer=SMALL_BUFFER)
    sent = fill(pump, server)
    assert connection.client.pending is not None
    assert len(connection.client.pending) <= max(pump_module.BUFFER_BYTES, PIPE_BYTES)
    assert connection.server.received < sent
    client_says = b"the other direction is free"
    client.sendall(client_says)
    pump.settle()
    assert server.recv(100) == client_says
    server.shutdown(socket.SHUT_WR)
    assert drain(pump, client) == sent
    client.close()
    server.close()
    pump.until(pump.is_empty)
    assert pump.endings == {1: (Side.SERVER, Cause.CLOSED)}


@pytest.mark.parametrize("first", ["client", "server"])
def test_who_ends_first_closed_the_connection(pump: Stepper, first: str) -> None:
    client, server, _ = carry(pump)
    leaver, other = (client, server) if first == "client" else (server, client)
    leaver.shutdown(socket.SHUT_WR)
    pump.settle()
    assert other.recv(1) == b""
    assert not pump.endings
    other.shutdown(socket.SHUT_WR)
    pump.until(pump.is_empty)
    assert pump.endings == {1: (Side(first), Cause.CLOSED)}
    client.close()
    server.close()


def test_a_number_that_is_used_again_gets_no_events_of_the_old_socket(pump: Stepper) -> None:
    """The descriptor stays open to the end of the batch, so its number cannot come back in it."""
    client, server, connection = carry(pump)
    opened: list[int] = []
    old = {connection.client.fd, connection.server.fd}
    door, bell = socket.socketpair()

    def in_the_same_batch() -> None:
        door.recv(1)
        pump.close(connection, Side.LOCAL, Cause.STOPPED)
        opened.append(os.dup(0))

    pump.open_door(door.fileno(), in_the_same_batch)
    bell.send(b"!")
    client.sendall(b"stale")
    server.sendall(b"stale")
    until_readable(door.fileno(), connection.client.fd, connection.server.fd)
    pump.step()
    assert opened
    assert opened[0] not in old
    assert pump.is_empty()
    pump.settle()
    os.close(opened[0])
    pump.close_door(door.detach())
    bell.close()
    client.close()
    server.close()


def test_a_copy_in_another_process_does_not_keep_events_coming(pump: Stepper) -> None:
    client, server, connection = carry(pump)
    copy = os.dup(connection.client.fd)  # as a front has until its hand-off returns
    pump.close(connection, Side.LOCAL, Cause.STOPPED)
    pump.step()
    client.sendall(b"to the copy")
    pump.settle()
    assert pump.is_empty()
    os.close(copy)
    client.close()
    server.close()


def test_time_outs_are_looked_at_without_an_event_for_each_byte(pump: Stepper) -> None:
    client, server, connection = carry(pump, idle_s=600.0, half_close_s=5.0)
    pump.ahead_s += 599
    client.sendall(b"just in time")
    pump.until(lambda: connection.client.received > 0)
    pump.ahead_s += 599
    pump.step()
    assert not pump.endings
    server.shutdown(socket.SHUT_WR)
    pump.until(lambda: not connection.server.reading)
    client.sendall(b"the other direction goes on")
    pump.until(lambda: connection.client.received > 20)
    pump.ahead_s += 4
    pump.step()
    assert not pump.endings
    pump.ahead_s += 2
    pump.until(pump.is_empty)
    assert pump.endings == {1: (Side.LOCAL, Cause.HALF_CLOSE)}
    client.close()
    server.close()


def test_a_fault_in_one_connection_ends_that_one_alone(
    pump: Stepper, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client, server, connection = carry(pump, 1)
    other_client, other_server, _ = carry(pump, 2)
    genuine = Pump._incoming

    def faulty(self: Pump, leg: Leg, event: int) -> None:
        if leg.connection is connection:
            raise RuntimeError("a fault of our own")
        genuine(self, leg, event)

    monkeypatch.setattr(Pump, "_incoming", faulty)
    client.sendall(b"x")
    other_client.sendall(b"unharmed")
    pump.until(lambda: bool(pump.endings))
    pump.settle()
    assert pump.endings == {1: (Side.LOCAL, Cause.INTERNAL)}
    assert "a fault of our own" in capfd.readouterr().err
    assert other_server.recv(100) == b"unharmed"
    for sock in (client, server, other_client, other_server):
        sock.close()


def test_a_system_that_watches_no_more_descriptors_is_a_limit(pump: Stepper) -> None:
    client, near = tcp_pair()
    file = os.memfd_create("not watchable")
    client_fd = near.detach()
    pump.add(Connection(1, (client_fd, file), (0, 0), b"", idle_s=None, half_close_s=None))
    assert pump.endings == {1: (Side.LOCAL, Cause.LIMIT)}
    pump.step()
    assert pump.is_empty()
    assert client.recv(1) == b""
    client.close()


def test_ended_connections_leave_nothing_for_a_collector_that_is_off(pump: Stepper) -> None:
    gc.collect()
    gc.disable()
    try:
        for conn_id in range(10):
            client, server, connection = carry(pump, conn_id)
            client.sendall(b"bytes")
            client.close()
            pump.settle()
            assert read_to_end(server) == b"bytes"
            if conn_id % 2:
                close_by_reset(server)
            else:
                server.close()
            pump.until(pump.is_empty)
            del connection
        pump._changed.clear()
        left = [one for one in gc.get_objects() if isinstance(one, Leg | Connection)]
    finally:
        gc.enable()
    assert left == []
