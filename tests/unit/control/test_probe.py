"""Probes against hosts of every kind, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Self

import pytest

from proxy import sockets
from proxy.address import Address
from proxy.control.probe import (
    PROBES,
    ProbeResult,
    probe_tcp,
    probe_tls,
    probe_x224,
    visit_with_token,
)
from proxy.errors import Cause
from proxy.lab.certificates import Certificate, self_signed
from proxy.settings import HealthCheck
from proxy.wire.x224 import (
    FailureCode,
    NegotiationFailure,
    NegotiationResponse,
    Protocol,
    encode_connection_confirm,
    encode_connection_request,
)

PATIENT_S = 10.0
SHORT_S = 0.3
TLS_AGREED = encode_connection_confirm(NegotiationResponse(0, Protocol.SSL))
PLAIN = NegotiationResponse(0, Protocol.RDP)
TALKING = [HealthCheck.X224, HealthCheck.TLS]

Part = Callable[[socket.socket], None]


class HostOfOneVisit:
    """A session host that plays `part` (blocking, in a thread) with its first client."""

    def __init__(self, part: Part) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENT_S)
        self.address = Address(*self._listener.getsockname())
        self._part = part
        self._thread = threading.Thread(target=self._play)
        self.ended_in_order = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _play(self) -> None:
        client, _ = self._listener.accept()
        client.settimeout(PATIENT_S)
        with client:
            self._part(client)
            try:
                self.ended_in_order = client.recv(1) == b""
            except (OSError, ValueError):
                self.ended_in_order = False


@contextmanager
def nobody() -> Iterator[Address]:
    """An address where connections are refused, as long as the block lasts."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield Address(*sock.getsockname())


def read_request(client: socket.socket) -> bytes:
    expected = encode_connection_request(requested_protocols=Protocol.SSL | Protocol.HYBRID)
    request = b""
    while len(request) < len(expected) and (piece := client.recv(len(expected) - len(request))):
        request += piece
    return request


def answers(*pieces: bytes) -> Part:
    def part(client: socket.socket) -> None:
        read_request(client)
        for piece in pieces:
            client.sendall(piece)

    return part


def hangs_up_after(data: bytes, *, by_reset: bool = False) -> Part:
    def part(client: socket.socket) -> None:
        read_request(client)
        client.sendall(data)
        if by_reset:
            sockets.reset(client)
            return
        client.shutdown(socket.SHUT_WR)  # in order: a close with bytes unread is a reset, too
        while client.recv(1024):
            pass

    return part


def begins_tls(certificate: Certificate, *, tickets: int = 0) -> Part:
    def part(client: socket.socket) -> None:
        answers(TLS_AGREED)(client)
        certificate.server_context.num_tickets = tickets
        tls = certificate.server_context.wrap_socket(client.dup(), server_side=True)
        with tls:
            assert tls.recv(1) == b"", "the client has nothing to say"

    return part


async def ask(host: HostOfOneVisit, check: HealthCheck, timeout_s: float) -> ProbeResult:
    return await PROBES[check](host.address, timeout_s)


@pytest.mark.parametrize("check", HealthCheck)
async def test_a_host_that_refuses_fails_each_check(check: HealthCheck) -> None:
    with nobody() as address:
        result = await PROBES[check](address, PATIENT_S)
    assert (result.ok, result.cause) == (False, Cause.REFUSED)
    assert result.detail == "no connection: Connection refused"


@pytest.mark.parametrize("check", HealthCheck)
async def test_a_host_that_swallows_connections_fails_each_check_in_time(
    check: HealthCheck,
) -> None:
    # A full backlog drops what comes further, as a host that is off does.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = Address(*full.getsockname())
        with socket.create_connection(address):
            for timeout_s, connect_s in [(SHORT_S, PATIENT_S), (PATIENT_S, SHORT_S)]:
                result = await PROBES[check](address, timeout_s, connect_s)
                assert (result.ok, result.cause) == (False, Cause.TIMEOUT)
                assert result.detail == "no connection: timed out"
                assert SHORT_S * 0.9 <= result.seconds < PATIENT_S


async def test_tcp_passes_where_a_host_accepts_and_sends_no_byte() -> None:
    with HostOfOneVisit(lambda _: None) as host:
        result = await ask(host, HealthCheck.TCP, PATIENT_S)
    assert (result.ok, result.cause, result.detail) == (True, None, "")
    assert (result.answer, result.certificate, result.fingerprint) == (None, None, None)
    assert host.ended_in_order


