"""Login: what came of one, with its connections in the words of a trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from proxy.address import Address


class Failure(StrEnum):
    """Why a login failed. Bounded: the demo counts by it."""

    UNEXPECTED_CERTIFICATE = "unexpected_certificate"
    REFUSED = "refused"  # the connection or its negotiation
    CLOSED = "closed"  # ended, reset or unreadable in the middle
    TIMEOUT = "timeout"
    REDIRECTED_AGAIN = "redirected_again"  # a redirected connection came to a third host
    WRONG_HOST = "wrong_host"  # active, but not where the token says
    ABORTED_HANDOVER = "aborted_handover"  # nobody answered a token that only one host can read


class LoginError(Exception):
    """A login ends here."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(f"{failure}: {detail}")
        self.failure = failure
        self.detail = detail


class Step(StrEnum):
    """What a connection is for."""

    PROBE = "probe"
    LOGIN = "login"
    REDIRECTED = "redirected"


@dataclass(slots=True)
class Leg:
    """One TCP connection of a login."""

    step: Step
    address: Address
    line: bytes  # cookie or token that it sent, without CRLF
    named: str | None  # host that its routing token names
    reached: str | None = None  # host whose certificate it was shown
    certificate: str | None = None  # fingerprint

    @property
    def misrouted(self) -> bool:
        """A routing token that came to another host than it names."""
        return self.named is not None and self.reached is not None and self.named != self.reached


@dataclass(slots=True)
class LoginResult:
    """One login."""

    user: str
    source: str | None = None
    legs: list[Leg] = field(default_factory=list)
    host: str | None = None  # where the session is
    time_to_active_s: float | None = None  # from the first dial to the active session
    failure: Failure | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def tokens(self) -> int:
        """How many connections carried a token that names a host."""
        return sum(leg.named is not None for leg in self.legs)

    @property
    def misrouted(self) -> int:
        return sum(leg.misrouted for leg in self.legs)

    def words(self) -> list[str]:
        """The login told step by step."""
        told = [f"{self.user} logs in" + (f" from {self.source}." if self.source else ".")]
        for leg in self.legs:
            sent = f"token for {leg.named}" if leg.named else f'"{leg.line.decode("latin-1")}"'
            where = f"reaches {leg.reached}" if leg.reached else "reaches nobody"
            told.append(f"{_TITLE[leg.step]} with {sent} {where}.")
        if self.failure is None:
            told.append(f"The session is active on {self.host}.")
        else:
            told.append(f"{_MEANING[self.failure]} ({self.detail}).")
        return told


_TITLE = {
    Step.PROBE: "The probe",
    Step.LOGIN: "The login",
    Step.REDIRECTED: "The redirected connection",
}
_MEANING = {
    Failure.UNEXPECTED_CERTIFICATE: "An unexpected server authentication certificate was received",
    Failure.REFUSED: "The connection was refused",
    Failure.CLOSED: "The connection was closed",
    Failure.TIMEOUT: "The client gave up waiting",
    Failure.REDIRECTED_AGAIN: "The host sent the user away a second time, and the client gave up",
    Failure.WRONG_HOST: "The user works on a host that is not his",
    Failure.ABORTED_HANDOVER: "The hand-over was aborted",
}
