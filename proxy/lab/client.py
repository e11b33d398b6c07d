"""Client: logs in the way Microsoft's client (mstsc) is documented to, and reports what happened.

One login is up to three TCP connections (where hosts hand over twice, one more):

1. *probe*: Connection Request, TLS, a look at the certificate, close;
2. *login*: the same again, then MCS and Client Info. The certificate must be the probe's, else
   the login ends as "An unexpected server authentication certificate was received";
3. *redirected*, if the broker says so: to the same address with the routing token verbatim
   ([MS-RDPBCGR] 3.2.5.3.1), or straight to the host where the redirection names an address. The
   certificate must be the redirection's TargetCertificate where it has one.

It never tries again: a failed connection is a failed login. Documented: the token's use and
TargetCertificate. Reported from the field, not documented: the probe and its rule.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.address import Address
from proxy.errors import WireError
from proxy.lab import mcs
from proxy.lab.activation import LICENSE_DONE, ClientInfo, font_list, is_demand_active, is_font_map
from proxy.lab.certificates import client_context, fingerprint
from proxy.lab.directory import Directory
from proxy.lab.link import Link
from proxy.lab.login import Failure, Leg, LoginError, LoginResult, Step
from proxy.lab.redirection import Redirection
from proxy.lab.session_host import ECHO_CHANNEL
from proxy.wire import tokens, x224
from proxy.wire.incomplete import Incomplete

_ECHO_ID = mcs.FIRST_STATIC_CHANNEL
_TLS = client_context()


class Session:
    """An active session. It must be closed."""

    def __init__(self, link: Link, user: int) -> None:
        self._link = link
        self._user = user

    async def echo(self, data: bytes) -> bytes:
        """Send `data` (at most 16,000 bytes) through the session; the host sends it back."""
        await self._link.send(mcs.send_data(_ECHO_ID, data, user=self._user, to_client=False))
        while True:
            channel, answer = mcs.sent_data(await self._link.read_packet())
            if channel == _ECHO_ID:
                return answer

    async def closed(self) -> None:
        """Wait until the other side ends the session."""
        await self._link.closed()

    async def close(self) -> None:
        await self._link.close()


@dataclass(frozen=True, slots=True)
class Client:
    """A user at a machine. Frozen: each `login` begins anew.

    Attributes:
        address: where the user believes the farm is; IPv4.
        others: further nodes behind the name of the farm: each connection takes the next one.
        source: local address to dial from, the key of source affinity.
        line: what a .rdp file has as loadbalanceinfo, without CRLF; it takes the place of the
            cookie until a redirection replaces it.
        byte_by_byte: send each Connection Request in segments of one byte.
        think_s: pause between probe and login, in which a person answers a prompt. It is not
            counted in the time to the active session.
        hold_s: how long to stay in the session before `login` ends it.
        timeout_s: patience for one connection, from dialling to the session.
        direct: dial the host that a token names oneself, as if there were no balancer: what the
            same login costs without one.
        probes: whether a login begins with a probe.
        redirections: how many it follows.
    """

    address: Address
    user: str
    directory: Directory
    others: tuple[Address, ...] = ()
    source: str | None = None
    domain: str = ""
    line: bytes | None = None
    byte_by_byte: bool = False
    think_s: float = 0.0
    hold_s: float = 0.0
    timeout_s: float = 30.0
    direct: bool = False
    probes: bool = True
    redirections: int = 1

    async def login(self) -> LoginResult:
        """Log in, stay for `hold_s` with some traffic, leave."""
        async with self.session() as (result, session):
            if session is not None:
                await self.stay(result, session)
        return result

    @asynccontextmanager
    async def session(self) -> AsyncIterator[tuple[LoginResult, Session | None]]:
        """Log in and hold the session open inside the block; None where the login failed."""
        result, session = LoginResult(self.user, self.source), None
        began = time.perf_counter()
        try:
            session = await self._log_in(result)
            result.time_to_active_s = time.perf_counter() - began - self.think_s
        except LoginError as failed:
            result.failure, result.detail = failed.failure, failed.detail
        try:
            yield result, session
        finally:
            if session is not None:
                await session.close()

    async def stay(self, result: LoginResult, session: Session) -> None:
        """Spend `hold_s` in a session, with some traffic; a cut is noted as the failure."""
        try:
            for pause in (self.hold_s, 0.0):
                async with asyncio.timeout(pause + self.timeout_s):
                    await session.echo(b"still there?")
                    await asyncio.sleep(pause)
        except (OSError, ValueError) as error:
            result.failure, result.detail = Failure.CLOSED, f"the session was cut: {error}"

    async def _log_in(self, result: LoginResult) -> Session:
        step, address = Step.LOGIN, self.address
        line = self.line if self.line is not None else self._cookie()
        expected: bytes | None = None
        session_id: int | None = None
        if self.probes:
            async with self._leg(result, Step.PROBE, address, line) as probe:
                expected = probe.peer_certificate()
                await probe.close()
            await asyncio.sleep(self.think_s)
        for _ in range(1 + self.redirections):
            async with self._leg(result, step, address, line, expected) as link:
                answer = await self._enter(link, session_id)
                if isinstance(answer, Session):
                    return self._at_the_right_host(result, answer)
                await link.close()
            step, (address, line) = Step.REDIRECTED, self._next(answer)
            expected, session_id = answer.target_certificate, answer.session_id
        raise LoginError(Failure.REDIRECTED_AGAIN, line.decode("latin-1"))

    @asynccontextmanager
    async def _leg(
        self,
        result: LoginResult,
        step: Step,
        address: Address,
        line: bytes,
        expected: bytes | None = None,
    ) -> AsyncIterator[Link]:
        """One connection up to the checked certificate; the block goes on under its deadline."""
        if address == self.address:
            nodes = (self.address, *self.others)
            address = nodes[len(result.legs) % len(nodes)]
        leg = Leg(step, address, line, self.directory.name_at(tokens.read_token(line).address))
        result.legs.append(leg)
        link: Link | None = None
        try:
            async with asyncio.timeout(self.timeout_s):
                link = await Link.dial(address, self.source)
                await self._negotiate(link, line)
                await link.start_tls(_TLS)
                self._check_certificate(leg, link.peer_certificate(), expected)
                yield link
        except BaseException as error:
            if link is not None:
                link.abort()
            failed = _as_failure(error)
            if failed is None:
                raise
            raise failed from error

    def _check_certificate(self, leg: Leg, shown: bytes, expected: bytes | None) -> None:
        leg.certificate = fingerprint(shown)
        leg.reached = self.directory.showing(leg.certificate)
        if expected is not None and shown != expected:
            wanted = self.directory.showing(fingerprint(expected)) or "another host"
            detail = f"expected that of {wanted}, got that of {leg.reached or 'a stranger'}"
            raise LoginError(Failure.UNEXPECTED_CERTIFICATE, detail)

    async def _negotiate(self, link: Link, line: bytes) -> None:
        offered = x224.Protocol.SSL | x224.Protocol.HYBRID
        request = x224.encode_connection_request(line=line, requested_protocols=offered)
        if self.byte_by_byte:
            for at in range(len(request)):
                await link.send(request[at : at + 1])
                await asyncio.sleep(0)
        else:
            await link.send(request)
        try:
            packet = await link.read_packet()
        except ConnectionError as closed:
            if not tokens.read_token(line).is_issued_by_host:
                raise
            detail = f'nobody answered "{line.decode("latin-1")}"'
            raise LoginError(Failure.ABORTED_HANDOVER, detail) from closed
        confirm = x224.parse_connection_confirm(packet)
        if isinstance(confirm, Incomplete):
            raise ValueError("not a TPKT")  # noqa: TRY004 (the bytes are wrong, not a type)
        match confirm.negotiation:
            case x224.NegotiationResponse(_, x224.Protocol.SSL):
                return
            case x224.NegotiationFailure(code):
                raise LoginError(Failure.REFUSED, f"negotiation failure {code}")
            case other:
                raise ValueError(f"negotiation ended in {other}")

    async def _enter(self, link: Link, session_id: int | None = None) -> Session | Redirection:
        """From MCS to the session, or to where the host sends the user."""
        initial = mcs.ConnectInitial((ECHO_CHANNEL,), redirected_session_id=session_id)
        await link.send(initial.encode())
        if not mcs.is_connect_response(await link.read_packet()):
            raise ValueError("not an MCS Connect-Response")
        await link.send(mcs.ERECT_DOMAIN_REQUEST + mcs.ATTACH_USER_REQUEST)
        user = mcs.attached_user(await link.read_packet())
        for channel in (user, mcs.IO_CHANNEL, _ECHO_ID):
            await link.send(mcs.channel_join_request(user, channel))
            await link.read_packet()
        await link.send(ClientInfo(self.user, self.domain).encode(user))
        if await link.read_packet() != LICENSE_DONE:
            raise ValueError("licensing did not end at once")
        while True:
            _, pdu = mcs.sent_data(await link.read_packet())
            redirection = Redirection.parse(pdu)
            if redirection is not None:
                return redirection
            if is_demand_active(pdu):
                await link.send(font_list(user))
            elif is_font_map(pdu):
                return Session(link, user)

    def _next(self, redirection: Redirection) -> tuple[Address, bytes]:
        """Where the redirected connection goes, and its line."""
        if redirection.target_net_address is not None:
            ip, port = redirection.target_net_address, self.address.port
            return self.directory.dial_address(ip, port), self._cookie()
        line = (redirection.load_balance_info or self._cookie()).removesuffix(b"\r\n")
        named = tokens.read_token(line).address if self.direct else None
        return named or self.address, line

    def _at_the_right_host(self, result: LoginResult, session: Session) -> Session:
        """Where a token named a host, the session has to be there."""
        leg = result.legs[-1]
        if leg.named is not None and leg.named != leg.reached:
            raise LoginError(Failure.WRONG_HOST, f"the token names {leg.named}")
        result.host = leg.reached
        return session

    def _cookie(self) -> bytes:
        """As mstsc writes it: at most nine characters ([MS-RDPBCGR] appendix A, note 43)."""
        name = f"{self.domain}\\{self.user}" if self.domain else self.user
        return b"Cookie: mstshash=" + name[:9].encode()


def _as_failure(error: BaseException) -> LoginError | None:
    """Translate what a connection can die of; None for what is not the network's doing."""
    match error:
        case LoginError():
            return error
        case TimeoutError():
            return LoginError(Failure.TIMEOUT, "nothing came any more")
        case ConnectionRefusedError():
            return LoginError(Failure.REFUSED, "the connection was refused")
        case OSError() | ValueError() | WireError() | IndexError():
            return LoginError(Failure.CLOSED, f"{type(error).__name__}: {error}")
        case _:
            return None
