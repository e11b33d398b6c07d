"""`decide()`: the one place that judges where a client goes.

Rules are asked in order; the first that has a decision is followed:

    token      the broker's token names a host of any pool of the listener: that host alone, also
               while it drains. A token only selects among hosts that are listed, or that
               `token.networks` hold; no other address is ever dialled.
    destination  the client dialled a host's own address, where the listener routes by it: as a
               token that names it
    learned    an opaque token whose issuer is known: that host alone
    pin        the table names a host that serves: that host first, also while it drains, unless
               the operator drains it of such pins too
    balance    the policy's ranking of the ready hosts

Invariants (held by property tests): candidates are the guest, or hosts of the listener's pools,
each at most once; TOKEN, DESTINATION and TOKEN_LEARNED have exactly one; a host that is not ready
is never balanced to; the same question has the same answer.

A rule answers with a Decision, or with words that say why it has none: `explain` shows these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.address import Address
from proxy.routing.model import Decision, Reason, RepinCause, TokenFate
from proxy.routing.policies import POLICIES
from proxy.routing.pool import Host, Pool
from proxy.routing.routes import Routes
from proxy.routing.will import Hold, Will
from proxy.settings import Balance, UnknownHost
from proxy.wire.tokens import RoutingToken


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that a decision depends on.

    Attributes:
        pool: where the client goes that no token sends elsewhere (`Routes.pool_of`).
        key: the affinity key, None where the client cannot be pinned.
        destination: the address that the client dialled, None where that is the proxy's own.
        learned: the host that issued the client's opaque token, where that is known.
        pin: name of the host in `pool` that the affinity table names for `key`.
        balance: ranks instead of the pool's own policy, while the table is away.
        hold: how firmly the client holds its pin.
        guest: a host in `token.networks` that the broker names and nobody has listed.
    """

    routes: Routes
    pool: Pool
    token: RoutingToken | None = None
    destination: Address | None = None
    key: str | None = None
    learned: Host | None = None
    pin: str | None = None
    balance: Balance | None = None
    hold: Hold = Hold.IDLE
    guest: Host | None = None

    def named_by(self, address: Address) -> Host | None:
        """The host that an address selects."""
        guest = self.guest
        is_guests = guest is not None and guest.address == address
        return self.routes.named_by(address) or (guest if is_guests else None)

    @property
    def fate(self) -> TokenFate:
        """The token's fate where no rule honours it."""
        if self.token is None or self.token.format == "tsv":  # a collection's name is no token
            return TokenFate.ABSENT
        return TokenFate.OPAQUE if self.token.address is None else TokenFate.UNKNOWN_HOST


def named_addresses(token: RoutingToken | None, destination: Address | None) -> list[Address]:
    """By which addresses the broker may have named a host, in the order of the rules."""
    named = token.address if token is not None else None
    return [address for address in (named, destination) if address is not None]


Rule = Callable[[Question], Decision | str]


def decide(question: Question) -> Decision:
    """The decision of the first rule that has one."""
    for rule in RULES.values():
        answer = rule(question)
        if isinstance(answer, Decision):
            return answer
    raise AssertionError("the last rule always decides")  # pragma: no cover


def by_token(question: Question) -> Decision | str:
    token = question.token
    if token is None:
        return "the client presents no token"
    if token.address is None:
        return "the client's text names no address"
    host = question.named_by(token.address)
    if host is None:
        if _ignores_unknown(question):
            return "the token names no host of this listener, and unknown_host is ignore"
        return Decision((), Reason.TOKEN_REFUSED, TokenFate.UNKNOWN_HOST, question.pool)
    fate = TokenFate.HONOURED if host.serves else TokenFate.HOST_DOWN
    return Decision((host,), Reason.TOKEN, fate, question.routes.pool_named(host.pool))


def by_destination(question: Question) -> Decision | str:
    if question.destination is None:
        return "the client dialled no host's address, or the listener does not route by it"
    host = question.named_by(question.destination)
    if host is None:
        if _ignores_unknown(question):
            return "the client dialled no host of this listener, and unknown_host is ignore"
        return Decision((), Reason.DESTINATION_REFUSED, question.fate, question.pool)
    pool = question.routes.pool_named(host.pool)
    return Decision((host,), Reason.DESTINATION, question.fate, pool)


def by_learned_token(question: Question) -> Decision | str:
    if question.learned is None:
        return "no opaque token with a known issuer"
    return Decision((question.learned,), Reason.TOKEN_LEARNED, TokenFate.OPAQUE, question.pool)


def by_pin(question: Question) -> Decision | str:
    if question.key is None:
        return "the client has no affinity key"
    if question.pin is None:
        return "the affinity table has no pin for this key"
    host = question.pool.by_name.get(question.pin)
    ranking = _ranking(question)
    if host is not None and host.admits(question.hold):
        others = [other for other in ranking if other is not host]
        return Decision((host, *others), Reason.PIN, question.fate, question.pool)
    if not ranking:
        return "the pinned host takes no such client, and no other is ready"
    if host is None:
        cause = RepinCause.GONE
    elif host.will is Will.MAINTENANCE:
        cause = RepinCause.MAINTENANCE
    elif not host.alive:
        cause = RepinCause.DOWN
    else:
        cause = RepinCause.DRAIN
    return Decision(tuple(ranking), Reason.REPINNED, question.fate, question.pool, cause)


def by_balance(question: Question) -> Decision | str:
    ranking = _ranking(question)
    if not ranking:
        reason = Reason.NO_HOST
    elif question.key is None:
        reason = Reason.UNPINNED
    else:
        reason = Reason.BALANCED
    return Decision(tuple(ranking), reason, question.fate, question.pool)


RULES: dict[str, Rule] = {
    "token": by_token,
    "destination": by_destination,
    "learned": by_learned_token,
    "pin": by_pin,
    "balance": by_balance,
}


def _ignores_unknown(question: Question) -> bool:
    return question.pool.settings.token.unknown_host is UnknownHost.IGNORE


def _ranking(question: Question) -> list[Host]:
    balance = question.balance or question.pool.settings.balance
    return POLICIES[balance](question.pool.ready(), question.key)
