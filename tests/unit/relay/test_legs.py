from __future__ import annotations

import errno
import socket

import pytest

from proxy.errors import Cause, Side
from proxy.relay.legs import (
    OUTSIDE,
    Connection,
    cause_of,
    close_by_reset,
    failure_of,
    send_end,
    unacknowledged,
)
from tests.unit.relay import harness


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (errno.ECONNRESET, Cause.RESET),
        (errno.EPIPE, Cause.RESET),
        (errno.ETIMEDOUT, Cause.TIMEOUT),
        (errno.EHOSTUNREACH, Cause.UNREACHABLE),
        (errno.ENETUNREACH, Cause.UNREACHABLE),
        (errno.EBADF, Cause.INTERNAL),
    ],
)
def test_an_error_of_the_system_has_a_cause(code: int, cause: Cause) -> None:
    assert cause_of(OSError(code, "told by the system")) is cause


def test_a_connection_begins_with_what_the_front_carried_and_no_buffer() -> None:
    connection = Connection(5, (10, 11), (47, 0), b"record", idle_s=None, half_close_s=30)
    client, server = connection.client, connection.server
    assert (client.peer, server.peer) == (server, client)
    assert (client.side, server.side) == (Side.CLIENT, Side.SERVER)
    assert (client.received, server.received) == (47, 0)
    assert client.pending is server.pending is None
    assert client.interest == OUTSIDE


def test_the_end_is_sent_without_closing_the_other_direction() -> None:
    far, near = harness.tcp_pair()
    send_end(near.fileno())
    assert far.recv(1) == b""
    far.sendall(b"still heard")
    assert near.recv(100) == b"still heard"
    far.close()
    near.close()


def test_a_failure_is_told_once_and_none_is_none() -> None:
    far, near = harness.tcp_pair()
    assert failure_of(near.fileno()) is None
    harness.close_by_reset(far)
    harness.wait_for(lambda: failure_of(near.fileno()) is Cause.RESET)
    assert failure_of(near.fileno()) is None
    near.close()


def test_after_close_by_reset_the_other_end_sees_a_reset() -> None:
    far, near = harness.tcp_pair()
    close_by_reset(near.fileno())
    near.close()
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    far.close()


def test_bytes_that_the_other_end_did_not_take_are_counted() -> None:
    far, near = harness.tcp_pair(receive_buffer=4096)
    assert unacknowledged(near.fileno()) == 0
    near.setblocking(False)
    sent = near.send(bytes(1 << 20))
    assert 0 < unacknowledged(near.fileno()) <= sent
    near.shutdown(socket.SHUT_WR)
    assert len(harness.read_to_end(far)) == sent
    harness.wait_for(lambda: unacknowledged(near.fileno()) <= 1)  # the end itself counts as one
    far.close()
    near.close()


def test_a_descriptor_that_is_no_socket_counts_as_empty() -> None:
    near, far = socket.socketpair()
    fd = near.fileno()
    near.close()
    far.close()
    assert unacknowledged(fd) == 0
