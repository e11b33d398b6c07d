"""The redirection PDU, byte for byte."""

from __future__ import annotations

import pytest

from proxy.address import Address
from proxy.lab import mcs
from proxy.lab.redirection import Redirection
from proxy.wire import tokens

# Observed: accepted by xfreerdp 2.11.7 and 3.15.0.
TOKEN_REDIRECTION = bytes.fromhex(
    "0300006d02f08068000103eb705f 5f001a00ea03 0000 0004 5700 01000000 0e000000"
    "23000000 436f6f6b69653a206d7374733d3335323332313534362e31353632392e303030300d0a"
    "0c000000 61006c006900630065000000 08000000 44004f004d000000 0000000000000000"
)


def test_a_redirection_by_token_has_the_bytes_that_real_clients_follow() -> None:
    redirection = Redirection(
        1,
        load_balance_info=tokens.encode_msts(Address("10.0.0.21", 3389)) + b"\r\n",
        username="alice",
        domain="DOM",
    )
    assert redirection.encode() == TOKEN_REDIRECTION


@pytest.mark.parametrize(
    "redirection",
    [
        Redirection(7, target_net_address="127.77.0.12", username="bob"),
        Redirection(1, load_balance_info=b"Cookie: msts=1.2.0000\r\n", redirection_guid=b"0" * 16),
        Redirection(2, load_balance_info=b"x", target_certificate=b"\x30" * 700),
        Redirection(0),
    ],
    ids=["address", "token", "certificate", "empty"],
)
def test_a_redirection_is_read_back_as_it_was_written(redirection: Redirection) -> None:
    channel, pdu = mcs.sent_data(redirection.encode())
    assert channel == mcs.IO_CHANNEL
    assert Redirection.parse(pdu) == redirection


def test_the_target_certificate_travels_as_a_typed_element_in_base64() -> None:
    pdu = mcs.sent_data(Redirection(1, target_certificate=b"DER").encode())[1]
    # type 32, encoding 1, size 3, "DER"; base64 in UTF-16 with its terminator
    assert "IAAAAAEAAAADAAAAREVS\0".encode("utf-16-le") in pdu
    assert pdu[16:20] == (0x10000).to_bytes(4, "little")


def test_another_share_pdu_is_no_redirection() -> None:
    assert Redirection.parse(bytes(30)) is None


@pytest.mark.parametrize("cut", [21, 40, 80])
def test_a_redirection_that_is_cut_short_is_refused(cut: int) -> None:
    pdu = mcs.sent_data(TOKEN_REDIRECTION)[1]
    with pytest.raises(ValueError, match="cut short"):
        Redirection.parse(pdu[:cut])


def test_a_field_longer_than_its_packet_is_refused() -> None:
    pdu = bytearray(mcs.sent_data(TOKEN_REDIRECTION)[1])
    pdu[20] = 0xFF
    with pytest.raises(ValueError, match="field 0x2 is cut short"):
        Redirection.parse(bytes(pdu))
