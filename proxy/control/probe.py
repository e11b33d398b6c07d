"""Probes: one short visit to a session host that asks whether it is alive.

    tcp     connect and close
    x224    also send a Connection Request, as a client does, and read the Connection Confirm
    tls     also begin TLS on that connection and read the host's certificate

Each offers SSL and HYBRID: a host that insists on NLA refuses plain SSL, yet shows its certificate
before any credentials are asked for. No cookie is sent, so no host takes the visit for a user.

Laws: a probe never raises (cancellation apart); what went wrong is its result. One deadline spans
the whole visit. A Connection Confirm that refuses to negotiate comes from a host that lives, so
x224 passes; tls does not, since it asks for the TLS that clients will need. A want of the proxy's
own, such as file descriptors, is INTERNAL and says nothing of the host.

TLS runs over memory buffers on the raw socket, the same on every event loop, and takes whatever the
host has to offer: TLS 1.0 and its ciphers are what Windows Server 2008 R2 speaks, and nothing
secret is ever sent. Certificates are self-signed by default, so they are read and not judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import socket
import ssl
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from proxy import sockets
from proxy.address import Address
from proxy.errors import Cause, WireError
from proxy.settings import HealthCheck
from proxy.wire.incomplete import Incomplete
from proxy.wire.x224 import (
    ConnectionConfirm,
    NegotiationFailure,
    NegotiationResponse,
    encode_connection_request,
    parse_connection_confirm,
)

_PLAIN = NegotiationResponse(0, 0)  # what an answer without negotiation data stands for
_GOODBYE_S = 0.25  # for the host's last words, so that the close is an end and not a reset
_READ_BYTES = 16384
_LAST_READS = 16
_OP_LEGACY_SERVER_CONNECT = 0x4  # has a name in ssl from Python 3.12 on


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe found.

    Attributes:
        cause: why it failed; None where it is `ok`.
        detail: the same for a human reader, one line.
        seconds: from the start to the verdict.
        answer: what the host's Connection Confirm negotiated, if it got so far.
        certificate: what the host showed in TLS, DER.
        tls: the version that was agreed on, such as `TLSv1.2`.
    """

    ok: bool
    cause: Cause | None
    detail: str
    seconds: float
    answer: NegotiationResponse | NegotiationFailure | None = None
    certificate: bytes | None = None
    tls: str | None = None

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the certificate as hexadecimal text."""
        return hashlib.sha256(self.certificate).hexdigest() if self.certificate else None


Connect = Callable[[float], Awaitable[socket.socket]]  # until when, by the loop's clock


class Probe(Protocol):
    """A visit to a numeric `address` that takes at most `timeout_s`.

    Of these the TCP connection may take `connect_s`.
    """

    async def __call__(
        self, address: Address, timeout_s: float, connect_s: float = math.inf
    ) -> ProbeResult: ...


async def probe_tcp(address: Address, timeout_s: float, connect_s: float = math.inf) -> ProbeResult:
    """Connect and close."""
    return await _visit(partial(sockets.connect, address), timeout_s, connect_s, _listen_only)


async def probe_x224(
    address: Address, timeout_s: float, connect_s: float = math.inf
) -> ProbeResult:
    """Exchange Connection Request and Connection Confirm."""
    return await _visit(partial(sockets.connect, address), timeout_s, connect_s, _negotiate)


async def probe_tls(address: Address, timeout_s: float, connect_s: float = math.inf) -> ProbeResult:
    """Negotiate, then begin TLS and read the certificate."""
    return await _visit(partial(sockets.connect, address), timeout_s, connect_s, _read_certificate)


async def visit_with_token(connect: Connect, line: bytes, timeout_s: float) -> ProbeResult:
    """As `probe_tls`, as a redirected client: with a routing token, over what `connect` gives."""
    return await _visit(connect, timeout_s, timeout_s, partial(_read_certificate, line=line))


PROBES: Mapping[HealthCheck, Probe] = {
    HealthCheck.TCP: probe_tcp,
    HealthCheck.X224: probe_x224,
    HealthCheck.TLS: probe_tls,
}


class _Heard(NamedTuple):
    """What a host said, and what is wrong with it."""

    answer: NegotiationResponse | NegotiationFailure | None = None
    certificate: bytes | None = None
    cause: Cause | None = None
    detail: str = ""
    tls: str | None = None


async def _visit(
    connect: Connect,
    timeout_s: float,
    connect_s: float,
    talk: Callable[[socket.socket, float], Awaitable[_Heard]],
) -> ProbeResult:
    began = time.perf_counter()  # uvloop's own clock ticks in milliseconds
    now = asyncio.get_running_loop().time()
    until = now + timeout_s
    sock: socket.socket | None = None
    try:
        try:
            sock = await connect(now + min(connect_s, timeout_s))
            heard = await talk(sock, until)
        except WireError as error:
            heard = _Heard(cause=error.cause, detail=error.detail)
        except OSError as error:
            step = "no connection" if sock is None else "no answer"
            why = os.strerror(error.errno) if error.errno else "timed out"
            heard = _Heard(cause=sockets.cause_of(error), detail=f"{step}: {why}")
        seconds = time.perf_counter() - began
        if sock is not None and heard.certificate is not None:
            time_s = asyncio.get_running_loop().time()
            await _say_goodbye(sock, min(until, time_s + _GOODBYE_S))
    finally:
        if sock is not None:
            sock.close()
    return ProbeResult(
        heard.cause is None,
        heard.cause,
        heard.detail,
        seconds,
        heard.answer,
        heard.certificate,
        heard.tls,
    )


async def _listen_only(_: socket.socket, __: float) -> _Heard:
    return _Heard()


async def _negotiate(sock: socket.socket, until: float, line: bytes | None = None) -> _Heard:
    await sockets.send(sock, encode_connection_request(line=line), until)
    data = b""
    confirm: ConnectionConfirm | Incomplete = parse_connection_confirm(data)
    while isinstance(confirm, Incomplete):
        piece = await sockets.receive(sock, confirm.missing, until)
        if not piece:
            return _Heard(cause=Cause.CLOSED, detail=f"closed after {len(data)} bytes of an answer")
        data += piece
        confirm = parse_connection_confirm(data)
    return _Heard(confirm.negotiation or _PLAIN)


async def _read_certificate(sock: socket.socket, until: float, line: bytes | None = None) -> _Heard:
    heard = await _negotiate(sock, until, line)
    if heard.cause is not None:
        return heard
    answer = heard.answer
    if not isinstance(answer, NegotiationResponse) or answer.selected_protocol == 0:
        return _Heard(answer, None, Cause.TLS_FAILED, "the host does not agree to TLS")
    try:
        certificate, version = await _begin_tls(sock, until)
        return _Heard(answer, certificate, tls=version)
    except ssl.SSLError as error:
        return _Heard(answer, None, Cause.TLS_FAILED, f"TLS: {error.reason or error}")


async def _begin_tls(sock: socket.socket, until: float) -> tuple[bytes | None, str | None]:
    """Become a TLS client on the connection, take leave; the certificate (DER) and the version."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _ANY_TLS.wrap_bio(incoming, outgoing)
    done = False
    while not done:
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        await sockets.send(sock, outgoing.read(), until)
        if not done:
            data = await sockets.receive(sock, _READ_BYTES, until)
            if data:
                incoming.write(data)
            else:
                incoming.write_eof()
    certificate, version = tls.getpeercert(binary_form=True), tls.version()
    with contextlib.suppress(OSError):  # it wants the host's close_notify too, which may wait
        tls.unwrap()
    with contextlib.suppress(OSError):  # the host may be gone: the certificate was seen
        await sockets.send(sock, outgoing.read(), until)
    return certificate, version


async def _say_goodbye(sock: socket.socket, until: float) -> None:
    """End our direction and read what is under way: closing with unread bytes would be a reset."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        for _ in range(_LAST_READS):  # one that talks on without end must not keep the loop
            if not await sockets.receive(sock, _READ_BYTES, until):
                return


def _any_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # Without anonymous ciphers: they come without a certificate. What has missed the renegotiation
    # fix of 2009 (RFC 5746) is OpenSSL's to refuse unless told otherwise, and clients take it.
    context.set_ciphers("ALL:!aNULL:@SECLEVEL=0")
    context.options |= _OP_LEGACY_SERVER_CONNECT
    with warnings.catch_warnings():  # old versions are deprecated, and meant
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    return context


_ANY_TLS = _any_tls()
