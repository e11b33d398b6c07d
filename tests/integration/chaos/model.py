"""What was done to the house, whom that may have hurt, and what is a violation.

An operation opens a `Trouble` before it begins, and closes it when all nodes have come to terms
with what was done. A login that fails is excused by a trouble alone that it met: one of its time,
its nodes, and the hosts that it touched. Whatever nothing excuses is a violation.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from proxy.lab.login import Failure

# A login that finds another host than before: all of its connections were served, not alike.
STRAYED = frozenset({Failure.UNEXPECTED_CERTIFICATE, Failure.REDIRECTED_AGAIN})


@dataclass(frozen=True, slots=True)
class Journey:
    """What a client did, and when.

    Attributes:
        nodes: through which it came.
        hosts: that it reached, or that a token of it named.
        is_lost: its last connection ended before it knew where it was.
    """

    source: str
    begin: float
    end: float
    nodes: frozenset[int]
    hosts: frozenset[str] = frozenset()
    is_lost: bool = False


@dataclass(slots=True, eq=False)
class Trouble:
    """Something that may hurt clients while it lasts; None: whoever, wherever, in any way.

    Attributes:
        sources: of the clients whom it may hurt.
        cuts: whether it may end sessions; else it only fails those who are on their way.
        across: it hurts those alone who come through several nodes.
        causes: why clients may lose their pins by it (`repin_cause`).
        mutes: whether its nodes have no front for a while.
    """

    what: str
    begin: float
    end: float = math.inf
    hosts: frozenset[str] | None = None
    nodes: frozenset[int] | None = None
    sources: frozenset[str] | None = None
    failures: frozenset[Failure] | None = None
    cuts: bool = False
    across: bool = False
    causes: frozenset[str] = frozenset()
    mutes: bool = False

    def meets(self, journey: Journey) -> bool:
        return (
            self.begin <= journey.end
            and journey.begin <= self.end
            and (self.nodes is None or bool(self.nodes & journey.nodes))
            and (not self.across or len(journey.nodes) > 1)
            and (self.sources is None or journey.source in self.sources)
            and (self.hosts is None or journey.is_lost or bool(self.hosts & journey.hosts))
        )


@dataclass(slots=True, eq=False)
class Ban:
    """A host to which nobody may come, or nobody new; and why."""

    host: str
    causes: frozenset[str]
    everybody: bool
    begin: float
    end: float = math.inf

    def holds(self, journey: Journey) -> bool:
        """Whether it was in force all the time."""
        return self.begin <= journey.begin and journey.end <= self.end


@dataclass(slots=True)
class Model:
    """Everything that happened.

    Attributes:
        done: the operations, to be played again.
        violations: what nothing excuses.
        excused: how many failures what excused.
    """

    troubles: list[Trouble] = field(default_factory=list)
    bans: list[Ban] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.time)

    def accuse(self, what: str) -> None:
        """Note a violation."""
        at = time.time() - self.began
        self.violations.append(f"{at:.1f} s, after operation {len(self.done)}: {what}")

    def begin(
        self,
        what: str,
        *,
        hosts: Collection[str] | None = None,
        nodes: Collection[int] | None = None,
        sources: Collection[str] | None = None,
        failures: frozenset[Failure] | None = None,
        cuts: bool = False,
        across: bool = False,
        causes: Collection[str] = (),
        mutes: bool = False,
    ) -> Trouble:
        """Something that may hurt clients begins now."""
        trouble = Trouble(
            what,
            time.time(),
            hosts=None if hosts is None else frozenset(hosts),
            nodes=None if nodes is None else frozenset(nodes),
            sources=None if sources is None else frozenset(sources),
            failures=failures,
            cuts=cuts,
            across=across,
            causes=frozenset(causes),
            mutes=mutes,
        )
        self.troubles.append(trouble)
        return trouble

    @contextmanager
    def during(self, trouble: Trouble) -> Iterator[Trouble]:
        """It is over when the block is."""
        try:
            yield trouble
        finally:
            self.end(trouble)

    def end(self, trouble: Trouble) -> None:
        trouble.end = min(trouble.end, time.time())

    def ban(self, host: str, causes: Collection[str], *, everybody: bool) -> None:
        """From now on nobody, or nobody new, may come to a host; without a cause everybody may."""
        now = next((it for it in self.bans if it.host == host and it.end == math.inf), None)
        if now is not None and (now.causes, now.everybody) == (frozenset(causes), everybody):
            return
        self.lift(host)
        if causes:
            self.bans.append(Ban(host, frozenset(causes), everybody, time.time()))

    def lift(self, host: str) -> None:
        """They may come again."""
        for ban in self.bans:
            if ban.host == host:
                ban.end = min(ban.end, time.time())

    def excuse(self, journey: Journey, failure: Failure) -> bool:
        """Whether this login may have failed in this way."""
        for trouble in self.troubles:
            if trouble.meets(journey) and failure in (trouble.failures or (failure,)):
                self.excused[trouble.what] += 1
                return True
        return False

    def excuse_cut(self, journey: Journey) -> bool:
        """Whether this session may have ended; the journey is its time since it was last heard."""
        for trouble in self.troubles:
            if trouble.cuts and trouble.meets(journey):
                self.excused[trouble.what] += 1
                return True
        return False

    def banned(self, journey: Journey, host: str, *, is_new: bool) -> str:
        """Why this client should not have come to a host that it reached."""
        for ban in self.bans:
            if ban.host == host and ban.holds(journey) and (ban.everybody or is_new):
                return ", ".join(sorted(ban.causes))
        return ""

    def is_down(self, host: str, when: float) -> bool:
        """Whether clients could not come to a host at that time."""
        return any(
            it.host == host and it.everybody and it.begin <= when <= it.end for it in self.bans
        )

    def may_repin(self, cause: str, begin: float, end: float) -> bool:
        """Whether a client may have lost its pin for this cause in this time."""
        known: list[Trouble | Ban] = [*self.troubles, *self.bans]
        return any(cause in it.causes and it.begin <= end and begin <= it.end for it in known)

    def is_troubled(self, begin: float, end: float, *, host: str | None = None) -> bool:
        """Whether anything was going on in this time, or with this host."""
        return any(
            it.begin <= end
            and begin <= it.end
            and (host is None or it.hosts is None or host in it.hosts)
            for it in self.troubles
        )

    def is_mute(self, node: int, begin: float, end: float) -> bool:
        """Whether a node may have said nothing to whoever asked it in this time."""
        return any(
            trouble.mutes
            and node in (trouble.nodes or ())
            and trouble.begin <= end
            and begin <= trouble.end
            for trouble in self.troubles
        )
