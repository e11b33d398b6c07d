"""MCS and GCC packets, against bytes that real clients and hosts exchanged."""

from __future__ import annotations

import pytest

from proxy.lab import mcs


def test_a_connect_response_has_the_bytes_that_real_clients_accept() -> None:
    # Observed: accepted by xfreerdp 2.11.7, xfreerdp 3.15.0 and rdesktop 1.9.0.
    assert mcs.connect_response(1, 4).hex() == (
        "0300007002f0807f66660a0100020100301a020122020103020100020101020100020101020300fff8020102"
        "0442000500147c00013a14760a01010001c0004d63446e2c010c10000400080001000000000000"
        "00030c1000eb030400ec03ed03ee03ef03020c0c000000000000000000"
    )


def test_an_odd_number_of_channels_is_padded() -> None:
    assert bytes.fromhex("030c0c00eb030100ec030000") in mcs.connect_response(1, 1)


def test_channel_packets_have_their_published_bytes() -> None:
    assert mcs.attach_user_confirm(1007).hex() == "0300000b02f0802e000006"
    assert mcs.channel_join_confirm(1007, 1003).hex() == "0300000f02f0803e00000603eb03eb"
    assert mcs.attached_user(mcs.attach_user_confirm(1007)) == 1007


@pytest.mark.parametrize(
    "initial",
    [
        mcs.ConnectInitial(),
        mcs.ConnectInitial(("rdpdr", "labecho"), 1, redirected_session_id=9),
        mcs.ConnectInitial(tuple(f"chan{n}" for n in range(20)), 1),
    ],
    ids=["bare", "redirected", "many-channels"],
)
def test_a_connect_initial_is_read_back_as_it_was_written(initial: mcs.ConnectInitial) -> None:
    assert mcs.ConnectInitial.parse(initial.encode()) == initial


def test_what_a_client_asks_is_recognised() -> None:
    kinds = [
        mcs.domain_request(packet).kind
        for packet in (
            mcs.ERECT_DOMAIN_REQUEST,
            mcs.ATTACH_USER_REQUEST,
            mcs.channel_join_request(1004, 1003),
            mcs.send_data(1003, b"x", user=1004, to_client=False),
            mcs.data_packet(b"\x21\x80"),
        )
    ]
    assert kinds == ["erect", "attach", "join", "data", "other"]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 5000])
def test_data_of_any_length_comes_through(size: int) -> None:
    packet = mcs.send_data(1004, b"z" * size, user=1005, to_client=False)
    assert mcs.sent_data(packet) == (1004, b"z" * size)


def test_packets_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="not an X"):
        mcs.data_payload(b"\x03\0\0\x0b\x06\xe0\0\0\0\0\0")
    with pytest.raises(ValueError, match="Connect-Initial"):
        mcs.ConnectInitial.parse(mcs.ATTACH_USER_REQUEST)
    with pytest.raises(ValueError, match="data was expected"):
        mcs.sent_data(mcs.ATTACH_USER_REQUEST)
    with pytest.raises(ValueError, match="bytes announced"):
        mcs.sent_data(mcs.send_data(1003, b"abc", to_client=True)[:-1])
