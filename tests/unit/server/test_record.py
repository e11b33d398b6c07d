"""Records: what a relay keeps of a connection is enough for a new front."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address
from proxy.errors import Cause, Side
from proxy.routing.model import Reason, TokenFate
from proxy.server.record import PACKED_MAX_BYTES, ConnectionRecord, Ending, Phase


def record(user: str | None = "alice", token: str | None = None) -> ConnectionRecord:
    return ConnectionRecord(
        id=7,
        listener="rdp",
        peer=Address("10.0.1.5", 40000),
        client=Address("2001:db8::7", 50001),
        accepted_at=1_700_000_000.125,
        phase=Phase.RELAY,
        user=user,
        token=token,
        pool="desktops",
        host="rdsh01",
        host_address=Address("10.0.0.21", 3389),
        proxy_address=Address("10.0.0.2", 41000),
        reason=Reason.TOKEN,
        fate=TokenFate.HONOURED,
        answer="hybrid",
        correlation_id="ab" * 16,
    )


def test_a_packed_record_comes_back_as_it_was() -> None:
    before = record(token="Cookie: msts=352321546.15629.0000")
    assert ConnectionRecord.unpack(7, before.pack()) == before


@given(st.none() | st.text(max_size=300), st.none() | st.text(max_size=300))
def test_a_packed_record_has_room_whatever_clients_send(
    user: str | None, token: str | None
) -> None:
    packed = record(user, token).pack()
    assert len(packed) <= PACKED_MAX_BYTES
    after = ConnectionRecord.unpack(7, packed)
    assert (user or "").startswith(after.user or "")


@pytest.mark.parametrize("packed", [b"", b"{}", b"[]", b"[99]", b'[1,"x"]', b"\xff"])
def test_a_record_of_another_version_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError):
        ConnectionRecord.unpack(7, packed)


def test_an_ending_reads_as_phase_side_and_cause() -> None:
    assert str(Ending(Phase.RELAY, Side.CLIENT, Cause.CLOSED)) == "relay/client/closed"
