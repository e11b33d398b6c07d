from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from proxy import channel
from proxy.errors import Cause, Side
from proxy.relay import contract
from proxy.relay.contract import RelayEnding
from proxy.relay.process import RelayProcess
from tests.patience import PATIENCE_S
from tests.unit.relay.harness import tcp_pair, wait_for


class Relay:
    """The relay's code in a thread, with the test as parent and front."""

    def __init__(self) -> None:
        self.control, theirs = channel.pair()
        self.process = RelayProcess(theirs)
        self.thread = threading.Thread(target=self.process.run, daemon=True)
        self.thread.start()
        self.front, relays_end = channel.pair()
        with relays_end:
            assert channel.send(self.control, b'{"act": "front"}', [relays_end.fileno()])

    def hear(self) -> contract.ToFront:
        heard: list[channel.Message] = []

        def anything() -> bool:
            message = channel.receive(self.front)
            if message is not None:
                heard.append(message)
            return message is not None

        wait_for(anything)
        return contract.decode_to_front(heard[0].data)

    def hand_over(self, conn_id: int, *, sockets: int = 2) -> list[socket.socket]:
        message = contract.encode_hand_off(contract.HandOff(conn_id, 0, 0, 0, 0, b"rec"))
        ends = [tcp_pair() for _ in range(sockets)]
        assert channel.send(self.front, message, [near.fileno() for _, near in ends])
        for _, near in ends:
            near.close()
        return [far for far, _ in ends]

    def close(self) -> None:
        """What the end of a process does."""
        self.control.close()
        for door in self.process._pump._doors.values():
            if isinstance(door, partial):
                door.args[0].close()
        if self.process._control is not None:
            self.process._control.close()
        self.process._pump._epoll.close()

    def ended(self) -> bool:
        self.thread.join(PATIENCE_S)
        return not self.thread.is_alive()


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay()
    assert isinstance(relay.hear(), contract.Hello)
    assert relay.hear() == contract.End()
    yield relay
    relay.front.close()
    if relay.thread.is_alive():
        channel.send(relay.control, b'{"act": "stop"}')
    assert relay.ended()
    relay.close()


def test_what_cannot_be_read_is_told_and_the_next_message_counts(
    relay: Relay, capfd: pytest.CaptureFixture[str]
) -> None:
    far, near = tcp_pair()
    channel.send(relay.front, b"\x09nonsense", [near.fileno()])
    near.close()
    assert far.recv(1) == b"", "its descriptor was closed"
    channel.send(relay.control, b'{"act": "dance"}')
    client, server = relay.hand_over(1)
    client.sendall(b"goes on")
    assert server.recv(10) == b"goes on"
    complaints = capfd.readouterr().err
    assert "version 9" in complaints
    assert "dance" in complaints
    for sock in (far, client, server):
        sock.close()


def test_a_connection_that_is_handed_over_twice_stays_what_it_was(
    relay: Relay, capfd: pytest.CaptureFixture[str]
) -> None:
    client, server = relay.hand_over(1)
    others = relay.hand_over(1)
    assert [other.recv(1) for other in others] == [b"", b""]
    client.sendall(b"the first")
    assert server.recv(10) == b"the first"
    assert "twice" in capfd.readouterr().err
    for sock in (client, server, *others):
        sock.close()


def test_a_hand_off_without_both_sockets_is_accounted_as_a_limit(relay: Relay) -> None:
    (other,) = relay.hand_over(4, sockets=1)
    assert relay.hear() == contract.Ended(((4, RelayEnding(Side.LOCAL, Cause.LIMIT, 0, 0)),))
    assert other.recv(1) == b""
    other.close()


def test_closing_a_connection_that_is_not_here_changes_nothing(relay: Relay) -> None:
    channel.send(relay.front, contract.encode_close(99, Cause.STOPPED))
    client, server = relay.hand_over(1)
    channel.send(relay.front, contract.encode_close(1, Cause.STOPPED))
    assert (client.recv(1), server.recv(1)) == (b"", b"")
    assert relay.hear() == contract.Ended(((1, RelayEnding(Side.LOCAL, Cause.STOPPED, 0, 0)),))
    client.close()
    server.close()


def test_a_retired_relay_waits_for_the_account_of_its_last_ending(relay: Relay) -> None:
    client, server = relay.hand_over(1)
    channel.send(relay.front, contract.encode_retire())
    client.close()
    server.close()
    while not isinstance(relay.hear(), contract.Ended):
        pass  # progress may come first
    assert relay.thread.is_alive()
    for message in contract.encode_ack([1]):
        channel.send(relay.front, message)
    assert relay.ended()


