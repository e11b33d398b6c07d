from __future__ import annotations

import pytest

from proxy.wire.preconnection import looks_like_preconnection
from tests.vectors import VECTORS, Vector

WITH_PDU = [vector for vector in VECTORS if "pcb" in vector.expect]


def pdu(version: int, blob: bytes | None = None, size: int | None = None, flags: int = 0) -> bytes:
    body = b"" if blob is None else (len(blob) // 2).to_bytes(2, "little") + blob
    fields = (16 + len(body) if size is None else size, flags, version, 7)
    return b"".join(field.to_bytes(4, "little") for field in fields) + body


@pytest.mark.parametrize("vector", WITH_PDU, ids=lambda vector: vector.name)
def test_a_captured_pdu_is_recognised(vector: Vector) -> None:
    assert looks_like_preconnection(vector.data)


def test_there_are_captured_pdus_of_both_versions() -> None:
    assert {vector.expect["pcb"]["version"] for vector in WITH_PDU} == {1, 2}


@pytest.mark.parametrize(
    "data",
    [
        b"GET ",
        b"SS",
        b"\x16\x03\x01\x00",
        b"\x00\x00\x00\x85",
        b"\x00\x00\x00\x00",
        b"\x03\x00\x00\x2b",
        pdu(1, size=15),
        pdu(1, size=17),
        pdu(1, size=4097),
        pdu(1, size=16 + 0x10000),
        pdu(1, flags=1),
        pdu(0),
        pdu(3),
        pdu(0x0101),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    assert not looks_like_preconnection(data)


@pytest.mark.parametrize("data", [pdu(1), pdu(2, b"a\0"), pdu(2, bytes(4078))])
def test_every_prefix_may_begin_one(data: bytes) -> None:
    assert all(looks_like_preconnection(data[:seen]) for seen in range(len(data) + 1))
