from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator

import pytest

from proxy.listening import ListeningSockets


@pytest.fixture
def sockets() -> Iterator[ListeningSockets]:
    sockets = ListeningSockets()
    yield sockets
    sockets.keep_only(())


def name_of(fd: int) -> tuple[str, int]:
    with socket.socket(fileno=os.dup(fd)) as sock:
        name: tuple[str, int] = sock.getsockname()
        return name


def is_served(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        return sock.connect_ex((host, port)) == 0


TO_BOTH = ("127.0.0.1", "::1")
SERVED = {
    "0.0.0.0": {"127.0.0.1"},
    "::": {"127.0.0.1", "::1"},
    "127.0.0.1": {"127.0.0.1"},
    "::1": {"::1"},
}


def test_an_address_that_is_asked_for_again_is_the_same_socket(sockets: ListeningSockets) -> None:
    assert sockets.at("127.0.0.1", 0) == sockets.at("127.0.0.1", 0)


def test_those_that_nobody_wants_any_more_are_closed(sockets: ListeningSockets) -> None:
    kept, gone = sockets.at("127.0.0.1", 0), sockets.at("127.0.0.2", 0)
    name = name_of(gone)
    sockets.keep_only({("127.0.0.1", 0), ("127.0.0.3", 0)})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(name)
    socket.create_connection(name_of(kept)).close()
    assert [place[:2] for place in sockets.state()] == [("127.0.0.1", 0)]


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(SERVED, 2)))
def test_a_port_may_move_to_an_address_that_covers_it(
    sockets: ListeningSockets, before: str, after: str
) -> None:
    port = name_of(sockets.at("::", 0))[1]
    sockets.close("::", 0)
    sockets.at(before, port)
    sockets.at(after, port)
    both = {to for to in TO_BOTH if is_served(to, port)}
    sockets.close(before, port)
    assert {to for to in TO_BOTH if is_served(to, port)} == SERVED[after]
    assert both == SERVED[before] | SERVED[after]


def test_a_port_that_another_program_has_is_refused(sockets: ListeningSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as others:
        port = others.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            sockets.at("0.0.0.0", port)
        sockets.at("127.0.0.2", port)
        with pytest.raises(OSError, match="in use"):
            sockets.at("0.0.0.0", port)


def test_clients_wait_through_a_change_of_owner(sockets: ListeningSockets) -> None:
    fd = sockets.at("127.0.0.1", 0)
    with socket.create_connection(name_of(fd)) as client:
        successor = ListeningSockets()
        successor.restore([("127.0.0.1", 0, os.dup(fd))])
        sockets.close("127.0.0.1", 0)
        with socket.socket(fileno=os.dup(successor.at("127.0.0.1", 0))) as listening:
            accepted, peer = listening.accept()
        assert peer == client.getsockname()
        accepted.close()
        successor.keep_only(())
