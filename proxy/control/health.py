"""HealthMonitor: which session hosts are up, by checks and by what clients' connections meet.

Rules:

1. A host counts as up at start: a proxy that restarts must not refuse anybody. Only checks and
   passive failures turn it.
2. `fall` failures in a row turn it down, `rise` passed checks in a row turn it up.
3. A host that is up is checked every `interval` (10 % more or less, so that hosts do not move in
   step); one in doubt or down every second. A down host that passes a check is asked again after
   0.2 s. So it is up within 2 s of its return for any usual `rise`.
4. Passive failures count like failed checks and bring the next check forward, to one a second at
   most. Only a refused connection may turn a host by itself: whatever else goes wrong, the client's
   own bytes may have caused it, and then a check has the last word. Strangers cannot take a farm
   down by sending what hosts hang up on.
5. A client's success takes back the failures of other clients, never those of checks.
6. What fails for want of the proxy's own (file descriptors, ports) says nothing of a host.
7. Hosts in maintenance are checked too: when the operator gives one back, its state is known.
8. A client's success replaces a check, since each check is an event in the host's log: a host that
   is up and not in doubt is next checked an `interval` after it has answered a client. Only what a
   client's connection does not show is still asked for: with `check: tls` a busy host's certificate
   is read every BUSY_TLS_S. The first check after a start is always made.
9. TLS costs four times what X.224 does, on both sides. With `check: tls` a host that is up and not
   in doubt is asked for it once in TLS_S, by the other checks for X.224.

Work is bounded: one scheduler over a heap of due times, a task only for a probe in flight, and at
most MAX_IN_FLIGHT of these. `run` is a thin shell around `begin` and `finish`, which hold the rules
and know no I/O.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from proxy.address import Address
from proxy.control.probe import PROBES, Probe, ProbeResult
from proxy.errors import Cause
from proxy.routing.pool import Host, Pool
from proxy.settings import HealthCheck, HealthSettings

MAX_IN_FLIGHT = 128  # probes at once, each with a file descriptor
TLS_S = 60.0  # between two beginnings of TLS with a host that is up
BUSY_TLS_S = 300.0  # with one that clients keep busy

# Checks are begun in batches, a tick apart: one wake of the loop for each would cost as much again.
_TICK_S = 0.05
_LOOK_S = 0.2  # the longest sleep, so that a client's failure is heard soon
_SPREAD_S = 2.0  # over which the first checks are spread
_DOUBT_S = 1.0  # between two checks of a host that is down or in doubt
_CONFIRM_S = 0.2  # between the checks that bring a host back
_JITTER = 0.1

OnChange = Callable[[Host, bool, Cause | None, str | None], None]
OnChecked = Callable[[Host, ProbeResult], None]


@dataclass(frozen=True, slots=True)
class HostHealth:
    """Health's opinion of one host.

    Attributes:
        since_s: how long it has been up or down.
        passes: passed checks in a row while down.
        failures: failures in a row, of checks and clients, while up.
        cause: of the latest failure, while the host is down or in doubt.
        detail: what a check said of it, for people.
        last: what the latest check found.
        checked_s: how long ago that was.
        answered_s: how long ago a client got an answer; None where none has yet.
    """

    pool: str
    host: str
    address: Address
    up: bool
    since_s: float
    passes: int
    failures: int
    cause: Cause | None
    detail: str | None
    last: ProbeResult | None
    checked_s: float | None
    answered_s: float | None


class Watched:
    """What the monitor keeps of one host."""

    __slots__ = (
        "address",
        "answered_at",
        "cause",
        "checked_at",
        "due",
        "failures",
        "host",
        "in_flight",
        "last",
        "passes",
        "settings",
        "since",
        "started",
        "tls_at",
    )

    def __init__(self, host: Host, settings: HealthSettings, now: float) -> None:
        self.host = host
        self.address = host.address
        self.settings = settings
        self.since = now
        self.due = math.inf
        self.started = -math.inf  # of the latest check
        self.tls_at = -math.inf  # when one that began TLS has passed
        self.checked_at = now
        self.answered_at = -math.inf  # by a client's success
        self.in_flight = False
        self.passes = 0
        self.failures = 0
        self.cause: Cause | None = None
        self.last: ProbeResult | None = None

    @property
    def detail(self) -> str | None:
        """What the latest check said of the cause, where it is that check's."""
        if self.last is None or self.cause is None or self.last.cause is not self.cause:
            return None
        return self.last.detail or None


