"""Exact reads of a client's first message, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from math import inf

import pytest

from proxy.address import Address
from proxy.errors import Cause, ClientError, WireError
from proxy.server.request import read_proxy_header, read_request
from proxy.wire.proxy_protocol import encode_proxy_v1, encode_proxy_v2
from proxy.wire.x224 import encode_connection_request

REQUEST = encode_connection_request(line=b"Cookie: mstshash=alice", requested_protocols=3)
BALANCER = Address("10.0.1.5", 40000)
CLIENT = Address("203.0.113.7", 50001)
PUBLIC = Address("10.0.0.1", 3389)


async def test_a_request_is_read_and_not_one_byte_more(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    far.send(REQUEST + b"early")
    request = await read_request(near, inf)
    assert (request.raw, request.user) == (REQUEST, "alice")
    assert near.recv(100) == b"early"


async def test_a_request_may_come_byte_by_byte(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair

    async def drip() -> None:
        for byte in REQUEST:
            far.send(bytes([byte]))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read_request(near, inf))
        tasks.create_task(drip())
    assert reading.result().raw == REQUEST


@pytest.mark.parametrize(
    "header",
    [encode_proxy_v1(CLIENT, PUBLIC), encode_proxy_v2(CLIENT, PUBLIC)],
    ids=["v1", "v2"],
)
async def test_a_proxy_header_names_the_client(
    pair: tuple[socket.socket, socket.socket], header: bytes
) -> None:
    near, far = pair
    far.send(header + REQUEST)
    told = await read_proxy_header(near, inf)
    assert (told.source, told.destination) == (CLIENT, PUBLIC)
    assert (await read_request(near, inf)).raw == REQUEST


async def test_a_balancers_own_check_names_nobody(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    far.send(encode_proxy_v2(None, None))
    told = await read_proxy_header(near, inf)
    assert (told.source, told.destination) == (None, None)


async def test_a_trusted_source_without_a_header_is_refused(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    far.send(REQUEST)
    with pytest.raises(WireError) as refused:
        await read_proxy_header(near, inf)
    assert refused.value.cause is Cause.PROXY_HEADER_MISSING


@pytest.mark.parametrize("version", [1, 2])
async def test_a_header_from_elsewhere_is_refused_by_its_name(
    pair: tuple[socket.socket, socket.socket], version: int
) -> None:
    near, far = pair
    encode = encode_proxy_v1 if version == 1 else encode_proxy_v2
    far.send(encode(CLIENT, PUBLIC) + REQUEST)
    with pytest.raises(WireError) as refused:
        await read_request(near, inf)
    assert refused.value.cause is Cause.PROXY_HEADER_REFUSED


@pytest.mark.parametrize(
    ("sent", "cause"),
    [(b"", Cause.CLOSED_BEFORE_REQUEST), (REQUEST[:9], Cause.CLOSED)],
)
async def test_a_client_that_leaves_is_told_apart_by_what_it_sent(
    pair: tuple[socket.socket, socket.socket], sent: bytes, cause: Cause
) -> None:
    near, far = pair
    far.send(sent)
    far.close()
    with pytest.raises(ClientError) as left:
        await read_request(near, inf)
    assert left.value.cause is cause


async def test_noise_is_refused_at_its_first_byte(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    far.send(b"GET / HTTP/1.1\r\n")
    with pytest.raises(WireError) as refused:
        await read_request(near, inf)
    assert refused.value.cause is Cause.NOT_TPKT
