"""Real RDP clients, each a computer of its own: own name, own memory of certificates.

A client that is shown another certificate than before does not go on: FreeRDP with `/cert:tofu`
refuses, rdesktop asks and hears no answer. Nothing here waives that.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from proxy.address import Address
from tests.interop.display import SIZE, Display
from tests.interop.programs import Program, started


@dataclass(slots=True)
class Computer:
    """A client computer. `home` is its user's directory."""

    name: str
    home: Path
    _runs: int = field(default=0)

    def _log(self, program: str) -> Path:
        self.home.mkdir(parents=True, exist_ok=True)
        self._runs += 1
        return self.home / f"{program}-{self._runs}.log"

    @asynccontextmanager
    async def freerdp(
        self, address: Address, *options: str, display: Display
    ) -> AsyncIterator[Program]:
        """Run xfreerdp inside the block."""
        async with started(
            "xfreerdp",
            *(f"/v:{address}", f"/client-hostname:{self.name}", f"/size:{SIZE}", *options),
            log=self._log("xfreerdp"),
            HOME=str(self.home),
            DISPLAY=display.name,
        ) as client:
            yield client

    async def freerdp_login(self, address: Address, *options: str, display: Display) -> None:
        """Log in with xfreerdp as far as an active connection, then leave.

        Without a password: with one, xrdp looks for its session manager for 15 s, deaf to clients.
        """
        login = ("/u:alice", "/cert:tofu", "/log-level:DEBUG", *options)
        async with self.freerdp(address, *login, display=display) as client:
            await client.until_says("--> CONNECTION_STATE_ACTIVE")

    @property
    def freerdp_memory(self) -> set[str]:
        """Fingerprints (SHA-256) of the certificates that FreeRDP has accepted here."""
        known = (self.home / ".config/freerdp/known_hosts2").read_text()
        return {line.split()[2].replace(":", "").lower() for line in known.splitlines() if line}

    @asynccontextmanager
    async def rdesktop(
        self, address: Address, *options: str, display: Display, trust: bool = False
    ) -> AsyncIterator[Program]:
        """Run rdesktop inside the block; `trust` says yes to an unknown certificate."""
        async with started(
            "rdesktop",
            *("-v", "-u", "alice", "-n", self.name, "-g", SIZE, *options, str(address)),
            log=self._log("rdesktop"),
            answer="yes\n" if trust else "",
            HOME=str(self.home),
            DISPLAY=display.name,
        ) as client:
            yield client


def pins(*fingerprints: str) -> str:
    """FreeRDP's option to accept these certificates (SHA-256) and to refuse any other."""
    colons = [":".join(re.findall("..", fingerprint)) for fingerprint in fingerprints]
    return "/cert:" + ",".join(f"fingerprint:sha256:{one}" for one in colons)
