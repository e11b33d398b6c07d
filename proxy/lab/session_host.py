"""SessionHost: one simulated RD Session Host on its own address, with its own certificate.

It speaks X.224 (and selects TLS), TLS, MCS, Client Info, licensing done; then it asks the broker
and either opens a session or sends the client away ([MS-RDPBCGR] 1.3.1.1 and 1.3.8). Each
connection leaves a `Visit`, the host's own record of what arrived.

A session has no desktop. Data on a static channel named `ECHO_CHANNEL` comes back as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import uuid
from dataclasses import dataclass
from enum import StrEnum

from proxy.address import Address
from proxy.errors import WireError
from proxy.lab import mcs
from proxy.lab.activation import (
    LICENSE_DONE,
    ClientInfo,
    demand_active,
    finalization,
    is_font_list,
)
from proxy.lab.broker import Broker
from proxy.lab.certificates import Certificate
from proxy.lab.directory import Directory, HostCard
from proxy.lab.link import Link, LinkClosedError
from proxy.lab.redirection import Redirection
from proxy.wire import tokens, x224
from proxy.wire.incomplete import Incomplete

ECHO_CHANNEL = "labecho"
_LOGIN_S = 60.0  # for everything before the session
_DISCONNECT = mcs.data_packet(bytes.fromhex("2180"))  # MCS Disconnect Provider Ultimatum


class Redirect(StrEnum):
    """How hosts send a user to his session: the policy "Use IP Address Redirection"."""

    TOKEN = "token"  # noqa: S105 (policy disabled: back to the balancer with a token)
    ADDRESS = "address"  # policy enabled, as Windows has it by default: past the balancer
    NONE = "none"  # no broker: everybody works where he lands


class Stage(StrEnum):
    """How far a connection came on its host."""

    ACCEPTED = "accepted"
    REQUESTED = "requested"  # Connection Request read
    REFUSED = "refused"  # the request was no request, or offered no TLS
    TLS = "tls"  # where probes end
    LOGGED_IN = "logged_in"  # Client Info read
    ABORTED = "aborted"  # it brought a token that another host issued, and was dropped
    REDIRECTED = "redirected"
    ACTIVE = "active"  # activation finished


@dataclass(slots=True)
class Visit:
    """One connection as its host saw it."""

    host: str
    peer: Address
    certificate: str  # fingerprint of what the host shows
    stage: Stage = Stage.ACCEPTED
    line: bytes | None = None  # cookie or token line, without CRLF
    user: str | None = None
    domain: str | None = None
    redirected_session_id: int | None = None
    redirected_to: str | None = None
    fault: str | None = None  # what the host could not read, or the network failed at
    open: bool = True


class SessionHost:
    """A host. `start` it; `kill`, `refuse` and `silence` it for fault tests."""

    def __init__(
        self,
        name: str,
        address: Address,
        certificate: Certificate,
        broker: Broker,
        *,
        redirect: Redirect = Redirect.TOKEN,
        target_certificate: bool = True,
        session_s: float | None = None,
    ) -> None:
        """
        Args:
            address: where to listen; port 0 takes a free one at the first start and keeps it.
            target_certificate: whether redirections name the certificate of the target.
            session_s: end each session after so many seconds; None leaves that to the client.
        """
        self.name = name
        self.address = address
        self.certificate = certificate
        self.visits: list[Visit] = []
        self.directory = Directory([])  # of the whole farm; the farm sets it
        self._broker = broker
        self._redirect = redirect
        self._target_certificate = target_certificate
        self._session_s = session_s
        self._silent = False
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def card(self) -> HostCard:
        return HostCard(self.name, self.address, self.certificate)

    @property
    def open_connections(self) -> int:
        return len(self._serving)

    async def start(self) -> None:
        """Listen (again), and answer."""
        self._silent = False
        self._broker.regain(self.name)
        if self._listener is not None:
            return
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(tuple(self.address))
        listener.listen(1024)
        self._listener = listener
        self.address = Address(*listener.getsockname())
        self._watch(listener)

    async def refuse(self) -> None:
        """Refuse new connections; sessions go on."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._listener = None

    async def kill(self) -> None:
        """Die: refuse new connections, cut the present ones, lose all sessions."""
        await self.refuse()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        self._broker.lose(self.name)

    def silence(self) -> None:
        """From now on accept and say nothing. The broker notices and sends nobody here."""
        self._silent = True
        self._broker.lose(self.name)

    def _watch(self, listener: socket.socket) -> None:
        if listener is self._listener:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Not `sock_accept`, which loses the client when it is broken off in time."""
        try:
            sock, peer = listener.accept()
        except OSError as error:  # or the client went away before it was accepted
            if error.errno in (errno.EMFILE, errno.ENFILE):
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(0.1, self._watch, listener)
            return
        link = Link(sock)
        task = asyncio.create_task(self._serve(link, Address(*peer)))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        task.add_done_callback(lambda _: link.abort())  # where it was cancelled before it began

    async def _serve(self, link: Link, peer: Address) -> None:
        visit = Visit(self.name, peer, self.certificate.fingerprint)
        self.visits.append(visit)
        try:
            if self._silent:
                await link.closed()
                return
            async with asyncio.timeout(_LOGIN_S):
                channels = await self._log_in(link, visit)
            if channels is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._session_s):
                        await self._session(link, visit, channels)
                await link.send(_DISCONNECT)
        except LinkClosedError:
            pass  # clients leave when they like; the stage says where
        except (OSError, ValueError, WireError, IndexError) as error:
            visit.fault = f"{type(error).__name__}: {error}"
        except asyncio.CancelledError:
            # Only here: a socket must not be closed under a read that waits elsewhere.
            link.abort()
            raise
        finally:
            visit.open = False
            await link.close()

    async def _log_in(self, link: Link, visit: Visit) -> tuple[str, ...] | None:
        """Everything up to the session; its static channels, None where there will be none."""
        protocols = await self._negotiate(link, visit)
        if protocols is None:
            return None
        await link.start_tls(self.certificate.server_context, server_side=True)
        visit.stage = Stage.TLS
        initial = mcs.ConnectInitial.parse(await link.read_packet())
        visit.redirected_session_id = initial.redirected_session_id
        await link.send(mcs.connect_response(protocols, len(initial.channels)))
        info = ClientInfo.parse(await self._join_channels(link, len(initial.channels)))
        visit.user, visit.domain = info.username, info.domain
        visit.stage = Stage.LOGGED_IN
        await link.send(LICENSE_DONE)
        redirection = await self._redirect_away(visit, info)
        if redirection is None:
            return initial.channels
        await link.send(redirection.encode())
        visit.stage = Stage.REDIRECTED
        await link.closed()
        return None

    async def _negotiate(self, link: Link, visit: Visit) -> int | None:
        """Answer the Connection Request: what it offered, None where that ends the connection."""
        request = x224.parse_connection_request(await link.read_packet())
        if isinstance(request, Incomplete):
            raise ValueError("not a TPKT")  # noqa: TRY004 (the bytes are wrong, not a type)
        if request.routing_token is not None:
            visit.line = request.routing_token.line
        elif request.cookie is not None:
            visit.line = b"Cookie: mstshash=" + request.cookie
        visit.stage = Stage.REQUESTED
        if not self._admits(visit):
            visit.stage = Stage.ABORTED
            return None
        offered = request.negotiation.requested_protocols if request.negotiation else None
        if offered is None or not offered & x224.Protocol.SSL:
            visit.stage = Stage.REFUSED
            if offered is not None:
                failure = x224.NegotiationFailure(x224.FailureCode.SSL_REQUIRED_BY_SERVER)
                await link.send(x224.encode_connection_confirm(failure))
            return None
        response = x224.NegotiationResponse(flags=1, selected_protocol=x224.Protocol.SSL)
        await link.send(x224.encode_connection_confirm(response))
        return offered

    async def _join_channels(self, link: Link, channels: int) -> bytes:
        """Erect, attach, joins; returns the content of the Client Info packet that follows."""
        user = mcs.FIRST_STATIC_CHANNEL + channels
        while True:
            packet = await link.read_packet()
            request = mcs.domain_request(packet)
            if request.kind == "attach":
                await link.send(mcs.attach_user_confirm(user))
            elif request.kind == "join":
                await link.send(mcs.channel_join_confirm(request.user, request.channel))
            elif request.kind == "data":
                return mcs.sent_data(packet)[1]

    async def _session(self, link: Link, visit: Visit, channels: tuple[str, ...]) -> None:
        """Activate, then echo, until the client leaves (an OSError) or says goodbye."""
        echo = None
        if ECHO_CHANNEL in channels:
            echo = mcs.FIRST_STATIC_CHANNEL + channels.index(ECHO_CHANNEL)
        await link.send(demand_active())
        while True:
            packet = await link.read_packet()
            if packet[0] != 3:  # fast-path input: nobody sits at this desktop
                continue
            kind = mcs.domain_request(packet).kind
            if kind == "other":
                return
            channel, data = mcs.sent_data(packet)
            if channel == echo:
                await link.send(mcs.send_data(channel, data, to_client=True))
            elif channel == mcs.IO_CHANNEL and is_font_list(data):
                await link.send(b"".join(finalization()))
                visit.stage = Stage.ACTIVE

    def _admits(self, _visit: Visit) -> bool:
        """Whether the host takes a request at all. Windows takes every one."""
        return True

    async def _redirect_away(self, visit: Visit, info: ClientInfo) -> Redirection | None:
        """Where the broker wants the user, None for here."""
        if self._redirect is Redirect.NONE:
            return None
        name = self._broker.arrive(info.username, self.name)
        if name == self.name:
            return None
        visit.redirected_to = name
        return self._redirection(self.directory.cards[name], info)

    def _redirection(self, target: HostCard, info: ClientInfo) -> Redirection:
        by_token = self._redirect is Redirect.TOKEN
        return Redirection(
            session_id=1,
            load_balance_info=tokens.encode_msts(target.address) + b"\r\n" if by_token else None,
            target_net_address=None if by_token else target.address.host,
            username=info.username,
            domain=info.domain or None,
            redirection_guid=uuid.uuid4().bytes,
            target_certificate=target.certificate.der if self._target_certificate else None,
        )
