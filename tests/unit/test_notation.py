"""How single values are read, written and refused."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address
from proxy.notation import (
    ADMIN_BIND,
    BIND,
    FLAG,
    HOST_ADDRESS,
    METRICS_BIND,
    NAME,
    NETWORK,
    RATE,
    TEXT,
    TOKEN_ADDRESS,
    URL,
    Rate,
    Reader,
    UnixPath,
    duration,
    duration_text,
    shown,
    whole,
)

READERS = [
    ADMIN_BIND,
    BIND,
    FLAG,
    HOST_ADDRESS,
    METRICS_BIND,
    NAME,
    NETWORK,
    RATE,
    TEXT,
    TOKEN_ADDRESS,
    URL,
    duration(0, word="off"),
    whole(0, 100, word="auto"),
]


def refusal(reader: Reader, value: object) -> str:
    with pytest.raises(ValueError) as caught:
        reader(value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("3s", 3), ("1.5s", 1.5), ("5m", 300), ("72h", 259_200), ("7d", 604_800)],
)
def test_a_duration_is_read_with_its_unit(text: str, seconds: float) -> None:
    assert duration(0)(text) == seconds


def test_a_bare_zero_is_a_duration_where_zero_is_allowed() -> None:
    assert duration(0)("0") == 0
    assert "at least 1 s" in refusal(duration(1), "0")


@pytest.mark.parametrize(
    "text", ["s", "3 s", "-3s", "3S", "3s ", "1e3s", ".5s", "inf", "nan", "٣s"]
)
def test_other_spellings_of_a_duration_are_refused(text: str) -> None:
    assert "a time such as" in refusal(duration(0), text)


def test_a_duration_without_unit_is_told_what_is_missing() -> None:
    assert "its unit is missing, as in 30s" in refusal(duration(0), "30")


def test_a_duration_of_python_is_taken_as_seconds_within_the_same_bounds() -> None:
    assert duration(1)(2) == 2.0
    assert "at most 5 s" in refusal(duration(1, 5), 6.0)


def test_off_stands_for_none_only_where_it_is_allowed() -> None:
    assert duration(1, word="off")("off") is None
    assert duration(1, word="off")(None) is None
    assert "'off' stands here" in refusal(duration(1), "off")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (1.5, "1500ms"),
        (1, "1s"),
        (60, "60s"),
        (300, "5m"),
        (3600, "60m"),
        (259_200, "72h"),
    ],
)
def test_a_duration_is_written_as_people_do(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.integers(0, 10**9))
def test_a_written_duration_reads_as_itself(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert duration(0)(duration_text(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "101", "1.0", "1_0", "0x10", " 1", "٣", "9" * 5000])
def test_a_whole_number_has_digits_and_bounds(text: str) -> None:
    assert "a whole number from 0 to 100" in refusal(whole(0, 100), text)


def test_a_whole_number_with_leading_zeros_is_decimal() -> None:
    assert whole(0, 100)("010") == 10


def test_true_is_no_number_and_one_is_no_flag_in_the_file() -> None:
    assert "True stands here" in refusal(whole(0, 100), True)
    assert "'1' stands here" in refusal(FLAG, "1")


@pytest.mark.parametrize("value", ["true", True])
def test_a_flag_is_true(value: object) -> None:
    assert FLAG(value) is True


@pytest.mark.parametrize("value", ["false", False])
def test_a_flag_is_false(value: object) -> None:
    assert FLAG(value) is False


@pytest.mark.parametrize("text", ["0.0.0.0:3389", "[::]:3389", "127.0.0.1:0", "[2001:db8::1]:80"])
def test_a_bind_is_an_ip_address_and_a_port(text: str) -> None:
    assert str(BIND(text)) == text


@pytest.mark.parametrize("text", [":3389", "*:3389", "3389"])
def test_a_bind_to_everything_is_told_how_to_write_it(text: str) -> None:
    assert "write 0.0.0.0:3389 or [::]:3389" in refusal(BIND, text)


def test_a_bind_is_no_name() -> None:
    assert "not a name" in refusal(BIND, "localhost:3389")


@pytest.mark.parametrize("text", ["10.0.0.21:3389", "[2001:db8::5]:3390", "rdsh01:3389", "a_b.c:1"])
def test_a_host_address_may_be_a_name(text: str) -> None:
    assert str(HOST_ADDRESS(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.300:1",
        "a..b:1",
        "-a:1",
        "a b:1",
        "a/b:1",
        f"{'a' * 64}:1",
        "10.0.0.1:0",
        "[::]:1",
        "host",
    ],
)
def test_what_cannot_be_dialled_is_no_host_address(text: str) -> None:
    assert "10.0.0.21:3389" in refusal(HOST_ADDRESS, text)


def test_a_token_address_without_a_port_reads_as_port_zero() -> None:
    assert TOKEN_ADDRESS("192.0.2.1") == Address("192.0.2.1", 0)
    assert TOKEN_ADDRESS("2001:db8::1") == Address("2001:db8::1", 0)
    assert TOKEN_ADDRESS("[2001:db8::1]:3390") == Address("2001:db8::1", 3390)
    assert "never a name" in refusal(TOKEN_ADDRESS, "rdsh01")


def test_ready_values_are_taken_as_they_are() -> None:
    assert NETWORK(ip_network("10.0.0.0/8")) == ip_network("10.0.0.0/8")
    assert ADMIN_BIND(UnixPath("admin.sock")) == UnixPath("admin.sock")
    assert HOST_ADDRESS(Address("rdsh01", 3389)) == Address("rdsh01", 3389)


def test_an_admin_bind_is_a_unix_path_an_address_or_off() -> None:
    assert ADMIN_BIND("unix:admin.sock") == UnixPath("admin.sock")
    assert ADMIN_BIND("127.0.0.1:9390") == Address("127.0.0.1", 9390)
    assert ADMIN_BIND("off") is None


def test_a_unix_path_fits_a_socket_address() -> None:
    assert ADMIN_BIND("unix:" + "a" * 107) == UnixPath("a" * 107)
    assert "1 to 107 bytes" in refusal(ADMIN_BIND, "unix:" + "ä" * 54)


def test_a_network_may_be_a_single_address() -> None:
    assert NETWORK("10.0.0.5") == ip_network("10.0.0.5/32")
    assert NETWORK("2001:db8::/32") == ip_network("2001:db8::/32")


def test_a_network_with_host_bits_is_told_which_one_is_meant() -> None:
    assert "10.0.1.0/24 is meant" in refusal(NETWORK, "10.0.1.5/24")


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10, 1)),
        ("600/m", Rate(600, 60)),
        ("1/h", Rate(1, 3600)),
        ("5/d", Rate(5, 86400)),
    ],
)
def test_a_rate_is_a_count_in_a_time(text: str, rate: Rate) -> None:
    assert RATE(text) == rate
    assert RATE.write(rate) == text


def test_a_rate_of_python_may_have_any_time() -> None:
    assert str(RATE(Rate(10, 300))) == "10/5m"


@pytest.mark.parametrize("text", ["0/s", "10", "10/", "/s", "10/ms", "1.5/s", "10/s/s"])
def test_other_rates_are_refused(text: str) -> None:
    assert "a rate such as" in refusal(RATE, text)


@pytest.mark.parametrize(
    "text",
    [
        "redis://host:6379/0",
        "rediss://:secret@host",
        "redis+sentinel://h1:26379,h2:26379/mymaster",
        "redis+cluster://h1:6379,h2:6379",
    ],
)
def test_the_urls_of_redis_are_kept_as_they_are(text: str) -> None:
    assert URL(text) == text


def test_a_refused_url_is_not_repeated_for_it_may_hold_a_password() -> None:
    assert "hunter2" not in refusal(URL, "http://:hunter2@host")


def test_a_name_may_have_letters_of_any_script_but_no_blank() -> None:
    assert NAME("営業-1.a_b") == "営業-1.a_b"
    assert "64 at most" in refusal(NAME, "front door")
    assert "64 at most" in refusal(NAME, "a" * 65)


def test_a_text_is_one_printable_line() -> None:
    assert TEXT("Full Desktop") == "Full Desktop"
    assert "on one line" in refusal(TEXT, "two\nlines")
    assert "on one line" in refusal(TEXT, " edge")


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "nothing"), ("", "nothing"), ({}, "a mapping"), ([], "a list"), ("x", "'x'")],
)
def test_a_value_is_shown_in_words(value: object, words: str) -> None:
    assert shown(value) == words


def test_a_long_value_is_shown_short_and_on_one_line() -> None:
    text = shown("a\n" * 1000)
    assert len(text) == 60
    assert "\n" not in text


@given(st.sampled_from(READERS), st.text())
def test_any_text_is_read_as_a_steady_value_or_refused_in_words(reader: Reader, text: str) -> None:
    try:
        value = reader(text)
    except ValueError:
        assert reader.wanted in refusal(reader, text)
    else:
        assert reader(value) == value


@given(st.sampled_from(READERS), st.sampled_from(["off", "auto", "3s", "0", "7", "true", "a.b"]))
def test_a_written_value_reads_as_itself(reader: Reader, text: str) -> None:
    try:
        value = reader(text)
    except ValueError:
        return
    assert reader(reader.write(value)) == value
