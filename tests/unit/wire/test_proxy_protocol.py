from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address
from proxy.errors import Cause, WireError
from proxy.wire.incomplete import Incomplete
from proxy.wire.proxy_protocol import (
    MAX_V1_BYTES,
    MAX_V2_BYTES,
    TLV_CRC32C,
    ProxyHeader,
    encode_proxy_v1,
    encode_proxy_v2,
    looks_like_proxy_header,
    parse_proxy_header,
)
from tests.fuzz.oracles import ORACLES

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
CLIENT, FRONT = Address("192.0.2.1", 50000), Address("192.0.2.2", 3389)
CLIENT6, FRONT6 = Address("2001:db8::1", 50000), Address("2001:db8::2", 3389)
V4_BLOCK = bytes.fromhex("c0000201c0000202c3500d3d")


def header(data: bytes) -> ProxyHeader:
    read = parse_proxy_header(data)
    assert isinstance(read, ProxyHeader)
    return read


def refusal(data: bytes) -> Cause:
    with pytest.raises(WireError) as caught:
        parse_proxy_header(data)
    assert caught.value.detail
    return caught.value.cause


def v2(command: int, family: int, body: bytes = b"") -> bytes:
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body


def read_by_request(data: bytes) -> tuple[ProxyHeader, list[int]]:
    """Read as the path does, but with all that was asked for; also how much that was each time."""
    seen, asked = b"", list[int]()
    while isinstance(read := parse_proxy_header(seen), Incomplete):
        asked.append(read.missing)
        seen = data[: len(seen) + read.missing]
    return read, asked


@pytest.mark.parametrize(
    ("data", "source", "destination"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 3389\r\n", CLIENT, FRONT),
        (b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 50000 3389\r\n", CLIENT6, FRONT6),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 50000 3389\r\n", CLIENT, FRONT),
        (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
         Address("0.0.0.0", 0), Address("255.255.255.255", 65535)),
        (b"PROXY UNKNOWN\r\n", None, None),
        (b"PROXY UNKNOWN ffff::1 whatever  1\r\n", None, None),
    ],
)  # fmt: skip
def test_a_line_of_version_1_is_read(
    data: bytes, source: Address | None, destination: Address | None
) -> None:
    assert header(data + b"\x03\x00") == ProxyHeader(data, source, destination, ())
    ORACLES["proxy_header"](data + b"\x03\x00")


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"TCP4",
        b"TCP5 192.0.2.1 192.0.2.2 50000 3389",
        b"UDP4 192.0.2.1 192.0.2.2 50000 3389",
        b"tcp4 192.0.2.1 192.0.2.2 50000 3389",
        b"unknown",
        b" TCP4 192.0.2.1 192.0.2.2 50000 3389",
        b"TCP4  192.0.2.1 192.0.2.2 50000 3389",
        b"TCP4 192.0.2.1 192.0.2.2 50000 3389 ",
        b"TCP4 192.0.2.1 192.0.2.2 50000",
        b"TCP4 192.0.2.1 192.0.2.2 50000 03389",
        b"TCP4 192.0.2.1 192.0.2.2 50000 00",
        b"TCP4 192.0.2.1 192.0.2.2 50000 65536",
        b"TCP4 192.0.2.1 192.0.2.2 50000 999999",
        b"TCP4 192.0.2.1 192.0.2.2 50000 +1",
        b"TCP4 192.0.2.1 192.0.2.2  3389",
        b"TCP4 192.0.2.01 192.0.2.2 50000 3389",
        b"TCP4 192.0.2 192.0.2.2 50000 3389",
        b"TCP4 192.0.2.1 2001:db8::2 50000 3389",
        b"TCP6 192.0.2.1 192.0.2.2 50000 3389",
        b"TCP6 fe80::1%eth0 2001:db8::2 50000 3389",
        b"TCP4 192.0.2.\xb9 192.0.2.2 50000 3389",
        b"TCP4\t192.0.2.1 192.0.2.2 50000 3389",
    ],
)
def test_a_line_of_version_1_with_a_fault_is_refused(rest: bytes) -> None:
    assert refusal(b"PROXY " + rest + b"\r\n") is Cause.PROXY_HEADER_INVALID


