"""Plain TCP balancers, to compare with: they know addresses, and nothing of RDP.

- `round_robin`: each connection goes to the next host.
- `sticky`: the first connection of a source address goes to the next host, later ones to the
  same. Like every source-sticky balancer it does not see routing tokens.

`python -m proxy.lab.balancers KIND BIND HOST…` runs one as a process of its own, so that a
comparison gives each balancer the same: it prints its address and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from proxy.address import Address

Choice = Callable[[str], Address]
"""From a client's source address to the host that gets its connection."""


def round_robin(hosts: Sequence[Address]) -> Choice:
    turn = itertools.cycle(hosts)
    return lambda _source: next(turn)


def sticky(hosts: Sequence[Address]) -> Choice:
    turn, table = itertools.cycle(hosts), dict[str, Address]()

    def choose(source: str) -> Address:
        if source not in table:
            table[source] = next(turn)
        return table[source]

    return choose


BALANCERS: dict[str, Callable[[Sequence[Address]], Choice]] = {
    "round_robin": round_robin,
    "sticky": sticky,
}


@asynccontextmanager
async def balance(kind: str, bind: Address, hosts: Sequence[Address]) -> AsyncIterator[Address]:
    """Run a balancer inside the block; gives the address it listens on."""
    choose = BALANCERS[kind](hosts)
    open_writers: set[asyncio.StreamWriter] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        both = {writer}
        open_writers.add(writer)
        try:
            host = choose(writer.get_extra_info("peername")[0])
            host_reader, host_writer = await asyncio.open_connection(*host)
            both.add(host_writer)
            open_writers.add(host_writer)
            await asyncio.gather(_pump(reader, host_writer), _pump(host_reader, writer))
        except OSError:
            for one in both:  # one side is gone: the other must not wait for it
                one.transport.abort()
        finally:
            for one in both:
                one.close()
            open_writers.difference_update(both)

    server = await asyncio.start_server(carry, *bind, backlog=1024)
    try:
        yield Address(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        for one in open_writers:
            one.transport.abort()
        await server.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _main(kind: str, bind: str, *hosts: str) -> None:
    async with balance(kind, Address.parse(bind), list(map(Address.parse, hosts))) as address:
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
