from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address
from proxy.errors import Cause, Side, WireError
from proxy.wire.incomplete import Incomplete
from proxy.wire.x224 import (
    MAX_LINES,
    MAX_REQUEST_BYTES,
    ConnectionConfirm,
    ConnectionRequest,
    FailureCode,
    NegotiationFailure,
    NegotiationRequest,
    NegotiationResponse,
    Protocol,
    answer_word,
    encode_connection_confirm,
    encode_connection_request,
    flag_words,
    parse_connection_confirm,
    parse_connection_request,
)
from tests.fuzz.oracles import ORACLES
from tests.vectors import VECTORS, Vector

TOKEN = b"Cookie: msts=352321546.15629.0000"
ID = bytes(range(1, 17))
CORRELATION_INFO = b"\x06\x00\x24\x00" + ID + bytes(16)


def request(data: bytes) -> ConnectionRequest:
    read = parse_connection_request(data)
    assert isinstance(read, ConnectionRequest)
    return read


def confirm(data: bytes) -> ConnectionConfirm:
    read = parse_connection_confirm(data)
    assert isinstance(read, ConnectionConfirm)
    return read


def frame(body: bytes, code: int = 0xE0) -> bytes:
    """A sound frame around any body."""
    length = 11 + len(body)
    return (
        b"\x03\x00" + length.to_bytes(2, "big") + bytes((length - 5 & 0xFF, code)) + bytes(5) + body
    )


def refusal(data: bytes) -> Cause:
    with pytest.raises(WireError) as caught:
        parse_connection_request(data)
    assert caught.value.side is Side.CLIENT
    assert caught.value.detail
    return caught.value.cause


def as_expectation(read: ConnectionRequest) -> dict[str, Any]:
    """A reading in the terms of the vectors."""
    token = read.routing_token
    kind = "none" if read.cookie is None else "cookie"
    if token is not None:
        kind = "token" if token.format in ("msts", "msts_opaque") else "custom"
    return {
        "kind": kind,
        "routing_token": token.line.decode("latin-1") if token else None,
        "token_host": token.address.host if token and token.address else None,
        "token_port": token.address.port if token and token.address else None,
        "username": read.user,
        "requested_protocols": read.negotiation.requested_protocols if read.negotiation else None,
        "correlation_id": read.correlation_id.hex() if read.correlation_id else None,
    }


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_a_vector_reads_as_expected(vector: Vector) -> None:
    if vector.name == "truncated_header_only":
        assert parse_connection_request(vector.data) == Incomplete(39)
    elif vector.expect["kind"] == "invalid":
        has_pdu = "pcb" in vector.expect
        assert (refusal(vector.data) is Cause.PRECONNECTION_BLOB) == has_pdu
    else:
        read = request(vector.data)
        assert vector.data.startswith(read.raw)
        expected = as_expectation(read)
        assert expected == {name: vector.expect[name] for name in expected}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_a_vector_reads_alike_however_it_is_cut(vector: Vector) -> None:
    ORACLES["connection_request"](vector.data)


def test_all_vectors_are_there() -> None:
    assert len({vector.name for vector in VECTORS}) == 94
    kinds = {vector.expect["kind"] for vector in VECTORS}
    assert kinds == {"token", "cookie", "custom", "none", "invalid"}


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"G", None),  # may still be the size of a preconnection PDU
        (b"GE", Cause.NOT_TPKT),
        (b"\x16\x03\x01", Cause.NOT_TPKT),
        (b"\x00\x00", Cause.NOT_TPKT),
        (b"\x10\x00\x00\x00\x01", Cause.NOT_TPKT),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00", Cause.PRECONNECTION_BLOB),
        (b"\x03\x01\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00", Cause.PRECONNECTION_BLOB),
        (b"\x03\x00\x00\x00", Cause.TPKT_LENGTH),
        (b"\x03\x01\x00\x00\x01", Cause.TPKT_LENGTH),
        (b"\x03\x00\x00\x0a", Cause.TPKT_LENGTH),
        (b"\x03\x00\x10\x01", Cause.TPKT_LENGTH),
        (b"\x03\x00\x00\x13\x0d", Cause.LENGTH_INDICATOR),
        (b"\x03\x00\x01\x04\xff", Cause.LENGTH_INDICATOR),
        (b"\x03\x00\x02\x04\xff", Cause.LENGTH_INDICATOR),
        (b"\x03\x00\x00\x13\x0e\xd0", Cause.NOT_CONNECTION_REQUEST),
        (b"\x03\x00\x00\x13\x0e\xe1", Cause.NOT_CONNECTION_REQUEST),
    ],
)
def test_a_refusal_comes_with_the_first_byte_that_allows_it(
    data: bytes, cause: Cause | None
) -> None:
    if cause is not None:
        assert refusal(data) is cause
        data = data[:-1]
    assert isinstance(parse_connection_request(data), Incomplete)