@pytest.mark.parametrize("check", TALKING)
async def test_a_host_that_accepts_and_stays_silent_fails(check: HealthCheck) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = await PROBES[check](Address(*silent.getsockname()), SHORT_S)
    assert (result.ok, result.cause) == (False, Cause.TIMEOUT)
    assert result.detail == "no answer: timed out"


@pytest.mark.parametrize("check", TALKING)
async def test_one_deadline_spans_a_dripping_answer(check: HealthCheck) -> None:
    def drips(client: socket.socket) -> None:
        read_request(client)
        for byte in TLS_AGREED:
            try:
                client.sendall(bytes((byte,)))
            except OSError:
                return
            threading.Event().wait(SHORT_S / 4)

    with HostOfOneVisit(drips) as host:
        result = await ask(host, check, SHORT_S)
    assert (result.ok, result.cause) == (False, Cause.TIMEOUT)


async def test_the_request_is_a_clients_and_names_no_user() -> None:
    seen: list[bytes] = []

    def part(client: socket.socket) -> None:
        seen.append(read_request(client))
        client.sendall(TLS_AGREED)

    with HostOfOneVisit(part) as host:
        await ask(host, HealthCheck.X224, PATIENT_S)
    assert seen == [bytes.fromhex("030000130ee000000000000100080003000000")]


@pytest.mark.parametrize(
    "negotiation",
    [
        None,
        NegotiationResponse(0x1F, Protocol.HYBRID_EX),
        NegotiationFailure(FailureCode.SSL_CERT_NOT_ON_SERVER),
        NegotiationFailure(FailureCode.HYBRID_REQUIRED_BY_SERVER),
    ],
)
async def test_x224_passes_with_any_connection_confirm(
    negotiation: NegotiationResponse | NegotiationFailure | None,
) -> None:
    confirm = encode_connection_confirm(negotiation)
    with HostOfOneVisit(answers(confirm[:3], confirm[3:])) as host:
        result = await ask(host, HealthCheck.X224, PATIENT_S)
    assert (result.ok, result.cause, result.answer) == (True, None, negotiation or PLAIN)
    assert host.ended_in_order, "the host sees an end, not a reset"


@pytest.mark.parametrize("check", TALKING)
@pytest.mark.parametrize(
    ("garbage", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Cause.NOT_TPKT),
        (b"\x03\x00\xff\xff", Cause.TPKT_LENGTH),
        (b"\x03\x00\x00\x13\x77\xd0", Cause.LENGTH_INDICATOR),
        (encode_connection_request(), Cause.NOT_CONNECTION_REQUEST),
    ],
)
async def test_garbage_fails_with_what_is_wrong_about_it(
    check: HealthCheck, garbage: bytes, cause: Cause
) -> None:
    with HostOfOneVisit(answers(garbage)) as host:
        result = await ask(host, check, PATIENT_S)
    assert (result.ok, result.cause) == (False, cause)
    assert result.detail


@pytest.mark.parametrize("check", TALKING)
async def test_a_host_that_closes_within_its_answer_fails(check: HealthCheck) -> None:
    with HostOfOneVisit(hangs_up_after(TLS_AGREED[:7])) as host:
        result = await ask(host, check, PATIENT_S)
    assert (result.ok, result.cause) == (False, Cause.CLOSED)
    assert result.detail == "closed after 7 bytes of an answer"


@pytest.mark.parametrize("check", TALKING)
async def test_a_host_that_resets_fails(check: HealthCheck) -> None:
    with HostOfOneVisit(hangs_up_after(b"", by_reset=True)) as host:
        result = await ask(host, check, PATIENT_S)
    assert (result.ok, result.cause) == (False, Cause.RESET)