def test_a_line_of_version_1_ends_within_its_limit() -> None:
    longest = b"PROXY UNKNOWN ".ljust(MAX_V1_BYTES - 2, b"x") + b"\r\n"
    assert header(longest).raw == longest
    assert parse_proxy_header(longest[:-1]) == Incomplete(1)
    assert refusal(longest[:-2] + b"x\r\n") is Cause.PROXY_HEADER_INVALID
    assert refusal(longest[:-2] + b"xx") is Cause.PROXY_HEADER_INVALID


def test_version_1_is_asked_for_bytewise_behind_its_least_length() -> None:
    data = encode_proxy_v1(CLIENT, FRONT)
    _, asked = read_by_request(data + b"\x03\x00\x00\x13")
    assert asked == [15] + [1] * (len(data) - 15)
    assert parse_proxy_header(data[:3]) == Incomplete(12)
    assert parse_proxy_header(data[:14]) == Incomplete(1)


def test_version_2_is_asked_for_by_its_announced_length() -> None:
    _, asked = read_by_request(encode_proxy_v2(CLIENT, FRONT) + b"\x03\x00\x00\x13")
    assert asked == [15, 1, 12]


@pytest.mark.parametrize(
    ("family", "block", "source", "destination"),
    [
        (0x11, V4_BLOCK, CLIENT, FRONT),
        (0x12, V4_BLOCK, CLIENT, FRONT),
        (
            0x21,
            bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02c3500d3d"),
            CLIENT6,
            FRONT6,
        ),
        (
            0x21,
            bytes.fromhex("00" * 10 + "ffffc0000201" + "00" * 10 + "ffffc0000202c3500d3d"),
            CLIENT,
            FRONT,
        ),
        (0x31, bytes(216), None, None),
    ],
)
def test_a_header_of_version_2_is_read(
    family: int, block: bytes, source: Address | None, destination: Address | None
) -> None:
    data = v2(0x21, family, block + b"\xea\x00\x03\x01vp" + b"\x04\x00\x00")
    tlvs = ((0xEA, b"\x01vp"), (0x04, b""))
    assert header(data + b"\x03") == ProxyHeader(data, source, destination, tlvs)
    ORACLES["proxy_header"](data + b"\x03")


@pytest.mark.parametrize(
    "data",
    [
        v2(0x20, 0x00),
        v2(0x20, 0x11),
        v2(0x20, 0x11, V4_BLOCK),
        v2(0x20, 0x00, b"anything"),
        v2(0x21, 0x00),
        v2(0x21, 0x00, b"anything"),
    ],
)
def test_a_local_or_unspecified_header_leaves_the_real_peer(data: bytes) -> None:
    assert header(data + b"\x03") == ProxyHeader(data, None, None, ())


@pytest.mark.parametrize(
    "data",
    [
        SIGNATURE + b"\x11",
        SIGNATURE + b"\x22",
        SIGNATURE + b"\x21\x41",
        SIGNATURE + b"\x21\x13",
        SIGNATURE + b"\x21\x11\xff\xff",
        SIGNATURE + b"\x21\x11" + (MAX_V2_BYTES - 15).to_bytes(2, "big"),
        SIGNATURE + b"\x21\x11\x00\x0b",
        SIGNATURE + b"\x21\x21\x00\x23",
        SIGNATURE + b"\x21\x31\x00\xd7",
        v2(0x21, 0x11, V4_BLOCK + b"\x04"),
        v2(0x21, 0x11, V4_BLOCK + b"\x04\x00"),
        v2(0x21, 0x11, V4_BLOCK + b"\x04\x00\x02x"),
    ],
)
def test_a_header_of_version_2_with_a_fault_is_refused_at_once(data: bytes) -> None:
    assert isinstance(parse_proxy_header(data[:-1]), Incomplete)
    assert refusal(data) is Cause.PROXY_HEADER_INVALID


def test_the_largest_header_of_version_2_is_read() -> None:
    data = encode_proxy_v2(CLIENT, FRONT, [(4, bytes(MAX_V2_BYTES - 16 - 12 - 3))])
    assert len(data) == MAX_V2_BYTES
    assert header(data).source == CLIENT


