"""The words of a decision: `Reason`, `TokenFate`, `RepinCause` and the `Decision` itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.routing.pool import Host, Pool


class Reason(StrEnum):
    """Why a client goes to the host it goes to; the answer to an operator's first question."""

    TOKEN = "token"  # noqa: S105  # the broker's routing token names the host
    TOKEN_LEARNED = "token_learned"  # noqa: S105  # an opaque token, known to come from that host
    TOKEN_REFUSED = "token_refused"  # noqa: S105  # the token names no host of ours: not served
    DESTINATION = "destination"  # the client dialled the host's own address
    DESTINATION_REFUSED = "destination_refused"  # it dialled no host of ours: not served
    PIN = "pin"  # the affinity table names the host
    REPINNED = "repinned"  # it did, but that host cannot serve
    BALANCED = "balanced"  # a new client: first of the policy's ranking, which becomes the pin
    UNPINNED = "unpinned"  # no usable affinity key: balanced, and nothing is remembered
    NO_HOST = "no_host"  # no host of the pool is ready


BY_BROKER = frozenset({Reason.TOKEN, Reason.DESTINATION})
"""The broker named the host: in a token, or as the address to dial."""

ONE_HOST = BY_BROKER | {Reason.TOKEN_LEARNED}
"""The client belongs to that one host, whatever its pin says."""


class TokenFate(StrEnum):
    """What became of the client's routing token."""

    ABSENT = "absent"
    HONOURED = "honoured"
    UNKNOWN_HOST = "unknown_host"  # names an address that is no host of this listener
    HOST_DOWN = "host_down"  # names a host that does not answer
    OPAQUE = "opaque"  # a text without an address: only its issuer can read it


class RepinCause(StrEnum):
    """Why a pin could not be followed."""

    GONE = "gone"  # the configuration no longer has that host
    DOWN = "down"  # health says so
    MAINTENANCE = "maintenance"  # the operator says so
    DRAIN = "drain"  # the operator drains it, and of this client's pins too
    REFUSED = "refused"  # it refused, reset or stayed silent just now


@dataclass(frozen=True, slots=True)
class Decision:
    """Where to go, in order, and why.

    `candidates` is a subset of the pools' hosts; exactly one for TOKEN, TOKEN_LEARNED and
    DESTINATION, none for TOKEN_REFUSED, DESTINATION_REFUSED and NO_HOST.
    """

    candidates: tuple[Host, ...]
    reason: Reason
    fate: TokenFate
    pool: Pool
    repin_cause: RepinCause | None = None
