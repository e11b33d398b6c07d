"""A load balancer in front of the proxy: it gives clients on this machine addresses of their own.

RDP clients cannot choose the address they come from. A balancer that speaks the PROXY protocol
tells it for them, as cloud load balancers do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from proxy.address import Address
from proxy.wire.proxy_protocol import encode_proxy_v2
from tests.streams import carry, listening

OWN_ADDRESS = "127.79.0.1"
"""Where its connections to the proxy come from: what `proxy_protocol.trusted` has to name."""


@asynccontextmanager
async def coming_from(source: str, proxy: Address) -> AsyncIterator[Address]:
    """An address inside the block; who connects to it reaches the proxy as if from `source`."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        with suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_connection(
                *proxy, local_addr=(OWN_ADDRESS, 0)
            )
            inner_writer.write(encode_proxy_v2(Address(source, port), proxy))
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(carry(reader, inner_writer))
                pumps.create_task(carry(inner_reader, writer))

    async with listening(forward) as address:
        yield address
