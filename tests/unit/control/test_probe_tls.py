"""TLS probes against hosts of other times."""

from __future__ import annotations

import socket

import pytest

from proxy import sockets
from proxy.control.probe import _say_goodbye, probe_tls
from proxy.errors import Cause
from tests.unit.control.test_probe import (
    PATIENT_S,
    TLS_AGREED,
    HostOfOneVisit,
    Part,
    answers,
)

# TLS 1.0, RSA with AES-128 and SHA-1, no extension at all: a ServerHello from before RFC 5746.
_HELLO_OF_2009 = (
    bytes.fromhex("16 0301 002a 02 000026 0301") + bytes(32) + bytes.fromhex("00 002f 00")
)


def says_hello(hello: bytes) -> Part:
    def part(client: socket.socket) -> None:
        answers(TLS_AGREED)(client)
        assert client.recv(4096)[0] == 0x16, "a ClientHello"
        client.sendall(hello)
        client.shutdown(socket.SHUT_WR)
        while client.recv(1024):
            pass

    return part


async def test_a_host_without_the_renegotiation_fix_is_no_reason_to_stop() -> None:
    with HostOfOneVisit(says_hello(_HELLO_OF_2009)) as host:
        result = await probe_tls(host.address, PATIENT_S)
    assert (result.ok, result.cause) == (False, Cause.TLS_FAILED)
    assert "EOF" in result.detail, "it was the host who stopped"


async def test_a_host_that_talks_on_without_end_keeps_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where bytes are always there, receiving never waits, and no deadline is looked at."""
    reads = 0

    async def never_waits(*_: object) -> bytes:
        nonlocal reads
        reads += 1
        assert reads < 100
        return b"x"

    monkeypatch.setattr(sockets, "receive", never_waits)
    near, far = socket.socketpair()
    with near, far:
        await _say_goodbye(near, 0.0)
    assert reads > 1


async def test_a_host_without_a_certificate_is_not_taken_for_one_with_tls() -> None:
    hello = _HELLO_OF_2009.replace(bytes.fromhex("002f"), bytes.fromhex("0034"))  # anonymous
    with HostOfOneVisit(says_hello(hello)) as host:
        result = await probe_tls(host.address, PATIENT_S)
    assert result.detail == "TLS: WRONG_CIPHER_RETURNED"
