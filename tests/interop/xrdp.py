"""xrdp: real RDP hosts, each on its own address, with its own certificate and its own looks.

They get as far as the login screen, which needs no account and no session manager.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.address import Address
from tests.interop.programs import Program, path_of, started

# Encryption of standard RDP security is off: xrdp and FreeRDP, both with OpenSSL 3 from Debian,
# disagree on its checksums even without anything between them. TLS does not know this setting.
_INI = """\
[Globals]
ini_version=1
fork=true
port=tcp://{address}
security_layer=negotiate
crypt_level=none
certificate={directory}/certificate.pem
key_file={directory}/key.pem
ssl_protocols=TLSv1.2, TLSv1.3
allow_channels=true
max_bpp=32
bitmap_compression=true
ls_title={name}
ls_top_window_bg_color={colour}
[Logging]
LogFile={directory}/xrdp.log
LogLevel=DEBUG
EnableSyslog=false
[Channels]
cliprdr=true
drdynvc=true
rdpdr=true
rdpsnd=true
[Xorg]
name=Xorg
lib=libxup.so
username=ask
password=ask
ip=127.0.0.1
port=-1
code=20
"""


@dataclass(frozen=True, slots=True)
class XrdpHost:
    """A running xrdp. Made by `xrdp`."""

    name: str
    address: Address
    fingerprint: str  # SHA-256 of its certificate
    directory: Path
    program: Program

    @property
    def log(self) -> str:
        return (self.directory / "xrdp.log").read_text(errors="replace")

    @property
    def computers(self) -> list[str]:
        """Names of the client computers that came as far as telling it, in their order."""
        return re.findall(r"Connected client computer name: (\S+)", self.log)


def _free_address(host: str) -> Address:
    with socket.socket() as sock:
        sock.bind((host, 0))
        return Address(host, int(sock.getsockname()[1]))


def _certificate(name: str, directory: Path) -> str:
    """Make a key and a self-signed certificate; the SHA-256 fingerprint."""
    subprocess.run(
        f"{path_of('openssl')} req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN={name} "
        "-keyout key.pem -out certificate.pem".split(),
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=60,
    )
    der = ssl.PEM_cert_to_DER_cert((directory / "certificate.pem").read_text())
    return hashlib.sha256(der).hexdigest()


@asynccontextmanager
async def xrdp(name: str, ip: str, colour: str, directory: Path) -> AsyncIterator[XrdpHost]:
    """Run xrdp inside the block, on a free port of an address; `colour` (hex) is its background."""
    directory.mkdir(parents=True)
    address = _free_address(ip)
    fingerprint = _certificate(name, directory)
    ini = directory / "xrdp.ini"
    ini.write_text(_INI.format(address=address, directory=directory, name=name, colour=colour))
    arguments = ["--nodaemon", "--config", str(ini)]
    async with started("xrdp", *arguments, log=directory / "output") as program:
        host = XrdpHost(name, address, fingerprint, directory, program)
        async with asyncio.timeout(20):
            while True:
                assert program.process.returncode is None, program.text
                with suppress(OSError):
                    socket.create_connection(address, 1).close()
                    break
                await asyncio.sleep(0.05)
        yield host
