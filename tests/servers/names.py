"""A real name server whose records change. Debian has it: dnsmasq."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

from proxy.address import Address
from tests.servers.ports import free_port

DNSMASQ = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")


class NameServer:
    """dnsmasq, which reads its records from a file."""

    def __init__(self, directory: Path) -> None:
        self.records = directory / "records"
        self.address = Address("127.0.0.1", free_port())
        self.child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        assert DNSMASQ, "make packages"
        host, port = self.address
        self.child = await asyncio.create_subprocess_exec(
            DNSMASQ,
            *("--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"),
            *(f"--port={port}", f"--listen-address={host}", "--bind-interfaces", "--user=root"),
            *(f"--addn-hosts={self.records}", "--local-ttl=1", "--pid-file="),
        )

    def says(self, *addresses: str) -> None:
        """From the next question on."""
        self.records.write_text("".join(f"{address} farm.example\n" for address in addresses))
        if self.child is not None and self.child.returncode is None:
            self.child.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        if self.child is not None and self.child.returncode is None:
            self.child.terminate()
            await self.child.wait()