@pytest.mark.parametrize("tickets", [0, 2])
@pytest.mark.parametrize(
    ("version", "name"),
    [
        (ssl.TLSVersion.TLSv1, "TLSv1"),
        (ssl.TLSVersion.TLSv1_1, "TLSv1.1"),
        (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        (ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ],
)
async def test_tls_reads_the_certificate_of_old_and_new_hosts(
    version: ssl.TLSVersion, name: str, tickets: int
) -> None:
    certificate = self_signed("rdsh01")
    context = certificate.server_context
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with HostOfOneVisit(begins_tls(certificate, tickets=tickets)) as host:
        result = await ask(host, HealthCheck.TLS, PATIENT_S)
    assert (result.ok, result.cause, result.detail) == (True, None, "")
    assert result.answer == NegotiationResponse(0, Protocol.SSL)
    assert (result.certificate, result.tls) == (certificate.der, name)
    assert result.fingerprint == hashlib.sha256(certificate.der).hexdigest()


async def test_a_visit_with_a_token_reads_the_certificate_as_a_redirected_client() -> None:
    certificate = self_signed("rdsh01")
    line = b"Cookie: msts=352321546.15629.0000"
    seen: list[bytes] = []

    def part(client: socket.socket) -> None:
        expected = encode_connection_request(line=line)
        seen.append(client.recv(len(expected), socket.MSG_WAITALL))
        client.sendall(TLS_AGREED)
        with certificate.server_context.wrap_socket(client.dup(), server_side=True) as tls:
            tls.recv(1)

    with HostOfOneVisit(part) as host:
        result = await visit_with_token(partial(sockets.connect, host.address), line, PATIENT_S)
    assert seen == [encode_connection_request(line=line)]
    assert (result.ok, result.certificate) == (True, certificate.der)


@pytest.mark.parametrize(
    "negotiation",
    [
        None,
        NegotiationResponse(0, Protocol.RDP),
        NegotiationFailure(FailureCode.SSL_CERT_NOT_ON_SERVER),
    ],
)
async def test_tls_fails_where_the_host_agrees_to_none(
    negotiation: NegotiationResponse | NegotiationFailure | None,
) -> None:
    with HostOfOneVisit(answers(encode_connection_confirm(negotiation))) as host:
        result = await ask(host, HealthCheck.TLS, PATIENT_S)
    assert (result.ok, result.cause, result.answer) == (
        False,
        Cause.TLS_FAILED,
        negotiation or PLAIN,
    )


@pytest.mark.parametrize(
    "part", [answers(TLS_AGREED, b"no TLS at all\r\n"), hangs_up_after(TLS_AGREED)]
)
async def test_tls_fails_where_none_comes_about(part: Part) -> None:
    with HostOfOneVisit(part) as host:
        result = await ask(host, HealthCheck.TLS, PATIENT_S)
    assert (result.ok, result.cause) == (False, Cause.TLS_FAILED)
    assert result.detail.startswith("TLS: ")
    assert result.answer == NegotiationResponse(0, Protocol.SSL)


async def test_tls_fails_in_time_where_the_host_falls_silent_after_agreeing() -> None:
    def part(client: socket.socket) -> None:
        answers(TLS_AGREED)(client)
        while client.recv(4096):
            pass

    with HostOfOneVisit(part) as host:
        result = await ask(host, HealthCheck.TLS, SHORT_S)
    assert (result.ok, result.cause) == (False, Cause.TIMEOUT)


async def test_a_host_that_never_closes_keeps_no_probe() -> None:
    certificate = self_signed("rdsh01")

    def stays(client: socket.socket) -> None:
        answers(TLS_AGREED)(client)
        with certificate.server_context.wrap_socket(client, server_side=True) as tls:
            tls.recv(1)
            threading.Event().wait(2 * SHORT_S)

    with HostOfOneVisit(stays) as host:
        async with asyncio.timeout(PATIENT_S):
            result = await ask(host, HealthCheck.TLS, PATIENT_S)
    assert result.ok


async def test_ipv6_hosts_are_reached() -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with server:
        result = await probe_tcp(Address("::1", server.getsockname()[1]), PATIENT_S)
    assert result.ok


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EMFILE, Cause.INTERNAL),
        (errno.EADDRNOTAVAIL, Cause.INTERNAL),
        (errno.EHOSTUNREACH, Cause.UNREACHABLE),
        (errno.ETIMEDOUT, Cause.TIMEOUT),
        (errno.EPIPE, Cause.RESET),
    ],
)
async def test_the_proxys_own_want_is_told_apart_from_the_hosts_faults(
    monkeypatch: pytest.MonkeyPatch, number: int, cause: Cause
) -> None:
    async def connect(*_: object) -> socket.socket:
        raise OSError(number, "as the system says")

    monkeypatch.setattr(sockets, "connect", connect)
    result = await probe_x224(Address("127.0.0.1", 1), PATIENT_S)
    assert (result.ok, result.cause) == (False, cause)


async def test_a_cancelled_probe_closes_its_connection_and_raises() -> None:
    asked = threading.Event()

    def part(client: socket.socket) -> None:
        read_request(client)
        asked.set()

    with HostOfOneVisit(part) as host:
        probe = asyncio.create_task(probe_tls(host.address, PATIENT_S))
        await asyncio.to_thread(asked.wait, PATIENT_S)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
    assert host.ended_in_order
