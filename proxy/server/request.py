"""Reading a client's first message: [PROXY header], then exactly one Connection Request.

Never one byte more: what follows stays in the socket, which is handed over as it is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

from proxy import sockets
from proxy.errors import Cause, ClientError, WireError
from proxy.wire.incomplete import Incomplete
from proxy.wire.proxy_protocol import ProxyHeader, looks_like_proxy_header, parse_proxy_header
from proxy.wire.x224 import ConnectionRequest, parse_connection_request

T = TypeVar("T")


async def read_proxy_header(sock: socket.socket, until: float) -> ProxyHeader:
    """A trusted peer's PROXY header.

    Raises:
        WireError, ClientError: no header, a wrong one, or the peer left or took too long.
    """
    return await _read(sock, parse_proxy_header, until)


async def read_request(sock: socket.socket, until: float) -> ConnectionRequest:
    """The client's Connection Request.

    Raises:
        WireError: something else came.
        ClientError: the client left before it was complete, or took too long.
    """
    return await _read(sock, _parse_request, until)


def _parse_request(data: bytes) -> ConnectionRequest | Incomplete:
    try:
        return parse_connection_request(data)
    except WireError:
        if looks_like_proxy_header(data):
            detail = "a PROXY header from a source that proxy_protocol.trusted does not hold"
            raise WireError(Cause.PROXY_HEADER_REFUSED, detail) from None
        raise


async def _read(sock: socket.socket, parse: Callable[[bytes], T | Incomplete], until: float) -> T:
    data = b""
    while isinstance(answer := parse(data), Incomplete):
        try:
            chunk = await sockets.receive(sock, answer.missing, until)
        except TimeoutError as error:
            raise ClientError(Cause.TIMEOUT, "no complete request") from error
        except OSError as error:
            raise ClientError(Cause.RESET, str(error)) from error
        if not chunk:
            raise ClientError(Cause.CLOSED if data else Cause.CLOSED_BEFORE_REQUEST)
        data += chunk
    return answer
