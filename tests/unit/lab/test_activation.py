"""Client Info, licensing and activation packets."""

from __future__ import annotations

import pytest

from proxy.lab import mcs
from proxy.lab.activation import (
    LICENSE_DONE,
    ClientInfo,
    demand_active,
    finalization,
    font_list,
    is_demand_active,
    is_font_list,
    is_font_map,
)


def test_licensing_ends_with_the_bytes_that_real_clients_accept() -> None:
    assert LICENSE_DONE.hex() == (
        "0300002202f08068000103eb701480000000ff031000070000000200000004000000"
    )


def test_client_info_is_read_back_as_it_was_written() -> None:
    info = ClientInfo("ålice", "DOM")
    assert ClientInfo.parse(mcs.sent_data(info.encode(1005))[1]) == info


def test_client_info_without_the_unicode_flag_is_ansi() -> None:
    head = bytes.fromhex("40000000 00000000 00000000 0300 0500 0000 0000 0000")
    assert ClientInfo.parse(head + b"DOM\0alice\0\0\0\0") == ClientInfo("alice", "DOM")


def test_what_is_no_client_info_is_refused() -> None:
    with pytest.raises(ValueError, match="cut short"):
        ClientInfo.parse(b"\x40\0")
    with pytest.raises(ValueError, match="not a Client Info"):
        ClientInfo.parse(bytes(40))


def test_the_packets_of_the_activation_are_told_apart() -> None:
    opening, ending = mcs.sent_data(demand_active())[1], mcs.sent_data(finalization()[-1])[1]
    client = mcs.sent_data(font_list(1005))[1]
    assert is_demand_active(opening)
    assert is_font_map(ending)
    assert is_font_list(client)
    for check in (is_font_list, is_font_map):
        assert not check(opening)
    assert not is_demand_active(ending)
    assert not is_font_map(client)


def test_the_lengths_inside_demand_active_agree() -> None:
    pdu = mcs.sent_data(demand_active())[1]
    capabilities = int.from_bytes(pdu[12:14], "little")
    assert int.from_bytes(pdu[:2], "little") == len(pdu)
    at, count = 22, int.from_bytes(pdu[18:20], "little")
    for _ in range(count):
        at += int.from_bytes(pdu[at + 2 : at + 4], "little")
    assert at == 18 + capabilities == len(pdu) - 4
