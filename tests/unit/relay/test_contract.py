from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.channel import MESSAGE_MAX_BYTES
from proxy.errors import Cause, Side
from proxy.relay import contract
from proxy.relay.contract import RelayEnding, Row

IDS = st.integers(0, 2**64 - 1)
MILLISECONDS = st.integers(0, 2**32 - 1)
RECORDS = st.binary(max_size=contract.RECORD_MAX_BYTES)
ENDINGS = st.builds(
    RelayEnding, st.sampled_from(contract.SIDES), st.sampled_from(contract.CAUSES), IDS, IDS
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    ending = draw(st.none() | ENDINGS)
    up, down = (ending.bytes_up, ending.bytes_down) if ending else (draw(IDS), draw(IDS))
    return Row(draw(IDS), up, down, draw(RECORDS), ending)


@given(st.builds(contract.HandOff, IDS, MILLISECONDS, MILLISECONDS, IDS, IDS, RECORDS))
def test_a_hand_off_reads_as_it_was_written(message: contract.HandOff) -> None:
    assert contract.decode_to_relay(contract.encode_hand_off(message)) == message


@given(IDS, st.sampled_from(contract.CAUSES))
def test_a_close_reads_as_it_was_written(conn_id: int, cause: Cause) -> None:
    read = contract.decode_to_relay(contract.encode_close(conn_id, cause))
    assert read == contract.Close(conn_id, cause)


@given(st.lists(rows(), max_size=5))
def test_rows_read_as_they_were_written(told: list[Row]) -> None:
    read = [contract.decode_to_front(message) for message in contract.encode_rows(told)]
    assert [row for one in read if isinstance(one, contract.Rows) for row in one.rows] == told


@given(st.lists(st.tuples(IDS, ENDINGS), max_size=5))
def test_endings_read_as_they_were_written(told: list[tuple[int, RelayEnding]]) -> None:
    read = [contract.decode_to_front(message) for message in contract.encode_ended(told)]
    assert [item for one in read if isinstance(one, contract.Ended) for item in one.endings] == told


def test_the_messages_without_fields_read_as_they_were_written() -> None:
    assert contract.decode_to_relay(contract.encode_retire()) == contract.Retire()
    assert contract.decode_to_front(contract.encode_end()) == contract.End()
    hello = contract.decode_to_front(contract.encode_hello(4711))
    assert hello == contract.Hello(contract.VERSION, 4711)


def test_many_items_become_messages_of_at_most_32_kib_in_order() -> None:
    told = [Row(number, 1, 2, bytes(number % 513)) for number in range(1000)]
    messages = list(contract.encode_rows(told))
    assert max(map(len, messages)) <= MESSAGE_MAX_BYTES
    assert len(messages) < 20
    read = [contract.decode_to_front(message) for message in messages]
    assert [row for one in read if isinstance(one, contract.Rows) for row in one.rows] == told

    counts = [(number, number * 2, number * 3) for number in range(9500)]
    messages = list(contract.encode_progress(counts))
    assert max(map(len, messages)) <= MESSAGE_MAX_BYTES
    progress = [contract.decode_to_front(message) for message in messages]
    assert [c for one in progress if isinstance(one, contract.Progress) for c in one.counts] == (
        counts
    )

    messages = list(contract.encode_ack(range(9500)))
    assert max(map(len, messages)) <= MESSAGE_MAX_BYTES
    acks = [contract.decode_to_relay(message) for message in messages]
    assert [i for one in acks if isinstance(one, contract.Ack) for i in one.conn_ids] == list(
        range(9500)
    )


def test_nothing_to_tell_is_no_message() -> None:
    assert list(contract.encode_rows([])) == []
    assert list(contract.encode_ack([])) == []


def test_the_places_of_sides_and_causes_never_change() -> None:
    """Relays of older versions still run: append, and extend this test."""
    assert contract.SIDES == (Side.CLIENT, Side.SERVER, Side.LOCAL)
    assert [str(cause) for cause in contract.CAUSES] == [
        "closed",
        "reset",
        "timeout",
        "unreachable",
        "idle",
        "half_close",
        "stopped",
        "limit",
        "internal",
    ]


def test_the_bytes_of_version_1_stay_as_they_are() -> None:
    hand_off = contract.HandOff(1, 2, 3, 4, 5, b"record")
    assert contract.encode_hand_off(hand_off).hex() == (
        "01010100000000000000020000000300000004000000000000000500000000000000"
    ) + (b"record".hex())
    (ended,) = contract.encode_ended([(7, RelayEnding(Side.SERVER, Cause.RESET, 1, 2))])
    assert ended.hex() == "01450700000000000000010101000000000000000200000000000000"
    (row,) = contract.encode_rows([Row(7, 1, 2, b"r")])
    assert row.hex() == ("0142070000000000000001000000000000000200000000000000ff00010072")


def test_a_record_that_is_too_long_or_a_number_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="over 512"):
        contract.encode_hand_off(contract.HandOff(1, 0, 0, 0, 0, bytes(513)))
    with pytest.raises(ValueError, match="out of range"):
        contract.encode_hand_off(contract.HandOff(-1, 0, 0, 0, 0, b""))
    with pytest.raises(ValueError, match="tuple"):
        contract.encode_close(1, Cause.NO_HOST)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "head"),
        (b"\x01", "head"),
        (b"\x02\x01", "version 2"),
        (b"\x01\x09", "not one to a relay"),
        (b"\x01\x01short", "damaged"),
        (b"\x01\x02" + bytes(8) + b"\xff", "damaged"),
        (b"\x01\x03odd", "damaged"),
        (contract.encode_end(), "not one to a relay"),
    ],
)
def test_what_no_front_says_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        contract.decode_to_relay(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x01\x42" + bytes(26) + b"\x05\x00rest", "damaged"),
        (b"\x01\x42" + bytes(24) + b"\x07\x00\x00\x00", "damaged"),
        (b"\x01\x44odd", "damaged"),
        (contract.encode_retire(), "not one to a front"),
    ],
)
def test_what_no_relay_says_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        contract.decode_to_front(data)


@given(st.sampled_from([1, 2]), st.integers(0, 255), st.binary(max_size=200))
def test_whatever_arrives_is_a_message_or_a_value_error(
    version: int, kind: int, body: bytes
) -> None:
    data = bytes([version, kind]) + body
    for decode in (contract.decode_to_relay, contract.decode_to_front):
        with contextlib.suppress(ValueError):
            assert decode(data) is not None
