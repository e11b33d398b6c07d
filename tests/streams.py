"""Streams between tests and hosts: bytes that are carried on as they come."""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction. Its end is the end of both, which is all that RDP needs."""
    with suppress(OSError):
        while (data := await reader.read(65536)) and not writer.is_closing():
            writer.write(data)
            await writer.drain()
    writer.close()
