"""ConnectionRecord: everything that is known of one connection, and how it ended.

One record is the log lines of its connection, the source of its metrics, its row in the admin
view, and (packed, at most 512 bytes) what a relay keeps so that a new front knows it again.
To log or count something new: a field here.

`Observer` is the contract by which the path talks upward; it is implemented by logs and metrics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from proxy.address import Address
from proxy.errors import Cause, Side
from proxy.routing.model import Reason, RepinCause, TokenFate
from proxy.routing.signs import Sign

PACKED_MAX_BYTES = 512
CANARY_RECORD = b"canary"  # instead of a packed one: no front adopts its own test connections
_PACKED_VERSION = 1
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Phase(StrEnum):
    """How far a connection had come when it ended."""

    ACCEPT = "accept"  # source and limits
    REQUEST = "request"  # PROXY header and Connection Request
    PLACE = "place"  # deciding, and waiting for a host
    CONNECT = "connect"  # TCP to the session host
    ANSWER = "answer"  # request sent, waiting for the host's first byte
    RELAY = "relay"  # established


@dataclass(frozen=True, slots=True)
class Ending:
    """Phase x side x cause: HAProxy's termination state, in words."""

    phase: Phase
    side: Side
    cause: Cause

    def __str__(self) -> str:
        return f"{self.phase}/{self.side}/{self.cause}"


@dataclass(slots=True)
class ConnectionRecord:
    """One client connection. Times in seconds; `*_at` is wall clock, `*_s` a duration.

    Attributes:
        peer: the other end of the TCP connection.
        client: whom it stands for: the PROXY header's source, else the peer.
        user: as sent in the mstshash cookie; a hint, and private (logs hash it by default).
        token: the client's routing token as text.
        token_address: the address that the token decodes to.
        destination: the address that the client dialled, where that is not the proxy's own.
        collection: alias of the collection that the client asks for, as it was sent.
        collection_alias: the same as the configuration has it; None: it is none of the listener's.
        answer: what the host's Connection Confirm says: `rdp`, `ssl`, `hybrid`, …, or
            `failure_5`; None where it sent something else.
        table_was_away: it was placed without an answer of the affinity table.
        proxy_address: the proxy's own end towards the host, which Windows' event 131 shows.
        attempts: how many times a host was dialled.
    """

    id: int
    listener: str
    peer: Address
    client: Address
    accepted_at: float
    phase: Phase = Phase.ACCEPT
    user: str | None = None
    token: str | None = None
    token_address: Address | None = None
    destination: Address | None = None
    collection: str | None = None
    collection_alias: str | None = None
    requested_protocols: int | None = None
    correlation_id: str | None = None
    pool: str | None = None
    host: str | None = None
    host_address: Address | None = None
    proxy_address: Address | None = None
    key: str | None = None
    reason: Reason | None = None
    fate: TokenFate = TokenFate.ABSENT
    repin_cause: RepinCause | None = None
    table_was_away: bool = False
    attempts: int = 0
    answer: str | None = None
    request_s: float | None = None
    place_s: float | None = None
    connect_s: float | None = None
    answer_s: float | None = None
    relay: int | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    duration_s: float | None = None
    ending: Ending | None = None

    def pack(self) -> bytes:
        """What a new front needs to account for this connection, at most 512 bytes of JSON.

        Texts that clients choose are cut; the affinity key is computed anew from the rest.
        """
        fields: list[object] = [
            _PACKED_VERSION,
            self.listener,
            str(self.peer),
            str(self.client),
            round(self.accepted_at, 3),
            self.pool,
            self.host,
            str(self.host_address),
            str(self.proxy_address),
            self.reason,
            self.fate,
            self.answer,
            self.correlation_id,
        ]
        for room in (96, 24, 0):
            hints = [text[:room] if text else None for text in (self.user, self.token)]
            packed = _encode([*fields, *hints]).encode()
            if len(packed) <= PACKED_MAX_BYTES:
                break
        return packed

    @classmethod
    def unpack(cls, conn_id: int, packed: bytes) -> ConnectionRecord:
        """The record of an established connection, from what its relay kept.

        Raises:
            ValueError: not a record of this version.
        """
        fields = json.loads(packed)
        if not isinstance(fields, list) or not fields or fields[0] != _PACKED_VERSION:
            raise ValueError("not a connection record of a known version")
        (
            listener,
            peer,
            client,
            accepted_at,
            pool,
            host,
            host_address,
            proxy_address,
            reason,
            fate,
            answer,
            correlation_id,
            user,
            token,
        ) = fields[1:15]
        return cls(
            id=conn_id,
            listener=listener,
            peer=Address.parse(peer),
            client=Address.parse(client),
            accepted_at=accepted_at,
            phase=Phase.RELAY,
            pool=pool,
            host=host,
            host_address=Address.parse(host_address),
            proxy_address=Address.parse(proxy_address),
            reason=Reason(reason),
            fate=TokenFate(fate),
            answer=answer,
            correlation_id=correlation_id,
            user=user,
            token=token,
        )


class Observer(Protocol):
    """Who wants to know what happens on the path. Called in the loop: quick, and never raises."""

    def connection_accepted(self, record: ConnectionRecord) -> None:
        """A client's TCP connection was accepted."""

    def connection_placed(self, record: ConnectionRecord) -> None:
        """A host answered, and both sockets are in a relay's hands."""

    def connection_ended(self, record: ConnectionRecord) -> None:
        """`record.ending` is set. Follows every connection_accepted exactly once."""

    def host_answered(self, pool: str, host: str) -> None:
        """A session host answered a client with a Connection Confirm."""

    def host_failed(self, pool: str, host: str, cause: Cause) -> None:
        """A session host refused, reset or stayed silent towards a client."""

    def pin_moved(self, pool: str, cause: str) -> None:
        """A pin changed its host after placement, for `cause`."""

    def pin_disagreed(self, pool: str) -> None:
        """Placed while the affinity table was away, a client turned out to be pinned elsewhere."""

    def store_failed(self) -> None:
        """The affinity store did not answer."""

    def sign_seen(
        self, sign: Sign, record: ConnectionRecord, evidence: Mapping[str, object]
    ) -> None:
        """The connection that just ended told of trouble; `evidence` is for the log."""
