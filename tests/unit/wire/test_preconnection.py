from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Cause, WireError
from proxy.wire.incomplete import Incomplete
from proxy.wire.preconnection import (
    IDENTIFYING_BYTES,
    PreconnectionPdu,
    looks_like_preconnection,
    parse_preconnection,
)
from tests.fuzz.oracles import ORACLES
from tests.vectors import VECTORS, Vector

WITH_PDU = [vector for vector in VECTORS if "pcb" in vector.expect]


def pdu(version: int, blob: bytes | None = None, size: int | None = None, flags: int = 0) -> bytes:
    body = b"" if blob is None else (len(blob) // 2).to_bytes(2, "little") + blob
    fields = (16 + len(body) if size is None else size, flags, version, 7)
    return b"".join(field.to_bytes(4, "little") for field in fields) + body


@pytest.mark.parametrize("vector", WITH_PDU, ids=lambda vector: vector.name)
def test_a_captured_pdu_reads_as_expected(vector: Vector) -> None:
    read = parse_preconnection(vector.data)
    assert isinstance(read, PreconnectionPdu)
    assert read._asdict() == vector.expect["pcb"]


def test_there_are_captured_pdus_of_both_versions() -> None:
    assert {vector.expect["pcb"]["version"] for vector in WITH_PDU} == {1, 2}


def test_a_count_beyond_the_end_reads_what_is_there() -> None:
    data = pdu(2, "ab".encode("utf-16-le"))
    longer = data[:16] + b"\xff\xff" + data[18:]
    assert parse_preconnection(longer + b"surplus") == PreconnectionPdu(22, 2, 7, "ab")


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
    with pytest.raises(WireError) as refusal:
        parse_preconnection(data)
    assert refusal.value.cause is Cause.NOT_TPKT


@pytest.mark.parametrize("data", [pdu(1), pdu(2, b"a\0"), pdu(2, bytes(4078))])
def test_every_prefix_asks_for_what_is_missing(data: bytes) -> None:
    for seen in range(len(data)):
        assert looks_like_preconnection(data[:seen])
        end = IDENTIFYING_BYTES if seen < IDENTIFYING_BYTES else len(data)
        assert parse_preconnection(data[:seen]) == Incomplete(end - seen)
    assert isinstance(parse_preconnection(data), PreconnectionPdu)


@given(st.binary(max_size=80) | st.builds(pdu, st.sampled_from([1, 2]), st.binary(max_size=40)))
def test_any_bytes_keep_the_contract(data: bytes) -> None:
    ORACLES["preconnection"](data)
