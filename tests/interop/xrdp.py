"""xrdp: real RDP hosts, each on its own address, with its own certificate and its own looks.

They get as far as the login screen, which needs no account and no session manager.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from proxy.address import Address
from tests.interop.programs import path_of, started
from tests.patience import PATIENCE_S
from tests.servers.ports import free_port

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
ssl_protocols={tls}
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


class XrdpHost:
    """A real host. `xrdp` runs it; `fingerprint` is the SHA-256 of its certificate."""

    def __init__(self, name: str, ip: str, colour: str, directory: Path, tls: str) -> None:
        directory.mkdir()
        self.name = name
        self.address = Address(ip, free_port())
        self.fingerprint = _certificate(name, directory)
        self.directory = directory
        self.ini = directory / "xrdp.ini"
        self.ini.write_text(
            _INI.format(
                address=self.address, directory=directory, name=name, colour=colour, tls=tls
            )
        )

    @property
    def log(self) -> str:
        return (self.directory / "xrdp.log").read_text(errors="replace")

    @property
    def computers(self) -> list[str]:
        """Names of the client computers that came as far as telling it, in their order."""
        return re.findall(r"Connected client computer name: (\S+)", self.log)

    def accepts(self) -> bool:
        with suppress(OSError), socket.create_connection(self.address, 1):
            return True
        return False


def _certificate(name: str, directory: Path) -> str:
    """Make a key and a self-signed certificate; the SHA-256 fingerprint."""
    subprocess.run(
        f"{path_of('openssl')} req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN={name} "
        "-keyout key.pem -out certificate.pem".split(),
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    der = ssl.PEM_cert_to_DER_cert((directory / "certificate.pem").read_text())
    return hashlib.sha256(der).hexdigest()


@asynccontextmanager
async def xrdp(
    name: str, ip: str, colour: str, directory: Path, tls: str = "TLSv1.2, TLSv1.3"
) -> AsyncIterator[XrdpHost]:
    """Run xrdp inside the block, on a free port of an address, with a background (hex)."""
    host = XrdpHost(name, ip, colour, directory, tls)
    arguments = ["--nodaemon", "--config", str(host.ini)]
    async with started("xrdp", *arguments, log=directory / "output") as program:
        await program.until("a listening socket", host.accepts)
        yield host
