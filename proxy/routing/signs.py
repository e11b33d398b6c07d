"""Signs: what the shape of connections tells of trouble that no TCP error shows.

Nothing is read from the stream. What is judged: how many bytes a connection carried each way, how
long it lived, what the host's Connection Confirm selected, whether the broker sent it, and where
the same client was a moment before.

A *glance* is a connection on which the client saw the host's certificate and left before it sent
anything of the size of credentials. Clients glance for a good reason, too: mstsc does while it
asks its user whether to trust a certificate, and then comes again. So a glance is suspicious where
the client had an expectation:

- it came by a routing token, or to a host's own address, and the connection before it did not: it
  was redirected, with the certificate of its target in hand, and would have gone on to log in;
- or its last connection, a glance too, met another host of the same pool: it came again after the
  question, and met another certificate than it had asked about. After that it begins anew.

Observed, bytes of a whole connection from client to host (Connection Request included):
    462 to 482   xfreerdp 2.11 refuses the certificate; TLS 1.3, 1.2, and with NLA selected
    560 to 566   rdesktop 1.9 does
    661          the lab's client, OpenSSL's padded ClientHello
    1,028        xfreerdp, NLA, a wrong password
    3,186        xfreerdp at the login screen of xrdp
and from host to client 731 at least (an elliptic curve's certificate), 19 where it left with the
Connection Confirm. A ClientHello with a post-quantum key share is larger by 1,200 bytes or so: such
a client's glance is not recognised. Seen again by tests/interop/test_signs.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.routing.lifespans import SHORT_S
from proxy.routing.pool import Host

GLANCE_UP_MAX_BYTES = 900
GLANCE_DOWN_MIN_BYTES = 500
MOMENT_S = 120.0  # a person may think so long about a question before the client comes again
LOOP_HOPS = 5
LOOP_S = 60.0

_WITH_TLS = frozenset({"ssl", "hybrid", "hybrid_ex", "rdstls", "rdsaad"})


class Sign(StrEnum):
    """What connections told."""

    CERTIFICATE_MISMATCH = "suspected_certificate_mismatch"
    REDIRECT_LOOP = "redirect_loop"
    SHORT_LIVED = "host_short_lived"


@dataclass(slots=True)
class Passage:
    """One established connection of a client.

    Attributes:
        sent_by: the routing token that it brought, or the host's address that it dialled itself
            after a redirection; a collection's name is neither.
        seen_at: when it was last known to live, in seconds.
        is_glance: known at its end.
    """

    conn_id: int
    host: Host
    sent_by: str | None
    user: str | None
    seen_at: float
    is_glance: bool = False


def is_glance(answer: str | None, *, bytes_up: int, bytes_down: int, duration_s: float) -> bool:
    """Whether the client saw the certificate and left; `answer` is `ConnectionRecord.answer`."""
    return (
        answer in _WITH_TLS
        and bytes_up <= GLANCE_UP_MAX_BYTES
        and bytes_down >= GLANCE_DOWN_MIN_BYTES
        and duration_s < SHORT_S
    )


def follows(passage: Passage, before: Passage | None) -> bool:
    """Whether `before` was the same client's a moment ago, when `passage` began."""
    return before is not None and passage.seen_at - before.seen_at <= MOMENT_S


def suspects_certificate(glance: Passage, before: Passage) -> bool:
    """Whether a glance that follows `before` was at another certificate than was expected."""
    if glance.sent_by is not None and glance.sent_by != before.sent_by:
        return True
    here, there = glance.host, before.host
    return before.is_glance and here.pool == there.pool and here.name != there.name


@dataclass(slots=True)
class Hops:
    """The token connections of one source in a row, none of which lasted.

    Whoever begins a login does so without a token, so a connection without one ends the row.
    """

    count: int = 0
    began_at: float = 0.0

    def ended(self, at: float) -> bool:
        """One more has ended; whether they are a loop. After that they are counted anew."""
        if not self.count or at - self.began_at > LOOP_S:
            self.count, self.began_at = 0, at
        self.count += 1
        if self.count < LOOP_HOPS:
            return False
        self.count = 0
        return True
