"""Which host's address a client has dialled."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from proxy.address import Address
from proxy.server.destination import dialled_host
from proxy.settings import HostSettings, ListenerSettings, RouteBy
from proxy.sockets import is_own
from tests.unit.routing.farm import pool, routes

HERE = Address("127.0.0.1", 3389)
LISTENER = ListenerSettings(
    name="rdp",
    bind=HERE,
    pool="desktops",
    route_by=RouteBy.DESTINATION,
    vips=(ip_network("203.0.113.0/28"),),
)
FARM = pool()
HOST = FARM.hosts[0].address


@pytest.fixture
def accepted() -> Iterator[socket.socket]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as sock,
    ):
        yield sock


def test_it_is_what_the_proxy_header_says_listed_or_not(accepted: socket.socket) -> None:
    stranger = Address("192.0.2.9", 3389)
    for told in (HOST, stranger):
        assert dialled_host(LISTENER, routes(FARM), accepted, told) == told


def test_it_is_none_where_it_is_the_proxys_own(accepted: socket.socket) -> None:
    vip = Address("203.0.113.5", 443)
    for told in (None, HERE, vip):
        assert dialled_host(LISTENER, routes(FARM), accepted, told) is None


def test_the_address_that_the_listener_has_is_its_own_whatever_the_kernel_takes_for_a_source(
    accepted: socket.socket,
) -> None:
    bind = Address("127.0.1.1", 3389)
    assert not is_own(bind)
    listener = LISTENER.model_copy(update={"bind": bind})
    assert dialled_host(listener, routes(FARM), accepted, bind) is None


def test_a_host_may_have_an_address_of_this_machine(accepted: socket.socket) -> None:
    own = Address(*accepted.getsockname())
    farm = pool()
    listed = HostSettings(name="here", address=HOST, token_addresses=(own,))
    farm.change(farm.settings.model_copy(update={"hosts": (listed,)}), {})
    assert dialled_host(LISTENER, routes(farm), accepted, None) == own


def test_nothing_is_asked_where_the_listener_goes_by_tokens_alone(
    accepted: socket.socket,
) -> None:
    listener = ListenerSettings(name="rdp", bind=HERE, pool="desktops")
    assert dialled_host(listener, routes(FARM), accepted, HOST) is None
