"""Streams between tests and hosts: servers that leave nothing behind, bytes that are carried on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from proxy.address import Address

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Address]:
    """A server inside the block, at an address; afterwards it serves nobody any more.

    `asyncio.Server` does not wait for those whom it serves. On a busy machine they would be left to
    the next test, which fails for a connection that nobody has closed.
    """
    serving: set[asyncio.Task[None]] = set()

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await serve(reader, writer)
        finally:
            await _closed(writer)

    async with await asyncio.start_server(come, host, port) as server:
        yield Address(*server.sockets[0].getsockname()[:2])
    for task in serving:
        task.cancel()
    if serving:
        await asyncio.wait(serving)


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction. Its end is the end of both, which is all that RDP needs."""
    try:
        with suppress(OSError):
            while (data := await reader.read(65536)) and not writer.is_closing():
                writer.write(data)
                await writer.drain()
    finally:
        await _closed(writer)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