def test_the_head_is_asked_for_first_and_then_the_rest() -> None:
    data = encode_connection_request(line=TOKEN)
    assert parse_connection_request(b"") == Incomplete(4)
    assert parse_connection_request(data[:3]) == Incomplete(1)
    assert parse_connection_request(data[:4]) == Incomplete(len(data) - 4)
    assert parse_connection_request(data[:-1]) == Incomplete(1)


def test_a_preconnection_pdu_is_asked_for_only_until_it_is_known() -> None:
    data = b"\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00"
    assert parse_connection_request(data[:1]) == Incomplete(3)
    assert parse_connection_request(data[:4]) == Incomplete(8)


def test_surplus_is_left_alone() -> None:
    data = encode_connection_request(line=TOKEN)
    assert request(data + b"\x16\x03\x01") == request(data)
    assert request(data + b"\x16\x03\x01").raw == data


@pytest.mark.parametrize("length", [11, 259, 261, MAX_REQUEST_BYTES])
def test_the_length_indicator_may_wrap(length: int) -> None:
    data = frame(bytes(length - 11))
    assert request(data) == ConnectionRequest(data, None, None, None, None)


def test_references_class_and_reserved_byte_are_the_hosts_affair() -> None:
    data = b"\x03\xff\x00\x0b\x06\xe0\x12\x34\x56\x78\x9a"
    assert request(data).raw == data


@pytest.mark.parametrize(
    ("lines", "token", "user"),
    [
        ([TOKEN, b"Cookie: mstshash=bob"], TOKEN, "bob"),
        ([b"Cookie: mstshash=bob", TOKEN], TOKEN, "bob"),
        ([b"tsv://VMResource.1.A", TOKEN, b"mth://x"], TOKEN, None),
        ([b"first", b"second"], b"first", None),
        ([TOKEN, b"Cookie: msts=16777343.15629.0000"], TOKEN, None),
        ([b"Cookie: mstshash=", b"Cookie: mstshash=eve"], None, "eve"),
        ([b"Cookie: mstshash=eve", b"Cookie: mstshash=bob"], None, "eve"),
        ([b"", b"", b"first"], b"first", None),
    ],
)
def test_a_host_naming_token_wins_over_other_lines(
    lines: list[bytes], token: bytes | None, user: str | None
) -> None:
    read = request(encode_connection_request(line=b"\r\n".join(lines)))
    assert (read.routing_token.line if read.routing_token else None) == token
    assert read.user == user
    assert read.negotiation == NegotiationRequest(0, 3)


def test_lines_behind_the_sixteenth_are_not_read() -> None:
    cookie, negotiation = b"Cookie: mstshash=bob\r\n", b"\x01\x00\x08\x00\x03\x00\x00\x00"
    last = request(frame(b"line\r\n" * (MAX_LINES - 1) + cookie + negotiation))
    assert (last.user, last.negotiation) == ("bob", NegotiationRequest(0, 3))
    behind = request(frame(b"line\r\n" * MAX_LINES + cookie + negotiation))
    assert (behind.user, behind.negotiation) == (None, None)
    assert behind.routing_token == last.routing_token


