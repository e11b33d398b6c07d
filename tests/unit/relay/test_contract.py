from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.channel import MESSAGE_MAX_BYTES
from proxy.errors import Cause, Side
from proxy.relay import contract
from proxy.relay.contract import RelayEnding, Row

VERSION_1 = json.loads((Path(__file__).parent / "version_1.json").read_text())
RESET = RelayEnding(Side.SERVER, Cause.RESET, 1, 2)
TOLD = (
    Row(7, 1, 2, b"r"),
    Row(8, 3, 4, b"z", RelayEnding(Side.CLIENT, Cause.CLOSED, 3, 4)),
)
TO_RELAY = {
    "hand_off": (
        contract.HandOff(1, 2, 3, 4, 5, b"record"),
        [contract.encode_hand_off(contract.HandOff(1, 2, 3, 4, 5, b"record"), 1)],
    ),
    "close": (contract.Close(7, Cause.STOPPED), [contract.encode_close(7, Cause.STOPPED, 1)]),
    "ack": (contract.Ack((1, 2)), contract.encode_ack([1, 2], 1)),
    "retire": (contract.Retire(), [contract.encode_retire(1)]),
}
TO_FRONT = {
    "hello": (contract.Hello(1, 4711), [contract.encode_hello(4711)]),
    "rows": (contract.Rows(TOLD), contract.encode_rows(TOLD, 1)),
    "end": (contract.End(), [contract.encode_end(1)]),
    "progress": (contract.Progress(((7, 1, 2),)), contract.encode_progress([(7, 1, 2)], 1)),
    "ended": (contract.Ended(((7, RESET),)), contract.encode_ended([(7, RESET)], 1)),
}

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


@pytest.mark.parametrize("name", TO_RELAY)
def test_the_bytes_of_version_1_to_a_relay_stay_as_they_are(name: str) -> None:
    data = bytes.fromhex(VERSION_1["to_relay"][name])
    message, encoded = TO_RELAY[name]
    assert contract.decode_to_relay(data) == message
    assert list(encoded) == [data]


@pytest.mark.parametrize("name", TO_FRONT)
def test_the_bytes_of_version_1_to_a_front_stay_as_they_are(name: str) -> None:
    data = bytes.fromhex(VERSION_1["to_front"][name])
    message, encoded = TO_FRONT[name]
    assert contract.decode_to_front(data) == message
    assert list(encoded) == [data]


def test_every_message_of_version_1_is_there() -> None:
    assert VERSION_1["to_relay"].keys() == TO_RELAY.keys()
    assert VERSION_1["to_front"].keys() == TO_FRONT.keys()


def test_this_version_and_the_one_before_it_are_read() -> None:
    assert contract.VERSION - 1 <= contract.OLDEST <= contract.VERSION
    for version in range(contract.OLDEST, contract.VERSION + 1):
        data = contract.encode_retire(version)
        assert contract.version_of(data) == version
        assert contract.decode_to_relay(data) == contract.Retire()
    for unknown in (contract.OLDEST - 1, contract.VERSION + 1):
        with pytest.raises(ValueError, match=f"version {unknown}"):
            contract.decode_to_relay(contract.encode_retire(unknown))


def test_a_hello_is_read_whatever_its_version_and_what_follows() -> None:
    data = b"\x63" + contract.encode_hello(4711)[1:] + b"more"
    assert contract.decode_to_front(data) == contract.Hello(99, 4711)


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
