"""The error tree: whose fault it is, and whether the next candidate may be tried.

Every failure on the path of a connection answers these questions by its class, and `side` names the
party whose fault it is. Only after a `ServerError` may another session host be tried for the same
client. `cause` is the bounded answer to what it was: it becomes a log field and a metrics label, so
it is an enumeration and never a message.

Exceptions of the outside world (OSError, sqlite3.Error, …) are translated once, in the module
that uses the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Side(StrEnum):
    """The party that ended a connection or made an operation fail."""

    CLIENT = "client"
    SERVER = "server"
    LOCAL = "local"  # the proxy itself or its operator


class Cause(StrEnum):
    """Why a connection ended or an operation failed. Bounded: used as a metrics label."""

    # What a client sends instead of a Connection Request.
    NOT_TPKT = "not_tpkt"  # first byte is not 3: HTTP, TLS, SSH, noise
    PRECONNECTION_BLOB = "preconnection_blob"  # [MS-RDPEPS] PDU, as Hyper-V's VMConnect sends
    TPKT_LENGTH = "tpkt_length"  # announced length outside 11..4096
    LENGTH_INDICATOR = "length_indicator"  # X.224 LI disagrees with the TPKT length, or is 255
    NOT_CONNECTION_REQUEST = "not_connection_request"  # another TPDU
    PROXY_HEADER_MISSING = "proxy_header_missing"  # trusted source without a header
    PROXY_HEADER_INVALID = "proxy_header_invalid"
    PROXY_HEADER_REFUSED = "proxy_header_refused"  # header from a source that is not trusted
    TLS_REQUIRED = "tls_required"  # client offers only standard RDP security

    # What ends a connection on the network.
    CLOSED_BEFORE_REQUEST = "closed_before_request"  # not one byte: a load balancer's probe
    CLOSED = "closed"  # orderly end of stream
    RESET = "reset"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS_FAILED = "tls_failed"  # a health check found a session host without working TLS
    IDLE = "idle"
    HALF_CLOSE = "half_close"  # the other direction stayed open too long

    # What the proxy decides.
    NOT_ALLOWED = "not_allowed"  # source outside `allow`
    LIMIT = "limit"
    NO_HOST = "no_host"
    HOST_FULL = "host_full"  # max_connections of its host, and no place came free in time
    TOKEN_UNKNOWN_HOST = "token_unknown_host"  # noqa: S105 (a routing token is no secret)
    TOKEN_HOST_DOWN = "token_host_down"  # noqa: S105
    DESTINATION_UNKNOWN_HOST = "destination_unknown_host"
    DESTINATION_HOST_DOWN = "destination_host_down"
    STORE = "store"
    RELAY_DIED = "relay_died"
    STOPPED = "stopped"  # the proxy stops, or its operator closed the connection
    INTERNAL = "internal"


class ProxyError(Exception):
    """Base of all errors that this package raises. Never raised itself."""

    side: ClassVar[Side] = Side.LOCAL

    def __init__(self, cause: Cause, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else str(cause))
        self.cause = cause
        self.detail = detail


class WireError(ProxyError):
    """Bytes that are not what the protocol asks for. Incomplete input is a value, not an error."""

    side = Side.CLIENT


class ClientError(ProxyError):
    """The client closed, reset or stayed silent."""

    side = Side.CLIENT


class ServerError(ProxyError):
    """A session host refused, reset or stayed silent: the next candidate may be tried."""

    side = Side.SERVER


class StoreError(ProxyError):
    """The affinity store did not answer; placement degrades to what every node computes alike."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(Cause.STORE, detail)


class LimitError(ProxyError):
    """A configured limit or rule of this proxy refuses the connection."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a configuration file, with its place (1-based) and what to do about it."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(ProxyError):
    """A configuration that cannot be used; `problems` has all of its faults at once."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(Cause.INTERNAL, "\n".join(map(str, problems)))
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))