def _crc32c_bitwise(data: bytes) -> int:
    """By the definition of RFC 3720, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            feedback = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ 0x82F63B78 * feedback
    return crc ^ 0xFFFFFFFF


def test_a_checksum_is_verified() -> None:
    assert _crc32c_bitwise(b"123456789") == 0xE3069283
    start, end = V4_BLOCK + b"\x03\x00\x04", b"\xea\x00\x01\x01"
    crc = _crc32c_bitwise(v2(0x21, 0x11, start + bytes(4) + end)).to_bytes(4, "big")
    data = v2(0x21, 0x11, start + crc + end)
    assert header(data).tlvs == ((TLV_CRC32C, crc), (0xEA, b"\x01"))
    assert encode_proxy_v2(CLIENT, FRONT, [(TLV_CRC32C, b""), (0xEA, b"\x01")]) == data
    for at in range(16, len(data)):
        broken = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        if at not in (28, 29, 30, 35, 36, 37):  # type and length of the two TLVs
            assert refusal(broken) is Cause.PROXY_HEADER_INVALID


@pytest.mark.parametrize("length", [0, 3, 5])
def test_a_checksum_of_another_length_is_refused(length: int) -> None:
    body = V4_BLOCK + bytes((3, 0, length)) + bytes(length)
    assert refusal(v2(0x21, 0x11, body)) is Cause.PROXY_HEADER_INVALID


@pytest.mark.parametrize(
    "data",
    [b"\x03", b"G", b"PROXX", b"p", b"Pr", b"\r\n\r\n\r", SIGNATURE[:11] + b"\r", b"PROXY\t"],
)
def test_a_stream_without_header_is_refused_at_its_first_wrong_byte(data: bytes) -> None:
    assert isinstance(parse_proxy_header(data[:-1]), Incomplete)
    assert refusal(data) is Cause.PROXY_HEADER_MISSING


def test_four_bytes_tell_a_header_from_a_request() -> None:
    assert looks_like_proxy_header(b"PROX")
    assert looks_like_proxy_header(SIGNATURE)
    assert not looks_like_proxy_header(b"\x03\x00\x00\x13")
    assert not looks_like_proxy_header(b"PRO")
    assert not looks_like_proxy_header(b"")


IPV6 = st.ip_addresses(v=6).map(str).filter(lambda text: not text.startswith("::ffff:"))
IPV4 = st.ip_addresses(v=4).map(str)
HOSTS = st.tuples(IPV4, IPV4) | st.tuples(IPV6, IPV6)
PORTS = st.tuples(st.integers(0, 65535), st.integers(0, 65535))
TLVS = st.lists(st.tuples(st.integers(4, 255), st.binary(max_size=20)), max_size=4)


@given(HOSTS, PORTS, TLVS)
def test_a_header_survives_the_round_trip(
    hosts: tuple[str, str], ports: tuple[int, int], tlvs: list[tuple[int, bytes]]
) -> None:
    source, destination = map(Address, hosts, ports)
    first = encode_proxy_v1(source, destination)
    assert header(first) == ProxyHeader(first, source, destination)
    second = encode_proxy_v2(source, destination, tlvs)
    assert header(second) == ProxyHeader(second, source, destination, tuple(tlvs))


def test_a_header_without_source_names_nobody() -> None:
    assert encode_proxy_v1(None, None) == b"PROXY UNKNOWN\r\n"
    assert encode_proxy_v2(None, None) == v2(0x20, 0x00)


@pytest.mark.parametrize("other", [FRONT6, Address("rdsh01.example", 3389)])
def test_addresses_that_no_header_holds_are_not_encoded(other: Address) -> None:
    with pytest.raises(ValueError):
        encode_proxy_v1(CLIENT, other)
    with pytest.raises(ValueError):
        encode_proxy_v2(CLIENT, other)


@given(
    st.binary(max_size=120)
    | st.builds(lambda rest: b"PROXY " + rest, st.binary(max_size=120))
    | st.from_regex(rb"\APROXY TCP[46] [0-9.:a]{1,16} [0-9.:a]{1,16} [0-9]{1,6} [0-9]{1,6}\r\n\Z")
    | st.builds(
        v2,
        st.sampled_from([0x20, 0x21]),
        st.sampled_from([0x00, 0x11, 0x21, 0x31]),
        st.binary(max_size=60) | st.builds(lambda tail: V4_BLOCK + tail, st.binary(max_size=30)),
    )
)
def test_any_bytes_keep_the_contract(data: bytes) -> None:
    ORACLES["proxy_header"](data)
