"""Mutational fuzzer of `proxy.wire`: `python -m tests.fuzz.fuzz_wire SECONDS [SEED]`.

It starts from real messages, breaks them, and asks the oracles. Half of the broken messages get
their lengths repaired, so that they pass the frame and reach what lies behind. A finding is
written to `regressions/<oracle>/<hash>.hex`, which `test_regressions.py` replays for ever, and
ends the run with exit code 1.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from proxy.address import Address
from proxy.wire.proxy_protocol import TLV_CRC32C, encode_proxy_v1, encode_proxy_v2
from proxy.wire.tokens import encode_msts
from proxy.wire.x224 import (
    FailureCode,
    NegotiationFailure,
    NegotiationResponse,
    Protocol,
    encode_connection_confirm,
)
from tests.fuzz.oracles import ORACLES
from tests.vectors import VECTORS

REGRESSIONS = Path(__file__).with_name("regressions")

_V4 = Address("192.0.2.1", 50000), Address("192.0.2.2", 3389)
_V6 = Address("2001:db8::1", 50000), Address("2001:db8::2", 3389)
_WORDS = (
    b"\r\n", b"\r", b"\0", b"\xff", b".", b" ", b"Cookie:", b"msts=", b"mstshash=", b"tsv://",
    b".1.", b"mth://", b"PROXY ", b"TCP4", b"TCP6", b"UNKNOWN", b"0", b"65535", b"4294967295",
    b"::", b"%1", b"\x01\x08\x08\x00\x03\x00\x00\x00", b"\x06\x00\x24\x00", b"\x03\x00\x04",
    b"\xff\xff",
)  # fmt: skip

SEEDS: dict[str, list[bytes]] = {
    "connection_request": [vector.data for vector in VECTORS],
    "connection_confirm": [
        encode_connection_confirm(),
        encode_connection_confirm(NegotiationResponse(0x1F, Protocol.HYBRID_EX)),
        encode_connection_confirm(NegotiationFailure(FailureCode.HYBRID_REQUIRED_BY_SERVER)),
    ],
    "proxy_header": [
        encode_proxy_v1(None, None),
        encode_proxy_v1(*_V4),
        encode_proxy_v1(*_V6),
        encode_proxy_v2(None, None),
        encode_proxy_v2(*_V4, [(TLV_CRC32C, b""), (0xEA, b"\x01vpce-1")]),
        encode_proxy_v2(*_V6, [(0x04, bytes(8))]),
    ],
    "token": [
        encode_msts(_V4[1]),
        *(vector.expect["routing_token"].encode("latin-1") for vector in VECTORS
          if vector.expect["routing_token"]),
    ],
}  # fmt: skip


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Break a message in one to four places."""
    broken = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(broken))
        end = min(at + chance.choice((1, 1, 2, 4, 16)), len(broken))
        match chance.randrange(6):
            case 0:
                broken[at:end] = chance.randbytes(end - at)
            case 1:
                broken[at:at] = chance.choice(_WORDS)
            case 2:
                broken[at:end] = chance.choice(_WORDS)
            case 3:
                del broken[at:end]
            case 4:
                broken[at:at] = broken[at:end] * chance.choice((1, 2, 100))
            case _:
                del broken[at:]
    if chance.random() < 0.5:
        _repair(broken)
    return bytes(broken)


def _repair(message: bytearray) -> None:
    """Let the lengths that the message announces be true again."""
    size = len(message)
    if message[:1] == b"\x03" and 11 <= size <= 0xFFFF:
        message[2:5] = size.to_bytes(2, "big") + bytes((size - 5 & 0xFF,))
    elif message[:1] == b"\r" and 16 <= size <= 0xFFFF:
        message[14:16] = (size - 16).to_bytes(2, "big")
    elif message[2:8] == bytes(6) and 12 <= size <= 0xFFFF:
        message[:2] = size.to_bytes(2, "little")


def fuzz(
    seconds: float,
    seed: int,
    oracles: Mapping[str, Callable[[bytes], None]] = ORACLES,
    findings: Path = REGRESSIONS,
) -> Path | None:
    """Ask the oracles for so long; the file of the first finding, or None."""
    chance = random.Random(seed)
    names = sorted(oracles)
    tried = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = chance.choice(names)
        data = mutate(chance.choice(SEEDS[name]), chance)
        tried += 1
        try:
            oracles[name](data)
        except Exception as error:  # noqa: BLE001 (whatever gets out is the finding)
            file = findings / name / f"{hashlib.sha256(data).hexdigest()[:16]}.hex"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(data.hex() + "\n", encoding="ascii")
            report = f"seed {seed}, input {tried}: {type(error).__name__}: {error}\n{file}\n"
            sys.stdout.write(report)
            return file
    sys.stdout.write(f"seed {seed}: {tried} inputs, no finding\n")
    return None


def main() -> int:
    """Run for the seconds given as first argument (default 60)."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbits(32)
    return 0 if fuzz(seconds, seed) is None else 1


if __name__ == "__main__":
    sys.exit(main())
