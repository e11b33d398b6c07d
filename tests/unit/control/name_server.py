"""A name server on loopback, whose zone is in the test's hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from proxy.address import Address


class NameServer(asyncio.DatagramProtocol):
    """Answers by UDP what `zone` has: name and kind to a ttl and records.

    `rcode` stands in place of all answers; `silent` gives none.
    """

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.rcode: dns.rcode.Rcode | None = None
        self.silent = False
        self.asked: list[str] = []
        self.address = Address("127.0.0.1", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)  # uvloop's is no such class

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), question.rdtype.name
        self.asked.append(f"{name} {kind}")
        if self.silent:
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if self.rcode is not None:
            answer.set_rcode(self.rcode)
        elif (name, "CNAME") in self.zone:
            ttl, (target,) = self.zone[name, "CNAME"]
            answer.answer.append(dns.rrset.from_text(question.name, ttl, "IN", "CNAME", target))
            ttl, records = self.zone[target.rstrip("."), kind]
            answer.answer.append(dns.rrset.from_text(target, ttl, "IN", kind, *records))
        elif (name, kind) in self.zone:
            ttl, records = self.zone[name, kind]
            answer.answer.append(dns.rrset.from_text(question.name, ttl, "IN", kind, *records))
        elif not any(known == name for known, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    server.address = Address(*transport.get_extra_info("sockname")[:2])
    try:
        yield server
    finally:
        transport.close()
