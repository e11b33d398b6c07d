from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address, canonical_host


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.21:3389", "10.0.0.21", 3389),
        ("[2001:DB8::0:5]:3389", "2001:db8::5", 3389),
        ("[::ffff:10.0.0.21]:3389", "10.0.0.21", 3389),
        ("RDSH01.example.:3389", "rdsh01.example", 3389),
        ("rd_host-1:1", "rd_host-1", 1),
        ("3com.example:1", "3com.example", 1),
        ("x:0", "x", 0),
        (" 0.0.0.0:65535 ", "0.0.0.0", 65535),
    ],
)
def test_an_address_is_read_in_its_one_spelling(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize(
    ("text", "host"),
    [("10.0.0.21", "10.0.0.21"), ("::1", "::1"), ("[::1]", "::1"), ("rdsh01", "rdsh01")],
)
def test_a_default_port_stands_in_for_a_missing_one(text: str, host: str) -> None:
    assert Address.parse(text, 3389) == Address(host, 3389)
    with pytest.raises(ValueError, match="3389"):
        Address.parse(text)


def test_a_port_that_is_given_wins_over_the_default() -> None:
    assert Address.parse("rdsh01:3390", 3389).port == 3390


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no host"),
        (":3389", "names no host"),
        ("[]:3389", "not an IPv6 address"),
        ("[::1:3389", "closing bracket"),
        ("[10.0.0.1]:3389", "not an IPv6 address"),
        ("[::1]3389", "where ':port' is expected"),
        ("[::1]:", "where ':port' is expected"),
        ("rdsh01:", "no port behind its colon"),
        ("rdsh01:rdp", "not a port number"),
        ("rdsh01:-1", "not a port number"),
        ("rdsh01:٣", "not a port number"),
        ("rdsh01:65536", "not between"),
        ("a:b:c", "write host:port"),
        ("http://rdsh01:3389", "write host:port"),
        ("10.0.0.256:3389", "not an IPv4 address"),
        ("010.0.0.1:3389", "not an IPv4 address"),
        ("10.0.0:3389", "not an IPv4 address"),
        ("3389", "not an IPv4 address"),
        ("rdsh 01:3389", "nor a DNS name"),
        ("10.0.0.0/8:3389", "nor a DNS name"),
        ("-rdsh:3389", "nor a DNS name"),
        ("a" * 254 + ":3389", "nor a DNS name"),
    ],
)
def test_a_text_that_is_no_address_is_told_why(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Address.parse(text, 3389)


@pytest.mark.parametrize("text", ["10.0.0.21:3389", "[2001:db8::5]:3389", "rdsh01.example:3389"])
def test_an_address_prints_as_it_is_written(text: str) -> None:
    assert str(Address.parse(text)) == text


@given(st.ip_addresses(), st.integers(0, 65535))
def test_any_ip_address_survives_printing(ip: object, port: int) -> None:
    address = Address(canonical_host(str(ip)), port)
    assert Address.parse(str(address)) == address
    assert address.is_ip


@pytest.mark.parametrize(
    ("one", "other", "do"),
    [
        ("10.0.0.1:1", "10.0.0.1:1", True),
        ("0.0.0.0:1", "10.0.0.1:1", True),
        ("[::]:1", "[::1]:1", True),
        ("[::]:1", "0.0.0.0:1", False),
        ("10.0.0.1:1", "10.0.0.2:1", False),
        ("0.0.0.0:1", "10.0.0.1:2", False),
        ("0.0.0.0:0", "10.0.0.1:0", False),
    ],
)
def test_addresses_to_listen_on_may_overlap(one: str, other: str, do: bool) -> None:
    first, second = Address.parse(one), Address.parse(other)
    assert (first.overlaps(second), second.overlaps(first)) == (do, do)


def test_a_name_is_not_an_ip_address() -> None:
    assert not Address("rdsh01.example", 3389).is_ip


@given(st.text(max_size=40), st.none() | st.just(3389))
def test_any_text_is_an_address_or_a_value_error(text: str, default_port: int | None) -> None:
    try:
        address = Address.parse(text, default_port)
    except ValueError:
        return
    assert Address.parse(str(address)) == address


@given(st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){2,4}\n?", fullmatch=True))
def test_what_looks_like_an_ipv4_address_is_one_where_the_library_says_so(text: str) -> None:
    try:
        known = str(ip_address(text))
    except ValueError:
        known = None
    assert Address(text, 1).is_ip == (known is not None)
    if known:
        assert canonical_host(text) == known
