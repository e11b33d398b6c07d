"""One connection of the lab: framing, and the step from clear text to TLS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.address import Address
from proxy.lab import link
from proxy.lab.certificates import client_context, self_signed
from proxy.lab.link import Link, LinkClosedError
from tests.patience import PATIENCE_S


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Link, Link]]:
    """A dialled and an accepted end of one TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dialled = await Link.dial(Address(*listener.getsockname()), "127.8.7.6")
        accepted = Link(listener.accept()[0])
    yield dialled, accepted
    await asyncio.gather(dialled.close(), accepted.close())


async def test_a_connection_comes_from_the_address_that_was_asked_for(
    ends: tuple[Link, Link],
) -> None:
    assert ends[0].local.host == "127.8.7.6"


@pytest.mark.parametrize(
    "packet",
    [
        b"\x03\x00\x00\x0b\x06\xe0" + bytes(5),
        b"\x44\x05abc",
        b"\x00\x80\xc8" + bytes(197),
        b"\x03\x00\x00\x04",
    ],
    ids=["tpkt", "fast-path", "long-fast-path", "empty-tpkt"],
)
async def test_a_packet_is_read_to_its_end_and_not_further(
    ends: tuple[Link, Link], packet: bytes
) -> None:
    dialled, accepted = ends
    await dialled.send(packet + b"rest")
    assert await accepted.read_packet() == packet
    assert await accepted.read_exactly(4) == b"rest"


@pytest.mark.parametrize("packet", [b"\x03\x00\x00\x03", b"\x00\x01", b"\x00\x80\x02"])
async def test_a_packet_shorter_than_its_own_head_ends_the_connection(
    ends: tuple[Link, Link], packet: bytes
) -> None:
    dialled, accepted = ends
    await dialled.send(packet)
    with pytest.raises(LinkClosedError, match="announces"):
        await accepted.read_packet()


@pytest.mark.parametrize("with_tls", [False, True])
async def test_an_end_in_the_middle_of_a_packet_is_told_with_its_place(
    ends: tuple[Link, Link], with_tls: bool
) -> None:
    dialled, accepted = ends
    if with_tls:
        await secure(dialled, accepted)
    await dialled.send(b"\x03\x00\x00\x0babc")
    await dialled.close()
    with pytest.raises(LinkClosedError, match="closed 3 of 7 bytes in"):
        await accepted.read_packet()


async def secure(dialled: Link, accepted: Link) -> bytes:
    certificate = self_signed("rdsh01")
    await asyncio.gather(
        dialled.start_tls(client_context()),
        accepted.start_tls(certificate.server_context, server_side=True),
    )
    return certificate.der


async def test_tls_follows_clear_text_on_the_same_connection(ends: tuple[Link, Link]) -> None:
    dialled, accepted = ends
    await dialled.send(b"\x44\x03a")
    assert await accepted.read_packet() == b"\x44\x03a"
    assert await secure(dialled, accepted) == dialled.peer_certificate()
    await accepted.send(b"\x44\x03b")
    assert await dialled.read_packet() == b"\x44\x03b"
    await accepted.close()
    await asyncio.wait_for(dialled.closed(), PATIENCE_S)


async def test_an_aborted_connection_ends_the_other_side(ends: tuple[Link, Link]) -> None:
    dialled, accepted = ends
    dialled.abort()
    await asyncio.wait_for(accepted.closed(), PATIENCE_S)


async def test_a_refused_connection_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address(*listener.getsockname())
    with pytest.raises(ConnectionRefusedError):
        await Link.dial(address)


async def test_whoever_is_broken_off_as_tls_stands_leaves_no_connection(
    ends: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio would close it in order, in a second that the loop may not have."""
    dialled, accepted = ends
    serving = asyncio.ensure_future(
        accepted.start_tls(self_signed("rdsh01").server_context, server_side=True)
    )
    connected, cut = asyncio.StreamReaderProtocol.connection_made, link._cut
    made: list[object] = []
    was_cut: list[object] = []

    def broken_off(protocol: asyncio.StreamReaderProtocol, transport: asyncio.Transport) -> None:
        connected(protocol, transport)
        if transport.get_extra_info("ssl_object").server_side:
            made.append(transport)
            serving.cancel()

    def cutting(transport: asyncio.BaseTransport) -> None:
        was_cut.append(transport)
        cut(transport)

    monkeypatch.setattr(asyncio.StreamReaderProtocol, "connection_made", broken_off)
    monkeypatch.setattr(link, "_cut", cutting)
    asking = asyncio.ensure_future(dialled.start_tls(client_context()))
    await asyncio.wait([serving])
    assert serving.cancelled()
    assert was_cut == made != []
    await asyncio.wait([asking])