def test_a_user_is_told_as_it_came() -> None:
    read = request(encode_connection_request(line=b"Cookie: mstshash=J\xc3\xb6rg\xff  "))
    assert read.cookie == b"J\xc3\xb6rg\xff  "
    assert read.user == "Jörg\ufffd  "


def test_an_empty_cookie_is_no_user() -> None:
    read = request(encode_connection_request(line=b"Cookie: mstshash="))
    assert read.cookie == b""
    assert read.user is None


@pytest.mark.parametrize(
    "behind",
    [
        b"",
        CORRELATION_INFO[:-1],
        b"\x05" + CORRELATION_INFO[1:],
        b"\x06\x00\x25\x00" + CORRELATION_INFO[4:],
    ],
)
def test_broken_correlation_info_is_no_correlation_id(behind: bytes) -> None:
    assert request(frame(b"\x01\x08\x08\x00\x03\x00\x00\x00" + behind)).correlation_id is None


def test_correlation_info_counts_only_with_its_flag() -> None:
    plain, flagged = (b"\x01%c\x08\x00\x03\x00\x00\x00" % flags for flags in (0, 8))
    assert request(frame(plain + CORRELATION_INFO)).correlation_id is None
    assert request(frame(flagged + CORRELATION_INFO + b"surplus")).correlation_id == ID


@pytest.mark.parametrize(
    "body",
    [
        b"\x01\x00\x08\x00\x03\x00\x00",
        b"\x01\x00\x08\x01\x03\x00\x00\x00",
        b"\x01\x00\x09\x00\x03\x00\x00\x00",
        b"\x02\x00\x08\x00\x03\x00\x00\x00",
        b"line\r\n\x01\x00\x08",
        b"no line end",
        b"no line end\r",
        b"no line end\n",
    ],
)
def test_what_is_no_negotiation_request_is_not_read_as_one(body: bytes) -> None:
    assert request(frame(body)).negotiation is None


def test_lines_behind_the_negotiation_request_are_not_read() -> None:
    read = request(frame(b"\x01\x00\x08\x00\x0d\x0a\x00\x00" + TOKEN + b"\r\n"))
    assert read.routing_token is None
    assert read.negotiation == NegotiationRequest(0, 0x0A0D)


def test_a_request_is_encoded_as_specified() -> None:
    # [MS-RDPBCGR] 4.1.1
    expected = bytes.fromhex(
        "0300002c27e00000000000436f6f6b69653a206d737473686173683d656c746f6e730d0a0100080000000000"
    )
    assert encode_connection_request(line=b"Cookie: mstshash=eltons", requested_protocols=0) == (
        expected
    )
    assert encode_connection_request(requested_protocols=None).hex() == "0300000b06e00000000000"


