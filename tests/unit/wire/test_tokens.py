from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address
from proxy.wire import tokens
from proxy.wire.tokens import (
    TOKEN_FORMATS,
    RoutingToken,
    cookie_value,
    encode_msts,
    normal_alias,
    read_token,
)
from tests.fuzz.oracles import ORACLES

DOCUMENTED = [
    ("172.31.249.216:3389", b"3640205228.15629.0000"),  # Microsoft's example
    ("192.168.0.89:3389", b"1493215424.15629.0000"),
    ("192.168.50.127:3389", b"2134026432.15629.0000"),
    ("10.0.0.21:3389", b"352321546.15629.0000"),
    ("127.0.0.1:3389", b"16777343.15629.0000"),
    ("10.1.1.100:8080", b"1677787402.36895.0000"),
]


@pytest.mark.parametrize(("address", "value"), DOCUMENTED)
def test_documented_tokens_are_encoded_and_decoded(address: str, value: bytes) -> None:
    line = b"Cookie: msts=" + value
    assert encode_msts(Address.parse(address)) == line
    assert read_token(line) == RoutingToken(line, "msts", Address.parse(address))


@given(st.ip_addresses(v=4).filter(int), st.integers(1, 65535))
def test_an_address_survives_the_round_trip(ip: object, port: int) -> None:
    address = Address(str(ip), port)
    assert read_token(encode_msts(address)).address == address


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        (Address("2001:db8::5", 3389), "is IPv6"),
        (Address("rdsh01.example", 3389), "is a name"),
        (Address("10.0.0.21", 0), "port 0"),
        (Address("10.0.0.21", 65536), "port 65536"),
        (Address("0.0.0.0", 3389), "no address of a host"),
    ],
)
def test_what_a_token_cannot_hold_is_said(address: Address, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encode_msts(address)


@pytest.mark.parametrize(
    "line",
    [
        b"Cookie: msts=352321546.15629.0000",
        b"cookie:MSTS=352321546.15629.",
        b"COOKIE:    msts=352321546.15629.1234  ",
        b"Cookie: msts=0352321546.15629.0",
    ],
)
def test_tolerated_spellings_name_the_host(line: bytes) -> None:
    assert read_token(line).address == Address("10.0.0.21", 3389)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"2282941292",
        b"NSFVERIFYHASH=0123456789abcdef",
        b"192.168.10.5",
        b"192.168.10.5:3389",
        b"352321546.15629",
        b"352321546.15629.0000.0",
        b"352321546.15629.00000",
        b"352321546.15629.000x",
        b"352321546.15629 .0000",
        b" 352321546.15629.0000",
        b"352321546.0.0000",
        b"0.15629.0000",
        b"352321546..0000",
        b".15629.0000",
        b"352321546.065536.0000",
        b"352321546.65536.0000",
        b"4294967296.15629.0000",
        b"00352321546.15629.0000",
        b"-1.15629.0000",
        b"+1.15629.0000",
        b"0x1500000a.0x3d0d.0000",
        b"1_0.15629.0000",
        "٣.15629.0000".encode(),
        b"2001:db8::5.15629.0000",
        b"vi20010db8000000000000000000000005.3389",
    ],
)
def test_an_msts_value_that_names_no_host_is_opaque(value: bytes) -> None:
    line = b"Cookie: msts=" + value
    assert read_token(line) == RoutingToken(line, "msts_opaque")


@pytest.mark.parametrize(
    ("line", "collection"),
    [
        (b"tsv://MS Terminal Services Plugin.1.Full_Desktop", "Full_Desktop"),
        (b"tsv://VMResource.1.AH", "AH"),
        (b"TSV://VMResource.1.Farm  ", "Farm"),
        (b"tsv://VMResource.1.B\xc3\xbcro\xff", "Büro\ufffd"),
        (b"tsv://a.1.b.1.Farm", "Farm"),
        (b"TSV://ms terminal services plugin.1.Farm \0\0", "Farm"),
        (b"tsv://VMResource.1.Farm\r", "Farm"),
        (b"tsv://VMResource.1.\0", None),
        (b"tsv://VMResource.1. ", None),
        (b"tsv://Farm", None),
        (b"tsv:", None),
    ],
)
def test_a_tsv_line_asks_for_a_collection(line: bytes, collection: str | None) -> None:
    assert read_token(line) == RoutingToken(line, "tsv", None, collection)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"mth://localhost/a/b", "mth"),
        (b"anything could be here", "custom"),
        (b"Cookie: mstshash=msts=352321546.15629.0000", "custom"),
        (b"xCookie: msts=352321546.15629.0000", "custom"),
        (b"", "custom"),
    ],
)
def test_other_text_has_a_format_but_no_host(line: bytes, name: str) -> None:
    assert read_token(line) == RoutingToken(line, name)


def test_formats_are_asked_in_order_and_the_last_one_answers() -> None:
    assert list(TOKEN_FORMATS) == ["msts", "msts_opaque", "tsv", "mth", "custom"]
    for name, read in TOKEN_FORMATS.items():
        token = read(b"\0no known form")
        assert (token is not None) == (name == "custom")


def test_a_format_may_be_added_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(line: bytes) -> RoutingToken | None:
        return RoutingToken(line, "own") if line.startswith(b"own:") else None

    monkeypatch.setattr(tokens, "TOKEN_FORMATS", {"own": own, **TOKEN_FORMATS})
    assert read_token(b"own:1").format == "own"
    assert read_token(b"mth://x").format == "mth"


def test_without_a_last_format_reading_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "TOKEN_FORMATS", {"none": lambda _line: None})
    with pytest.raises(AssertionError, match="last format"):
        read_token(b"")


def test_the_text_of_a_token_cannot_forge_a_log_line() -> None:
    token = read_token(b"tsv://\r\n\x1b[31m\xff\\x")
    assert token.text == "tsv://\\r\\n\\x1b[31m\\xff\\\\x"


def test_the_text_of_a_long_token_is_cut() -> None:
    assert read_token(b"x" * 4000).text == "x" * 512


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"Cookie: mstshash=bob", b"bob"),
        (b"cookie:MSTSHASH=", b""),
        (b"Cookie: mstshash", None),
        (b"Cookie: msts=1", None),
        (b"Cookie mstshash=bob", None),
    ],
)
def test_a_cookie_has_the_value_after_its_name(line: bytes, value: bytes | None) -> None:
    assert cookie_value(line, b"mstshash=") == value


@given(
    st.binary(max_size=60)
    | st.from_regex(rb"\A(Cookie:? *msts=|tsv:|mth://)[0-9. x]{0,30}\Z")
    | st.from_regex(rb"\ACookie: msts=[0-9]{1,11}\.[0-9]{1,6}\.[0-9]{0,5} *\Z")
)
def test_any_line_is_read(line: bytes) -> None:
    ORACLES["token"](line)


@pytest.mark.parametrize(
    ("line", "issued"),
    [
        (b"Cookie: msts=2282941292", True),
        (b"Cookie: msts=352321546.15629.0000", False),
        (b"tsv://MS Terminal Services Plugin.1.Farm", False),
        (b"mth://localhost/1/2", False),
        (b"anything", False),
    ],
)
def test_only_an_msts_value_without_an_address_is_known_to_its_issuer_alone(
    line: bytes, issued: bool
) -> None:
    assert read_token(line).is_issued_by_host is issued


def test_an_alias_has_one_spelling() -> None:
    assert normal_alias(" Full_CAD \0") == normal_alias("full_cad") == "full_cad"