def test_a_retired_relay_whose_front_has_died_waits_for_the_next_one(relay: Relay) -> None:
    pair = relay.hand_over(1)
    channel.send(relay.front, contract.encode_retire())
    relay.front.close()
    for far in pair:
        far.close()
    wait_for(lambda: 1 in relay.process._reports.unacknowledged)
    successor = front_of(relay)
    rows = [one for one in hear_all(successor, contract.End) if isinstance(one, contract.Rows)]
    assert [row.ending is not None for one in rows for row in one.rows] == [True]
    for message in contract.encode_ack([1]):
        channel.send(successor, message)
    assert relay.ended()
    successor.close()


def test_with_its_parent_gone_an_idle_relay_ends(relay: Relay) -> None:
    relay.control.close()
    assert relay.ended()


def front_of(relay: Relay) -> socket.socket:
    """Another front, newer than those before."""
    ours, theirs = channel.pair()
    with theirs:
        assert channel.send(relay.control, b'{"act": "front"}', [theirs.fileno()])
    return ours


def hear_all(front: socket.socket, until: type[contract.ToFront]) -> list[contract.ToFront]:
    said: list[contract.ToFront] = []

    def came() -> bool:
        message = channel.receive(front)
        if message is not None:
            said.append(contract.decode_to_front(message.data))
        return bool(said) and isinstance(said[-1], until)

    wait_for(came)
    return said


def test_where_the_newest_front_dies_the_one_before_it_is_told_all_again(relay: Relay) -> None:
    pairs = [relay.hand_over(conn_id) for conn_id in (1, 2)]
    newest = front_of(relay)
    hear_all(newest, contract.End)
    for far in pairs[0]:
        far.close()
    hear_all(newest, contract.Ended)
    newest.close()
    hello, *rows, end = hear_all(relay.front, contract.End)
    assert (type(hello), type(end)) == (contract.Hello, contract.End)
    told = [row for one in rows if isinstance(one, contract.Rows) for row in one.rows]
    assert [(row.conn_id, row.ending is None) for row in told] == [(1, False), (2, True)]
    for far in pairs[1]:
        far.close()
    assert isinstance(hear_all(relay.front, contract.Ended)[-1], contract.Ended)


def test_what_a_front_has_accounted_for_is_not_told_to_the_next_one(relay: Relay) -> None:
    for far in relay.hand_over(1):
        far.close()
    hear_all(relay.front, contract.Ended)
    channel.send(relay.control, b'{"act": "stop"}')
    assert relay.ended()
    for message in contract.encode_ack([1]):
        channel.send(relay.front, message)
    newest = front_of(relay)
    relay.process._hear_parent()  # first, although the front has spoken before
    relay.process._reports.flush(relay.process._pump)
    kinds = [type(said) for said in hear_all(newest, contract.End)]
    assert kinds == [contract.Hello, contract.End], "and no row"
    newest.close()


def test_an_older_front_that_dies_is_not_missed(relay: Relay) -> None:
    newest = front_of(relay)
    hear_all(newest, contract.End)
    relay.front.close()
    relay.front = newest
    client, server = relay.hand_over(1)
    client.close()
    server.close()
    assert isinstance(hear_all(newest, contract.Ended)[-1], contract.Ended)


def test_a_relay_answers_in_the_version_in_which_it_is_spoken_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contract, "VERSION", 2)
    relay = Relay()
    versions: list[int] = []

    def heard(kind: type[contract.ToFront]) -> bool:
        message = channel.receive(relay.front)
        if message is None:
            return False
        versions.append(contract.version_of(message.data))
        return isinstance(contract.decode_to_front(message.data), kind)

    wait_for(lambda: heard(contract.End))
    assert versions == [2, 1], "HELLO names the newest; the rest can be read by every front"
    for spoken in (1, 2):
        hand_off = contract.encode_hand_off(contract.HandOff(spoken, 0, 0, 0, 0, b""), spoken)
        assert channel.send(relay.front, hand_off)  # without its sockets it ends at once
        versions.clear()
        wait_for(lambda: heard(contract.Ended))
        assert versions == [spoken]
    channel.send(relay.control, b'{"act": "stop"}')
    assert relay.ended()
    relay.front.close()
    relay.close()
