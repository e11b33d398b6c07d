from __future__ import annotations

import errno
import os
import random
import socket
import time
from contextlib import suppress

import pytest

from proxy.errors import Cause, Side
from proxy.relay.legs import OUTSIDE, Connection, Leftover
from proxy.relay.pipes import PIPE_BYTES, Pipe
from proxy.relay.pump import BUFFER_BYTES, BULK_READS, LITTLE_BYTES, Pump
from tests.patience import PATIENCE_S
from tests.unit.relay.harness import SMALL_BUFFER, close_by_reset
from tests.unit.relay.stepper import Stepper, carry, drain, fill

MEGABYTE = 1 << 20


def transfer(pump: Stepper, source: socket.socket, sink: socket.socket, data: bytes) -> bytes:
    """Send all of it and receive as much, while the pump turns."""
    source.setblocking(False)
    sink.setblocking(False)
    rest, got = memoryview(data), bytearray()
    deadline = time.monotonic() + PATIENCE_S
    while len(got) < len(data):
        assert time.monotonic() < deadline, f"{len(data) - len(got)} bytes are missing"
        if rest:
            with suppress(BlockingIOError):
                rest = rest[source.send(rest) :]
        pump.step()
        try:
            got += sink.recv(MEGABYTE)
        except BlockingIOError:
            continue
    for sock in (source, sink):
        sock.settimeout(PATIENCE_S)
    return bytes(got)


def blocked_in_bulk(
    pump: Stepper, conn_id: int = 1, byte: bytes = b"x"
) -> tuple[socket.socket, socket.socket, Connection, int]:
    """A direction from the server whose pipe holds what the client does not take."""
    client, server, connection = carry(pump, conn_id, receive_buffer=SMALL_BUFFER)
    connection.server.large_reads = BULK_READS
    sent = fill(pump, server, byte)
    assert isinstance(connection.client.pending, Pipe)
    return client, server, connection, sent


@pytest.mark.parametrize("up", [True, False])
def test_bulk_goes_through_a_pipe_and_arrives_whole(pump: Stepper, up: bool) -> None:
    client, server, connection = carry(pump)
    source, sink = (client, server) if up else (server, client)
    data = random.Random(1).randbytes(5 * MEGABYTE + 3)
    assert transfer(pump, source, sink, data) == data
    leg, other = connection.client, connection.server
    leg, other = (leg, other) if up else (other, leg)
    assert len(pump._pipes) > 0
    assert (leg.received, other.received) == (len(data), 0)
    assert other.large_reads == 0, "only the direction that has much to say"
    client.close()
    server.close()


def test_after_bulk_nobody_owns_a_pipe_and_soon_there_is_none(pump: Stepper) -> None:
    client, server, connection = carry(pump)
    transfer(pump, server, client, bytes(2 * MEGABYTE))
    assert connection.client.pending is connection.server.pending is None
    assert not pump._pipes._taken
    for _ in range(3):
        pump.ahead_s += 1.5
        pump.step()
    assert len(pump._pipes) == 0
    assert Pump._patience(pump) == -1, "and the loop sleeps"
    client.close()
    server.close()


def test_small_messages_need_no_pipe_and_a_little_ends_the_bulk(pump: Stepper) -> None:
    client, server, connection = carry(pump)
    for _ in range(3 * BULK_READS):
        assert transfer(pump, client, server, b"key pressed") == b"key pressed"
    assert len(pump._pipes) == 0
    connection.client.large_reads = BULK_READS
    little = bytes(LITTLE_BYTES - 1)
    assert transfer(pump, client, server, little) == little
    assert len(pump._pipes) == 1
    assert connection.client.large_reads == 0
    client.close()
    server.close()


def test_what_a_pipe_holds_waits_and_the_source_is_not_read_meanwhile(pump: Stepper) -> None:
    client, server, connection, sent = blocked_in_bulk(pump)
    assert connection.client.pending is not None
    assert 0 < len(connection.client.pending) <= PIPE_BYTES
    held = connection.server.received
    assert held < sent
    pump.settle()
    assert connection.server.received == held
    says = b"the other direction is free"
    assert transfer(pump, client, server, says) == says
    server.shutdown(socket.SHUT_WR)
    assert drain(pump, client) == sent
    client.close()
    server.close()
    pump.until(pump.is_empty)
    assert pump.endings == {1: (Side.SERVER, Cause.CLOSED)}


def test_bytes_that_one_session_left_in_a_pipe_reach_no_other(pump: Stepper) -> None:
    """The receiver dies while the pipe holds bytes; the next session in bulk sees its own alone."""
    for conn_id in range(1, 6):
        client, server, connection, _ = blocked_in_bulk(pump, conn_id, b"s")
        assert connection.client.pending is not None
        assert len(connection.client.pending) > 0
        close_by_reset(client)
        server.close()
        pump.until(pump.is_empty)
        other_client, other_server, _ = carry(pump, 100 + conn_id)
        data = b"." * (2 * MEGABYTE)
        assert transfer(pump, other_server, other_client, data) == data
        other_client.close()
        other_server.close()
        pump.until(pump.is_empty)


