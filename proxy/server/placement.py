"""Placement: pin, decide, claim, and walk the candidates until one has answered.

The client's own request goes to a host byte for byte, and the front keeps both sockets until that
host's first byte: until then refusal, reset or silence costs the client nothing but time, and the
next candidate is tried. Every step of a walk claims the pin from the host that failed, so two
connections of one client that come at the same instant end at one host.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from proxy.errors import Cause, LimitError, ServerError
from proxy.routing.decide import Question, decide, named_addresses
from proxy.routing.key import affinity_key
from proxy.routing.model import ONE_HOST, Decision, Reason, RepinCause, TokenFate
from proxy.routing.pool import Host, Pool
from proxy.routing.will import Hold, Will
from proxy.server.claims import Claims
from proxy.server.dial import Dialler
from proxy.server.lines import Lines
from proxy.server.record import Observer, Phase
from proxy.server.visit import Guests, Placed, Visit
from proxy.settings import Balance, HostDown, TimeoutSettings

RETRY_S = 0.25
HELD_MAX = 2000  # clients that wait for a host at one time; each holds one socket


@dataclass(slots=True)
class Placer:
    """Finds the host of each client.

    Attributes:
        claims: what the affinity table says of clients, and is told of them.
        guests: the hosts that brokers name and nobody has listed.
        held: how many clients wait for a host.
        lines: those of them who wait for a place on a host that is full.
    """

    claims: Claims
    dialler: Dialler
    timeouts: TimeoutSettings
    observer: Observer
    guests: Guests
    held: int = 0
    lines: Lines = field(default_factory=Lines)
    _hosts_turned: asyncio.Event = field(default_factory=asyncio.Event)

    def host_turned(self) -> None:
        """Some host came up or went down: clients that wait look again."""
        self._hosts_turned.set()
        self._hosts_turned = asyncio.Event()
        self.lines.call()

    async def place(self, visit: Visit) -> Placed:
        """The host of this client, answered and counted.

        Raises:
            ProxyError: there is none for it; the record's phase says how far it came.
        """
        visit.deadline = asyncio.get_running_loop().time() + self.timeouts.no_host_s
        try:
            return await self._place(visit)
        finally:
            self._leave_line(visit)

    async def _place(self, visit: Visit) -> Placed:
        while True:
            placed: Placed | None = None
            visit.record.phase = Phase.PLACE
            decision, pin = await self._decide(visit)
            if decision.reason is Reason.TOKEN_REFUSED:
                detail = f"token names {visit.record.token_address}, no host of this listener"
                raise LimitError(Cause.TOKEN_UNKNOWN_HOST, detail)
            if decision.reason is Reason.DESTINATION_REFUSED:
                detail = f"{visit.destination}, which was dialled, is no host of this listener"
                raise LimitError(Cause.DESTINATION_UNKNOWN_HOST, detail)
            if decision.reason in ONE_HOST:
                placed = await self._follow(visit, decision)
                if placed is None:
                    continue
            elif self._is_next(visit, decision):
                placed = await self._walk(visit, decision, pin)
            if placed is not None:
                visit.record.host = placed.host.name
                try:
                    await self.claims.remember(visit, placed.host)
                except BaseException:
                    placed.give_up()
                    raise
                return placed
            visit.record.phase = Phase.PLACE
            if _is_full(visit.pool) or not self.lines.is_free(visit.pool):
                await self._stand_in_line(visit)
            elif not await self._hold(visit, self._hosts_turned):
                raise ServerError(Cause.NO_HOST, f"no host of {visit.pool.name} could be had")

    async def _decide(self, visit: Visit) -> tuple[Decision, str | None]:
        """The decision, and the host that the affinity table names."""
        token = visit.token
        named = await self._named(visit)
        visit.pool = visit.routes.pool_named(named.pool) if named else visit.routes.pool_of(token)
        visit.key = affinity_key(visit.pool.settings.affinity, visit.source, visit.request.user)
        pin = learned = None
        if named is None:  # else there is nothing to ask, and no wait in which its pool could go
            pin = await self.claims.look_up(visit)
            learned = await self.claims.learned.host_of(visit)
        balance = Balance.HASH if visit.record.table_was_away else None
        decision = decide(
            Question(
                visit.routes,
                visit.pool,
                token,
                visit.destination,
                visit.key.primary,
                learned,
                pin,
                balance,
                visit.hold,
                visit.guest,
            )
        )
        record = visit.record
        record.pool, record.key = visit.pool.name, visit.key.primary
        record.reason, record.repin_cause = decision.reason, decision.repin_cause
        if record.fate is not TokenFate.HOST_DOWN:  # what became of it stays said
            record.fate = decision.fate
        return decision, pin

    async def _named(self, visit: Visit) -> Host | None:
        """The host that the client's token names, else the one that it has dialled."""
        for address in named_addresses(visit.token, visit.destination):
            host = visit.routes.named_by(address)
            if host is None:
                visit.guest = await self.guests.guest(visit.routes, address)
                host = visit.routes.named_by(address) or visit.guest
            if host is not None:
                return host
        return None

    async def _follow(self, visit: Visit, decision: Decision) -> Placed | None:
        """Dial the one host that was named, again and again for `token.wait`, whatever health says
        of it.

        The host may just be restarting. Another one would show another certificate, so afterwards
        the client is refused, unless the operator prefers `rebalance` (then: None).
        """
        host, record = decision.candidates[0], visit.record
        by_token = decision.reason is not Reason.DESTINATION
        policy = visit.pool.settings.token
        loop = asyncio.get_running_loop()
        deadline = loop.time() + policy.wait_s
        while True:
            if not visit.may_dial(host):
                cause = Cause.TOKEN_UNKNOWN_HOST if by_token else Cause.DESTINATION_UNKNOWN_HOST
                raise LimitError(cause, f"host {host.name} has left meanwhile")
            try:
                await self._take_place(visit, host, belongs=True)
                placed = await self._dial(visit, host)
            except ServerError as error:
                # The client may leave while it waits.
                record.phase = Phase.PLACE
                if by_token:
                    record.fate = TokenFate.HOST_DOWN
                left = deadline - loop.time()
                if left > 0:
                    await self.dialler.pause(visit, min(RETRY_S, left))
                    continue
                if policy.host_down is HostDown.REBALANCE:
                    visit.token = visit.destination = None
                    return None
                cause = Cause.TOKEN_HOST_DOWN if by_token else Cause.DESTINATION_HOST_DOWN
                detail = f"{host.name}, which is named, does not answer: {error}"
                raise LimitError(cause, detail) from error
            if by_token and record.fate is TokenFate.HOST_DOWN:
                record.fate = TokenFate.HONOURED
            return placed

    async def _walk(self, visit: Visit, decision: Decision, pin: str | None) -> Placed | None:
        """Try the candidates in order, claiming each; None where all of them failed."""
        pool = visit.pool
        expected = pin
        belongs = {pin} if decision.reason is Reason.PIN else set()
        queue = list(decision.candidates)
        failed: set[Host] = set()
        steps = len(queue) + len(pool.hosts)  # two nodes that disagree must not claim for ever
        while queue and steps:
            steps -= 1
            host = queue.pop(0)
            if host in failed or not (host.takes or host.name == expected):
                continue  # it takes nobody new any more
            if not failed and decision.reason is not Reason.PIN:
                pool.placed(host)
            winner = await self.claims.claim(visit, host, expected)
            if winner != host.name:
                # Another connection of this client was quicker: follow it where it can be
                # followed, else take the pin from a host that cannot serve.
                expected = winner
                other = pool.by_name.get(winner)
                if other and other.admits(Hold.LIVE) and other not in failed:
                    belongs.add(winner)
                    queue[:0] = [other, host]
                else:
                    queue.insert(0, host)
                continue
            expected = winner
            if not pool.has(host):  # it has left meanwhile
                continue
            try:
                await self._take_place(visit, host, belongs=winner in belongs)
                placed = await self._dial(visit, host)
            except ServerError:
                failed.add(host)
                if decision.reason is Reason.PIN:
                    visit.record.reason = Reason.REPINNED
                    visit.record.repin_cause = RepinCause.REFUSED
                continue
            return placed
        return None

    async def _dial(self, visit: Visit, host: Host) -> Placed:
        """As `Dialler.dial`, counted on the host and told to health."""
        host.live += 1
        self._leave_line(visit)
        try:
            server = await self.dialler.dial(visit, host)
        except ServerError as error:
            host.live -= 1
            if host is not visit.guest:  # whom anybody can invent: nobody else shall hear of it
                self.observer.host_failed(host.pool, host.name, error.cause)
            raise
        except BaseException:
            host.live -= 1
            raise
        if host is visit.guest:
            host = self.guests.adopt(host)
        if visit.record.answer is not None:  # anything else than RDP's answer speaks for no host
            self.observer.host_answered(host.pool, host.name)
        return Placed(host, server)

    def _is_next(self, visit: Visit, decision: Decision) -> bool:
        """Whoever waits for a place in a full pool goes before those who come."""
        if decision.reason is Reason.PIN:
            return True
        return visit.turn.is_first if visit.turn else self.lines.is_free(visit.pool)

    async def _stand_in_line(self, visit: Visit) -> None:
        """Wait for a while for a place anywhere in the pool."""
        turn = visit.turn = visit.turn or self.lines.join(visit.pool)
        while await self._hold(visit, turn.called):
            if turn.is_first or turn.called.is_set():  # a long line must not ask the table for ever
                turn.called.clear()
                return
        if _is_full(visit.pool):
            raise LimitError(Cause.HOST_FULL, f"no place in pool {visit.pool.name} came free")
        raise ServerError(Cause.NO_HOST, f"no host of {visit.pool.name} could be had")

    def _leave_line(self, visit: Visit) -> None:
        if visit.turn is not None:
            visit.turn.leave()
            visit.turn = None

    async def _take_place(self, visit: Visit, host: Host, *, belongs: bool) -> None:
        """See that the host has a place for this client; one that belongs there waits for it.

        Raises:
            ServerError: others were quicker, or the operator has taken the host out: health may be
                wrong about a host, he is not.
        """
        if belongs and host.full:
            await self._wait_for_place(visit, host)
        elif host.full:
            raise ServerError(Cause.HOST_FULL, f"{host.name} is full")
        if host.will is Will.MAINTENANCE:
            raise ServerError(Cause.REFUSED, f"{host.name} is in maintenance")

    async def _wait_for_place(self, visit: Visit, host: Host) -> None:
        turn = self.lines.join(host)
        visit.record.host = host.name  # should no place come free
        try:
            while host.serves and not (turn.is_first and host.has_place):
                if not await self._hold(visit, turn.called):
                    detail = f"all {host.live} places on {host.name} are taken"
                    raise LimitError(Cause.HOST_FULL, detail)
                turn.called.clear()
        finally:
            turn.leave()

    async def _hold(self, visit: Visit, earlier: asyncio.Event) -> bool:
        """Keep the client for a moment; False where it was held long enough.

        Real clients burn their retries within seconds when they are closed at once.
        """
        left_s = visit.deadline - asyncio.get_running_loop().time()
        if left_s <= 0 or self.held >= HELD_MAX:
            return False
        self.held += 1
        try:
            await self.dialler.pause(visit, min(RETRY_S, left_s), earlier)
        finally:
            self.held -= 1
        return True


def _is_full(pool: Pool) -> bool:
    """Whether a host would take new clients, but for want of a place."""
    return any(host.takes and host.full for host in pool.hosts)
