"""openssl: what the program itself says of the certificate that an RDP host shows.

s_client knows the beginnings of many protocols and not RDP's, so a small forwarder says that for
it, and then only carries bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.address import Address
from proxy.wire.x224 import encode_connection_request
from tests.interop.programs import path_of
from tests.patience import PATIENCE_S
from tests.streams import carry, listening

_OLD = ["-min_protocol", "TLSv1", "-cipher", "ALL:@SECLEVEL=0"]
_SAY = "-noout -subject -issuer -startdate -enddate -nameopt RFC2253 -dateopt iso_8601 -text"


async def certificate_of(host: Address) -> dict[str, str]:
    """What s_client and x509 print of it: `subject`, `issuer`, `notBefore`, `notAfter`, `bits`,
    `sha256`, `sha1`."""
    async with _past_x224(host) as port:
        words = ["s_client", "-connect", f"127.0.0.1:{port}", "-showcerts", *_OLD]
        shown = await _openssl(*words)
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", shown, re.DOTALL)
    assert found is not None, shown
    text = await _openssl("x509", *_SAY.split(), given=found[0])
    said = dict(re.findall(r"^(subject|issuer|notBefore|notAfter)=\s*(.+)$", text, re.MULTILINE))
    bits = re.search(r"Public-Key: \((\d+) bit\)", text)
    said["bits"] = bits[1] if bits else ""
    for kind in ("sha256", "sha1"):
        said[kind] = await fingerprint(found[0], kind)
    return said


async def fingerprint(pem: str, kind: str = "sha256") -> str:
    """What x509 prints as the fingerprint of a certificate, as hexadecimal text."""
    text = await _openssl("x509", "-noout", "-fingerprint", f"-{kind}", given=pem)
    return text.partition("=")[2].strip().replace(":", "").lower()


async def _openssl(*words: str, given: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        *(path_of("openssl"), *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        output, errors = await process.communicate(given.encode())
    assert output, errors.decode(errors="replace")
    return output.decode(errors="replace")


@asynccontextmanager
async def _past_x224(host: Address) -> AsyncIterator[int]:
    """A port of 127.0.0.1 behind which the host is ready for TLS."""

    async def forward(near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        far, far_writer = await asyncio.open_connection(*host)
        far_writer.write(encode_connection_request())
        head = await far.readexactly(4)
        await far.readexactly(int.from_bytes(head[2:4], "big") - 4)
        await asyncio.gather(carry(near, far_writer), carry(far, near_writer))

    async with listening(forward) as address:
        yield address.port