@given(
    user=st.none() | st.binary(max_size=300).filter(lambda text: b"\r\n" not in text + b"\r"),
    protocols=st.none() | st.integers(0, 0xFFFFFFFF),
    flags=st.integers(0, 255),
    correlation_id=st.none() | st.binary(min_size=16, max_size=16),
)
def test_a_request_survives_the_round_trip(
    user: bytes | None, protocols: int | None, flags: int, correlation_id: bytes | None
) -> None:
    line = None if user is None else b"Cookie: mstshash=" + user
    if protocols is None:
        correlation_id = None
    try:
        data = encode_connection_request(
            line=line, requested_protocols=protocols, flags=flags, correlation_id=correlation_id
        )
    except ValueError:  # a length indicator of 255 would not be read back
        return
    flags |= 0 if correlation_id is None else 8
    negotiation = None if protocols is None else NegotiationRequest(flags, protocols)
    assert request(data) == ConnectionRequest(data, None, user, negotiation, correlation_id)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"requested_protocols": None, "correlation_id": ID}, "name protocols"),
        ({"correlation_id": b"short"}, "16 bytes, not 5"),
        ({"line": b"x" * 4096}, "readable"),
        ({"line": bytes(247), "requested_protocols": None}, "260 bytes"),
    ],
)
def test_a_request_that_would_not_be_read_is_not_encoded(
    fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        encode_connection_request(**fields)


@pytest.mark.parametrize(
    ("text", "negotiation"),
    [
        ("0300000b06d00000123400", None),
        ("030000130ed00000123400021f080008000000", NegotiationResponse(0x1F, Protocol.HYBRID_EX)),
        (
            "030000130ed000001234000300080005000000",
            NegotiationFailure(FailureCode.HYBRID_REQUIRED_BY_SERVER),
        ),
        ("030000130ed0000012340003000800ff000000", NegotiationFailure(0xFF)),
    ],
)
def test_a_confirm_is_read_and_written(
    text: str, negotiation: NegotiationResponse | NegotiationFailure | None
) -> None:
    data = bytes.fromhex(text)
    assert encode_connection_confirm(negotiation) == data
    assert confirm(data + b"surplus") == ConnectionConfirm(data, negotiation)
    ORACLES["connection_confirm"](data + b"surplus")


@pytest.mark.parametrize(
    "body",
    [
        b"\x01\x00\x08\x00\x03\x00\x00\x00",
        b"\x02\x00\x09\x00\x03\x00\x00\x00",
        b"\x02\x00\x08\x00\x03\x00\x00",
    ],
)
def test_unknown_negotiation_data_of_a_host_is_left_alone(body: bytes) -> None:
    data = frame(body, 0xD0)
    assert confirm(data) == ConnectionConfirm(data, None)


@pytest.mark.parametrize(
    ("negotiation", "word"),
    [
        (None, "rdp"),
        (NegotiationResponse(0, 0), "rdp"),
        (NegotiationResponse(0, 1), "ssl"),
        (NegotiationResponse(0x1F, 8), "hybrid_ex"),
        (NegotiationResponse(0, 3), "other"),
        (NegotiationResponse(0, 0xFFFFFFFF), "other"),
        (NegotiationResponse(0, 0x80000000), "other"),
        (NegotiationFailure(5), "failure_5"),
        (NegotiationFailure(0), "failure"),
    ],
)
def test_an_answer_is_a_bounded_word(
    negotiation: NegotiationResponse | NegotiationFailure | None, word: str
) -> None:
    assert answer_word(negotiation) == word


def test_flags_of_an_answer_are_words_and_unknown_ones_are_passed_over() -> None:
    assert flag_words(0) == ()
    assert flag_words(0x01 | 0x04 | 0x08 | 0x80) == ("extended_client_data", "restricted_admin")
    assert flag_words(0xFF)[-1] == "redirected_authentication"


def test_a_confirm_cut_short_asks_for_the_rest() -> None:
    data = encode_connection_confirm(NegotiationResponse(0, Protocol.SSL))
    assert parse_connection_confirm(b"") == Incomplete(4)
    assert parse_connection_confirm(data[:4]) == Incomplete(15)


def test_a_host_that_answers_something_else_is_refused() -> None:
    with pytest.raises(WireError, match="TPDU 0xe0 where 0xd0"):
        parse_connection_confirm(encode_connection_request())
    with pytest.raises(WireError, match="not_tpkt"):
        parse_connection_confirm(b"HTTP/1.1 400")


@given(
    st.binary(max_size=60)
    | st.builds(frame, st.binary(max_size=300))
    | st.builds(
        lambda *parts: frame(b"".join(parts)),
        st.sampled_from([b"", TOKEN + b"\r\n", b"Cookie: mstshash=", b"\r\n", b"tsv://"]),
        st.binary(max_size=20),
        st.sampled_from([b"", b"\r\n", b"\x01\x08\x08\x00\x03\x00\x00\x00"]),
        st.binary(max_size=50),
    )
)
def test_any_bytes_keep_the_contract(data: bytes) -> None:
    ORACLES["connection_request"](data)
    ORACLES["connection_confirm"](data[:5] + b"\xd0" + data[6:])


def test_a_token_of_a_request_names_its_host() -> None:
    token = request(encode_connection_request(line=TOKEN)).routing_token
    assert token is not None
    assert token.address == Address("10.0.0.21", 3389)
