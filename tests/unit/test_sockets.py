"""Raw sockets on the path: exact, and cleaned up whatever happens."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator

import pytest

from proxy import sockets
from proxy.address import Address
from proxy.errors import Cause


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


async def test_connect_gives_a_non_blocking_connected_socket(listening: socket.socket) -> None:
    with await sockets.connect(Address(*listening.getsockname())) as sock:
        assert not sock.getblocking()
        accepted, name = listening.accept()
        with accepted:
            assert sockets.peer_of(name) == sockets.peer_of(sock.getsockname())


async def test_connect_tells_a_refusal_as_the_system_does(listening: socket.socket) -> None:
    address = Address(*listening.getsockname())
    listening.close()
    with pytest.raises(ConnectionRefusedError):
        await sockets.connect(address)


async def test_connect_speaks_ipv6() -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as listening,
        await sockets.connect(Address("::1", listening.getsockname()[1])) as sock,
    ):
        assert sock.family == socket.AF_INET6


def test_an_ipv4_client_of_an_ipv6_listener_is_known_by_its_ipv4_address() -> None:
    assert sockets.peer_of(("::ffff:203.0.113.7", 5, 0, 0)) == Address("203.0.113.7", 5)
    assert sockets.peer_of(("fe80::1%eth0", 5, 0, 2)) == Address("fe80::1", 5)


@pytest.mark.parametrize(
    ("bind", "dial"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.9")]
)
def test_without_nat_a_client_has_dialled_the_local_end(bind: str, dial: str) -> None:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.create_server((bind, 0), family=family, dualstack_ipv6=bind == "::") as listening:
        port = listening.getsockname()[1]
        with socket.create_connection((dial, port)), listening.accept()[0] as accepted:
            assert sockets.dialled(accepted) == Address(dial, port)


def test_both_legs_have_no_delay_and_keepalive(listening: socket.socket) -> None:
    with socket.create_connection(listening.getsockname()) as sock:
        sockets.prepare(sock, 60)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 15


async def test_receive_waits_for_bytes_and_tells_the_end(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    asyncio.get_running_loop().call_later(0.01, far.send, b"hello")
    assert await sockets.receive(near, 3) == b"hel"
    far.close()
    assert await sockets.receive(near, 100) == b"lo"
    assert await sockets.receive(near, 100) == b""


async def test_send_waits_for_room(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    data = bytes(4 << 20)
    received = 0

    async def read() -> None:
        nonlocal received
        while received < len(data):
            received += len(await asyncio.to_thread(far.recv, 1 << 20))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        await sockets.send(near, data)
    assert received == len(data)


def test_a_hang_up_is_seen_without_reading(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    assert not sockets.has_hung_up(near)
    far.send(b"x")
    assert not sockets.has_hung_up(near)
    near.recv(1)
    far.close()
    assert sockets.has_hung_up(near)


def test_reset_is_seen_as_a_reset(listening: socket.socket) -> None:
    with socket.create_connection(listening.getsockname()) as sock:
        accepted, _ = listening.accept()
        sockets.reset(accepted)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        sock.setblocking(False)
    sockets.reset(sock)  # closed already: nothing to do


@pytest.mark.parametrize("client", ["waits", "leaves", "sends early"])
async def test_the_first_event_of_a_waiting_pair_is_told(client: str) -> None:
    ours, servers = socket.socketpair()
    near, far = socket.socketpair()
    ours.setblocking(False)
    near.setblocking(False)
    with ours, servers, near, far:
        if client == "leaves":
            far.close()
        if client == "sends early":
            far.send(b"early")
        if client != "leaves":
            asyncio.get_running_loop().call_later(0.02, servers.send, b"!")
        assert await sockets.wait_first(ours, near) is (client != "leaves")


async def test_nothing_is_waited_for_beyond_its_time(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = pair
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    soon = asyncio.get_running_loop().time() + 0.05
    with pytest.raises(TimeoutError):
        await sockets.receive(near, 1, soon)
    with pytest.raises(TimeoutError):
        await sockets.send(near, bytes(1 << 20), soon)
    with near.dup() as other, pytest.raises(TimeoutError):
        await sockets.wait_first(near, other, soon)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TimeoutError(), Cause.TIMEOUT),
        (OSError(errno.ETIMEDOUT, ""), Cause.TIMEOUT),
        (OSError(errno.ECONNREFUSED, ""), Cause.REFUSED),
        (OSError(errno.ECONNRESET, ""), Cause.RESET),
        (OSError(errno.EPIPE, ""), Cause.RESET),
        (OSError(errno.EHOSTUNREACH, ""), Cause.UNREACHABLE),
        (OSError(errno.EMFILE, ""), Cause.INTERNAL),
        (OSError(errno.EADDRNOTAVAIL, ""), Cause.INTERNAL),
    ],
)
def test_an_error_on_the_way_to_a_host_says_whose_fault_it_is(error: OSError, cause: Cause) -> None:
    assert sockets.cause_of(error) is cause


@pytest.mark.parametrize(
    ("text", "own"), [("127.0.0.1:3389", True), ("[::1]:3389", True), ("192.0.2.7:3389", False)]
)
def test_an_address_of_this_machine_is_told_from_others(text: str, own: bool) -> None:
    assert sockets.is_own(Address.parse(text)) is own


@pytest.mark.parametrize(
    ("bind", "leads"),
    [
        ("127.0.0.1:3389", True),
        ("0.0.0.0:3389", True),
        ("[::]:3389", True),
        ("[::1]:3389", False),
        ("127.0.0.2:3389", False),
        ("0.0.0.0:3390", False),
    ],
)
def test_whether_an_address_leads_to_a_bound_one_heeds_wildcards(bind: str, leads: bool) -> None:
    assert sockets.leads_to(Address("127.0.0.1", 3389), Address.parse(bind)) is leads


def test_a_wildcard_of_ipv4_takes_no_ipv6() -> None:
    assert not sockets.leads_to(Address("::1", 3389), Address("0.0.0.0", 3389))
    assert sockets.leads_to(Address("::1", 3389), Address("::", 3389))
    assert not sockets.leads_to(Address("192.0.2.7", 3389), Address("0.0.0.0", 3389))


def test_an_address_that_no_way_leads_to_is_not_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Cut(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError(errno.ENETUNREACH, "no way")

    monkeypatch.setattr(socket, "socket", Cut)
    assert not sockets.is_own(Address("192.0.2.7", 3389))

    def of_no_family(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", of_no_family)
    assert not sockets.leads_to(Address("::1", 3389), Address("::", 3389))
