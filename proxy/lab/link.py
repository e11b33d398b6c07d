"""Link: one TCP connection of the lab, in clear text first and in TLS from `start_tls` on.

Both ends use it. The clear part is read from the raw socket, exactly as many bytes as the packet
announces, so nothing waits in a buffer of ours when TLS takes the socket over: a StreamReader
would keep what it has read ahead, and the accepting side would lose it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Self, cast

from proxy.address import Address

_TPKT_VERSION = 3
_SHUTDOWN_S = 1.0


class LinkClosedError(ConnectionError):
    """The other side ended the connection where more was expected."""


class _Stream(asyncio.StreamReaderProtocol):
    """A stream that can be cut where nobody was given its transport.

    Who is broken off at the very moment when TLS stands leaves one that asyncio closes in order:
    that takes a second, and the loop may end before.
    """

    _made: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made = transport
        super().connection_made(transport)

    def abort(self) -> None:
        if self._made is not None:
            _cut(self._made)


def _cut(transport: asyncio.BaseTransport) -> None:
    # CPython before 3.11.3 fails to abort a TLS transport that is closed already.
    with contextlib.suppress(AttributeError):
        cast("asyncio.WriteTransport", transport).abort()


class Link:
    """One connection. Raises LinkClosedError (or another OSError) when the other side goes away."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.local = Address(*sock.getsockname()[:2])

    @classmethod
    async def dial(cls, address: Address, source: str | None = None) -> Self:
        """Connect to an IPv4 `address`, from the local address `source` where one is given.

        Raises:
            OSError: refused, unreachable, or no such source address.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if source is not None:
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            await asyncio.get_running_loop().sock_connect(sock, tuple(address))
            return cls(sock)
        except BaseException:
            sock.close()
            raise

    @property
    def is_tls(self) -> bool:
        return self._writer is not None

    async def start_tls(self, context: ssl.SSLContext, *, server_side: bool = False) -> None:
        """Run the TLS handshake. Raises ssl.SSLError or LinkClosedError."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = _Stream(reader)
        transport: asyncio.BaseTransport
        try:
            if server_side:
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol, self._sock, ssl=context, ssl_shutdown_timeout=_SHUTDOWN_S
                )
            else:
                transport, _ = await loop.create_connection(
                    lambda: protocol,
                    sock=self._sock,
                    ssl=context,
                    server_hostname="",
                    ssl_shutdown_timeout=_SHUTDOWN_S,
                )
        except asyncio.CancelledError:
            protocol.abort()
            raise
        self._reader = reader
        # A cast, since uvloop's transports do not inherit from asyncio's.
        writing = cast("asyncio.WriteTransport", transport)
        self._writer = asyncio.StreamWriter(writing, protocol, reader, loop)

    def peer_certificate(self) -> bytes:
        """The certificate that the other side showed, DER."""
        assert self._writer is not None
        der = self._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(der, bytes)
        return der

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        if self._writer is None:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)
        else:
            self._writer.write(data)
            await self._writer.drain()

    async def read_exactly(self, count: int) -> bytes:
        """Read `count` bytes and not one more."""
        if self._reader is not None:
            try:
                return await self._reader.readexactly(count)
            except asyncio.IncompleteReadError as incomplete:
                raise LinkClosedError(
                    f"closed {len(incomplete.partial)} of {count} bytes in"
                ) from None
        data = b""
        while len(data) < count:
            piece = await asyncio.get_running_loop().sock_recv(self._sock, count - len(data))
            if not piece:
                raise LinkClosedError(f"closed {len(data)} of {count} bytes in")
            data += piece
        return data

    async def read_packet(self) -> bytes:
        """Read one whole TPKT, or one fast-path packet ([MS-RDPBCGR] 2.2.8.1.2)."""
        head = await self.read_exactly(2)
        if head[0] == _TPKT_VERSION:
            head += await self.read_exactly(2)
            length = int.from_bytes(head[2:])
        elif head[1] & 0x80:
            head += await self.read_exactly(1)
            length = int.from_bytes(head[1:]) & 0x7FFF
        else:
            length = head[1]
        if length < len(head):
            raise LinkClosedError(f"packet announces {length} bytes")
        return head + await self.read_exactly(length - len(head))

    async def closed(self) -> None:
        """Read and drop whatever comes until the other side has closed."""
        with contextlib.suppress(OSError):
            while await self._read_some():
                pass

    async def close(self) -> None:
        """Close in order; what is not answered within a second is cut."""
        if self._writer is None:
            self._sock.close()
            return
        self._writer.close()
        try:
            async with asyncio.timeout(_SHUTDOWN_S):
                await self._writer.wait_closed()
        except OSError:
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Cut the connection at once."""
        if self._writer is None:
            self._sock.close()
        else:
            _cut(self._writer.transport)

    async def _read_some(self) -> bytes:
        if self._reader is not None:
            return await self._reader.read(65536)
        return await asyncio.get_running_loop().sock_recv(self._sock, 65536)


# Linux: choose the port at connect, so that one source address has 28,000 of them per
# destination and not in all. The socket module names it from Python 3.12 on.
_IP_BIND_ADDRESS_NO_PORT = 24