def test_a_session_that_is_closed_by_order_takes_its_bytes_with_it(pump: Stepper) -> None:
    client, server, connection, _ = blocked_in_bulk(pump)
    pump.close(connection, Side.LOCAL, Cause.STOPPED)
    assert len(pump._pipes) == 0
    pump.step()
    assert pump.is_empty()
    client.close()
    server.close()


def test_two_sessions_in_bulk_share_no_pipe(pump: Stepper) -> None:
    client, server, _, sent = blocked_in_bulk(pump)
    other_client, other_server, _ = carry(pump, 2)
    data = random.Random(2).randbytes(2 * MEGABYTE)
    assert transfer(pump, other_server, other_client, data) == data
    server.shutdown(socket.SHUT_WR)
    assert drain(pump, client) == sent
    for sock in (client, server, other_client, other_server):
        sock.close()


def test_without_a_free_pipe_bytes_are_copied(
    pump: Stepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Pipe | None] = []
    genuine = pump._pipes.take

    def take() -> Pipe | None:
        asked.append(genuine())
        return asked[-1]

    monkeypatch.setattr(pump._pipes, "_limit", 0)
    monkeypatch.setattr(pump._pipes, "take", take)
    client, server, _ = carry(pump)
    data = random.Random(3).randbytes(2 * MEGABYTE)
    assert transfer(pump, server, client, data) == data
    assert asked
    assert not any(asked)
    client.close()
    server.close()


def test_a_system_that_does_not_splice_loses_no_connection(
    pump: Stepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int, **__: int) -> int:
        raise PermissionError(errno.EPERM, "filtered")

    monkeypatch.setattr(os, "splice", refuse)
    client, server, _ = carry(pump)
    data = random.Random(4).randbytes(2 * MEGABYTE)
    assert transfer(pump, server, client, data) == data
    assert not pump.endings
    assert pump._pipes.take() is None
    client.close()
    server.close()


def test_the_end_of_a_stream_in_bulk_is_passed_on_after_its_bytes(pump: Stepper) -> None:
    client, server, connection, sent = blocked_in_bulk(pump)
    server.shutdown(socket.SHUT_WR)
    pump.settle()
    assert connection.server.received < sent, "it waits behind the bytes"
    assert drain(pump, client) == sent
    client.sendall(b"the other direction goes on")
    pump.settle()
    assert server.recv(100) == b"the other direction goes on"
    client.close()
    server.close()


def test_a_reset_in_bulk_is_passed_on_after_what_came_before_it(pump: Stepper) -> None:
    client, server, connection, _ = blocked_in_bulk(pump)
    taken = connection.server.received
    close_by_reset(server)
    pump.settle()  # would spin if the leg stayed in the set
    assert connection.server.interest == OUTSIDE
    parts: list[int] = []
    with pytest.raises(ConnectionResetError):
        drain(pump, client, parts)
    assert sum(parts) >= taken
    pump.until(pump.is_empty)
    assert pump.endings == {1: (Side.SERVER, Cause.RESET)}
    assert not pump._pipes._taken
    client.close()


def test_a_survivor_that_lingers_gives_its_pipe_back_in_the_end(pump: Stepper) -> None:
    client, server, connection, _ = blocked_in_bulk(pump)
    survivor = connection.client
    pump._break(connection.server, Cause.RESET)  # as a reset that a read has met
    pump.step()
    assert isinstance(survivor.pending, Pipe)
    with pytest.raises(ConnectionResetError):
        drain(pump, client)
    pump.until(pump.is_empty)
    assert not pump._pipes._taken
    client.close()
    server.close()


def test_bulk_moves_one_pipe_at_most_before_others_have_their_turn(pump: Stepper) -> None:
    client, server, connection = carry(pump)
    connection.server.large_reads = BULK_READS
    server.setblocking(False)
    assert server.send(bytes(4 * MEGABYTE)) > 2 * PIPE_BYTES
    before = 0
    for _ in range(3):
        pump.step()
        assert connection.server.received - before <= max(PIPE_BYTES, BUFFER_BYTES)
        before = connection.server.received
    client.close()
    server.close()


def test_a_fault_while_a_pipe_is_filled_gives_it_back_closed(
    pump: Stepper, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client, server, connection = carry(pump)
    connection.server.large_reads = BULK_READS
    genuine = os.splice

    def fault(*args: int, **more: int) -> int:
        genuine(*args, **more)
        raise MemoryError

    server.sendall(b"one user's screen")
    with monkeypatch.context() as patch:
        patch.setattr(os, "splice", fault)
        pump.until(lambda: bool(pump.endings))
    assert pump.endings == {1: (Side.LOCAL, Cause.INTERNAL)}
    assert len(pump._pipes) == 0
    assert "MemoryError" in capfd.readouterr().err
    client.close()
    server.close()


def test_copied_bytes_that_wait_are_kept_in_order(pump: Stepper) -> None:
    client, server, connection = carry(pump, receive_buffer=SMALL_BUFFER)
    pump._pipes._limit = 0
    sent = fill(pump, server)
    assert isinstance(connection.client.pending, Leftover)
    assert len(connection.client.pending) <= BUFFER_BYTES
    server.shutdown(socket.SHUT_WR)
    assert drain(pump, client) == sent
    client.close()
    server.close()