class HealthMonitor:
    """Checks the hosts of `pools` and keeps `Host.up`.

    Args:
        on_change: called in the loop each time a host turns, where it turns down with the cause
            and what the check said of it; quick, and never raises.
        on_checked: called likewise with what each check has found out about its host.
        rng: spreads the checks.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        pools: Iterable[Pool],
        on_change: OnChange,
        on_checked: OnChecked,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        probes: Mapping[HealthCheck, Probe] = PROBES,
    ) -> None:
        self._on_change = on_change
        self._on_checked = on_checked
        self._rng = rng
        self._clock = clock
        self._probes = probes
        self._watched: dict[tuple[str, str], Watched] = {}
        self._heap: list[tuple[float, int, Watched]] = []
        self._order = itertools.count()
        self._in_flight = 0
        self.watch(pools)

    def watch(self, pools: Iterable[Pool]) -> None:
        """Watch the hosts of these pools from now on.

        What is known of a host stays, and its next check is due as before, while it is the same
        host at the same address. At another address it begins anew, and counts as up.
        """
        now = self._clock()
        before, self._watched = self._watched, {}
        for pool in pools:
            health = pool.settings.health
            for host in pool.hosts:
                watched = before.get((pool.name, host.name))
                if watched is None or watched.host is not host or watched.address != host.address:
                    host.up = True
                    watched = Watched(host, health, now)
                self._watched[pool.name, host.name] = watched
                if watched.due == math.inf or watched.settings != health:
                    watched.settings = health
                    self._spread(watched, now)
        watched_still = {id(watched) for watched in self._watched.values()}
        self._heap = [planned for planned in self._heap if id(planned[2]) in watched_still]
        heapq.heapify(self._heap)

    async def run(self) -> None:
        """Check until cancelled. Wants an owner, and to run once."""
        async with asyncio.TaskGroup() as probes:
            while True:
                for watched in self.begin():
                    probes.create_task(self._check(watched))
                await asyncio.sleep(min(_LOOK_S, max(_TICK_S, self.rest_s())))

    def begin(self) -> list[Watched]:
        """The hosts to probe now; each counts as in flight until `finish`."""
        now = self._clock()
        due: list[Watched] = []
        while self._in_flight < MAX_IN_FLIGHT and self._heap and self._heap[0][0] <= now:
            planned, _, watched = heapq.heappop(self._heap)
            if planned != watched.due:
                continue  # was planned anew meanwhile
            watched.due = math.inf
            spared_s = self._spared_s(watched, now)
            if spared_s > 0:
                self._plan(watched, now + spared_s)
                continue
            watched.started = now
            watched.in_flight = True
            self._in_flight += 1
            due.append(watched)
        return due

    def check_now(self, watched: Watched) -> HealthCheck:
        """How far the check that is due goes."""
        check = watched.settings.check
        is_sound = watched.host.up and not watched.failures
        if check is HealthCheck.TLS and is_sound and self._clock() < watched.tls_at + TLS_S:
            return HealthCheck.X224
        return check

    def rest_s(self) -> float:
        """How long nothing is due; for ever until a probe ends or somebody calls."""
        if not self._heap or self._in_flight >= MAX_IN_FLIGHT:
            return math.inf
        return max(0.0, self._heap[0][0] - self._clock())

    def finish(self, watched: Watched, result: ProbeResult | None) -> None:
        """Take a probe's result (None: it was broken off) and plan the next."""
        self._in_flight -= 1
        watched.in_flight = False
        if self._watched.get((watched.host.pool, watched.host.name)) is not watched:
            return  # no longer configured
        now = self._clock()
        if result is not None:
            watched.last, watched.checked_at = result, now
            if result.ok:
                if result.certificate is not None:
                    watched.tls_at = now
                self._passed(watched, now)
            elif result.cause is not Cause.INTERNAL:
                self._failed(watched, result.cause, now, turns=True)
            if result.cause is not Cause.INTERNAL:
                self._on_checked(watched.host, result)
        self._plan(watched, self._next(watched, now))

    def host_failed(self, pool: str, host: str, cause: Cause) -> None:
        """A client met a host that refused, reset or stayed silent."""
        watched = self._watched.get((pool, host))
        if watched is None or cause is Cause.INTERNAL:
            return
        self._failed(watched, cause, self._clock(), turns=cause is Cause.REFUSED)
        self._hurry(watched)

    def host_answered(self, pool: str, host: str) -> None:
        """A client got an answer from a host."""
        watched = self._watched.get((pool, host))
        if watched is None:
            return
        watched.answered_at = self._clock()
        if watched.failures and (watched.last is None or watched.last.ok):
            watched.failures = 0
            watched.cause = None

    def snapshot(self) -> list[HostHealth]:
        """What is known of each host, in the order of the configuration."""
        return [self._told(watched) for watched in self._watched.values()]

    def of(self, host: Host) -> HostHealth | None:
        """What is known of one host; None where it is not watched."""
        watched = self._watched.get((host.pool, host.name))
        return self._told(watched) if watched is not None else None

    def _told(self, watched: Watched) -> HostHealth:
        now = self._clock()
        return HostHealth(
            pool=watched.host.pool,
            host=watched.host.name,
            address=watched.address,
            up=watched.host.up,
            since_s=now - watched.since,
            passes=watched.passes,
            failures=watched.failures,
            cause=watched.cause,
            detail=watched.detail,
            last=watched.last,
            checked_s=now - watched.checked_at if watched.last else None,
            answered_s=now - watched.answered_at if watched.answered_at > -math.inf else None,
        )

    async def _check(self, watched: Watched) -> None:
        host, health = watched.host, watched.settings
        result: ProbeResult | None = None
        try:
            # A host that is off swallows the SYN, and systems repeat it ever more slowly: for one
            # that is down, the next probe's SYN is the better repetition.
            connect_s = health.timeout_s if host.up else min(_DOUBT_S, health.timeout_s)
            probe = self._probes[self.check_now(watched)]
            result = await probe(watched.address, health.timeout_s, connect_s)
        finally:
            self.finish(watched, result)

    def _passed(self, watched: Watched, now: float) -> None:
        if watched.host.up:
            watched.failures = 0
            watched.cause = None
            return
        watched.passes += 1
        if watched.passes >= watched.settings.rise:
            watched.cause = None
            self._turn(watched, up=True, now=now)

    def _failed(self, watched: Watched, cause: Cause | None, now: float, *, turns: bool) -> None:
        watched.passes = 0
        watched.cause = cause
        if watched.host.up:
            watched.failures += 1
            if turns and watched.failures >= watched.settings.fall:
                self._turn(watched, up=False, now=now)

    def _turn(self, watched: Watched, *, up: bool, now: float) -> None:
        watched.host.up = up
        watched.since = now
        watched.passes = watched.failures = 0
        self._on_change(watched.host, up, watched.cause, watched.detail)

    def _spared_s(self, watched: Watched, now: float) -> float:
        """For how long a client's success makes a check needless; 0 or less: check now."""
        if not watched.host.up or watched.failures or watched.last is None:
            return 0.0
        spared_s = watched.answered_at + watched.settings.interval_s - now
        if watched.settings.check is HealthCheck.TLS:
            spared_s = min(spared_s, watched.tls_at + BUSY_TLS_S - now)
        return spared_s

    def _next(self, watched: Watched, now: float) -> float:
        interval = watched.settings.interval_s
        if not watched.host.up and watched.passes:
            return now + min(_CONFIRM_S, interval)
        if not watched.host.up or watched.failures:
            interval = min(_DOUBT_S, interval)
        jitter = self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        return max(now, watched.started + interval * jitter)

    def _spread(self, watched: Watched, now: float) -> None:
        """Check it soon, but not all of them in one moment."""
        if not watched.in_flight:
            spread = min(_SPREAD_S, watched.settings.interval_s)
            self._plan(watched, now + spread * self._rng.random())

    def _hurry(self, watched: Watched) -> None:
        """Bring the next check forward, to one a second at most."""
        if watched.in_flight:
            return  # what it finds decides when the next one is due
        due = max(self._clock(), watched.started + _DOUBT_S)
        if due < watched.due:
            self._plan(watched, due)

    def _plan(self, watched: Watched, due: float) -> None:
        watched.due = due
        heapq.heappush(self._heap, (due, next(self._order), watched))
