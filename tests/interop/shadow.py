"""freerdp-shadow-cli: a real RDP host that insists on NLA. It shares an X display."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from proxy.address import Address
from tests.interop.display import Display
from tests.interop.programs import started
from tests.servers.ports import free_port

_NLA_ONLY = ("-sec-rdp", "-sec-tls", "+sec-nla")


class ShadowHost:
    """The host. `nla_only_host` runs it."""

    def __init__(self, address: Address, directory: Path) -> None:
        self.name = "shadow01"
        self.address = address
        self.certificate_file = directory / ".config" / "freerdp" / "shadow" / "shadow.crt"

    def accepts(self) -> bool:
        with suppress(OSError), socket.create_connection(self.address, 1):
            return True
        return False


@asynccontextmanager
async def nla_only_host(ip: str, display: Display, directory: Path) -> AsyncIterator[ShadowHost]:
    """Run it inside the block, on a free port of an address; it makes a certificate of its own."""
    directory.mkdir()
    host = ShadowHost(Address(ip, free_port()), directory)
    where = [f"/bind-address:{ip}", f"/port:{host.address.port}"]
    environment = {"HOME": str(directory), "DISPLAY": display.name}
    async with started(
        "freerdp-shadow-cli", *where, *_NLA_ONLY, log=directory / "output", **environment
    ) as program:
        await program.until("a listening socket", host.accepts)
        yield host
